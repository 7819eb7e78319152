"""Results carried between stores: what goes, what arrives, and what is refused."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from artifacts import unsealed
from click.testing import CliRunner
from tiny import Tiny, data_files, write_configs

from pipeline.commands.cli import main
from pipeline.commands.session import Session
from pipeline.commands.show import story
from pipeline.commands.transfer import export_results, import_results
from pipeline.commands.weights import export_weights
from pipeline.execution.events import Observers
from pipeline.observers.tracking.results import Results
from pipeline.plan.why import why
from pipeline.problems import BadInput
from pipeline.report.scores import Scores
from pipeline.report.writer import write_report
from pipeline.store.folder import Folder
from pipeline.store.garbage import DAY_S, collectable
from pipeline.store.store import META, Store, folder_of

Members = dict[str, bytes]


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tiny, int]:
    """The tiny grid, computed in pieces whose time is up at once; and how many it took."""
    folder = tmp_path_factory.mktemp("pieces")
    tiny = Tiny(write_configs(folder / "configs"), folder / "store")
    tiny.session().store.prepare()
    for count in range(1, 100):
        finished = tiny.session().run(
            Observers(), inline=True, address=None, workers=None, forced=set(), until=0.0
        )
        if not finished.interrupted:
            assert not finished.missing
            return tiny, count
    pytest.fail("pieces that never end")


@pytest.fixture(scope="module")
def done(pieces: tuple[Tiny, int]) -> Tiny:
    return pieces[0]


@pytest.fixture(scope="module")
def bundle(done: Tiny) -> Path:
    """The grid's results as `pipeline export` writes them."""
    path = done.store.parent / "results.zip"
    export_results(done.session(), path, tensors=False)
    return path


@pytest.fixture
def elsewhere(done: Tiny, tmp_path: Path) -> Tiny:
    """The same configs on a store that is not there yet."""
    return Tiny(done.folder, tmp_path / "store")


def test_a_run_in_pieces_ends_with_the_artifacts_of_a_run_in_one(
    pieces: tuple[Tiny, int], tmp_path: Path
) -> None:
    tiny, count = pieces
    # each piece did one node, or one of the two epochs
    assert count > 30
    assert not list(tiny.store.glob("partial/*"))
    whole = Tiny(tiny.folder, tmp_path / "store")
    whole.run()
    assert data_files(whole.store) == data_files(tiny.store)


def written_report(tiny: Tiny, folder: Path) -> dict[str, bytes]:
    session = tiny.session()
    digests = {name: node.digest for name, node in session.scores.items()}
    write_report(session.grid, Scores(session.facts(), {}, digests), folder, session.provenance())
    return {path.name: path.read_bytes() for path in (folder / "tiny").iterdir()}


def test_imported_results_are_reported_like_ones_computed_here(
    done: Tiny, elsewhere: Tiny, bundle: Path, tmp_path: Path
) -> None:
    arrivals = import_results(Store(elsewhere.store), bundle, replace=False)
    assert arrivals.added == {"train": 1, "score": 10, "exhibit": 1}
    assert arrivals.told == {"dataset": 1, "craft": 2, "defend": 20}
    assert arrivals.problems == []
    assert "CPU" in arrivals.made_on
    session = elsewhere.session()
    assert session.plan().todo == {}
    name = "mixed/pgd/counter+guo"
    told = why(name, "tiny", session.scores[name], session.graph, session.store, session.ledger)
    assert "nothing to do" in told[0]
    reports = [written_report(tiny, tmp_path / str(tiny is done)) for tiny in (done, elsewhere)]
    assert reports[0] == reports[1]
    assert b"CPU" in reports[1]["README.md"]


def test_weights_and_images_are_left_out_on_request(
    done: Tiny, elsewhere: Tiny, tmp_path: Path
) -> None:
    """Every number is reported all the same."""
    path = tmp_path / "numbers.zip"
    without = ("weights", "images")
    written = export_results(done.session(), path, tensors=False, without=without)
    assert written == {"score": 10}
    names = zipfile.ZipFile(path).namelist()
    assert {name.split("/")[1] for name in names if name.startswith("files/")} == {"score"}
    arrivals = import_results(Store(elsewhere.store), path, replace=False)
    assert arrivals.told["train"] == arrivals.told["exhibit"] == 1
    assert elsewhere.session().facts() == done.session().facts()


