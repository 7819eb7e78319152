"""The work of each kind of node: read its parents, call the task, return the files to write."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import safetensors.torch
import torch
from torch import Tensor, nn

from pipeline.catalogue.sources import locate as sources
from pipeline.execution.work import unfinished as partial_state
from pipeline.execution.work.contract import check_stateless, own_code, own_names
from pipeline.execution.work.inputs import NodeInputs, candidates_of, naming, untrained
from pipeline.grid.graph import Node
from pipeline.grid.kinds import NodeKind
from pipeline.problems import BadInput, shown
from pipeline.problems.sanitize import scrubbed, without_secrets
from pipeline.store import arrow
from pipeline.store.candidates import Candidate, added_up, candidates_in, facts_of
from pipeline.store.files import read_whole
from pipeline.store.store import Writer
from tasks.classifier import exported
from tasks.classifier.checkpoint import fitted, load_weights, read_checkpoint
from tasks.classifier.ensemble import EnsembleModule
from tasks.classifier.prepared import Manner, training_manner
from tasks.data.arrays import Crafted, Outcomes, as_float
from tasks.data.spec import DatasetSpec
from tasks.evaluation.craft import check_crafted, craft
from tasks.evaluation.defend import acted, defend
from tasks.evaluation.exhibit import exhibits
from tasks.evaluation.repeats import craft_probe, defend_repeats
from tasks.evaluation.score import joined, score
from tasks.evaluation.seen import Seen
from tasks.evaluation.select import select
from tasks.evaluation.specs import (
    CardSpec,
    CraftSpec,
    DefendSpec,
    ExhibitSpec,
    ScoreSpec,
    SelectSpec,
)
from tasks.integrity.card import card
from tasks.integrity.findings import overall
from tasks.integrity.sanity import counted
from tasks.networks.exported import Exported
from tasks.networks.families.foreign import ForeignNetwork, counted_multiplications
from tasks.training.recipe import CheckpointSpec, EnsembleSpec, TrainSpec
from tasks.training.train import train

TIMINGS = ("seconds", "images_per_second")
ACTED = "acted_on_answers"
"""Fact of a defend record: number of answers, over images and redraws, that differ from the bare
model's."""
COSTS = {"forwards": "forwards", "backwards": "backwards", "seconds": "asking_seconds"}
"""Costs of a prediction, and the keys of a defend record that they come from."""


@dataclass(frozen=True)
class NodeOutput:
    """Result of a node: writers of its files, and facts to record.

    asking_s: the part of the time in which the network was queried, in seconds.
    """

    files: Mapping[str, Writer]
    facts: Mapping[str, object]
    asking_s: float | None = None


class Unfinished(Exception):
    """The run's time limit was reached; the state of this node's work is saved."""


def _named(node: Node) -> dict[str, str]:
    """The paths of a node's files by role; BadInput if they are not named."""
    files = dict(node.files)
    if sources.UNNAMED in files:
        raise BadInput(files[sources.UNNAMED])
    return files


def _dataset(inputs: NodeInputs) -> NodeOutput:
    spec = inputs.node.spec
    assert isinstance(spec, DatasetSpec)
    named = _named(inputs.node)
    content = sources.read(spec, named)
    splits = content.splits
    places = {str(Path(path).parent) for path in named.values()}
    inputs.note(f"data set in {shown(Path(min(places)))}", *content.notes)
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
    return NodeOutput(files, facts)


def _train(inputs: NodeInputs) -> NodeOutput:
    spec = inputs.node.spec
    assert isinstance(spec, TrainSpec)
    images = inputs.splits(inputs.node.parent("dataset")).train
    manner = _trainable(inputs)
    backend, digest = inputs.store.backend, inputs.node.digest
    state = begun = partial_state.load(backend, digest)
    for state in train(
        images, spec, device=inputs.device, tell=inputs.tell, state=begun, manner=manner
    ):
        partial_state.save(backend, digest, state)
        late = inputs.until is not None and time.time() >= inputs.until
        if late and state.facts["epoch"] < spec.recipe.epochs:
            raise Unfinished
    assert state is not None
    epochs = state.facts["history"]
    # durations differ from run to run: they are facts about it, not part of the content
    history = [{key: epoch[key] for key in epoch if key not in TIMINGS} for epoch in epochs]
    timings = {key: [epoch[key] for epoch in epochs] for key in TIMINGS}
    files: dict[str, Writer] = {
        "weights.safetensors": partial(_write_weights, state.weights),
        "history.json": partial(_write_json, history),
    }
    facts: dict[str, object] = {**history[-1], "epochs": len(history), "timings": timings}
    if isinstance(spec.network, ForeignNetwork):
        facts |= _counted(untrained(inputs.node), inputs.node)
    return NodeOutput(files, facts)


