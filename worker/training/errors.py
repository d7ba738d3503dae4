"""What is wrong with a data set as a whole; single rows are counted in `Problems` instead."""

from __future__ import annotations


class TrainingDataError(Exception):
    """Pictures that cannot be learnt from; the message names the file and what is expected there."""
