"""Every attack and defense on a GPU that is not there: torch's fake tensors refuse two devices.

They have shapes, types and devices and no values, and so need no GPU. The backward engine wants a
real one: a gradient is replaced by one of its shape and device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from tasks import registry
from tasks.attacks.base import Attack, Victim
from tasks.classifier.frozen import Frozen
from tasks.data.arrays import Images
from tasks.data.seeding import Rows
from tasks.defenses.base import Context, Defense
from tasks.defenses.transforms import jpeg_codec, straight
from tasks.specs import Problem

COUNT, CLASSES, SIDE = 4, 10, 32
PROBLEM = Problem(epsilon=8.0, classes=CLASSES, side=SIDE, pool=40)
GIVEN: dict[str, Any] = {"ttc": {"threshold": 0.1}}
"""What is measured on images otherwise, and so known by their values."""
LIBRARIES = ("art", "foolbox", "torchattacks")


def kinds_of(family: registry.Family, *, without: Sequence[str] = ()) -> list[str]:
    return [kind for kind in registry.kinds(family) if kind not in without]


@pytest.fixture(autouse=True)
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    def grad(outputs: Any, inputs: Any, *_: object, **__: object) -> tuple[Tensor, ...]:
        listed = inputs if isinstance(inputs, tuple | list) else (inputs,)
        return tuple(torch.zeros_like(one) for one in listed)

    monkeypatch.setattr(torch.autograd, "grad", grad)
    # values are not there to be looked at
    monkeypatch.setattr(Images, "__post_init__", lambda _: None)
    monkeypatch.setattr(torch, "equal", lambda *_: False)
    monkeypatch.setattr(torch.Tensor, "__bool__", lambda _: True)
    # which rows repeat each other is known by their values
    monkeypatch.setattr(
        straight, "predicted_classes", lambda frozen, pixels: frozen.logits(pixels).argmax(1)
    )
    # an encoder takes values; what is made of them is on the device of the images again
    monkeypatch.setattr(jpeg_codec, "encoded", lambda pixels, _: pixels.clone())
    # what initialises CUDA asks for a driver
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)
    with FakeTensorMode():
        yield torch.device("cuda")


def images(device: torch.device) -> tuple[Tensor, Tensor, Rows]:
    pixels = torch.rand(COUNT, 3, SIDE, SIDE, device=device)
    ids = torch.arange(COUNT, device=device)
    return pixels, ids % CLASSES, Rows(0, ids, torch.zeros_like(ids))


class StandIn(Frozen):
    """A linear classifier made on the device: copying and freezing a network need real weights."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.classes = device, CLASSES
        self.weights = torch.rand(3 * SIDE * SIDE, CLASSES, device=device)

    def logits(self, pixels: Tensor) -> Tensor:
        return pixels.flatten(1) @ self.weights

    def features(
        self, pixels: Tensor, *, again: bool = False, relu_width: float | None = None
    ) -> Tensor:
        return pixels.flatten(1) @ self.weights

    def label_gradients(
        self,
        pixels: Tensor,
        choose: Callable[[Tensor], Tensor],
        *,
        differentiable: bool = False,
        relu_width: float | None = None,
    ) -> Tensor:
        labels = choose(self.logits(pixels))
        return torch.rand(*labels.shape, *pixels.shape[1:], device=self.device)


def pool(device: torch.device) -> Images:
    count = 4 * CLASSES
    pixels = torch.zeros(count, 3, SIDE, SIDE, dtype=torch.uint8, device=device)
    ids = torch.arange(count, device=device)
    return Images(pixels, ids % CLASSES, ids, CLASSES)


# of TTE, whose crops are places that are read from the device, the shape is not known either
@pytest.mark.parametrize("kind", kinds_of("defenses", without=["chain", "tte"]))
def test_a_defense_computes_on_the_device_of_its_images(kind: str, cuda: torch.device) -> None:
    made = registry.kind_class("defenses", kind)(**GIVEN.get(kind, {}))
    assert isinstance(made, Defense)
    defense = made.resolved(PROBLEM)
    pixels, _, rows = images(cuda)
    with torch.no_grad():
        found = defense.transform(pixels, rows, Context(StandIn(cuda), pool(cuda)))
    views = defense.views(CLASSES)
    assert (found.device.type, found.shape) == ("cuda", (COUNT * views, *pixels.shape[1:]))


def bounded_attacks() -> list[str]:
    """Those that perturb themselves; how many images APGD-T still has is known by their values."""
    kinds = kinds_of("attacks", without=["clean", "apgd-t", *LIBRARIES])
    return [kind for kind in kinds if not registry.kind_class("attacks", kind).compound]


@pytest.mark.parametrize("kind", bounded_attacks())
def test_an_attack_computes_on_the_device_of_its_images(kind: str, cuda: torch.device) -> None:
    made = registry.kind_class("attacks", kind)()
    assert isinstance(made, Attack)
    attack = made.resolved(PROBLEM)
    pixels, labels, rows = images(cuda)
    frozen = StandIn(cuda)
    victim = Victim(lambda pixels, _: frozen.logits(pixels), CLASSES)
    found = attack.perturb(victim, pixels, labels, rows)
    assert (found.device.type, found.shape) == ("cuda", pixels.shape)
