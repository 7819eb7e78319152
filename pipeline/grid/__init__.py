"""Experiment grids: from a named grid to its cells, and from cells to the task graph."""
