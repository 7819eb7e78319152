"""Performing a node: load its parents, call the task, put the result. The only bridge to tasks."""

from __future__ import annotations

import json
import platform
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from urllib.error import HTTPError

import safetensors.torch
import torch
from torch import Tensor

from pipeline import __version__, arrow, partial_state, sources
from pipeline.desk import Desk, candidates_of, forget, untrained
from pipeline.devices import cpu_name
from pipeline.events import Again, Done, Failure, Result, Stopped
from pipeline.graph import Node
from pipeline.hashing import own_digests, parts_of
from pipeline.own_code import line_of, module_of, placed
from pipeline.problems import BadInput, Unwritable
from pipeline.settings import Settings
from pipeline.store import Damaged, Store, Writer
from tasks import exported
from tasks.arrays import BadTensor, as_float
from tasks.attacks.base import Attack
from tasks.checkpoint import BadCheckpoint, load_weights, weights_from_bytes
from tasks.craft import check_crafted, craft
from tasks.datasets import DatasetSpec
from tasks.defend import BadDefense, defend
from tasks.defenses.base import Defense
from tasks.findings import overall
from tasks.foreign_networks import BadNetwork, ForeignNetwork
from tasks.integrity import card
from tasks.libraries import LibraryProblem
from tasks.memory import keep_freed_memory
from tasks.networks.base import Network
from tasks.networks.exported import Exported
from tasks.node_specs import CardSpec, CraftSpec, DefendSpec, ScoreSpec, SelectSpec
from tasks.progress import Tell
from tasks.recipe import CheckpointSpec, TrainSpec
from tasks.score import joined, score
from tasks.select import select
from tasks.specs import Kind, Spec
from tasks.train import Diverged, train

EXPECTED = (
    BadInput,
    BadTensor,
    BadCheckpoint,
    BadDefense,
    BadNetwork,
    Diverged,
    LibraryProblem,
)
"""Failures whose own line says all that a person needs."""
FAMILIES: Mapping[str, type[Kind]] = {"attack": Attack, "defense": Defense, "network": Network}
"""What a part is called, by its base class."""
PROGRAM = "test-time-defense-bench"
NO_MEMORY = ("can't allocate memory", "not enough memory")
"""What torch's error says when a CPU's memory is full; a GPU's has a class of its own."""
TIMINGS = ("seconds", "images_per_second")
VERSIONS = ("torch", "numpy", "pyarrow")
COSTS = {"forwards": "forwards", "backwards": "backwards", "seconds": "asking_seconds"}
"""What is told of one prediction, and where a defend's record has it."""


@dataclass(frozen=True)
class Made:
    """Files to write and facts to record. asking_s: of the time, what the network was asked in."""

    files: Mapping[str, Writer]
    facts: Mapping[str, object]
    asking_s: float | None = None


class TimeUp(Exception):
    """The time of the run is up, and the state of this node's work is kept."""


def attempt(
    node: Node,
    store: Store,
    settings: Settings,
    tell: Tell,
    *,
    replace: bool = False,
    until: float | None = None,
) -> Result:
    """Perform a node; whatever goes wrong becomes a Failure that names it in one line.

    until: Unix time, s, after which training stops at the end of an epoch. Out of memory is
    worth another, smaller attempt.
    """
    try:
        return perform(node, store, settings, tell, replace=replace, until=until)
    except TimeUp:
        return Stopped(node.digest)
    except Damaged as damaged:
        return Failure(node.digest, str(damaged), damaged=(damaged.kind, damaged.digest))
    except Unwritable as error:
        return Failure(node.digest, str(error), traceback.format_exc(), fatal=True)
    except Exception as error:  # noqa: BLE001  one node's failure must not end the others
        if _is_no_memory(error):
            forget()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            return Again(node.digest, "out of memory", smaller=True)
        line = " ".join(str(error).split()) or "no message"
        reason = placed(error, line) if isinstance(error, EXPECTED) else line_of(error)
        return Failure(node.digest, _named(node.spec, error) + reason, traceback.format_exc())


def _named(spec: Spec, error: Exception) -> str:
    """What to say first: the part of a user's own, or of a library, that the error is about."""
    if isinstance(error, BadDefense):
        return "defense "
    parts = {
        f"{family} {part.kind}: ": part
        for part in parts_of(spec)
        for family, base in FAMILIES.items()
        if isinstance(part, base)
    }
    module = module_of(error)
    for name, part in parts.items():
        if type(part).__module__ == module:
            return name
    for name, part in parts.items():
        if isinstance(part, Attack) and (part.source_digest or part.library):
            return name
    return ""


def _is_no_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)


