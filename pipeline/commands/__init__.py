"""The command line and the Python API."""

from pipeline import hidden_tasks

if (_problem := hidden_tasks()) is not None:
    raise ImportError(_problem)
