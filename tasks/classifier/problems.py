"""Errors of networks."""

from __future__ import annotations


class BadNetwork(RuntimeError):
    """A network cannot be built by its own code, or does not classify the given images."""
