"""Numbers that were edited: a record's own checksum shows it, and so do the artifact's files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from artifacts import unsealed
from click.testing import CliRunner, Result

from pipeline.commands.cli import main
from pipeline.commands.transfer import import_results
from pipeline.grid.graph import Node
from pipeline.problems import BadInput
from pipeline.store import arrow
from pipeline.store.bundle import write_bundle
from pipeline.store.records import META, Damaged, Record, as_json
from pipeline.store.store import Store, folder_of
from pipeline.store.verify import verify
from tasks.data.arrays import Outcomes
from tasks.evaluation.score import score
from tasks.specs import Shard

SCORE = Node("score", Shard(start=0, stop=4))
CARD = Node("card", Shard(start=0, stop=3))
MODEL = Node("checkpoint", Shard(start=0, stop=2))
TRAINED = Node("train", Shard(start=0, stop=6))
NODES = (SCORE, CARD, MODEL, TRAINED)
FINDING = {"check": "queries", "verdict": "fail", "measured": {"share": 0.5}, "words": "no"}
PROGRAM: dict[str, Any] = {
    "pixels": "x",
    "logits": "y",
    "weights": {"p_w": "w"},
    "steps": [
        {
            "do": "torch.ops.aten.mul.Tensor",
            "take": [{"of": "x"}, {"of": "p_w"}],
            "named": {},
            "give": ["y"],
        }
    ],
}


def outcomes() -> Outcomes:
    probabilities = torch.tensor([0.8, 0.2]).expand(4, 3, 2).contiguous()
    return Outcomes(probabilities, torch.tensor([0, 0, 0, 1]), torch.arange(4))


def put_all(store: Store, program: Mapping[str, Any] = PROGRAM) -> None:
    """A score of 75 %, a card that fails, a model with its program, and a training."""
    found = outcomes()
    facts = score(found).model_dump(mode="json")
    columns = {
        "ids": found.ids,
        "labels": found.labels,
        "predicted": found.predicted,
        "correct": found.correct.to(torch.uint8),
    }
    history = [{"loss": 2.0}, {"loss": 1.0}]

    def text(value: object) -> Any:
        return lambda path: path.write_text(json.dumps(value))

    def tensors(path: Path) -> None:
        arrow.write_tensors(path, columns, {})

    def weights(path: Path) -> None:
        path.write_bytes(safetensors.torch.save({"w": torch.ones(2)}))

    made: list[tuple[Node, dict[str, Any], dict[str, Any]]] = [
        (SCORE, {"per_image.arrow": tensors, "score.json": text(facts)},
         {**facts, "seconds_per_prediction": 0.5}),
        (CARD, {"card.json": text([FINDING])},
         {"verdict": "fail", "findings": [FINDING], "images": 3}),
        (MODEL, {"weights.safetensors": weights, "program.json": text(program)}, {"weights": 2}),
        (TRAINED, {"history.json": text(history)}, {"loss": 1.0, "epochs": 2}),
    ]  # fmt: skip
    for node, files, told in made:
        store.put(node.identity, files, lineage={}, facts=told, how={"seconds": 1.0})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "store")
    made.prepare()
    put_all(made)
    return made


def meta(store: Store, node: Node = SCORE) -> Path:
    assert store.root is not None
    return store.root / folder_of(node.kind, node.digest) / META


def forge(store: Store, node: Node, **facts: object) -> None:
    """Change facts as somebody does who also takes the checksum away."""
    fields = json.loads(meta(store, node).read_text())
    meta(store, node).write_text(unsealed(fields, facts={**fields["facts"], **facts}))


def age(store: Store) -> None:
    """Make all records those of an older version."""
    for node in NODES:
        meta(store, node).write_text(
            json.dumps(json.loads(unsealed(json.loads(meta(store, node).read_text()))), indent=1)
        )


def record_of(store: Store, node: Node = SCORE) -> Record:
    record = store.record(node.kind, node.digest)
    assert record is not None
    return record


def typed(store: Store, *words: str) -> Result:
    return CliRunner().invoke(main, ["verify", "--store", str(store.root), *words])


def test_a_record_carries_a_checksum_of_its_own_and_reads_as_it_was_written(store: Store) -> None:
    for node in NODES:
        record = record_of(store, node)
        assert record.sealed
        assert as_json(record) == meta(store, node).read_bytes()
    assert verify(store).damages == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"accuracy": 75.0', '"accuracy": 99.9'),
        ('"seconds_per_prediction": 0.5', '"seconds_per_prediction": 0.1'),
        ('"seconds": 1.0', '"seconds": 2.0'),
        ('"redraws": 3', '"redraws": 9'),
        ('"seal": "', '"seal": "0'),
    ],
)
def test_a_number_that_was_edited_is_damage_wherever_the_record_is_read(
    store: Store, old: str, new: str
) -> None:
    text = meta(store).read_text()
    assert old in text
    meta(store).write_text(text.replace(old, new))
    with pytest.raises(Damaged, match=r"meta\.json does not match its own checksum"):
        store.record(SCORE.kind, SCORE.digest)
    assert typed(store).exit_code == 1
    # also as a tool writes it that lays JSON out in its own way
    meta(store).write_text(json.dumps(json.loads(text.replace(old, new))))
    with pytest.raises(Damaged, match="checksum"):
        store.record(SCORE.kind, SCORE.digest)


@pytest.mark.parametrize(
    ("node", "facts", "said"),
    [
        (SCORE, {"accuracy": 99.9}, "its accuracy is 99.9, and by its own files it is 75"),
        (SCORE, {"interval": [99.0, 100.0]}, "its interval is [99.0, 100.0]"),
        (SCORE, {"right_in_every_redraw": 80.0}, "its right_in_every_redraw is 80"),
        (SCORE, {"true_probability": 0.9}, "its true_probability is 0.9"),
        (SCORE, {"images": 10_000}, "its images is 10000"),
        (CARD, {"verdict": "pass"}, "its verdict is pass, and by its own files it is fail"),
        (CARD, {"findings": []}, "its findings is []"),
        (TRAINED, {"loss": 0.1}, "its loss is 0.1"),
        (TRAINED, {"epochs": 200}, "its epochs is 200"),
        (MODEL, {"weights": 9}, "its weights is 9"),
    ],
)
def test_facts_are_worked_out_again_from_what_the_artifact_holds(
    store: Store, node: Node, facts: dict[str, Any], said: str
) -> None:
    forge(store, node, **facts)
    [damage] = verify(store).damages
    assert (damage.kind, damage.digest) == (node.kind, node.digest)
    assert said in damage.reason
    assert typed(store, "--seal").exit_code == 1
    assert not record_of(store, node).sealed


def test_a_forged_seal_helps_nobody(store: Store) -> None:
    record = record_of(store)
    forged = Record(**{**vars(record), "facts": {**record.facts, "accuracy": 99.9}})
    meta(store).write_bytes(as_json(forged))
    assert record_of(store).facts["accuracy"] == 99.9
    assert "its accuracy is 99.9" in verify(store).damages[0].reason


def test_old_records_are_read_as_unsealed_and_sealed_once_that_is_asked(store: Store) -> None:
    sealed = {node: meta(store, node).read_bytes() for node in NODES}
    age(store)
    assert not any(record_of(store, node).sealed for node in NODES)
    found = verify(store)
    assert (found.sound, found.unsealed, found.sealed) == (4, 4, 0)
    told = typed(store)
    assert told.exit_code == 0
    assert "4 records are of an older version" in told.stderr
    assert "4 records of an older version were sealed" in typed(store, "--seal").stdout
    assert {node: meta(store, node).read_bytes() for node in NODES} == sealed
    answer = json.loads(typed(store, "--json").stdout)
    assert (answer["sound"], answer["unsealed"], answer["sealed"]) == (4, 0, 0)


def bundle_of(store: Store, path: Path) -> Path:
    records = [(record_of(store, node), True) for node in NODES]
    cells = {"cell": SCORE.digest}
    write_bundle(path, records, grid="g", program="1", cells=cells, locate=store.path)
    return path


def test_a_bundle_is_taken_in_whether_its_records_are_sealed_or_not(
    store: Store, tmp_path: Path
) -> None:
    for name, prepare in (("sealed", lambda: None), ("old", lambda: age(store))):
        prepare()
        bundle = bundle_of(store, tmp_path / f"{name}.zip")
        arrivals = import_results(Store(tmp_path / name), bundle, replace=False)
        assert arrivals.added.total() == 4
        assert verify(Store(tmp_path / name)).damages == []


@pytest.mark.parametrize(
    ("node", "facts"),
    [(SCORE, {"accuracy": 99.9}), (CARD, {"verdict": "pass"}), (TRAINED, {"loss": 0.1})],
)
def test_an_import_works_the_facts_out_again_and_takes_in_nothing_forged(
    store: Store, tmp_path: Path, node: Node, facts: dict[str, Any]
) -> None:
    forge(store, node, **facts)
    bundle = bundle_of(store, tmp_path / "bad.zip")
    with pytest.raises(BadInput, match=rf"bad\.zip: {node.kind} .*: its {next(iter(facts))} is "):
        import_results(Store(tmp_path / "mine"), bundle, replace=False)
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize(
    "step",
    [
        {"do": "torch.ops.aten.from_file.default",
         "take": [{"value": "thesis.txt"}, {"value": True}, {"value": 2}],
         "named": {}, "give": ["y"]},
        {"do": "torch.ops.aten.fill_.Scalar", "take": [{"of": "p_w"}, {"value": 0}],
         "named": {}, "give": ["y"]},
        {"do": "os.system", "take": [{"value": "touch sprung"}], "named": {}, "give": ["y"]},
    ],
)  # fmt: skip
def test_a_program_that_acts_is_refused_by_import_and_verify_though_its_checksums_match(
    tmp_path: Path, step: dict[str, Any]
) -> None:
    theirs = Store(tmp_path / "theirs")
    theirs.prepare()
    put_all(theirs, {**PROGRAM, "steps": [step]})
    [damage] = verify(theirs).damages
    assert "of the exported program" in damage.reason or "is not run here" in damage.reason
    bundle = bundle_of(theirs, tmp_path / "bad.zip")
    with pytest.raises(BadInput, match=r"bad\.zip: checkpoint .*exported program"):
        import_results(Store(tmp_path / "mine"), bundle, replace=False)
    assert not (tmp_path / "mine").exists()
