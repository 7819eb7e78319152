"""Observers of a run: progress on the terminal, early warnings, and logging to MLflow."""