def test_mlflow_is_owed_imported_results_with_their_device_and_cost(
    done: Tiny, elsewhere: Tiny, bundle: Path
) -> None:
    import_results(Store(elsewhere.store), bundle, replace=False)
    found = []
    for tiny in (done, elsewhere):
        session = tiny.session()
        results = Results(session.grid, session.scores, session.store, session.ledger, "server")
        assert len(results.owed()) == 11
        child = results.child(session.grid.cell("mixed/pgd/guo"))
        assert child is not None
        found.append((child.tags, child.parameters, child.points))
    assert found[0] == found[1]
    assert any("CPU" in value for value in found[1][0].values())


def test_the_story_of_an_imported_cell_tells_what_is_elsewhere(
    elsewhere: Tiny, bundle: Path
) -> None:
    import_results(Store(elsewhere.store), bundle, replace=False)
    session = elsewhere.session()
    told = story(session, session.grid.cell("mixed/pgd/guo"), None)
    places = {entry["kind"]: entry["folder"] for entry in told["artifacts"]}
    assert places["craft"] == places["defend"] == places["dataset"] == "in another store"
    assert str(elsewhere.store) in places["score"]
    assert all("device" in entry for entry in told["artifacts"])


def test_records_alone_are_not_taken_for_artifacts(elsewhere: Tiny, bundle: Path) -> None:
    import_results(Store(elsewhere.store), bundle, replace=False)
    session = elsewhere.session(images=600)
    kinds = session.plan().by_kind(session.graph)
    # the model came along; its tensors did not
    assert kinds == {"dataset": 1, "craft": 2, "defend": 20, "score": 10, "exhibit": 1}
    recorder, finished = elsewhere.run(only=["cell=mixed/pgd/guo"], force=True)
    assert finished.computed == {"dataset": 1, "craft": 2, "defend": 2, "score": 1}
    assert [event.done.unchanged for event in recorder.done("score")] == [True]


def test_with_tensors_nothing_is_left_to_compute_anew(
    done: Tiny, elsewhere: Tiny, tmp_path: Path
) -> None:
    path = tmp_path / "all.zip"
    export_results(done.session(), path, tensors=True)
    arrivals = import_results(Store(elsewhere.store), path, replace=False)
    assert not arrivals.told
    assert data_files(elsewhere.store) == data_files(done.store)


def test_what_was_imported_can_be_exported_again(
    done: Tiny, elsewhere: Tiny, bundle: Path, tmp_path: Path
) -> None:
    import_results(Store(elsewhere.store), bundle, replace=False)
    export_results(elsewhere.session(), tmp_path / "again.zip", tensors=False)
    assert (tmp_path / "again.zip").read_bytes() == bundle.read_bytes()


def test_a_second_import_adds_nothing(elsewhere: Tiny, bundle: Path) -> None:
    import_results(Store(elsewhere.store), bundle, replace=False)
    arrivals = import_results(Store(elsewhere.store), bundle, replace=False)
    assert not arrivals.added
    assert not arrivals.told
    assert arrivals.there == {"train": 1, "score": 10, "exhibit": 1}


def test_what_was_imported_lately_is_no_garbage_though_nothing_was_new(
    elsewhere: Tiny, bundle: Path
) -> None:
    """An import that was killed before its entry in the ledger, and was made once more."""
    import_results(Store(elsewhere.store), bundle, replace=False)
    shutil.rmtree(elsewhere.store / "ledger")
    store = Store(elsewhere.store)
    assert not import_results(store, bundle, replace=False).added
    assert collectable(store, keep_s=30 * DAY_S, now=time.time() + 2 * DAY_S) == []
    assert collectable(store, keep_s=30 * DAY_S, now=time.time() + 31 * DAY_S)


def test_other_content_stays_unless_it_is_to_be_replaced(elsewhere: Tiny, bundle: Path) -> None:
    import_results(Store(elsewhere.store), bundle, replace=False)
    meta = next(elsewhere.store.glob(f"train/??/*/{META}"))
    record = json.loads(meta.read_text())
    record["content"] = "0" * 64
    meta.write_text(unsealed(record))
    arrivals = import_results(Store(elsewhere.store), bundle, replace=False)
    assert len(arrivals.problems) == 2
    assert "train" in arrivals.problems[0]
    assert "--replace" in arrivals.problems[0]
    assert "10 scores count as absent" in arrivals.problems[1]
    assert len(elsewhere.session().plan().todo) > 10
    arrivals = import_results(Store(elsewhere.store), bundle, replace=True)
    assert arrivals.added == {"train": 1}
    assert arrivals.problems == []
    assert elsewhere.session().plan().todo == {}


