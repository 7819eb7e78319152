"""The pipeline's own cost: commands on a finished grid, in which nothing is to be done."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from harness import Comparison

from pipeline.commands.session import Session, open_session
from pipeline.grid.builder import Overrides
from pipeline.grid.graph import Node
from pipeline.observers.tracking.runs import score_key, train_key
from pipeline.observers.tracking.server import default_uri, name_in_ledger
from pipeline.store import arrow
from pipeline.store.folder import Folder
from pipeline.store.ledger import Ledger
from pipeline.store.records import Record
from pipeline.store.store import Store, Writer
from tasks.data.spec import DatasetSpec
from tasks.evaluation.score import Score
from tasks.evaluation.specs import DefendSpec
from tasks.evaluation.statistics import wilson_interval

GRID = "full"
SIZES: Mapping[str, Overrides] = {
    "6,580": Overrides(images=7_500),
    "100,000": Overrides(images=10_000, seeds=12),
}
"""About so many nodes; the exact counts are told."""
ANSWERS = 100
"""Images whose answers a made-up score holds: a run that computes nothing reads none of them."""
PEER = Path(sys.executable).with_name("snakemake")
PEER_NODES = 20_000
"""More of them take the peer many minutes each time."""
MEASURED = """\
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(done.returncode)
"""
"""Runs a command and says its peak memory in KiB: from a small process, since Linux counts what
the process that starts another holds at that moment as the other's own. It takes about 20 ms."""
SNAKEFILE = """\
import json

with open("parents.json") as file:
    PARENTS = json.load(file)


rule all:
    input:
        [f"done/{place}" for place in range(len(PARENTS))],


rule node:
    input:
        lambda wildcards: [f"done/{place}" for place in PARENTS[int(wildcards.place)]],
    output:
        "done/{place}",
    wildcard_constraints:
        place="[0-9]+",
    shell:
        "touch {output}"
"""
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


def comparisons(device: str) -> Iterator[Comparison]:
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
        records[node.digest] = store.put(
            node.identity, writers, lineage=lineage, facts=facts, how=HOW
        )
    ledger = Ledger(store.backend)
    _mark_logged(session, records, ledger, name_in_ledger(default_uri(folder), ledger))
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
        right_in_every_redraw=100 * right.amin(dim=1).mean().item(),
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


class _Process:
    """A command that is run to its end. `told` gets the median of the memory that it took."""

    def __init__(self, words: Sequence[str | Path], folder: Path, told: list[str]) -> None:
        self._words, self._folder, self._told = [str(word) for word in words], folder, told
        self._name = " ".join([Path(self._words[0]).name, *self._words[1:]])
        self._peaks_mb: list[float] = []

    def __call__(self) -> None:
        words = [sys.executable, "-I", "-S", "-c", MEASURED, *self._words]
        done = subprocess.run(words, cwd=self._folder, capture_output=True, text=True, check=False)
        *said, peak_kib = done.stderr.splitlines()
        if done.returncode:
            raise RuntimeError(f"{self._name}: {' '.join(said)[-500:]}")
        self._peaks_mb.append(int(peak_kib) * 1024 / 1e6)
        begin = f"peak memory of {self._name}: "
        self._told[:] = [line for line in self._told if not line.startswith(begin)]
        self._told.append(f"{begin}{statistics.median(self._peaks_mb):.0f} MB")


def _pipeline(*words: str) -> list[str]:
    return [sys.executable, "-m", "pipeline", *words]


def _helped(folder: Path) -> Comparison:
    told: list[str] = []
    name = "pipeline --help"
    calls = {name: _Process(_pipeline("--help"), folder, told)}
    return Comparison("help", "say what the commands are", 1, "calls", calls, [name], told=told)


def _nothing_to_do(done: Finished, size: str) -> Comparison:
    """`run` and `plan` beside Snakemake over as many files, if the latter is installed."""
    count = len(done.parents)
    told = [f"{count:,} nodes of grid {GRID}, all of them finished"]
    ours = {
        f"pipeline {command}": _Process(_pipeline(command, *done.grid), done.folder, told)
        for command in ("run", "plan")
    }
    calls: dict[str, Callable[[], object]] = {**ours}
    if not PEER.exists():
        told.append(f"{PEER.name} is not installed beside {sys.executable}: not compared")
    elif count > PEER_NODES:
        told.append(f"{PEER.name} is not asked about more than {PEER_NODES:,} nodes")
    else:
        place = done.folder / "peer"
        calls[PEER.name] = _Process(_peer(done.parents, place), place, told)
    what = f"find that all of about {size} nodes are finished"
    return Comparison(f"nothing to do, {size}", what, count, "nodes", calls, list(ours), told=told)


def _peer(parents: Sequence[Sequence[int]], folder: Path) -> list[str | Path]:
    """Finished files in a graph of the same shape, and the command that looks at them.

    A rule for each node would be a rule file of as many rules: one rule takes a file's inputs
    from a table by its number.
    """
    folder.mkdir()
    (folder / "parents.json").write_text(json.dumps(parents), encoding="utf-8")
    (folder / "Snakefile").write_text(SNAKEFILE, encoding="utf-8")
    (folder / "done").mkdir()
    began = time.time() - len(parents)
    for place in range(len(parents)):
        path = folder / "done" / str(place)
        path.touch()
        # each later than what it was made from
        os.utime(path, (began + place, began + place))
    return [PEER, "--cores", "1", "--rerun-triggers", "mtime", "--quiet", "all"]
