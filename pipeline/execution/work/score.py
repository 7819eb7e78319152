"""The work of score nodes: join the predictions of a cell's shards, and sum up their records."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pipeline.execution.work.evaluate import ACTED
from pipeline.execution.work.inputs import NodeInputs
from pipeline.execution.work.output import NodeOutput, json_file, tensor_file
from pipeline.grid.graph import Node
from pipeline.store.candidates import added_up, candidates_in, facts_of
from pipeline.store.store import Writer
from tasks.evaluation.score import joined, score
from tasks.evaluation.specs import ScoreSpec, SelectSpec
from tasks.integrity.sanity import counted

COSTS = {"forwards": "forwards", "backwards": "backwards", "seconds": "asking_seconds"}
"""Costs of a prediction, and the keys of a defend record that they come from."""


def score_node(inputs: NodeInputs) -> NodeOutput:
    """Compute a cell's score from the predictions of all its shards."""
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
        "per_image.arrow": tensor_file(inputs.node, columns),
        "score.json": json_file(facts),
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