def test_a_score_that_the_store_did_not_take_is_not_in_its_ledger(
    elsewhere: Tiny, bundle: Path
) -> None:
    """`compare`, and the old value beside a new one, would show a number that is nowhere here."""
    import_results(Store(elsewhere.store), bundle, replace=False)
    session = elsewhere.session()
    name = "mixed/pgd/guo"
    node = session.scores[name]
    meta = elsewhere.store / folder_of("score", node.digest) / META
    record = json.loads(meta.read_text())
    record["content"] = "0" * 64
    record["facts"]["accuracy"] = 1.0
    meta.write_text(unsealed(record))
    shutil.rmtree(elsewhere.store / "exhibit")
    arrivals = import_results(Store(elsewhere.store), bundle, replace=False)
    assert arrivals.added == {"exhibit": 1}
    assert len(arrivals.clashes) == 1
    latest = elsewhere.session().ledger.invocations[-1]
    assert len(latest.cells) == 9
    assert name not in latest.cells
    import_results(Store(elsewhere.store), bundle, replace=True)
    assert name in elsewhere.session().ledger.invocations[-1].cells


def test_replaced_scores_are_told_with_the_device_of_the_file(
    elsewhere: Tiny, bundle: Path, tmp_path: Path
) -> None:
    """The records of what they were made from are replaced with them."""

    def on_a_gpu(members: Members) -> None:
        changed = {}
        for name in [name for name in members if name.startswith("records/")]:
            record = json.loads(members[name])
            if record["kind"] in {"craft", "defend"}:
                record["how"]["device"] = "a GPU"
                members[name] = unsealed(record).encode()
                changed[record["digest"]] = hashlib.sha256(members[name]).hexdigest()

        def change(manifest: dict[str, object]) -> None:
            for item in manifest["artifacts"]:
                item["record"] = changed.get(item["digest"], item["record"])

        with_manifest(members, change)

    other = edited(bundle, tmp_path / "other.zip", on_a_gpu)
    store = Store(elsewhere.store)
    imports = ((bundle, False, "CPU"), (other, False, "CPU"), (other, True, "a GPU"))
    for path, replace, device in imports:
        import_results(store, path, replace=replace)
        session = elsewhere.session()
        score = session.scores["mixed/pgd/guo"]
        for node in (score.parents[0][1], score.parents[0][1].parent("examples")):
            record = store.known(node.kind, node.digest)
            assert record is not None
            assert device in str(record.how["device"])
        assert device in session.devices_by_cell()["mixed/pgd/guo"]


def test_only_the_chosen_cells_go(done: Tiny, elsewhere: Tiny, tmp_path: Path) -> None:
    path = tmp_path / "some.zip"
    session = done.session(only=["defense=guo"])
    assert export_results(session, path, tensors=False) == {"train": 1, "score": 2}
    import_results(Store(elsewhere.store), path, replace=False)
    assert set(elsewhere.session().facts()) == {"mixed/clean/guo", "mixed/pgd/guo"}


def test_a_later_change_is_explained_from_the_imported_score(
    elsewhere: Tiny, bundle: Path, tmp_path: Path
) -> None:
    import_results(Store(elsewhere.store), bundle, replace=False)
    changed = write_configs(tmp_path / "c", {"defenses/guo.yaml": "kind: guo\ndraws: 3\n"})
    session = Tiny(changed, elsewhere.store).session()
    name = "mixed/pgd/guo"
    lines = why(name, "tiny", session.scores[name], session.graph, session.store, session.ledger)
    assert "defense.draws: 2 → 3" in "\n".join(lines)


def edited(bundle: Path, path: Path, edit: Callable[[Members], None]) -> Path:
    """A copy of a bundle whose members were changed."""
    with zipfile.ZipFile(bundle) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    edit(members)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def with_manifest(members: Members, change: Callable[[dict[str, object]], None]) -> None:
    manifest = json.loads(members["manifest.json"])
    change(manifest)
    members["manifest.json"] = json.dumps(manifest).encode()


def with_file_name(members: Members, file: str) -> None:
    """The weights under another name, with every checksum right again."""
    name = next(name for name in members if name.startswith("records/train/"))
    record = json.loads(members[name])
    entry = record["files"]["weights.safetensors"]
    digest = record["digest"]
    members[f"files/train/{digest}/{file}"] = members.pop(f"files/train/{digest}/{entry['file']}")
    entry["file"] = file
    members[name] = unsealed(record).encode()

    def change(manifest: dict[str, object]) -> None:
        for item in manifest["artifacts"]:
            if item["digest"] == digest:
                item["record"] = hashlib.sha256(members[name]).hexdigest()

    with_manifest(members, change)


