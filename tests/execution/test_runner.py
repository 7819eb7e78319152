"""Stopping in order, and what other processes do to a store while a run is on."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import safetensors.torch
import torch
from tiny import Recorder, Tiny, write_configs

from pipeline.catalogue.code.own import pack
from pipeline.execution.events import (
    Done,
    Elsewhere,
    Event,
    NodeDone,
    NodeRetried,
    Observers,
    RunFinished,
    RunStarted,
    Stopped,
)
from pipeline.execution.executors.inline import InlineExecutor
from pipeline.execution.executors.worker import perform_remotely
from pipeline.execution.work.inputs import forget
from pipeline.grid.graph import Node
from pipeline.observers.progress import lines
from pipeline.observers.tally import Tally
from pipeline.plan.planning import Plan, make_plan
from pipeline.problems import BadInput
from pipeline.store import store as store_module
from pipeline.store.leases import Leases
from pipeline.store.store import Store
from tasks.networks.small import Small


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    return Tiny(write_configs(tmp_path / "configs"), tmp_path / "store")


def run_until(tiny: Tiny, until: float | None) -> tuple[Recorder, RunFinished]:
    session = tiny.session(only=["cell=mixed/clean/none"])
    session.store.prepare()
    recorder = Recorder()
    finished = session.run(
        Observers([recorder]), inline=True, address=None, workers=None, forced=set(), until=until
    )
    return recorder, finished


def test_a_training_whose_time_is_up_keeps_its_epoch_and_is_no_failure(tiny: Tiny) -> None:
    recorder, finished = run_until(tiny, 0.0)
    assert finished.interrupted
    assert finished.computed == {"dataset": 1}
    assert not recorder.failed()
    state = next(tiny.store.glob("partial/*/facts.json"))
    assert json.loads(state.read_text())["epoch"] == 1
    # its last epoch ends it, whatever the time is; then the next run goes on
    _, finished = run_until(tiny, 0.0)
    assert finished.computed == {"train": 1}
    _, finished = run_until(tiny, None)
    assert not finished.interrupted
    assert finished.computed == {"defend": 2, "score": 1}


def test_a_run_that_ends_with_its_last_node_was_not_interrupted(tiny: Tiny) -> None:
    run_until(tiny, None)
    recorder, finished = run_until(tiny, 0.0)
    assert not finished.interrupted
    assert not recorder.done()


def test_a_run_waits_for_another_that_reads_its_data_set_until_its_time_is_up(tiny: Tiny) -> None:
    session = tiny.session(only=["cell=mixed/clean/none"])
    session.store.prepare()
    node = next(node for node in session.meant if node.kind == "dataset")
    other = Leases(session.store.backend)
    assert other.claim(node.digest)
    recorder, finished = run_until(tiny, 0.0)
    assert finished.interrupted
    assert finished.computed == {}
    assert not recorder.failed()
    (told,) = recorder.events[:-1]
    assert isinstance(told, Elsewhere)
    (line,) = lines(told, Tally())
    assert line.endswith(" is computing dataset digits; its result will be used here")
    other.close()
    _, finished = run_until(tiny, None)
    assert not finished.missing


def test_what_waited_for_a_worker_until_the_time_was_up_does_not_begin(tiny: Tiny) -> None:
    session = tiny.session()
    node = session.graph[next(iter(session.plan().todo))]
    store = Store(tiny.store)
    store.prepare()

    def result(until: float | None) -> object:
        attempted, ended = perform_remotely(
            node.digest,
            pack(node),
            str(tiny.store),
            session.settings,
            MagicMock(),
            replace=False,
            until=until,
        )
        assert ended is None
        return attempted

    assert result(0.0) == Stopped(node.digest)
    assert store.record(node.kind, node.digest) is None
    assert isinstance(result(None), Done)


@dataclass
class Meddler(Recorder):
    """An observer that does something to the store at some events."""

    meddle: Callable[[Event], object] = id

    def notify(self, event: Event) -> None:
        super().notify(event)
        self.meddle(event)


def run_beside(
    tiny: Tiny, meddle: Callable[[Event], object], *, force: bool = False, only: Sequence[str] = ()
) -> tuple[Meddler, RunFinished]:
    session = tiny.session(only=only)
    session.store.prepare()
    meddler = Meddler(meddle=meddle)
    forced = session.forced("defend") if force else set()
    finished = session.run(
        Observers([meddler]), inline=True, address=None, workers=None, forced=forced
    )
    return meddler, finished


def metas(tiny: Tiny) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in tiny.store.glob("*/??/*/meta.json")}


def test_what_another_driver_has_made_since_the_plan_is_taken_as_it_is(tiny: Tiny) -> None:
    made: dict[str, bytes] = {}

    def meddle(event: Event) -> None:
        if isinstance(event, RunStarted):
            tiny.run()
            made.update(metas(tiny))

    _, finished = run_beside(tiny, meddle)
    assert not finished.missing
    assert metas(tiny) == made != {}
    assert not (tiny.store / "aside").exists()


def test_of_many_nodes_that_find_one_artifact_damaged_at_once_none_fails(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.run()
    (victim,) = (
        path for path in tiny.store.glob("craft/??/*/examples*") if path.stat().st_size > 50_000
    )
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-7])
    # as many run at once as on a cluster, so that all of them find the damage
    monkeypatch.setattr(InlineExecutor, "capacity", 100)
    recorder, finished = tiny.run(force=True)
    assert not finished.missing
    assert len(recorder.set_aside()) == 1
    assert victim.read_bytes() == whole


def test_what_another_process_took_away_and_brought_back_is_not_set_aside(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.run()
    monkeypatch.setattr(InlineExecutor, "capacity", 100)
    craft = tiny.store / "craft"
    taken = craft.with_name("taken")

    def meddle(event: Event) -> None:
        if isinstance(event, RunStarted):
            craft.rename(taken)
        if isinstance(event, NodeRetried):
            taken.rename(craft)

    recorder, finished = run_beside(tiny, meddle, force=True)
    assert not finished.missing
    assert "is not in this store" in next(
        event.reason for event in recorder.events if isinstance(event, NodeRetried)
    )
    assert recorder.set_aside() == []
    assert "craft" not in finished.computed


def test_what_is_read_as_damaged_once_is_not_set_aside(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.run(only=["cell=mixed/clean/none"])
    checksum, looks = store_module._sha256, iter(range(2))

    def flaky(path: Path) -> str:
        # once for the file, once more for a copy that is not cached
        damaged = path.name.startswith("weights") and next(looks, None) is not None
        return "0" * 64 if damaged else checksum(path)

    monkeypatch.setattr(store_module, "_sha256", flaky)
    forget()
    recorder, finished = tiny.run(only=["cell=mixed/clean/counter"])
    assert not finished.missing
    assert [type(event) for event in recorder.events].count(NodeRetried) == 1
    assert recorder.set_aside() == []


def test_what_cannot_be_read_at_this_moment_fails_its_node_and_stays(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.run(only=["cell=mixed/clean/none"])
    before = metas(tiny)
    checksum = store_module._sha256

    def stale(path: Path) -> str:
        if path.name.startswith("weights"):
            raise OSError(errno.ESTALE, "Stale file handle", str(path))
        return checksum(path)

    monkeypatch.setattr(store_module, "_sha256", stale)
    forget()
    recorder, finished = tiny.run(only=["cell=mixed/clean/counter"])
    assert "stale file handle" in finished.missing["mixed/clean/counter"]
    assert recorder.set_aside() == []
    assert metas(tiny) == before


def test_what_another_run_replaced_since_the_plan_found_it_damaged_is_not_set_aside(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.run(only=["cell=mixed/clean/none"])
    (meta,) = tiny.store.glob("score/??/*/meta.json")
    whole = meta.read_bytes()
    meta.write_bytes(b"")

    def planned(*args: Any, **options: Any) -> Plan:
        plan = make_plan(*args, **options)
        meta.write_bytes(whole)
        return plan

    monkeypatch.setattr("pipeline.execution.runner.make_plan", planned)
    recorder, finished = tiny.run(only=["cell=mixed/clean/none"])
    assert recorder.set_aside() == []
    assert not finished.missing
    assert meta.read_bytes() == whole


def retrain(store: Store, model: Node) -> None:
    """Replace a model by one of the same recipe with other weights, as another machine may."""
    old = store.required("train", model.digest)
    weights = safetensors.torch.load(store.path(old, "weights.safetensors").read_bytes())
    other = {name: 2 * each if each.ndim > 1 else each for name, each in weights.items()}
    history = store.path(old, "history.json").read_bytes()
    store.put(
        model.identity,
        {
            "weights.safetensors": lambda path: safetensors.torch.save_file(other, path),
            "history.json": lambda path: path.write_bytes(history),
        },
        lineage=old.lineage,
        facts=old.facts,
        how=old.how,
        replace=True,
    )


def test_a_score_is_never_of_two_trainings_of_its_model(tiny: Tiny) -> None:
    """Another run replaces the model after the first of two shards."""

    def meddle(event: Event) -> None:
        if isinstance(event, NodeDone) and event.node.kind == "defend" and not retrained:
            retrained.append(event.node)
            retrain(Store(tiny.store), event.node.parent("model"))

    retrained: list[Node] = []
    recorder, finished = run_beside(tiny, meddle, only=["cell=mixed/clean/none"])
    assert not finished.missing
    retried = [event.reason for event in recorder.events if isinstance(event, NodeRetried)]
    assert len(retried) == 1
    assert "than the other inputs" in retried[0]
    # the shard of the old model was computed again, before the only score
    assert [event.node.kind for event in recorder.done()][2:] == ["defend"] * 3 + ["score"]
    store = Store(tiny.store)
    model = retrained[0].parent("model")
    made_from = {
        store.required(kind, digest).lineage[model.digest]
        for kind, digest in store.each()
        if kind in {"defend", "score"}
    }
    assert made_from == {store.required("train", model.digest).content}
    assert recorder.set_aside() == []


class Zoo:
    """Checkpoints and data sets of a user's, some of them unreadable, in one table."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        torch.save(Small(width=2).build(1, 8, 10).state_dict(), folder / "good.pt")
        (folder / "bad.pt").write_bytes(b"no weights at all")
        for name, side in (("good", 8), ("bad", 9)):
            (folder / name).mkdir()
            images = np.full((20, side, side), 200, dtype=np.uint8)
            np.savez(folder / name / "test.npz", images=images, labels=np.arange(20) % 10)

    def run(self, *models: str) -> tuple[Recorder, RunFinished]:
        """models: such as `good-on-bad`, the good checkpoint on the unreadable data set."""
        files = {
            f"datasets/{name}.yaml": (
                f"kind: npz\nclasses: 10\nchannels: 1\nside_px: 8\nfolder: ../../{name}\n"
            )
            for name in ("good", "bad")
        }
        for model in models:
            weights, _, data = model.partition("-on-")
            files[f"models/{model}.yaml"] = (
                f"dataset: {data}\nnetwork: {{kind: small, width: 2}}\n"
                f"checkpoint: {{file: ../../{weights}.pt}}\n"
            )
        files["grids/tiny.yaml"] = (
            f"images: 20\ntables:\n  - name: main\n    models: [{', '.join(models)}]\n"
            "    attacks: [clean]\n    defenses: [none]\n"
        )
        tiny = Tiny(write_configs(self.folder / "configs", files), self.folder / "store")
        return tiny.run()


