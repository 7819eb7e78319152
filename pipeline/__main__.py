"""`python -m pipeline`."""

from pipeline.commands.cli import main

main()
