"""The training seeds of the models of a grid that is computed with several seeds."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from tasks.training.recipe import CheckpointSpec, ClassifierSpec, EnsembleSpec, TrainSpec


def seeded(spec: ClassifierSpec, seed: int) -> ClassifierSpec:
    """A model's spec with `seed` added to its training seed.

    The seeds of an ensemble's members rise in steps such that no training is a member of the
    ensembles of two seeds, whose spread would otherwise be too small.
    """
    if isinstance(spec, EnsembleSpec):
        members = spec.members
        return EnsembleSpec.of(
            [_with_seed_added(member, seed * _seed_step(member, members)) for member in members]
        )
    return _with_seed_added(spec, seed)


def _seed_step(
    spec: TrainSpec | CheckpointSpec, members: Sequence[TrainSpec | CheckpointSpec]
) -> int:
    """The least step by which the seeds of all members with the same recipe may rise.

    Their seeds differ modulo the step, so those of different multiples of it are different.
    """
    if isinstance(spec, CheckpointSpec):
        return 1
    seeds = [
        other.seed
        for other in members
        if isinstance(other, TrainSpec) and other.model_copy(update={"seed": spec.seed}) == spec
    ]
    steps = itertools.count(len(seeds))
    return next(step for step in steps if len({seed % step for seed in seeds}) == len(seeds))


def _with_seed_added(spec: TrainSpec | CheckpointSpec, seed: int) -> TrainSpec | CheckpointSpec:
    """A model's spec with `seed` added to its training seed; a checkpoint has none."""
    if isinstance(spec, CheckpointSpec):
        return spec
    return spec.model_copy(update={"seed": spec.seed + seed})
