"""A user's own code that keeps state between calls fails its cells, built-in code beside it not."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import Recorder, write_configs

from pipeline.commands.session import open_session
from pipeline.execution.events import Observers, RunFinished
from pipeline.grid.builder import Overrides
from tasks.evaluation import repeats

IMAGES = 40
AT_ONCE = 16
SAID = (
    "the first images give something else when they come again at the end; derive everything from "
    "the images and `rows`, and keep nothing between calls"
)
CHANGED = (
    "changes the network's weights or modules, which have to stay as they are (the classifier's "
    "weights have changed since it was frozen)"
)
DEFENSE = """import torch
from pydantic import PrivateAttr
from tasks import straight
from tasks.defenses.base import Defense

drawn = torch.Generator().manual_seed(0)


class Mine(Defense):
    draws: int = 2
    _calls: int = PrivateAttr(0)

    def transform(self, pixels, rows, context):
        self._calls += 1
        noise = rows.uniform("noise", pixels[0].numel()).view_as(pixels) - 0.5
        {does}
        return straight.clip(pixels + 0.1 * noise)
"""
STATES = {
    "late": "noise = noise + 0.1 * (self._calls > 3)",
    "slight": "noise = noise + 1e-5 * self._calls",
    "generator": "noise = noise + torch.rand(1, generator=drawn)",
}
ATTACK = """from pydantic import PrivateAttr
from tasks.attacks.base import Attack
from tasks.attacks.search.geometry import Ball


class Own(Attack):
    epsilon: float = 40.0
    _calls: int = PrivateAttr(0)

    def perturb(self, victim, pixels, labels, rows):
        self._calls += 1
        size = self.epsilon / 255 / {share}
        return (pixels + size).clamp(0, 1)

    def ball(self):
        return Ball("linf", self.epsilon / 255)
"""
NETWORK = """from tasks.networks.families.foreign import ForeignNetwork
from torch import nn


class Late(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
        self.full = 0

    def forward(self, pixels):
        logits = self.layers(pixels) * (1 + {share} * self.full)
        self.full += len(pixels) == 16
        return logits


def make():
    return Late(10)


class Own(ForeignNetwork):
    def module(self, channels, side, classes):
        return Late(classes)
"""
MODEL = "dataset: digits\nnetwork: {{{network}}}\nrecipe: short\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder, so that files are named as a user would."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(only: str, add: tuple[str, str] | None = None, model: str = "") -> RunFinished:
    """Compute a cell of the tiny grid; two full batches of images are predicted, and another."""
    files = {"settings.yaml": f"device: cpu\nkinds:\n  defend: {{batch_size: {AT_ONCE}}}\n"}
    if model:
        files["models/mixed.yaml"] = model
    session = open_session(
        "tiny",
        store="store",
        configs=[write_configs(Path("configs"), files)],
        only=[f"cell={only}"],
        overrides=Overrides(images=IMAGES, redraws=1, add=[add] if add else []),
    )
    session.store.prepare()
    observers = Observers([Recorder()])
    return session.run(observers, inline=True, address=None, workers=None, forced=set())


@pytest.mark.parametrize("state", STATES)
def test_a_defense_whose_answers_follow_from_earlier_calls_fails_its_cell(state: str) -> None:
    Path("mine.py").write_text(DEFENSE.format(does=STATES[state]))
    finished = run("mixed/clean/mine", ("defenses", "mine.py"))
    assert finished.missing == {"mixed/clean/mine": f"mine.py:13: defense mine: {SAID}"}


@pytest.mark.parametrize(("state", "fails"), [("late", True), ("slight", False)])
def test_where_kernels_need_not_repeat_only_more_than_rounding_fails(
    monkeypatch: pytest.MonkeyPatch, state: str, fails: bool
) -> None:
    monkeypatch.setattr(repeats, "repeats_exactly", lambda *_, **__: False)
    Path("mine.py").write_text(DEFENSE.format(does=STATES[state]))
    finished = run("mixed/clean/mine", ("defenses", "mine.py"))
    assert bool(finished.missing) == fails


def test_asking_again_is_not_counted_as_a_cost_and_changes_no_answer() -> None:
    Path("mine.py").write_text(DEFENSE.format(does="pass"))
    (facts,) = run("mixed/clean/mine", ("defenses", "mine.py")).scored.values()
    assert facts["forwards_per_prediction"] == 2


@pytest.mark.parametrize(("share", "fails"), [("self._calls", True), ("2", False)])
def test_an_attack_whose_examples_follow_from_earlier_calls_fails_its_cell(
    share: str, fails: bool
) -> None:
    Path("own.py").write_text(ATTACK.replace("{share}", share))
    finished = run("mixed/own/none", ("attacks", "own.py"))
    expected = {"mixed/own/none": f"own.py:10: attack own: {SAID}"}
    assert finished.missing == (expected if fails else {})


@pytest.mark.parametrize(("share", "fails"), [("1e-5", True), ("0", False)])
@pytest.mark.parametrize(
    ("network", "named"),
    [
        ("kind: factory, factory: ../../net.py:make", "network net.py:make"),
        ("kind: ../../net.py", "net.py:22: network own"),
    ],
)
def test_a_network_whose_answers_follow_from_earlier_calls_fails_its_cells(
    network: str, named: str, share: str, fails: bool
) -> None:
    Path("net.py").write_text(NETWORK.replace("{share}", share))
    finished = run("mixed/clean/guo", model=MODEL.format(network=network))
    expected = {"mixed/clean/guo": f"{named}: {SAID}"}
    assert finished.missing == (expected if fails else {})


def test_a_defense_that_changes_the_weights_fails_its_own_cells_and_no_others() -> None:
    changes = "[p.data.mul_(0.999) for p in context.classifier.module.parameters()]"
    Path("mine.py").write_text(DEFENSE.format(does=changes))
    finished = run("mixed/clean/*", ("defenses", "mine.py"))
    assert finished.missing == {"mixed/clean/mine": f"mine.py:13: defense mine: {CHANGED}"}
    assert run("mixed/pgd/*", ("defenses", "mine.py")).missing.keys() == {"mixed/pgd/mine"}