def perform(
    node: Node,
    store: Store,
    settings: Settings,
    tell: Tell,
    *,
    replace: bool = False,
    until: float | None = None,
) -> Done:
    """Compute a node's artifact and put it into the store.

    With `replace` an artifact that is there gives way to the new one. TimeUp where a training
    has more epochs to go after `until`.
    """
    standing = None if replace else store.record(node.kind, node.digest)
    if standing is not None:
        return Done(node.digest, standing.content, standing.facts, standing.how)
    kind = settings.of(node.kind)
    device = _device(settings)
    keep_freed_memory()
    torch.set_num_threads(kind.threads)
    torch.use_deterministic_algorithms(settings.deterministic and device.type == "cuda")
    desk = Desk(node, store, kind, device, tell, until)
    began = time.monotonic()
    lineage = desk.lineage()
    result = _PERFORM[node.kind](desk)
    how = {
        "seconds": time.monotonic() - began,
        "device": _device_name(device),
        "threads": kind.threads,
        "batch_size": kind.batch_size,
        "deterministic": settings.deterministic or device.type == "cpu",
        "forwards": desk.classifier.forwards if desk.classifier else 0,
        "backwards": desk.classifier.backwards if desk.classifier else 0,
        "host": platform.node(),
        "versions": {"python": platform.python_version(), PROGRAM: __version__}
        | {name: version(name) for name in VERSIONS},
    }
    if result.asking_s is not None:
        how["asking_seconds"] = result.asking_s
    if kind.compiled:
        how["compiled"] = desk.classifier is not None and desk.classifier.compiled
    if own := own_digests(node.spec):
        how["own_code"] = own
    before = _content(store, node) if replace else None
    if replace:
        store.set_aside(node.kind, node.digest)
    record = store.put(node, result.files, lineage=lineage, facts=result.facts, how=how)
    if node.kind == "train":
        partial_state.forget(store.ground, node.digest)
    return Done(
        node.digest, record.content, record.facts, record.how, unchanged=record.content == before
    )


def _content(store: Store, node: Node) -> str | None:
    try:
        record = store.record(node.kind, node.digest)
    except Damaged:
        return None
    return record.content if record else None


def _dataset(desk: Desk) -> Made:
    spec = desk.node.spec
    assert isinstance(spec, DatasetSpec)
    splits = sources.read(spec, dict(desk.node.files))
    about = {"spec": spec.model_dump(mode="json")}
    files = {
        f"{name}.arrow": partial(
            arrow.write_tensors,
            columns={"pixels": images.pixels, "labels": images.labels},
            about=about,
        )
        for name, images in (("train", splits.train), ("test", splits.test))
    }
    facts = {
        "train_images": len(splits.train),
        "test_images": len(splits.test),
        "test_images_by_class": splits.test.labels.bincount(minlength=spec.classes).tolist(),
    }
    return Made(files, facts)


def _train(desk: Desk) -> Made:
    spec = desk.node.spec
    assert isinstance(spec, TrainSpec)
    images = desk.splits(desk.node.parent("dataset")).train
    ground, digest = desk.store.ground, desk.node.digest
    state = begun = partial_state.load(ground, digest)
    for state in train(images, spec, device=desk.device, tell=desk.tell, state=begun):
        partial_state.save(ground, digest, state)
        late = desk.until is not None and time.time() >= desk.until
        if late and state.facts["epoch"] < spec.recipe.epochs:
            raise TimeUp
    assert state is not None
    epochs = state.facts["history"]
    # seconds differ from run to run: they are facts about it, not content
    history = [{key: epoch[key] for key in epoch if key not in TIMINGS} for epoch in epochs]
    timings = {key: [epoch[key] for epoch in epochs] for key in TIMINGS}
    files: dict[str, Writer] = {
        "weights.safetensors": partial(_write_weights, state.weights),
        "history.json": partial(_write_json, history),
    }
    return Made(files, {**history[-1], "epochs": len(history), "timings": timings})


def _checkpoint(desk: Desk) -> Made:
    spec = desk.node.spec
    assert isinstance(spec, CheckpointSpec)
    files = dict(desk.node.files)
    path = Path(files["weights"])
    if "url" in files and not path.exists():
        _download(files["url"], path, spec.sha256)
    shape = desk.node.parent("dataset").spec
    assert isinstance(shape, DatasetSpec)
    writers: dict[str, Writer] = {}
    if isinstance(spec.network, Exported):
        weights, program = exported.read(path.read_bytes())
        module = spec.network.restored(program, weights, shape.channels)
        writers["program.json"] = partial(_write_json, program)
    else:
        weights = weights_from_bytes(path.read_bytes(), spec.key_prefix)
        module = untrained(desk.node)
        load_weights(module, weights)
    if isinstance(spec.network, ForeignNetwork):
        spec.network.check(module, shape.channels, shape.side, shape.classes)
    facts = {"weights": sum(weight.numel() for weight in weights.values())}
    writers["weights.safetensors"] = partial(_write_weights, weights)
    return Made(writers, facts)


