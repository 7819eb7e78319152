"""Trained networks as a tracking server registers them."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray
from torch import nn

from pipeline.execution.work.inputs import untrained
from pipeline.observers.tracking.results import WEIGHTS, Trained
from pipeline.store.store import Store
from tasks.classifier.checkpoint import load_weights, weights_from_bytes


def network(trained: Trained, store: Store) -> tuple[nn.Module, NDArray[np.float32]]:
    """A trained network in eval mode, from pixels in [0, 1] to logits, and two blank images.

    Damaged where the store can no longer give its weights, BadCheckpoint where they do not fit.
    """
    module = untrained(trained.node)
    path = store.path(trained.record, WEIGHTS)
    load_weights(module, weights_from_bytes(path.read_bytes()))
    spec = trained.cell.dataset_spec
    # two: a dimension of one would be taken for a constant
    example = np.zeros((2, spec.channels, spec.side, spec.side), dtype=np.float32)
    return module.eval(), example


def registered_name(model: str) -> str:
    """A model's name without what MLflow does not allow in one."""
    return re.sub(r"[^\w.+-]", "-", model)