def spoil(members: Members) -> None:
    name = next(name for name in members if name.endswith(".safetensors"))
    members[name] = members[name][:-1] + bytes([members[name][-1] ^ 1])


def drop(members: Members) -> None:
    members.pop(next(name for name in members if name.endswith(".arrow")))


BAD: dict[str, tuple[Callable[[Members], None], str]] = {
    "a changed byte": (spoil, "does not match its checksum"),
    "a missing file": (drop, "it has no files/score/"),
    "no manifest": (lambda members: members.pop("manifest.json"), "it has no manifest.json"),
    "a stranger": (lambda members: members.update({"../evil": b""}), "'../evil'"),
    "a path outside": (lambda members: with_file_name(members, "../../../evil"), "does not fit"),
    "another format": (
        lambda members: with_manifest(members, lambda manifest: manifest.update(format=3)),
        "another version's",
    ),
    "another kind": (
        lambda members: with_manifest(
            members, lambda manifest: manifest["artifacts"][0].update(kind="../evil")
        ),
        "unknown kind of node '../evil'",
    ),
    "a digest that is a path": (
        lambda members: with_manifest(
            members, lambda manifest: manifest["artifacts"][0].update(digest="../evil")
        ),
        "artifacts.0.digest",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_that_is_not_whole_and_honest_changes_nothing(
    case: str, bundle: Path, tmp_path: Path
) -> None:
    edit, said = BAD[case]
    path = edited(bundle, tmp_path / "bad.zip", edit)
    with pytest.raises(BadInput, match=r"bad\.zip") as problem:
        import_results(Store(tmp_path / "in" / "store"), path, replace=True)
    assert said in str(problem.value)
    assert [found.name for found in tmp_path.iterdir()] == ["bad.zip"]


def test_an_artifact_that_is_taken_away_while_it_is_imported_is_told_in_one_line(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(Folder, "create", gone)
    words = ["import", str(bundle), "--store", str(tmp_path / "store")]
    words += ["--configs-to", str(tmp_path / "configs")]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2, result.output
    assert result.stderr.endswith("was taken away while it was put; import the file again\n")


@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.999])
def test_a_truncated_file_is_refused_in_one_line(bundle: Path, tmp_path: Path, kept: float) -> None:
    data = bundle.read_bytes()
    (tmp_path / "bad.zip").write_bytes(data[: int(kept if kept >= 1 else kept * len(data))])
    words = ["import", str(tmp_path / "bad.zip"), "--store", str(tmp_path / "store")]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "no whole file of `pipeline export`" in result.stderr
    assert not (tmp_path / "store").exists()


def test_every_byte_counts(bundle: Path, tmp_path: Path) -> None:
    """A byte that changed anywhere in the packed data is noticed, and the store left alone."""
    data = bundle.read_bytes()
    with zipfile.ZipFile(bundle) as archive:
        starts = [info.header_offset + 200 for info in archive.infolist() if info.file_size > 3000]
    for start in starts[:6]:
        spoiled = bytearray(data)
        spoiled[start] ^= 255
        (tmp_path / "bad.zip").write_bytes(bytes(spoiled))
        with pytest.raises(BadInput):
            import_results(Store(tmp_path / "store"), tmp_path / "bad.zip", replace=False)
    assert starts
    assert not (tmp_path / "store").exists()


def test_the_commands_say_what_went_and_what_came(
    done: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--grid", "tiny", "--configs", str(done.folder), "--store", str(done.store)]
    path = tmp_path / "results.zip"
    sent = CliRunner().invoke(main, ["export", str(path), *words])
    assert sent.exit_code == 0, sent.output
    assert "1 train, 10 score" in sent.stdout
    there = ["--store", str(tmp_path / "store")]
    came = CliRunner().invoke(main, ["import", str(path), *there])
    assert came.exit_code == 0, came.output
    assert "1 train, 10 score" in came.stdout
    assert "CPU" in came.stdout
    again = [*words[:4], *there, "--with", "tensors"]
    without = CliRunner().invoke(main, ["export", "again.zip", *again])
    absent = "tensors not included, since the store does not hold them: "
    assert re.search(rf"^{absent}(\d+) of \1 \(1 dataset, ", without.stderr, re.MULTILINE)
    assert absent not in sent.stderr
    more = ["--adaptive", "quick", "--only", "defense=counter"]
    part = CliRunner().invoke(main, ["export", str(path), *words, *more])
    assert part.stderr.splitlines()[-2:] == [
        "1 of 3 cells have no score yet",
        "not included, though verdicts compare with them: none",
    ]
    for begun in (["export"], ["export-weights", "mixed"]):
        apart = CliRunner().invoke(main, [*begun, "nowhere/file.zip", *words])
        assert apart.exit_code == 2
        assert "nowhere/file.zip: no folder nowhere; create it, or name another" in apart.stderr
        assert not Path("nowhere").exists()
    empty = CliRunner().invoke(main, ["export", str(path), *words[:4], "--store", "nowhere"])
    assert empty.exit_code == 2
    assert "nothing to export" in empty.stderr


def test_half_weights_work_as_a_checkpoint(done: Tiny, tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    written = export_weights(done.session(), "mixed", path, half=True)
    assert written.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    full = safetensors.torch.load_file(next(done.store.glob("train/??/*/weights*.safetensors")))
    half = safetensors.torch.load_file(path)
    assert half.keys() == full.keys()
    assert {half[name].dtype for name in half if full[name].is_floating_point()} == {torch.float16}
    model = (
        "dataset: digits\nnetwork: {kind: small, width: 4}\n"
        f"checkpoint: {{file: {path}, sha256: {written.sha256}}}\n"
    )
    tiny = Tiny(write_configs(tmp_path / "c", {"models/mixed.yaml": model}), tmp_path / "store")
    name = "mixed/clean/none"
    _, finished = tiny.run(only=[f"cell={name}"])
    before = done.session().facts()[name]["accuracy"]
    assert finished.scored[name]["accuracy"] == pytest.approx(before, abs=0.5)


def session_with_weights(tmp_path: Path, **first_numbers: float) -> Session:
    """A session on the paper's network, untrained; the first numbers of some weights are set."""
    model = "dataset: digits\nnetwork: {kind: resnet50-mi}\nrecipe: short\n"
    tiny = Tiny(write_configs(tmp_path / "c", {"models/mixed.yaml": model}), tmp_path / "store")
    session = tiny.session(only=["cell=mixed/clean/none"])
    node = session.chosen["mixed/clean/none"].parents[0][1].parent("model")
    weights = node.spec.network.build(1, 8, 10, seed=0).state_dict()
    for name, number in first_numbers.items():
        weights[name].view(-1)[0] = number
    writers = {"weights.safetensors": lambda path: safetensors.torch.save_file(weights, path)}
    session.store.put(node.identity, writers, lineage={}, facts={}, how={})
    return session


def test_half_weights_of_the_papers_network_are_under_ten_megabytes(tmp_path: Path) -> None:
    session = session_with_weights(tmp_path)
    written = export_weights(session, "mixed", tmp_path / "half.safetensors", half=True)
    assert written.weights > 4_700_000
    assert written.size_bytes < 10_000_000


def test_a_weight_that_float16_cannot_hold_is_refused(tmp_path: Path) -> None:
    session = session_with_weights(tmp_path, **{"bn1.running_var": 70_000.0})
    with pytest.raises(BadInput, match=r"bn1.running_var reaches 7e\+04"):
        export_weights(session, "mixed", tmp_path / "half.safetensors", half=True)
    assert not (tmp_path / "half.safetensors").exists()


def test_weights_that_are_not_there_are_refused(done: Tiny, elsewhere: Tiny) -> None:
    with pytest.raises(BadInput, match="has no weights of model 'mixed'"):
        export_weights(elsewhere.session(), "mixed", elsewhere.store / "w", half=False)
    with pytest.raises(BadInput, match="did you mean 'mixed'"):
        export_weights(done.session(), "mixde", elsewhere.store / "w", half=False)


def test_a_damaged_artifact_is_not_exported(done: Tiny, tmp_path: Path) -> None:
    shutil.copytree(done.store, tmp_path / "store")
    victim = next((tmp_path / "store").glob("train/??/*/weights*"))
    victim.write_bytes(b"")
    session = Tiny(done.folder, tmp_path / "store").session()
    with pytest.raises(BadInput, match="does not match its checksum"):
        export_results(session, tmp_path / "results.zip", tensors=False)
    assert not (tmp_path / "results.zip").exists()
    assert not list(tmp_path.glob(".results*"))
