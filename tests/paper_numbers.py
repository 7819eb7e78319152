"""How many numbers the paper publishes; `tests/catalogue/test_paper.py` counts them by table."""

from __future__ import annotations

NUMBERS = 252
EVERY_CELL = 240
"""Cells that those numbers belong to: twelve of them are printed in two tables."""
