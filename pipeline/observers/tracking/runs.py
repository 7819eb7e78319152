"""The content of MLflow runs: names, parameters, metrics and tags of results."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.grid.cells import Cell, Grid
from pipeline.grid.graph import Node
from pipeline.plan.words import counted
from pipeline.problems import BadInput
from pipeline.report.facts import interval, number
from pipeline.store.reading import Malformed, parsed
from pipeline.store.records import hardware
from pipeline.store.store import Damaged, Record, Store
from tasks.specs import Spec

PROGRAM = "test-time-defense-bench"

ANSWERS = "per_image.arrow"
HISTORY = "history.json"
LONGEST_PARAMETER = 500
LONGEST_NAME = 200
COSTS = ("seconds", "forwards", "backwards")


@dataclass(frozen=True)
class Metric:
    """A metric; steps count epochs from 1, and are 0 if there are none."""

    name: str
    value: float
    step: int = 0


@dataclass(frozen=True)
class Data:
    """A data set used by a run, for MLflow.

    A server keeps one entry for each name and digest, so the rest must not depend on the run.

    Attributes:
        digest: At most 36 characters.
        kind: Its source.
        context: `training` or `test`.
        shape: Shape of an image, [C, H, W].
    """

    name: str
    digest: str
    kind: str
    context: str
    shape: tuple[int, int, int]
    classes: int

    @property
    def schema(self) -> dict[str, object]:
        """Types and shapes of pixels and labels."""

        def columns(dtype: str, *shape: int) -> str:
            tensor = {"dtype": dtype, "shape": [-1, *shape]}
            return json.dumps([{"type": "tensor", "tensor-spec": tensor}])

        features, targets = columns("uint8", *self.shape), columns("int64")
        return {"mlflow_tensorspec": {"features": features, "targets": targets}}

    @property
    def profile(self) -> dict[str, object]:
        """Number of classes and shape of the images."""
        return {"classes": self.classes, "image_shape": list(self.shape)}


@dataclass(frozen=True)
class ChildRun:
    """A result as an MLflow run.

    Attributes:
        key: Identifies the result on any server.
        began, ended: Unix time in seconds.
        note: Description in Markdown.
        data: Data sets that it used.
    """

    key: str
    name: str
    parameters: Mapping[str, str]
    points: tuple[Metric, ...]
    tags: Mapping[str, str]
    began: float
    ended: float
    note: str = ""
    data: tuple[Data, ...] = ()


def score_key(cell: Cell, record: Record) -> str:
    """The key of a cell's score; contains the cell's name, since cells may share a score node."""
    label = hashlib.sha256(cell.name.encode()).hexdigest()[:8]
    return f"{record.digest}-{record.content[:8]}-{label}"


def train_key(record: Record) -> str:
    """The key of a training, independent of the model's name."""
    return f"{record.digest}-{record.content[:8]}"


def score_run(
    cell: Cell,
    node: Node,
    record: Record,
    *,
    store: Store,
    grid: Grid,
    again: Sequence[str] = (),
) -> ChildRun:
    """The run of a scored cell: settings, score and costs of its nodes.

    again: further options of the command that runs the grid, for the description.
    """
    parameters = {
        "dataset": cell.dataset,
        "model": cell.model,
        "attack": cell.attack,
        "defense": cell.defense,
        "seed": str(cell.seed),
        "images": str(cell.images),
        "redraws": str(cell.redraws),
        "precision": cell.precision,
        **_fields("attack", cell.attack_spec),
        **_fields("defense", cell.defense_spec),
        **_fields("model", cell.model_spec),
    }
    tables = [
        table.name
        for table in grid.tables
        if cell.model in table.models
        and cell.attack in table.attacks
        and cell.defense in table.defenses
    ]
    tags = {"cell": cell.name, "tables": ", ".join(tables), **_tags(record, grid)}
    costs, used = _costs(node, record, store)
    tags |= {name: ", ".join(sorted(values)) for name, values in used.items()}
    points = [*_points(record.facts), *_points(costs), *_redraws(record, store)]
    child = _child(score_key(cell, record), cell.name, parameters, points, tags, record)
    dataset = node.parents[0][1].parent("model").parent("dataset")
    data = _data(cell, dataset, "test")
    return replace(child, note=_told(cell, record, grid, again), data=(data,))


def train_run(cell: Cell, node: Node, record: Record, *, store: Store, grid: Grid) -> ChildRun:
    """The run of a training: recipe, and learning curves by epoch.

    Curves that are no longer in the store are left out; the facts hold the final values.
    """
    parameters = {
        "dataset": cell.dataset,
        "model": cell.model,
        **_fields("model", cell.model_spec),
    }
    points = [*_points(record.facts), *_points(record.how, only=("seconds",))]
    timings = record.facts.get("timings")
    curves = dict(timings) if isinstance(timings, Mapping) else {}
    try:
        text = store.path(record, HISTORY).read_bytes()
        history = parsed(text, list[dict[str, object]])
    except (Damaged, BadInput, OSError, Malformed):
        history = []
    for step, epoch in enumerate(history, start=1):
        points += [Metric(f"epoch/{point.name}", point.value, step) for point in _points(epoch)]
    for name, values in curves.items():
        for step, value in enumerate(values, start=1):
            points += [Metric(f"epoch/{name}", p.value, step) for p in _points({name: value})]
    tags = {"model": cell.model, **_tags(record, grid)}
    tags |= hardware(record)
    name = f"train {cell.model}"
    child = _child(train_key(record), name, parameters, points, tags, record)
    recipe = ", ".join(
        f"{key.removeprefix('model.')} {value}"
        for key, value in parameters.items()
        if key.startswith("model.")
    )
    data = _data(cell, node.parent("dataset"), "training")
    return replace(child, note=f"Training of **{cell.model}**: {recipe}.", data=(data,))


