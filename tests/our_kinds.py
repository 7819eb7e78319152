"""The kinds whose code is all ours, which the contract tests of each family take as they are."""

from __future__ import annotations

from tasks.registry import Family, kinds

FOREIGN = {"art", "foolbox", "torchattacks", "factory", "timm", "exported", "ensemble"}
"""Kinds that stand for something else, which they need to be told."""


def our_kinds(family: Family) -> list[str]:
    """The kinds of a family that need no library and no name of something else."""
    return [kind for kind in kinds(family) if kind not in FOREIGN]
