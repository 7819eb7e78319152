"""Plans: what is absent, outdated or forced, and why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

import pytest
from click.testing import CliRunner
from tiny import write_configs

from pipeline.commands.cli import main
from pipeline.grid.cells import Cell
from pipeline.grid.graph import Graph, Node
from pipeline.grid.kinds import NodeKind
from pipeline.plan.planning import make_plan
from pipeline.plan.snapshot import Snapshot
from pipeline.plan.why import why
from pipeline.store.ledger import CellEntry, Invocation, Ledger
from pipeline.store.store import META, Record, Store, folder_of
from tasks.data.spec import DatasetSpec
from tasks.specs import Spec


class Step(Spec):
    version: ClassVar[int] = 1
    size: int = 1
    name: str | None = None
    inner: tuple[int, ...] = ()


class Renamed(Step):
    pass


def step(kind: NodeKind, *, spec: Spec | None = None, **parents: Node) -> Node:
    return Node(kind, spec or Step(), tuple(parents.items()))


class Line:
    """dataset → train → craft → defend → score, with a spec for each that wants another."""

    def __init__(self, **specs: Spec) -> None:
        self.dataset = step("dataset", spec=specs.get("dataset"))
        self.train = step("train", spec=specs.get("train"), dataset=self.dataset)
        self.craft = step("craft", spec=specs.get("craft"), model=self.train)
        self.defend = step(
            "defend", spec=specs.get("defend"), model=self.train, examples=self.craft
        )
        self.score = step("score", spec=specs.get("score"), shard0=self.defend)
        self.graph = Graph([self.score])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def ledger(store: Store) -> Ledger:
    return Ledger(store.backend)


def compute(store: Store, node: Node, text: str = "data") -> Record:
    """Put a node as work does: with the content of all its ancestors as it is now."""
    lineage: dict[str, str] = {}
    for _, parent in node.parents:
        record = store.record(parent.kind, parent.digest)
        assert record is not None
        lineage |= {**record.lineage, parent.digest: record.content}
    return store.put(
        node.identity,
        {"x.txt": lambda path: path.write_text(text) and None},
        lineage=lineage,
        facts={},
        how={},
    )


def compute_all(store: Store, graph: Graph) -> None:
    for node in graph:
        if store.record(node.kind, node.digest) is None:
            compute(store, node)


def again(store: Store, node: Node, text: str) -> None:
    store.set_aside(node.kind, node.digest)
    compute(store, node, text)


def kinds(todo: Mapping[str, str], graph: Graph) -> list[str]:
    return [graph[digest].kind for digest in todo]


def scored(ledger: Ledger, cell: str, node: Node) -> None:
    entry = CellEntry(node.digest, "content", {"accuracy": 0.5})
    ledger.write(Invocation("g", [], "0", {cell: entry}))


def test_everything_is_to_do_in_an_empty_store_parents_first(store: Store) -> None:
    line = Line()
    plan = make_plan(line.graph, [line.score], store)
    assert kinds(plan.todo, line.graph) == ["dataset", "train", "craft", "defend", "score"]
    assert set(plan.todo.values()) == {"not computed yet"}
    assert plan.stored == 0
    assert plan.by_kind(line.graph) == dict.fromkeys(kinds(plan.todo, line.graph), 1)


def test_nothing_is_to_do_once_all_is_stored(store: Store) -> None:
    line = Line()
    compute_all(store, line.graph)
    plan = make_plan(line.graph, [line.score], store)
    assert plan.todo == {}
    assert plan.stored == 1


def test_a_changed_spec_leaves_its_ancestors_as_they_are(store: Store) -> None:
    compute_all(store, Line().graph)
    line = Line(defend=Step(size=2))
    plan = make_plan(line.graph, [line.score], store)
    assert kinds(plan.todo, line.graph) == ["defend", "score"]
    assert plan.stored == 2


def test_what_only_stored_nodes_read_is_not_computed_again(store: Store) -> None:
    line = Line()
    compute_all(store, line.graph)
    for node in (line.dataset, line.train, line.craft, line.defend):
        store.set_aside(node.kind, node.digest)
    assert make_plan(line.graph, [line.score], store).todo == {}


def test_other_content_of_an_ancestor_makes_all_below_it_stale(store: Store) -> None:
    line = Line()
    compute_all(store, line.graph)
    again(store, line.train, "other weights")
    plan = make_plan(line.graph, [line.score], store)
    assert kinds(plan.todo, line.graph) == ["craft", "defend", "score"]
    assert all(
        reason.startswith("was made from other train content: ") for reason in plan.todo.values()
    )


def test_the_same_content_of_an_ancestor_made_again_changes_nothing(store: Store) -> None:
    line = Line()
    compute_all(store, line.graph)
    again(store, line.train, "data")
    assert make_plan(line.graph, [line.score], store).todo == {}


def test_damage_of_a_leaf_is_planned_and_told(store: Store) -> None:
    line = Line()
    compute_all(store, line.graph)
    (store.root / folder_of("score", line.score.digest) / META).write_text("")
    plan = make_plan(line.graph, [line.score], store)
    assert kinds(plan.todo, line.graph) == ["score"]
    assert [damaged.digest for damaged in plan.damaged] == [line.score.digest]
    assert plan.todo[line.score.digest].startswith("meta.json cannot be read")


def test_damage_that_nothing_to_do_reads_is_left_alone(store: Store) -> None:
    line = Line()
    compute_all(store, line.graph)
    (store.root / folder_of("craft", line.craft.digest) / META).write_text("")
    plan = make_plan(line.graph, [line.score], store)
    assert plan.todo == {}
    assert plan.damaged == ()


def test_forced_nodes_are_computed_again_and_no_others(store: Store) -> None:
    line = Line()
    compute_all(store, line.graph)
    forced = {line.defend.digest, line.score.digest}
    plan = make_plan(line.graph, [line.score], store, forced=forced)
    assert plan.todo == dict.fromkeys(
        [line.defend.digest, line.score.digest], "asked for with --force"
    )
    assert plan.stored == 2


def test_what_is_left_out_is_not_planned_nor_what_only_it_would_read(store: Store) -> None:
    line = Line()
    other = step("score", shard0=line.craft)
    graph = Graph([line.score, other])
    without = {line.defend.digest, line.score.digest}
    plan = make_plan(graph, [line.score, other], store, without=without)
    assert kinds(plan.todo, graph) == ["dataset", "train", "craft", "score"]
    assert make_plan(line.graph, [line.score], store, without=without).todo == {}


def test_a_record_is_read_once_in_a_look(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line()
    compute_all(store, line.graph)
    (store.root / folder_of("craft", line.craft.digest) / META).write_text("")
    read: list[str] = []
    original = store.record

    def counted(kind: str, digest: str) -> Record | None:
        read.append(digest)
        return original(kind, digest)

    monkeypatch.setattr(store, "record", counted)
    snapshot = Snapshot(store)
    for _ in range(2):
        for node in line.graph:
            snapshot.state(node, line.graph)
    assert sorted(read) == sorted(node.digest for node in line.graph)
    assert snapshot.stored("craft", line.craft.digest).status == "damaged"


def test_a_record_that_changed_on_the_disk_is_seen_by_the_next_look_and_not_by_this_one(
    store: Store,
) -> None:
    line = Line()
    compute_all(store, line.graph)
    snapshot = Snapshot(store)
    for _ in range(2):
        plan = make_plan(line.graph, [line.score], store, snapshot=snapshot)
        assert plan.todo == {}
        again(store, line.train, "other weights")
    assert kinds(make_plan(line.graph, [line.score], store).todo, line.graph) == [
        "craft",
        "defend",
        "score",
    ]
    (store.root / folder_of("score", line.score.digest) / META).write_text("")
    assert snapshot.standing(line.score, line.graph) is not None
    assert Snapshot(store).standing(line.score, line.graph) is None


def test_an_artifact_is_there_absent_outdated_or_damaged(store: Store) -> None:
    line = Line()
    before = Snapshot(store).state(line.score, line.graph)
    assert (before.status, before.record, before.reason) == ("absent", None, "not computed yet")
    compute_all(store, line.graph)
    record = store.record("score", line.score.digest)
    there = Snapshot(store).state(line.score, line.graph)
    assert (there.status, there.record, there.standing, there.reason) == (
        "there",
        record,
        record,
        "",
    )
    again(store, line.train, "other weights")
    outdated = Snapshot(store).state(line.score, line.graph)
    assert (outdated.status, outdated.record, outdated.standing) == ("outdated", record, None)
    assert outdated.reason.startswith("was made from other train content: ")
    (store.root / folder_of("score", line.score.digest) / META).write_text("{")
    damaged = Snapshot(store).state(line.score, line.graph)
    assert (damaged.status, damaged.record) == ("damaged", None)
    assert damaged.reason.startswith("meta.json cannot be read: ")


def test_of_an_ancestor_the_content_and_how_it_was_made_are_kept(store: Store) -> None:
    line = Line()
    compute_all(store, line.graph)
    snapshot = Snapshot(store)
    assert snapshot.state(line.score, line.graph).status == "there"
    record = store.record("train", line.train.digest)
    assert record is not None
    assert snapshot.summary("train", line.train.digest) == (record.content, (("device", "None"),))
    assert snapshot.stored("train", line.train.digest).record == record
    assert snapshot.summary("card", "0" * 64) is None


def test_why_a_cell_that_was_never_computed(store: Store, ledger: Ledger) -> None:
    line = Line()
    told = why("cell", "g", line.score, line.graph, store, ledger)
    assert told == [
        "cell: never computed here; 1 dataset, 1 train, 1 craft, 1 defend, 1 score to do"
    ]


def test_why_a_cell_whose_score_is_stored(store: Store, ledger: Ledger) -> None:
    line = Line()
    compute_all(store, line.graph)
    nothing = ["cell: nothing to do, its score is in the store"]
    assert why("cell", "g", line.score, line.graph, store, ledger) == nothing
    scored(ledger, "cell", line.score)
    assert why("cell", "g", line.score, line.graph, store, ledger) == nothing


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        ({"defend": Step(size=2)}, ["defend.size: 1 → 2"]),
        ({"craft": Step(name="x", size=3)}, ["craft.size: 1 → 3", "craft.name: not set → x"]),
        ({"train": Step(inner=(1, 2))}, ["train.inner: [] → [1, 2]"]),
        (
            {"dataset": Step(size=5), "score": Step(size=6)},
            ["score.size: 1 → 6", "dataset.size: 1 → 5"],
        ),
        (
            {"train": Renamed()},
            ["its recipe changed in a way that the store's records do not show"],
        ),
    ],
)
def test_why_names_each_changed_parameter_once_from_what_to_what(
    store: Store, ledger: Ledger, change: dict[str, Spec], lines: list[str]
) -> None:
    before = Line()
    compute_all(store, before.graph)
    scored(ledger, "cell", before.score)
    line = Line(**change)
    told = why("cell", "g", line.score, line.graph, store, ledger)
    assert told[0].startswith("cell: 1 ")
    assert told[1:] == lines


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (None, ("dog", "cat"), "alphabetical order → ['dog', 'cat']"),
        (("dog", "cat"), None, "['dog', 'cat'] → alphabetical order"),
        (("dog", "cat"), ("cat", "dog"), "['dog', 'cat'] → ['cat', 'dog']"),
    ],
)
def test_why_names_both_orders_of_the_classes_of_a_data_set(
    store: Store,
    ledger: Ledger,
    old: tuple[str, ...] | None,
    new: tuple[str, ...] | None,
    line: str,
) -> None:
    spec = DatasetSpec(kind="folder", classes=2, channels=1, side=8, class_names=old)
    before = Line(dataset=spec)
    compute_all(store, before.graph)
    scored(ledger, "cell", before.score)
    now = Line(dataset=spec.model_copy(update={"class_names": new}))
    told = why("cell", "g", now.score, now.graph, store, ledger)
    assert told[1:] == [f"dataset.class_names: {line}"]


def test_why_names_a_raised_version(
    store: Store, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Line(craft=Renamed())
    compute_all(store, before.graph)
    scored(ledger, "cell", before.score)
    monkeypatch.setattr(Renamed, "version", 2)
    line = Line(craft=Renamed())
    told = why("cell", "g", line.score, line.graph, store, ledger)
    assert told == [
        "cell: 1 craft, 1 defend, 1 score to do",
        "craft: Renamed: version 1 → 2",
    ]


def test_why_names_parents_that_came_or_went(store: Store, ledger: Ledger) -> None:
    before = Line()
    compute_all(store, before.graph)
    scored(ledger, "cell", before.score)
    defend = step("defend", model=before.craft, pool=before.dataset)
    score = step("score", shard0=defend)
    assert why("cell", "g", score, Graph([score]), store, ledger) == [
        "cell: 1 defend, 1 score to do",
        "defend: now also reads pool and no longer reads examples",
        "model: made by train → made by craft",
    ]


def cascade(*names: str, base: Node) -> Node:
    """The score of an attack that tries candidates in turn, each on what those before it left."""
    last = step("select", model=base, transferred=step("craft", model=base))
    for place, name in enumerate(names):
        spec = Step(size=place + 2, name=name)
        craft = step("craft", spec=spec, model=base, standing=last, start=last)
        last = step("select", model=base, before=last, **{name: craft})
    return step("score", shard0=step("defend", model=base, examples=last))


def test_why_compares_the_candidates_of_whole_cascades(store: Store, ledger: Ledger) -> None:
    base = Line().train
    old = cascade("pgd", "apgd", "square", base=base)
    compute_all(store, Graph([old]))
    scored(ledger, "cell", old)
    # each later stage begins with what another one left
    score = cascade("pgd", "margin", "apgd-t", "square", base=base)
    told = why("cell", "g", score, Graph([score]), store, ledger)[1:]
    assert told == [
        "select: now also reads margin, apgd-t and no longer reads apgd",
        "craft.size: 4 → 5",
    ]
    store.set_aside("select", old.parent("shard0").parent("examples").parent("before").digest)
    told = why("cell", "g", score, Graph([score]), store, ledger)[1:]
    assert told == ["select: the store no longer holds the old one"]


def test_why_says_that_the_old_one_is_gone(store: Store, ledger: Ledger) -> None:
    before = Line()
    compute_all(store, before.graph)
    scored(ledger, "cell", before.score)
    store.set_aside("defend", before.defend.digest)
    line = Line(defend=Step(size=2))
    told = why("cell", "g", line.score, line.graph, store, ledger)
    assert told[1:] == ["defend: the store no longer holds the old one"]


def test_why_a_cell_of_the_same_recipe_is_stale_or_gone(store: Store, ledger: Ledger) -> None:
    line = Line()
    compute_all(store, line.graph)
    scored(ledger, "cell", line.score)
    store.set_aside("score", line.score.digest)
    told = why("cell", "g", line.score, line.graph, store, ledger)
    assert told == [
        "cell: 1 score to do",
        f"score {line.score.digest[:12]}: not computed yet",
    ]
    compute(store, line.score)
    again(store, line.train, "other weights")
    told = why("cell", "g", line.score, line.graph, store, ledger)
    assert told[0] == "cell: 1 craft, 1 defend, 1 score to do"
    assert all("was made from other train content" in reason for reason in told[1:])


def names_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seeds: int) -> float:
    """How often a plan of the tiny grid asks for the name of each of its cells."""
    asked = 0
    name: Callable[[Cell], str] = Cell.__dict__["name"].fget

    def counted(cell: Cell) -> str:
        nonlocal asked
        asked += 1
        return name(cell)

    words = ["plan", "--grid", "tiny", "--seeds", str(seeds), "--store", str(tmp_path / "store")]
    with monkeypatch.context() as patch:
        patch.setattr(Cell, "name", property(counted))
        result = CliRunner().invoke(main, [*words, "--configs", str(tmp_path / "configs")])
    assert result.exit_code == 0, result.output
    return asked / seeds


def test_the_work_of_a_plan_grows_no_faster_than_its_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_configs(tmp_path / "configs")
    few, many = (names_asked(tmp_path, monkeypatch, seeds) for seeds in (2, 20))
    assert many < 1.2 * few
