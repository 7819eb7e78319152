"""Data set files: where they are found, and how each format is read."""
