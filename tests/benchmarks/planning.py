"""The pipeline's own cost: commands on a finished grid, in which nothing is to be done."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from harness import Comparison

from pipeline import arrow
from pipeline.folder import Folder
from pipeline.graph import Node
from pipeline.grid import Overrides
from pipeline.ledger import Ledger
from pipeline.records import Record
from pipeline.session import Session, open_session
from pipeline.store import Store, Writer
from pipeline.tracking_runs import score_key, train_key
from pipeline.tracking_server import default_uri, shown
from tasks.datasets import DatasetSpec
from tasks.node_specs import DefendSpec
from tasks.score import Score
from tasks.statistics import wilson_interval

GRID = "full"
SIZES: Mapping[str, Overrides] = {
    "6,580": Overrides(images=7_500),
    "100,000": Overrides(images=10_000, seeds=12),
}
"""About so many nodes; the exact counts are told."""
ANSWERS = 100
"""Images whose answers a made-up score holds: a run that computes nothing reads none of them."""
PEER = Path(sys.executable).with_name("snakemake")
HOW: Mapping[str, object] = {
    "seconds": 1.5,
    "device": "x86_64 CPU",
    "threads": 1,
    "batch_size": 1000,
    "deterministic": True,
    "forwards": 500,
    "backwards": 0,
    "host": "made-up",
    "versions": {"python": "3.11", "test-time-defense-bench": "0", "torch": "0", "numpy": "0"},
}
OTHER = torch.zeros(1, dtype=torch.uint8)
"""What the artifacts hold that no command here reads."""


@dataclass(frozen=True)
class Finished:
    """A folder with a store in which every node of a grid is. parents: of each node, by place."""

    folder: Path
    overrides: Overrides
    parents: Sequence[Sequence[int]]

    @property
    def grid(self) -> list[str]:
        """The command line's words that choose this grid."""
        choices = {"images": self.overrides.images, "seeds": self.overrides.seeds}
        words = [word for key, value in choices.items() for word in (f"--{key}", str(value))]
        return ["--grid", GRID, *words]


class _Unsynced(Folder):
    """A folder that does not wait for the disk: nothing here is to outlive the machine."""

    @staticmethod
    def _sync(draft: Path) -> None:
        pass


def comparisons() -> Iterator[Comparison]:
    """`pipeline --help`, then `plan` and `run` over a finished grid of each size.

    The stores are temporary: each is gone once the next comparison is asked for.
    """
    with tempfile.TemporaryDirectory(prefix="planning-") as scratch:
        yield _helped(Path(scratch))
    for size, overrides in SIZES.items():
        with tempfile.TemporaryDirectory(prefix="planning-") as scratch:
            yield _nothing_to_do(finished(Path(scratch), overrides), size)


def finished(folder: Path, overrides: Overrides) -> Finished:
    """Put a made-up artifact of every node of the grid into a store in the folder.

    Its scores are marked as logged in the MLflow database that a run in that folder would take.
    """
    session = open_session(GRID, store=folder / "store", overrides=overrides)
    store = Store(_Unsynced(folder / "store"))
    records: dict[str, Record] = {}
    for node in session.graph:
        lineage: dict[str, str] = {}
        for _, parent in node.parents:
            above = records[parent.digest]
            lineage |= {**above.lineage, parent.digest: above.content}
        facts, writers = _made_up(node)
        records[node.digest] = store.put(node, writers, lineage=lineage, facts=facts, how=HOW)
    _mark_logged(session, records, Ledger(store.ground), shown(default_uri(folder)))
    places = {digest: place for place, digest in enumerate(records)}
    parents = [[places[above.digest] for _, above in node.parents] for node in session.graph]
    return Finished(folder, overrides, parents)


def _made_up(node: Node) -> tuple[dict[str, object], dict[str, Writer]]:
    """Facts of a node's form, and writers of its files."""
    file, columns = "other.arrow", {"other": OTHER}
    facts: dict[str, object] = {"images": 500}
    if node.kind == "score":
        spec = node.parents[0][1].spec
        assert isinstance(spec, DefendSpec)
        file, columns = "per_image.arrow", _answers(spec.redraws, int(node.digest[:8], 16))
        facts = _scored(columns["correct"])
    elif isinstance(node.spec, DatasetSpec):
        classes = node.spec.classes
        facts = {"test_images_by_class": [10_000 // classes] * classes}
    return facts, {file: partial(arrow.write_tensors, columns=columns, about={})}


def _answers(redraws: int, seed: int) -> dict[str, torch.Tensor]:
    drawn = np.random.default_rng(seed).random((ANSWERS, redraws)) < 0.5
    ids = torch.arange(ANSWERS)
    return {"ids": ids, "labels": ids % 10, "correct": torch.from_numpy(drawn).to(torch.uint8)}


def _scored(correct: torch.Tensor) -> dict[str, object]:
    right = correct.to(torch.float64)
    low, high = wilson_interval(right.mean().item() * len(right), len(right))
    each = right.mean(dim=0)
    return Score(
        images=len(right),
        redraws=len(each),
        accuracy=100 * right.mean().item(),
        interval=(100 * low, 100 * high),
        spread=100 * each.std().item() if len(each) > 1 else None,
        worst=100 * right.amin(dim=1).mean().item(),
        true_probability=0.5,
    ).model_dump(mode="json")


def _mark_logged(
    session: Session, records: Mapping[str, Record], ledger: Ledger, server: str
) -> None:
    for cell in session.grid.cells:
        record = records[session.scores[cell.name].digest]
        ledger.mark_logged(server, score_key(cell, record), "made-up")
    for record in records.values():
        if record.kind == "train":
            ledger.mark_logged(server, train_key(record), "made-up")


def _helped(folder: Path) -> Comparison:
    told: list[str] = []
    call = _Process([sys.executable, "-m", "pipeline", "--help"], folder, told)
    return Comparison(
        "help", "pipeline --help", 1, "calls", {"pipeline --help": call}, ["pipeline --help"], None, told
    )
