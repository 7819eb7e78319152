"""Trained networks in the form that is registered with a tracking server."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray
from torch import nn

from pipeline.execution.work.networks import untrained
from pipeline.observers.tracking.results import WEIGHTS, Trained
from pipeline.store.store import Store
from tasks.classifier.checkpoint import load_weights, weights_from_bytes


def network(trained: Trained, store: Store) -> tuple[nn.Module, NDArray[np.float32]]:
    """A trained network in eval mode, and two blank example images.

    The network maps pixels in [0, 1] to logits.

    Raises:
        Damaged: If the store no longer has valid weights.
        BadCheckpoint: If the weights do not fit.
    """
    module = untrained(trained.node)
    path = store.path(trained.record, WEIGHTS)
    load_weights(module, weights_from_bytes(path.read_bytes()))
    spec = trained.cell.dataset_spec
    # two images, since a dimension of size 1 would be traced as a constant
    example = np.zeros((2, spec.channels, spec.side, spec.side), dtype=np.float32)
    return module.eval(), example


def registered_name(model: str) -> str:
    """A model's name without the characters that MLflow does not allow."""
    return re.sub(r"[^\w.+-]", "-", model)