@pytest.mark.parametrize(
    ("model", "failed", "reason"),
    [
        ("bad-on-good", "checkpoint", "neither a safetensors file nor one of torch.save"),
        ("good-on-bad", "dataset", "test images are 1x9x9; its config says 1x8x8"),
    ],
)
def test_a_file_that_cannot_be_read_fails_its_own_cells_alone(
    tmp_path: Path, model: str, failed: str, reason: str
) -> None:
    zoo = Zoo(tmp_path)
    recorder, finished = zoo.run("good-on-good", model)
    assert finished.missing == {f"{model}/clean/none": reason}
    assert finished.scored["good-on-good/clean/none"]["accuracy"] == 10.0
    [failure] = recorder.failed()
    assert (failure.node.kind, failure.cells) == (failed, [f"{model}/clean/none"])
    # nothing but the file is tried again
    recorder, again = zoo.run("good-on-good", model)
    assert not recorder.done()
    assert (again.missing, again.scored) == (finished.missing, finished.scored)


def test_where_no_cell_could_be_computed_the_first_file_that_cannot_be_read_ends_the_run(
    tmp_path: Path,
) -> None:
    with pytest.raises(BadInput, match=r"^checkpoint bad-on-good: neither "):
        Zoo(tmp_path).run("bad-on-good", "good-on-bad")


def test_what_a_files_reading_notes_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    zoo = Zoo(tmp_path)
    weights = {f"net.{n}": w for n, w in Small(width=2).build(1, 8, 10).state_dict().items()}
    torch.save({"model": weights}, tmp_path / "good.pt")

    def told() -> list[str]:
        recorder, _ = zoo.run("good-on-good")
        tally, said = Tally(), []
        for event in recorder.events:
            tally.notify(event)
            said += lines(event, tally) if isinstance(event, NodeDone) else ()
        return said

    assert told() == [
        "data set in good: no train split: nothing can be trained on it",
        "good.pt: the weights are those under 'model'",
        "good.pt: every weight's name starts with 'net.', which was stripped",
    ]
    assert told() == []
