"""The training loop, in which every random number belongs to an image and an epoch.

Those that a network itself draws, as dropout does, belong to a step: torch's global generators are
seeded for each, and left as they were. So no generator state is saved, and a run resumed after any
epoch ends with exactly the weights of an uninterrupted one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tasks.classifier.checkpoint import load_weights
from tasks.classifier.precision import run
from tasks.classifier.prepared import Manner
from tasks.data.arrays import Images, require
from tasks.data.seeding import Rows
from tasks.progress import Progress, Tell, silent
from tasks.training.augment import training_batch
from tasks.training.recipe import Recipe, TrainSpec

_WARM_UP = 0.25
_TELLS_AN_EPOCH = 20


class Diverged(RuntimeError):
    """A training whose loss or weights are no longer finite."""


@dataclass(frozen=True)
class State:
    """All that training needs to continue: tensors on the CPU, and facts that fit into JSON."""

    weights: dict[str, Tensor]
    """The module's state dict."""
    optimizer: dict[str, Tensor]
    """Momentum buffers, by the names of their weights."""
    facts: dict[str, Any]
    """`epoch`, the number of finished epochs, and `history`, the facts of each.

    These are `loss`, `accuracy`, `learning_rate` (of the last step), `seconds` and
    `images_per_second`. Accuracy is the share of training images whose prediction is the class with
    the highest weight in their label: of mixed clean images under `mixup` and `iat`, of adversarial
    ones under `adversarial`.
    """


def train(
    images: Images,
    spec: TrainSpec,
    *,
    device: str | torch.device = "cpu",
    tell: Tell = silent,
    state: State | None = None,
    manner: Manner | None = None,
) -> Iterator[State]:
    """Train a network, and yield its state after each epoch.

    Each epoch is one pass over a new permutation. A last batch that is not full is left out, as in
    the paper's reference code, unless it is the only one.

    Args:
        images: The training images.
        spec: A resolved spec.
        device: Where to train.
        tell: Called with the progress.
        state: State to continue after; nothing is yielded after that of the last epoch.
        manner: How the network is prepared, see `tasks.classifier.prepared.training_manner`.

    Raises:
        BadTensor: If there are no images.
        Diverged: If the loss of an epoch, or a weight after it, is not finite.
    """
    recipe = spec.recipe
    require(len(images) > 0, "training needs images")
    data = images.to(torch.device(device))
    manner = manner or Manner()
    network = _network(data, spec, manner.layout)
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=learning_rate(recipe, 0.0),
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
    )
    history: list[dict[str, float]] = []
    if state is not None:
        _restore(network, optimizer, state)
        history = list(state.facts["history"])
    size = min(recipe.batch_size, len(data))
    batches = len(data) // size
    every = max(1, batches // _TELLS_AN_EPOCH)
    for epoch in range(len(history), recipe.epochs):
        started = time.perf_counter()
        loss_sum = torch.zeros((), device=data.pixels.device)
        hits = torch.zeros((), dtype=torch.int64, device=data.pixels.device)
        rows = Rows(spec.seed, data.ids, torch.full_like(data.ids, epoch), _scope="train")
        order = rows.words("order", 1)[:, 0].argsort(stable=True)
        for number in range(batches):
            place = order[number * size : (number + 1) * size]
            rate = learning_rate(recipe, epoch + number / batches)
            optimizer.param_groups[0]["lr"] = rate
            with _seeded(rows[place], data.pixels.device):
                pixels, targets = training_batch(network, data[place], rows[place], recipe, manner)
                logits = run(network, pixels, recipe.precision, manner.layout)
                loss = F.cross_entropy(logits, targets)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            loss_sum += loss.detach()
            hits += (logits[:size].argmax(1) == targets[:size].argmax(1)).sum()
            if (number + 1) % every == 0:
                done = (epoch * batches + number + 1) * size
                note = _note(epoch, recipe.epochs, history)
                tell(Progress(done, recipe.epochs * batches * size, note))
        loss_mean, accuracy = loss_sum.item() / batches, hits.item() / (batches * size)
        seconds = time.perf_counter() - started
        facts = {
            "loss": loss_mean,
            "accuracy": accuracy,
            "learning_rate": rate,
            "seconds": seconds,
            "images_per_second": batches * size / seconds,
        }
        history = [*history, facts]
        ended = _state(network, optimizer, history)
        finite = all(weight.isfinite().all() for weight in ended.weights.values())
        if not finite or not math.isfinite(loss_mean):
            raise Diverged(f"training diverged in epoch {epoch + 1}, at learning rate {rate:g}")
        yield ended


def learning_rate(recipe: Recipe, epoch: float) -> float:
    """Return the learning rate after `epoch` (possibly fractional) epochs; see `Recipe`."""
    highest = recipe.learning_rate
    if highest is None:
        raise ValueError("recipe: learning_rate is unset; resolve the recipe first")
    if recipe.schedule == "steps":
        return highest * recipe.decay ** sum(epoch >= start for start in recipe.milestones)
    done = epoch / recipe.epochs
    if done < _WARM_UP:
        return highest * (0.04 + 0.96 * done / _WARM_UP)
    return highest * (1.0 - done) / (1.0 - _WARM_UP)


def _network(data: Images, spec: TrainSpec, layout: torch.memory_format) -> nn.Module:
    _, channels, side, _ = data.pixels.shape
    network = spec.network.build(channels, side, data.classes, seed=spec.seed)
    network = network.to(data.pixels.device).to(memory_format=layout)
    return network.train()


@contextmanager
def _seeded(rows: Rows, device: torch.device) -> Iterator[None]:
    """Context manager in which torch's global generators are seeded by a batch."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(rows.batch_seed("network"))
        yield


def _note(epoch: int, epochs: int, history: list[dict[str, float]]) -> str:
    note = f"epoch {epoch + 1}/{epochs}"
    if history:
        note += f", loss {history[-1]['loss']:.3f}, accuracy {100 * history[-1]['accuracy']:.1f} %"
    return note


def _state(
    network: nn.Module, optimizer: torch.optim.Optimizer, history: list[dict[str, float]]
) -> State:
    momentum = {
        name: optimizer.state[weight]["momentum_buffer"]
        for name, weight in network.named_parameters()
        if optimizer.state[weight].get("momentum_buffer") is not None
    }
    return State(
        weights=_copied(network.state_dict()),
        optimizer=_copied(momentum),
        facts={"epoch": len(history), "history": history},
    )


def _copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }


def _restore(network: nn.Module, optimizer: torch.optim.Optimizer, state: State) -> None:
    load_weights(network, state.weights)
    for name, weight in network.named_parameters():
        if name in state.optimizer:
            buffer = torch.empty_like(weight, requires_grad=False).copy_(state.optimizer[name])
            optimizer.state[weight]["momentum_buffer"] = buffer
