"""A user's code that changes after the grid was loaded, and before a node first imports it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny import Recorder, Tiny, opened_with, write_configs

from pipeline.catalogue.code.own import with_source
from pipeline.execution.events import Observers
from pipeline.execution.work.contract import check_unchanged
from pipeline.grid.digests import own_digests
from pipeline.grid.graph import Node
from pipeline.problems import BadInput
from tasks.networks.factory import Factory
from tasks.training.recipe import Recipe, TrainSpec

NETWORK = """
import torch


def make():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, {outputs}))
"""
LATE = """
from tasks.defenses.base import Defense


class Mine(Defense):
    def transform(self, pixels, rows, context):
        if len(pixels) > 20:  # more than the check of the contract has
            import late_helper

            return pixels * late_helper.AMOUNT
        return pixels
"""
CHANGED = "{}: its code has changed since the grid was loaded; load the grid again"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder whose modules can be imported, and are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "").is_relative_to(tmp_path):
            del sys.modules[name]


@pytest.mark.parametrize(
    ("factory", "changed"),
    [("late_nets:make", "late_nets"), ("net.py:make", "late_nets")],
    ids=["package", "helper"],
)
def test_a_factory_that_changes_before_its_import_is_refused(
    folder: Path, factory: str, changed: str
) -> None:
    module = folder / "late_nets.py"
    module.write_text(NETWORK.format(outputs=10))
    model = f"dataset: digits\nnetwork: {{kind: factory, factory: '{factory}'}}\nrecipe: short\n"
    files = {"models/mixed.yaml": model, "models/net.py": "from late_nets import make\n"}
    tiny = Tiny(write_configs(folder / "configs", files), folder / "store")
    session = tiny.session(only=["cell=mixed/clean/none"])
    session.store.prepare()
    module.write_text(NETWORK.format(outputs="10, bias=False"))
    finished = session.run(
        Observers([Recorder()]), inline=True, address=None, workers=None, forced=set()
    )
    assert finished.missing == {"mixed/clean/none": CHANGED.format(changed)}
    assert "train" not in {kind for kind, _ in session.store.each()}


def test_a_helper_that_a_defense_imports_while_it_runs_is_refused_after_a_change(
    folder: Path,
) -> None:
    helper = folder / "late_helper.py"
    helper.write_text("AMOUNT = 0.5\n")
    session = opened_with(LATE)
    node = next(n for n in session.graph if n.kind == "defend" and own_digests(n.spec))
    check_unchanged(node)
    helper.write_text("AMOUNT = 0.25\n")
    with pytest.raises(BadInput, match=CHANGED.format("late_helper")):
        check_unchanged(node)


def test_what_changes_after_its_import_is_computed_with_the_code_that_was_imported(
    folder: Path,
) -> None:
    def node() -> Node:
        network = with_source(Factory(factory="late_nets:make"), folder)
        return Node("train", TrainSpec(network=network, recipe=Recipe(), seed=0))

    module = folder / "late_nets.py"
    module.write_text(NETWORK.format(outputs=10))
    old = node()
    module.write_text(NETWORK.format(outputs=11))
    new = node()
    importlib.import_module("late_nets")
    module.write_text(NETWORK.format(outputs=12))
    check_unchanged(new)
    # the process cannot import the older code any more
    with pytest.raises(BadInput, match=CHANGED.format("late_nets")):
        check_unchanged(old)
