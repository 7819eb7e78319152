"""The work of the nodes that query a model: attacks, predictions, integrity cards, exhibits."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from pipeline.execution.work.artifacts import candidates_of
from pipeline.execution.work.contract import check_stateless, own_code, own_names
from pipeline.execution.work.inputs import NodeInputs
from pipeline.execution.work.output import NodeOutput, json_file, tensor_file
from pipeline.store.candidates import Candidate, candidates_in, facts_of
from pipeline.store.store import Writer
from tasks.contract.conditions import first_call
from tasks.data.arrays import Crafted, Outcomes, as_float
from tasks.evaluation.craft import check_crafted, craft
from tasks.evaluation.defend import acted, defend
from tasks.evaluation.exhibit import exhibits
from tasks.evaluation.repeats import craft_probe, defend_repeats
from tasks.evaluation.seen import Seen
from tasks.evaluation.select import Chosen, select
from tasks.evaluation.specs import CardSpec, CraftSpec, DefendSpec, ExhibitSpec, SelectSpec
from tasks.integrity.card import card
from tasks.integrity.findings import overall

ACTED = "acted_on_answers"
"""Fact of a defend record: number of answers, over images and redraws, that differ from the bare
model's."""


def craft_node(inputs: NodeInputs) -> NodeOutput:
    """Compute the adversarial examples of a shard."""
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
    probe = None
    if own:
        with first_call():
            probe = craft_probe(images, context, spec, start=start)
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
        {"examples.arrow": tensor_file(inputs.node, vars(crafted))},
        {"images": len(crafted), "largest_change": largest, "seen": seen.facts()},
    )


def select_node(inputs: NodeInputs) -> NodeOutput:
    """Choose the worst of the candidates' examples for each image of a shard."""
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
    columns = {
        "choice": chosen.choice,
        "failures": chosen.failures,
        "true": chosen.true,
        "standing": chosen.standing.to(torch.uint8),
    }
    files: dict[str, Writer] = {
        "examples.arrow": tensor_file(inputs.node, vars(chosen.crafted)),
        "choice.arrow": tensor_file(inputs.node, columns),
    }
    facts = {"images": len(chosen.crafted), "standing": int(chosen.standing.sum())}
    return NodeOutput(files, facts | {"candidates": facts_of(_with_findings(tried, chosen))})


def _with_findings(tried: Sequence[Candidate], chosen: Chosen) -> list[Candidate]:
    """The candidates with what the selection found of each."""
    asked = ~chosen.failures.isnan()
    return [
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


def defend_node(inputs: NodeInputs) -> NodeOutput:
    """Predict the examples of a shard with the defended model."""
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
    files: dict[str, Writer] = {"outcomes.arrow": tensor_file(inputs.node, outcomes.columns())}
    return NodeOutput(files, facts, asking_s)


def card_node(inputs: NodeInputs) -> NodeOutput:
    """Run the integrity checks of a model."""
    spec = inputs.node.spec
    assert isinstance(spec, CardSpec)
    images = inputs.splits(inputs.node.parent("dataset")).test[: spec.images]
    context = inputs.context(spec.precision)
    size = inputs.rows_at_once
    findings = card(images, context, spec, batch_size=size, tell=inputs.tell)
    facts = [finding.model_dump(mode="json") for finding in findings]
    files: dict[str, Writer] = {"card.json": json_file(facts)}
    return NodeOutput(
        files, {"verdict": overall(findings), "findings": facts, "images": len(images)}
    )


def exhibit_node(inputs: NodeInputs) -> NodeOutput:
    """Choose the images that the report shows."""
    spec = inputs.node.spec
    assert isinstance(spec, ExhibitSpec)
    context = inputs.context(spec.precision)
    test = inputs.splits(inputs.node.parent("dataset")).test
    made = exhibits(_shown_shards(inputs), test, context, spec, tell=inputs.tell)
    return NodeOutput(
        {"exhibits.arrow": tensor_file(inputs.node, vars(made))}, {"images": len(made)}
    )


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
