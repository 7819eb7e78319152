"""Colours that the figures and the page share."""

from __future__ import annotations

INK, LINE, PAPER = "#1c1c1c", "#dddddd", "#ffffff"
"""Colours of text, of grids and behind all; a page puts colours of its own in their place."""
