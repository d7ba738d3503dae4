"""`python -m producer.cli`: the same as `lookalike`."""

from producer.cli import main

main()
