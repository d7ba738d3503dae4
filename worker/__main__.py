"""`python -m worker`: the same as `lookalike-worker`."""

from worker.cli import main

main()
