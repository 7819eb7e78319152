"""Rows at once follow from a budget of memory and the size of a row."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import Tiny, write_configs
from torch import nn

from pipeline.commands.plan import plan_lines
from pipeline.execution.work import budget, inputs
from tasks.attacks.apgd import APGD
from tasks.classifier.frozen import Frozen
from tasks.classifier.row_size import row_bytes, rows_that_fit
from tasks.data.seeding import Rows
from tasks.data.splits import digits
from tasks.defenses.base import Context, Defense
from tasks.defenses.chain import Chain
from tasks.defenses.counter import Counter
from tasks.defenses.guo import Guo
from tasks.evaluation.craft import craft
from tasks.evaluation.specs import CraftSpec
from tasks.evaluation.victim import defended
from tasks.networks.small import Small
from tasks.specs import Problem, Shard

PROBLEM = Problem(epsilon=20, classes=10, side=8, pool=1197)


class Wide(nn.Module):
    """Keeps one tensor of a known size for the way back."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(7, 3))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        # of a sigmoid its own output is kept: 3 x 8 x 8 float32
        return pixels.sigmoid().mean(dim=(2, 3)) @ self.weights.T


def test_a_row_is_as_large_as_what_a_pass_keeps_for_the_way_back() -> None:
    frozen = Frozen(Wide(), classes=7)
    image = 3 * 8 * 8 * 4
    found = row_bytes(frozen, 3, 8)
    assert found == pytest.approx(16 * image + 1.6 * image, rel=0.02)
    assert (frozen.forwards, frozen.backwards) == (0, 0)


def test_a_row_of_more_pixels_is_larger_in_proportion() -> None:
    torch.manual_seed(0)
    frozen = Frozen(Small(kind="small").build(3, 32, 10), classes=10)
    assert row_bytes(frozen, 3, 64) == pytest.approx(4 * row_bytes(frozen, 3, 32), rel=0.05)


@pytest.mark.parametrize(
    ("budget", "each", "most", "rows"),
    [
        (1000, 10, 1024, 64),
        (1000, 10, 50, 32),
        (1000, 10, 1, 1),
        (5, 10, 8, 1),
        (1024, 1, 1024, 1024),
    ],
)
def test_rows_at_once_are_the_power_of_two_that_fits(
    budget: float, each: int, most: int, rows: int
) -> None:
    assert rows_that_fit(budget, each, most) == rows


@pytest.mark.parametrize(
    "defense",
    [Guo(draws=4), Chain(parts=(Counter(label_count=2), Guo(draws=4)))],
    ids=["guo", "counter+guo"],
)
@pytest.mark.parametrize("smoothing", [None, 1.0])
def test_a_question_in_parts_has_the_answer_and_the_gradient_of_a_whole_one(
    defense: Defense, smoothing: float | None, network: nn.Module
) -> None:
    images = digits().test[:3]
    defense = defense.resolved(PROBLEM)
    found = []
    for rows_at_once in (None, 5):
        context = Context(Frozen(network, classes=10), rows_at_once=rows_at_once)
        rows = Rows(0, images.ids, torch.zeros_like(images.ids))
        leaf = (images.pixels.float() / 255).requires_grad_()
        victim = defended(defense, context, rows, draws=8, smoothing=smoothing)
        logits = victim.logits(leaf, 0)
        found.append((logits, torch.autograd.grad(logits[:, 1].sum(), leaf)[0]))
    for whole, parts in zip(*found, strict=True):
        torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-6)


def test_draws_of_one_image_that_do_not_fit_go_through_the_network_in_parts(
    network: nn.Module,
) -> None:
    frozen = Frozen(network, classes=10)
    largest = 0
    asked = frozen.logits

    def watched(pixels: torch.Tensor, *rest: object) -> torch.Tensor:
        nonlocal largest
        largest = max(largest, len(pixels))
        return asked(pixels, *rest)  # type: ignore[arg-type]

    frozen.logits = watched  # type: ignore[method-assign]
    spec = CraftSpec(
        attack=APGD(steps=2, loss="margin").resolved(PROBLEM),
        shard=Shard(start=0, stop=3),
        seed=0,
        precision="float32",
        against=Guo(draws=4),
        draws=50,
    )
    craft(digits().test[:3], Context(frozen, rows_at_once=8), spec, batch_size=8)
    assert largest == 8


def test_less_free_memory_lowers_the_rows_and_the_record_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = Tiny(write_configs(tmp_path / "configs"), tmp_path / "store")
    only = ["model=mixed", "attack=pgd", "defense=none"]
    tiny.run(only=only, images=20)
    monkeypatch.setattr(inputs, "share_bytes", lambda workers: 1e6)
    recorder, _ = tiny.run(only=only, images=30)
    (crafted,) = recorder.done("craft")
    how = crafted.done.how
    assert isinstance(how["batch_size"], int)
    assert how["batch_size"] < 1024
    assert "rows at once instead of" in str(how["said"])


def test_workers_beside_one_another_share_what_the_machine_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(budget, "memory_bytes", lambda: int(8e9))
    monkeypatch.setattr(budget, "available_bytes", lambda: int(7e9))
    assert budget.share_bytes(1) == 7e9
    assert budget.share_bytes(4) == 2e9 - budget.PROCESS_BYTES
    assert budget.share_bytes(100) == 0
    monkeypatch.setattr(budget, "memory_bytes", lambda: None)
    assert budget.share_bytes(2) is None


def test_memory_is_that_of_the_container_where_it_has_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(budget, "CONTROL_GROUPS", (tmp_path / "none", limit))
    limit.write_text("max\n", encoding="ascii")
    whole = budget.memory_bytes()
    limit.write_text("123456\n", encoding="ascii")
    assert budget.memory_bytes() == 123456
    assert whole is None or whole > 123456


def test_the_plan_tells_the_peak_of_a_worker_before_anything_runs(tmp_path: Path) -> None:
    settings = "device: cpu\nkinds:\n  craft: {memory_gb: 1.5}\n"
    tiny = Tiny(
        write_configs(tmp_path / "configs", {"settings.yaml": settings}), tmp_path / "store"
    )
    lines = plan_lines(tiny.session(), forced=set(), every=False, device=None, workers=2)
    (said,) = [line for line in lines if line.startswith("memory:")]
    assert "about 2.8 GB a worker, 5.5 GB with 2 workers" in said
