"""Colours shared by the figures and the page."""

from __future__ import annotations

INK, LINE, PAPER = "#1c1c1c", "#dddddd", "#ffffff"
"""Colours of text, grid lines and background; the page replaces them by its own."""