def metric_names(prefix: str, names: Iterable[str]) -> dict[str, str]:
    """Unique metric names with characters that MLflow allows everywhere, by original name.

    A checksum is added to names that would collide or are too long.
    """
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        parts = [re.sub(r"[^\w.\- ]", "_", part).strip(". ") for part in name.split("/")]
        metric = "/".join([prefix, *(part or "_" for part in parts)])
        if metric in taken or len(metric) > LONGEST_NAME:
            checksum = hashlib.sha256(name.encode()).hexdigest()[:8]
            metric = f"{metric[:LONGEST_NAME]}-{checksum}"
        taken.add(metric)
        found[name] = metric
    return found


def _child(
    key: str,
    name: str,
    parameters: Mapping[str, str],
    points: Iterable[Metric],
    tags: Mapping[str, str],
    record: Record,
) -> ChildRun:
    ended = float(str(record.how.get("written", 0.0)))
    began = ended - float(str(record.how.get("seconds", 0.0)))
    return ChildRun(key, name, parameters, tuple(points), {**tags, "key": key}, began, ended)


def _data(cell: Cell, dataset: Node, context: str) -> Data:
    spec = cell.dataset_spec
    shape = (spec.channels, spec.side, spec.side)
    return Data(cell.dataset, dataset.digest[:36], spec.kind, context, shape, spec.classes)


def _told(cell: Cell, record: Record, grid: Grid, more: Sequence[str]) -> str:
    """A cell in one sentence, and the command that computes it again; more: further options."""
    accuracy = number(record.facts, "accuracy")
    ends = interval(record.facts)
    within = f" (95 % interval {ends[0]:.1f} to {ends[1]:.1f})" if ends else ""
    words = "not scored" if accuracy is None else f"**{accuracy:.1f} %**{within}"
    again = [*grid.run_words([f"cell={cell.name}"], force=True), *more]
    return (
        f"{words}: {cell.defense} on {cell.model} under {cell.attack}, "
        f"{counted(cell.images, 'image')} of {cell.dataset}.\n\n"
        f"    {shlex.join(again)}"
    )


def _redraws(record: Record, store: Store) -> Iterator[Metric]:
    """Accuracy of each redraw in percent, numbered from 1, if there are several."""
    if ANSWERS not in record.files:
        return
    from pipeline.store import arrow

    try:
        right = arrow.read_arrays(store.path(record, ANSWERS), {"correct": 2})["correct"]
    except (Damaged, BadInput, arrow.BadArrow):
        return
    if right.shape[1] > 1:
        for step, share in enumerate(right.mean(axis=0), start=1):
            yield Metric("redraw/accuracy", 100 * float(share), step)


def _tags(record: Record, grid: Grid) -> dict[str, str]:
    tags = {"digest": record.digest, "content": record.content, "grid": grid.name}
    versions = record.how.get("versions")
    if isinstance(versions, Mapping):
        for package, version in versions.items():
            tags["version" if package == PROGRAM else f"version.{package}"] = str(version)
    return tags


def _costs(
    score: Node, record: Record, store: Store
) -> tuple[dict[str, float], dict[str, set[str]]]:
    """Costs summed over the score and its ancestors that query the network, by kind and in total.

    Also returns the hardware that these were computed on.
    """
    sums: dict[str, float] = {}
    used: dict[str, set[str]] = {}
    for node in score.with_batched_ancestors():
        found = record if node is score else store.known(node.kind, node.digest)
        if found is None:
            continue
        if node is not score:
            # the hardware that computed the score itself is irrelevant
            for name, value in hardware(found).items():
                used.setdefault(name, set()).add(value)
        for point in _points(found.how, only=COSTS):
            for name in (point.name, f"{node.kind}_{point.name}"):
                sums[name] = sums.get(name, 0.0) + point.value
    return sums, used


def _points(facts: Mapping[str, object], only: tuple[str, ...] = ()) -> Iterator[Metric]:
    """The finite numbers among facts as metrics; a pair, such as an interval, becomes two."""
    for name, value in facts.items():
        if only and name not in only:
            continue
        ends: dict[str, object] = {name: value}
        if isinstance(value, list | tuple) and len(value) == 2:
            ends = {f"{name}_low": value[0], f"{name}_high": value[1]}
        for end, found in ends.items():
            if isinstance(found, bool) or not isinstance(found, int | float):
                continue
            if math.isfinite(found):
                yield Metric(end, float(found))


def _fields(prefix: str, spec: Spec) -> dict[str, str]:
    return dict(_flat(prefix, spec.model_dump(mode="json")))


def _flat(prefix: str, value: object) -> Iterator[tuple[str, str]]:
    """Flatten nested values to dotted names with text values, without unset ones."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(f"{prefix}.{key}", inner)
    elif isinstance(value, list) and any(isinstance(inner, Mapping) for inner in value):
        for position, inner in enumerate(value):
            yield from _flat(f"{prefix}.{position}", inner)
    elif value is not None and value != "":
        yield prefix, str(value)[:LONGEST_PARAMETER]