def _trainable(inputs: NodeInputs) -> Manner:
    """How to train a node's network; BadNetwork if it is not usable, before any time is spent."""
    spec = inputs.node.spec
    assert isinstance(spec, TrainSpec)
    _fits(inputs, untrained(inputs.node))
    # each check gets its own instance, since it may modify it
    inputs.freeze(inputs.node, untrained(inputs.node), "float32")
    with naming(spec.network):
        manner = training_manner(untrained(inputs.node), inputs.probe(inputs.node))
    inputs.note_network(spec.network, *manner.left_out)
    return manner


def _fits(inputs: NodeInputs, module: nn.Module) -> None:
    """Raise BadNetwork if a foreign network does not fit the data set's images and classes."""
    spec, shape = inputs.node.spec, inputs.node.parent("dataset").spec
    assert isinstance(spec, TrainSpec | CheckpointSpec)
    assert isinstance(shape, DatasetSpec)
    if isinstance(spec.network, ForeignNetwork):
        spec.network.check(module, shape.channels, shape.side, shape.classes)


def _checkpoint(inputs: NodeInputs) -> NodeOutput:
    spec = inputs.node.spec
    assert isinstance(spec, CheckpointSpec)
    files = _named(inputs.node)
    path = Path(files["weights"])
    if "url" in files and not path.exists():
        _download(files["url"], path, spec.sha256)
    shape = inputs.node.parent("dataset").spec
    assert isinstance(shape, DatasetSpec)
    writers: dict[str, Writer] = {}
    data = read_whole(path, spec.sha256)
    notes: tuple[str, ...] = ()
    if isinstance(spec.network, Exported):
        for key in ("key_prefix", "weights_key"):
            if getattr(spec, key):
                raise BadInput(f"{key}: a .pt2 file knows its weights; leave it out")
        weights, program = exported.read(data)
        module = spec.network.restored(program, weights, shape.channels)
        writers["program.json"] = partial(_write_json, program)
    else:
        read = read_checkpoint(data, weights_key=spec.weights_key, key_prefix=spec.key_prefix)
        module = untrained(inputs.node)
        checkpoint = fitted(read, module)
        weights, notes = checkpoint.weights, checkpoint.notes
        load_weights(module, weights)
    _fits(inputs, module)
    frozen = inputs.freeze(inputs.node, module, "float32")
    inputs.note_network(spec.network, *frozen.left_out)
    inputs.note(shown(path), *notes)
    facts = {"weights": sum(weight.numel() for weight in weights.values())}
    if isinstance(spec.network, ForeignNetwork):
        facts |= _counted(module, inputs.node)
    writers["weights.safetensors"] = partial(_write_weights, weights)
    return NodeOutput(writers, facts)


def _ensemble(inputs: NodeInputs) -> NodeOutput:
    spec = inputs.node.spec
    assert isinstance(spec, EnsembleSpec)
    models = [inputs.node.parent(f"member{number}") for number in range(len(spec.members))]
    module = EnsembleModule([inputs.loaded(model) for model in models])
    frozen = inputs.freeze(inputs.node, module, "float32")
    inputs.note_network(spec.network, *frozen.left_out)
    weights = module.state_dict()
    facts = {"weights": sum(weight.numel() for weight in weights.values())}
    if any(isinstance(member, ForeignNetwork) for member in spec.network.members):
        facts |= _counted(module, inputs.node)
    return NodeOutput({"weights.safetensors": partial(_write_weights, weights)}, facts)


def _counted(module: nn.Module, model: Node) -> dict[str, int]:
    """Multiplications of a foreign network, counted so that a plan need not run its code."""
    shape = model.parent("dataset").spec
    assert isinstance(shape, DatasetSpec)
    found = counted_multiplications(module, shape.channels, shape.side)
    return {} if found is None else {"multiplications": found}


