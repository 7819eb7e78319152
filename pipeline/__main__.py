"""`python -m pipeline`."""

import sys

from pipeline import hidden_tasks

if __name__ == "__main__":
    if (problem := hidden_tasks()) is not None:
        sys.stderr.write(f"error: {problem}\n")
        sys.exit(2)
    from pipeline.commands.cli import main

    main()
