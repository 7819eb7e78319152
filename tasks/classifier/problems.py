"""What is wrong with a network."""

from __future__ import annotations


class BadNetwork(RuntimeError):
    """A network that its own code does not build, or that is no classifier of these images."""