def _download(url: str, path: Path, sha256: str) -> None:
    """To its place once it is whole and has its checksum; BadInput otherwise."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=sha256, progress=False)
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, HTTPError):
            error.close()  # it holds the connection
        reason = " ".join(str(error).split())
        raise BadInput(
            f"{url} cannot be downloaded ({reason}): name the file with --weights instead"
        ) from None


def _craft(desk: Desk) -> Made:
    spec = desk.node.spec
    assert isinstance(spec, CraftSpec)
    test = desk.splits(desk.node.parent("dataset")).test
    images = test[spec.shard.start : spec.shard.stop]
    context = desk.context(spec.precision)
    roles = dict(desk.node.parents)
    crafted = craft(
        images,
        context,
        spec,
        batch_size=desk.settings.batch_size,
        start=desk.examples(roles["start"], spec.shard) if "start" in roles else None,
        tell=desk.tell,
    )
    check_crafted(crafted, images, spec)
    change = (crafted.pixels - as_float(images.pixels)).abs().amax().item()
    return Made(
        {"examples.arrow": _tensors(desk, vars(crafted))},
        {"images": len(crafted), "largest_change": 255 * change},
    )


def _select(desk: Desk) -> Made:
    spec = desk.node.spec
    assert isinstance(spec, SelectSpec)
    test = desk.splits(desk.node.parent("dataset")).test
    images = test[spec.shard.start : spec.shard.stop]
    candidates = {
        role: desk.examples(node, spec.shard) for role, node in candidates_of(desk.node).items()
    }
    context = desk.context(spec.precision)
    size = desk.settings.batch_size
    chosen = select(candidates, images, context, spec, batch_size=size, tell=desk.tell)
    facts = {
        name: {
            "images": len(crafted),
            "chosen": int((chosen.choice == place).sum()),
            "failed_draws_percent": 100 * chosen.failures[: len(crafted), place].mean().item(),
        }
        for place, (name, crafted) in enumerate(candidates.items())
    }
    files: dict[str, Writer] = {
        "examples.arrow": _tensors(desk, vars(chosen.crafted)),
        "choice.arrow": _tensors(desk, {"choice": chosen.choice, "failures": chosen.failures}),
    }
    return Made(files, {"images": len(images), "candidates": facts})


def _defend(desk: Desk) -> Made:
    spec = desk.node.spec
    assert isinstance(spec, DefendSpec)
    crafted = desk.examples(desk.node.parent("examples"), spec.shard)
    context = desk.context(spec.precision)
    began = time.monotonic()
    outcomes = defend(crafted, context, spec, batch_size=desk.settings.batch_size, tell=desk.tell)
    return Made(
        {"outcomes.arrow": _tensors(desk, vars(outcomes))},
        {"images": len(crafted), "redraws": spec.redraws},
        asking_s=time.monotonic() - began,
    )


def _card(desk: Desk) -> Made:
    spec = desk.node.spec
    assert isinstance(spec, CardSpec)
    images = desk.splits(desk.node.parent("dataset")).test[: spec.images]
    context = desk.context(spec.precision)
    size = desk.settings.batch_size
    findings = card(images, context, spec, batch_size=size, tell=desk.tell)
    facts = [finding.model_dump(mode="json") for finding in findings]
    files: dict[str, Writer] = {"card.json": partial(_write_json, facts)}
    return Made(files, {"verdict": overall(findings), "findings": facts, "images": len(images)})


def _score(desk: Desk) -> Made:
    assert isinstance(desk.node.spec, ScoreSpec)
    parents = [parent for _, parent in desk.node.parents]
    outcomes = joined([desk.outcomes(parent) for parent in parents])
    facts = score(outcomes).model_dump(mode="json")
    predictions = outcomes.correct.numel()
    cost: dict[str, float] = {}
    hows = [desk.record(parent).how for parent in parents]
    for name, key in COSTS.items():
        # a record of an older version has no time of its own for asking
        total = sum(float(str(how.get(key, how[name]))) for how in hows)
        cost[f"{name}_per_prediction"] = total / predictions
    columns = {
        "ids": outcomes.ids,
        "labels": outcomes.labels,
        "predicted": outcomes.predicted,
        "correct": outcomes.correct.to(torch.uint8),
    }
    files: dict[str, Writer] = {
        "per_image.arrow": _tensors(desk, columns),
        "score.json": partial(_write_json, facts),
    }
    return Made(files, facts | cost)


_PERFORM: dict[str, Callable[[Desk], Made]] = {
    "dataset": _dataset,
    "train": _train,
    "checkpoint": _checkpoint,
    "craft": _craft,
    "select": _select,
    "defend": _defend,
    "score": _score,
    "card": _card,
}


def _device(settings: Settings) -> torch.device:
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise BadInput("device cuda: torch sees no GPU here")
    gpu = settings.device != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if gpu else "cpu")


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return cpu_name()


def _tensors(desk: Desk, columns: Mapping[str, Tensor]) -> Writer:
    about = {"spec": desk.node.spec.model_dump(mode="json")}
    return partial(arrow.write_tensors, columns=columns, about=about)


def _write_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    # not `save_file`, whose errors hide what the system said
    path.write_bytes(safetensors.torch.save({name: w.contiguous() for name, w in weights.items()}))


def _write_json(value: object, path: Path) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True), encoding="utf-8")