def _download(url: str, path: Path, sha256: str) -> None:
    """Download to `path`, which appears only when it is complete and has the checksum.

    Raises:
        BadInput: If the download fails.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=sha256, progress=False)
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, HTTPError):
            error.close()  # closes the connection
        reason = scrubbed(str(error), url)
        raise BadInput(
            f"{without_secrets(url)} cannot be downloaded ({reason}): "
            "name the file with --weights instead"
        ) from None


def _craft(inputs: NodeInputs) -> NodeOutput:
    spec = inputs.node.spec
    assert isinstance(spec, CraftSpec)
    images = inputs.images_of(inputs.node)
    roles = dict(inputs.node.parents)
    start = None
    if "start" in roles:
        start = inputs.examples(roles["start"], spec.shard)
        start = start[torch.isin(start.ids, images.ids)]
    context = inputs.context(spec.precision)
    seen = Seen()
    own = bool(own_names(spec.attack))
    probe = craft_probe(images, context, spec, start=start) if own else None
    crafted = craft(
        images,
        context,
        spec,
        batch_size=inputs.rows_at_once,
        start=start,
        tell=inputs.tell,
        seen=seen,
    )
    if spec.twice:
        inputs.note_second_derivative(with_width=spec.relu_width is not None)
    check_crafted(crafted, images, spec)
    if probe is not None:
        again = craft_probe(images, context, spec, start=start)
        same = again is not None and torch.equal(again, probe)
        check_stateless(inputs.node, inputs.generators, same=same)
    change = (crafted.pixels - as_float(images.pixels)).abs()
    largest = 255 * change.max().item() if len(crafted) else 0.0
    return NodeOutput(
        {"examples.arrow": _tensors(inputs, vars(crafted))},
        {"images": len(crafted), "largest_change": largest, "seen": seen.facts()},
    )


def _select(inputs: NodeInputs) -> NodeOutput:
    spec = inputs.node.spec
    assert isinstance(spec, SelectSpec)
    roles = dict(inputs.node.parents)
    nodes = candidates_of(inputs.node)
    before = roles.get("before")
    context = inputs.context(spec.precision)
    chosen = select(
        {name: inputs.examples(node, spec.shard) for name, node in nodes.items()},
        inputs.images_of(inputs.node),
        context,
        spec,
        batch_size=inputs.rows_at_once,
        before=inputs.chosen(before) if before is not None else None,
        tell=inputs.tell,
    )
    if own_names(spec):
        context.classifier.check()
    tried = candidates_in(inputs.record(before).facts) if before is not None else []
    for name, node in nodes.items():
        how: Mapping[str, Any] = inputs.record(node).how
        passes = {key: how[key] for key in ("forwards", "backwards")}
        tried.append(Candidate(candidate=name, **passes))
    asked = ~chosen.failures.isnan()
    told = [
        each.model_copy(
            update={
                "images": int(asked[:, place].sum()),
                "broken": int(chosen.broken[place]),
                "chosen": int((chosen.choice == place).sum()),
                "failed_draws_percent": 100 * chosen.failures[asked[:, place], place].mean().item()
                if asked[:, place].any()
                else 0.0,
            }
        )
        for place, each in enumerate(tried)
    ]
    columns = {
        "choice": chosen.choice,
        "failures": chosen.failures,
        "true": chosen.true,
        "standing": chosen.standing.to(torch.uint8),
    }
    files: dict[str, Writer] = {
        "examples.arrow": _tensors(inputs, vars(chosen.crafted)),
        "choice.arrow": _tensors(inputs, columns),
    }
    facts = {"images": len(chosen.crafted), "standing": int(chosen.standing.sum())}
    return NodeOutput(files, facts | {"candidates": facts_of(told)})


def _defend(inputs: NodeInputs) -> NodeOutput:
    spec = inputs.node.spec
    assert isinstance(spec, DefendSpec)
    crafted = inputs.examples(inputs.node.parent("examples"), spec.shard)
    context = inputs.context(spec.precision)
    began = time.monotonic()
    seen, size = Seen(), inputs.rows_at_once
    outcomes = defend(crafted, context, spec, batch_size=size, tell=inputs.tell, seen=seen)
    asking_s = time.monotonic() - began
    if own_code(inputs.node) and seen.first is not None:
        context.classifier.check()
        same = defend_repeats(crafted, context, spec, seen.first, batch_size=size)
        check_stateless(inputs.node, inputs.generators, same=same)
    facts: dict[str, object] = {
        "images": len(crafted),
        "redraws": spec.redraws,
        "seen": seen.facts(),
    }
    answers = acted(crafted, context, outcomes, batch_size=size)
    if answers is not None:
        facts[ACTED] = answers
    files: dict[str, Writer] = {"outcomes.arrow": _tensors(inputs, outcomes.columns())}
    return NodeOutput(files, facts, asking_s)


def _card(inputs: NodeInputs) -> NodeOutput:
    spec = inputs.node.spec
    assert isinstance(spec, CardSpec)
    images = inputs.splits(inputs.node.parent("dataset")).test[: spec.images]
    context = inputs.context(spec.precision)
    size = inputs.rows_at_once
    findings = card(images, context, spec, batch_size=size, tell=inputs.tell)
    facts = [finding.model_dump(mode="json") for finding in findings]
    files: dict[str, Writer] = {"card.json": partial(_write_json, facts)}
    return NodeOutput(
        files, {"verdict": overall(findings), "findings": facts, "images": len(images)}
    )


def _exhibit(inputs: NodeInputs) -> NodeOutput:
    spec = inputs.node.spec
    assert isinstance(spec, ExhibitSpec)
    context = inputs.context(spec.precision)
    test = inputs.splits(inputs.node.parent("dataset")).test
    made = exhibits(_shown_shards(inputs), test, context, spec, tell=inputs.tell)
    return NodeOutput({"exhibits.arrow": _tensors(inputs, vars(made))}, {"images": len(made)})


def _shown_shards(inputs: NodeInputs) -> Iterator[tuple[Crafted, Outcomes, Outcomes]]:
    """Examples of each shard, with the predictions of the bare and of the defended model."""
    roles = dict(inputs.node.parents)
    for index in itertools.count():
        if f"examples{index}" not in roles:
            return
        defended = roles[f"defended{index}"]
        assert isinstance(defended.spec, DefendSpec)
        examples = inputs.examples(roles[f"examples{index}"], defended.spec.shard)
        yield examples, inputs.outcomes(roles[f"bare{index}"]), inputs.outcomes(defended)


def _score(inputs: NodeInputs) -> NodeOutput:
    assert isinstance(inputs.node.spec, ScoreSpec)
    parents = [parent for _, parent in inputs.node.parents]
    outcomes = joined([inputs.outcomes(parent) for parent in parents])
    facts = score(outcomes).model_dump(mode="json")
    predictions = outcomes.correct.numel()
    cost: dict[str, float] = {}
    hows = [inputs.record(parent).how for parent in parents]
    for name, key in COSTS.items():
        # records of older versions do not have the time of queries
        total = sum(float(str(how.get(key, how[name]))) for how in hows)
        cost[f"{name}_per_prediction"] = total / predictions
    columns = {
        "ids": outcomes.ids,
        "labels": outcomes.labels,
        "predicted": outcomes.predicted,
        "correct": outcomes.correct.to(torch.uint8),
    }
    if outcomes.abstained is not None:
        columns["abstained"] = outcomes.abstained.to(torch.uint8)
        facts["abstained"] = 100 * outcomes.abstained.to(torch.float64).mean().item()
    files: dict[str, Writer] = {
        "per_image.arrow": _tensors(inputs, columns),
        "score.json": partial(_write_json, facts),
    }
    more = (
        _acts_on(inputs, parents, predictions)
        | _candidates(inputs, parents)
        | _seen(inputs, parents)
    )
    return NodeOutput(files, facts | cost | more)


def _acts_on(inputs: NodeInputs, shards: Sequence[Node], answers: int) -> dict[str, float]:
    """Percentage of answers that differ from the bare model's.

    Empty if the record of a shard, of an older version, does not have it.
    """
    found = [inputs.record(shard).facts.get(ACTED) for shard in shards]
    counts = [count for count in found if isinstance(count, int)]
    return {"acts_on": 100 * sum(counts) / answers} if len(counts) == len(shards) else {}


def _candidates(inputs: NodeInputs, shards: Sequence[Node]) -> dict[str, object]:
    """Statistics of the candidates of an adaptive cell, over all its shards."""
    examples = [shard.parent("examples") for shard in shards]
    selected = [inputs.record(node) for node in examples if isinstance(node.spec, SelectSpec)]
    found = added_up(candidates_in(record.facts) for record in selected)
    return {"candidates": facts_of(found)} if found else {}


def _seen(inputs: NodeInputs, shards: Sequence[Node]) -> dict[str, object]:
    """Observations about a cell's model from answers and attacks, over all shards; see `Seen`."""
    total: dict[str, int] = {}
    for shard in shards:
        for node in (shard, shard.parent("examples")):
            record = inputs.store.known(node.kind, node.digest)
            for name, count in counted(record.facts if record is not None else {}).items():
                total[name] = total.get(name, 0) + count
    return {"seen": total} if total else {}


PERFORM: dict[NodeKind, Callable[[NodeInputs], NodeOutput]] = {
    "dataset": _dataset,
    "train": _train,
    "checkpoint": _checkpoint,
    "ensemble": _ensemble,
    "craft": _craft,
    "select": _select,
    "defend": _defend,
    "score": _score,
    "card": _card,
    "exhibit": _exhibit,
}


def _tensors(inputs: NodeInputs, columns: Mapping[str, Tensor]) -> Writer:
    about = {"spec": inputs.node.spec.model_dump(mode="json")}
    return partial(arrow.write_tensors, columns=columns, about=about)


def _write_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    # not `save_file`, whose errors hide the reason of the system
    path.write_bytes(safetensors.torch.save({name: w.contiguous() for name, w in weights.items()}))


def _write_json(value: object, path: Path) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True), encoding="utf-8")
