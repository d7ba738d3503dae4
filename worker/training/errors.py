"""What can end a training: single rows that are wrong are counted in `Problems` instead.

TrainingError
└── TrainingDataError    the data set as a whole
"""

from __future__ import annotations


class TrainingError(Exception):
    """No model came of it; the message says what to do."""


class TrainingDataError(TrainingError):
    """Pictures that cannot be learnt from; the message names the file and what is expected there."""
