"""Where a defense fails, of the answers that the store holds."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from artifacts import unsealed
from click.testing import CliRunner, Result
from made_up_verdicts import grid_of, scores_of
from PIL import Image
from tiny import Tiny, write_configs

from pipeline.commands.cli import main
from pipeline.commands.session import open_session
from pipeline.report.answers import stored_answers
from pipeline.report.scores import Scores
from pipeline.report.views.failures import Failures, Predicted, failures_by_model
from pipeline.report.views.pictures import Artifacts
from pipeline.report.writer import write_report
from pipeline.store import arrow
from pipeline.store.store import META, folder_of

GRID = (
    "epsilon: 40\nimages: 60\nredraws: 2\ntables:\n  - name: main\n    models: [mixed]\n"
    "    attacks: [clean, pgd]\n    defenses: [none, guo]\n"
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    folder = tmp_path_factory.mktemp("failures")
    tiny = Tiny(write_configs(folder / "configs", {"grids/tiny.yaml": GRID}), folder / "store")
    _, finished = tiny.run()
    assert not finished.missing
    return tiny


def asked(tiny: Tiny, cell: str, *words: str, store: Path | None = None) -> Result:
    where = ["--grid", "tiny", "--configs", str(tiny.folder), "--store", str(store or tiny.store)]
    return CliRunner().invoke(main, ["failures", cell, *where, *words], catch_exceptions=False)


def test_classes_and_confusions_add_up_to_the_scores(tiny: Tiny) -> None:
    told = json.loads(asked(tiny, "mixed/pgd/guo", "--json").stdout)
    facts = tiny.session().facts()
    for side, cell, redraws in (("before", "none", 1), ("after", "guo", 2)):
        matrix = np.array(told[f"confusion_{side}"])
        assert matrix.sum() == 60 * redraws
        accuracy = facts[f"mixed/pgd/{cell}"]["accuracy"]
        assert 100 * np.trace(matrix) / matrix.sum() == pytest.approx(accuracy)
        rates = [each[side] * each["images"] for each in told["classes"]]
        assert sum(rates) / 60 == pytest.approx(accuracy)
        # a row holds the answers about one class
        for each in told["classes"]:
            assert matrix[each["label"]].sum() == each["images"] * redraws
    assert sum(each["images"] for each in told["classes"]) == 60


def test_images_that_are_won_lost_always_and_never_broken_are_those_of_the_answers(
    tiny: Tiny,
) -> None:
    told = json.loads(asked(tiny, "mixed/pgd/guo", "--json").stdout)
    session = tiny.session()
    right = {}
    for defense in ("none", "guo"):
        node = session.scores[f"mixed/pgd/{defense}"]
        record = session.store.required("score", node.digest)
        columns = arrow.read_arrays(session.store.path(record, "per_image.arrow"))
        pairs = zip(columns["ids"].tolist(), columns["correct"], strict=True)
        right[defense] = {image: row.mean() for image, row in pairs}
    won = {image for image in right["guo"] if right["guo"][image] > right["none"][image]}
    lost = {image for image in right["guo"] if right["guo"][image] < right["none"][image]}
    assert {each["image"] for each in told["images_won"]} == won
    assert {each["image"] for each in told["images_lost"]} == lost
    for each in told["images_lost"]:
        assert each["before"] == each["label"]  # the bare model, asked once, had been right
    broken = {image for image in right["guo"] if right["guo"][image] == right["none"][image] == 0}
    assert set(told["images_that_everything_breaks"]) == broken
    safe = {image for image in right["guo"] if right["guo"][image] == right["none"][image] == 1}
    assert set(told["images_that_nothing_breaks"]) == safe
    assert told["of_images"] == 60
    assert told["of_cells"] == ["mixed/pgd/none", "mixed/pgd/guo"]


def test_a_person_reads_the_worst_class_first(tiny: Tiny) -> None:
    lines = asked(tiny, "mixed/pgd/guo").stdout.splitlines()
    assert lines[0] == "mixed/pgd/guo"
    assert lines[1].split() == ["class", "images", "none", "guo"]
    after = [float(line.split()[3]) for line in lines[2:12]]
    assert after == sorted(after)
    assert any(line.startswith("that nothing breaks, of 60 images in 2 attacked") for line in lines)


def test_without_a_bare_model_to_compare_with_there_is_one_column_and_the_reason(
    tiny: Tiny, tmp_path: Path
) -> None:
    bare = asked(tiny, "mixed/pgd/none").stdout.splitlines()
    assert bare[1].split() == ["class", "images", "none"]
    assert all(len(line.split()) == 3 for line in bare[2:12])
    assert not any("nothing to compare with" in line for line in bare)
    alone = write_configs(tmp_path, {"grids/tiny.yaml": GRID.replace("[none, guo]", "[guo]")})
    guo = asked(Tiny(alone, tiny.store), "mixed/pgd/guo").stdout.splitlines()
    assert guo[1].split() == ["class", "images", "guo"]
    assert guo[12].startswith("nothing to compare with: the same cell without a defense has no")


def test_classes_have_the_names_of_the_config_where_no_digest_needs_them(tmp_path: Path) -> None:
    for place in (f"{split}/{name}" for split in ("train", "test") for name in ("cat", "dog")):
        (tmp_path / "photos" / place).mkdir(parents=True)
        for grey in range(8):
            shade = 16 * grey + (0 if place.endswith("cat") else 128)
            Image.new("L", (8, 8), shade).save(tmp_path / "photos" / place / f"{grey}.png")
    changes = {
        "datasets/photos.yaml": (
            "kind: folder\nfolder: ../../photos\nclasses: [cat, dog]\nchannels: 1\nside_px: 8\n"
        ),
        "models/mixed.yaml": "dataset: photos\nnetwork: {kind: small, width: 4}\nrecipe: short\n",
        "grids/tiny.yaml": GRID.replace("clean, pgd", "clean").replace("60", "16"),
    }
    tiny = Tiny(write_configs(tmp_path / "configs", changes), tmp_path / "store")
    _, finished = tiny.run(only=["defense=none"])
    assert not finished.missing
    assert tiny.session().cells[0].dataset_spec.class_names is None
    lines = asked(tiny, "mixed/clean/none").stdout.splitlines()
    assert {line.split()[0] for line in lines[2:4]} == {"cat", "dog"}


def test_the_predictions_of_a_score_are_enough(tiny: Tiny, tmp_path: Path) -> None:
    """A bundle has scores and their answers, but not the artifacts that they were made from."""
    shutil.copytree(tiny.store, tmp_path / "store")
    shutil.rmtree(tmp_path / "store" / "defend")
    told = asked(tiny, "mixed/pgd/guo", "--json", store=tmp_path / "store").stdout
    assert told == asked(tiny, "mixed/pgd/guo", "--json").stdout
    assert np.trace(json.loads(told)["confusion_after"]) < 120


@pytest.mark.parametrize("spoilt", ["no column", "a class beyond the last"])
def test_scores_without_their_predictions_still_tell_classes_and_images(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, spoilt: str
) -> None:
    whole = json.loads(asked(tiny, "mixed/pgd/guo", "--json").stdout)
    read = arrow.read_arrays

    def spoiling(path: Path, needed: Mapping[str, int] = arrow.NOTHING) -> dict[str, np.ndarray]:
        columns = read(path, needed)
        if "predicted" in needed and spoilt == "no column":
            raise arrow.BadArrow(f"{path.name}: no column predicted")
        return {**columns, "predicted": columns["predicted"] + 10}

    monkeypatch.setattr(arrow, "read_arrays", spoiling)
    told = json.loads(asked(tiny, "mixed/pgd/guo", "--json").stdout)
    assert told["classes"] == whole["classes"]
    assert told["confusion_after"] is None
    lines = asked(tiny, "mixed/pgd/guo").stdout
    assert "the store has no predicted classes of this score" in lines


def test_a_cell_that_is_not_computed_is_told_with_the_command(tiny: Tiny, tmp_path: Path) -> None:
    done = asked(tiny, "mixed/pgd/guo", store=tmp_path / "empty")
    assert done.exit_code == 2
    assert "pipeline run --grid tiny --only 'cell=mixed/pgd/guo'" in done.stderr


def test_the_page_has_the_same_failures_of_the_attacked_cells_of_each_model(
    tiny: Tiny, tmp_path: Path
) -> None:
    session = tiny.session()
    per_image = stored_answers(session.store, session.scores)
    (found,) = failures_by_model(session.grid, per_image, session.store, session.scores)
    assert (found.model, found.attack) == ("mixed", "pgd")
    assert [cell.defense for cell, _ in found.cells] == ["none", "guo"]
    told = json.loads(asked(tiny, "mixed/pgd/guo", "--json").stdout)
    assert [vars(each) for each in found.cells[1][1].classes] == told["classes"]
    assert found.any.always == told["images_that_everything_breaks"]
    scores = Scores(session.facts(), per_image=per_image)
    artifacts = Artifacts(session.store, session.scores)
    page = write_report(session.grid, scores, tmp_path, artifacts=artifacts).read_text("utf-8")
    section = page.partition('<section id="failures"')[2].partition("</section>")[0]
    worst = min(each["after"] for each in told["classes"])
    assert f'<td class="significant">{worst:.0f}</td>' in section
    lines = asked(tiny, "mixed/pgd/guo").stdout
    pair = lines.partition("about that class:\n")[2].split("\n")[0].split()
    assert f"{' '.join(pair[:3])} in {pair[3]} %" in section.replace("\u00a0", " ")


def test_the_attack_of_several_candidates_is_shown_also_if_the_direct_one_is_on_more_defenses(
    tmp_path: Path,
) -> None:
    whole = grid_of()
    kept = [
        each for each in whole.cells if (each.attack, each.defense) != ("adaptive-quick", "guo")
    ]
    grid = dataclasses.replace(whole, cells=tuple(kept))
    nowhere = {each.name: SimpleNamespace(kind="score", digest="0" * 64) for each in kept}
    store = open_session("tiny", store=tmp_path, configs=[write_configs(tmp_path)]).store
    (found,) = failures_by_model(grid, scores_of(grid).per_image, store, nowhere)
    assert found.attack == "adaptive-quick"
    assert "guo" not in {cell.defense for cell, _ in found.cells}


def test_confusions_count_every_redraw_and_the_most_frequent_come_first() -> None:
    labels = np.array([0, 0, 1])
    found = Predicted(np.arange(3), labels, np.array([[0, 1], [1, 1], [1, 2]]))
    matrix = found.confusion(3)
    assert matrix.tolist() == [[1, 3, 0], [0, 1, 1], [0, 0, 0]]
    assert found.mostly() == {0: 0, 1: 1, 2: 1}
    assert Failures((), after=matrix).pairs() == [(0, 1, 3), (1, 2, 1)]


@pytest.fixture
def outdated(tiny: Tiny, tmp_path: Path) -> Tiny:
    """A store whose weights were replaced, so that all scores but one count as absent."""
    shutil.copytree(tiny.store, tmp_path / "store")
    other = Tiny(tiny.folder, tmp_path / "store")
    session = other.session()
    kept = session.scores["mixed/pgd/guo"]
    for node in session.graph:
        if node.kind in {"train", "score"}:
            meta = other.store / folder_of(node.kind, node.digest) / META
            record = json.loads(meta.read_text())
            if node.kind == "train":
                digest, record["content"] = node.digest, "0" * 64
            elif node == kept:
                record["lineage"][digest] = "0" * 64
            meta.write_text(unsealed(record))
    assert set(other.session().facts()) == {"mixed/pgd/guo"}
    return other


def test_scores_that_count_as_absent_are_in_no_analysis(outdated: Tiny, tmp_path: Path) -> None:
    told = json.loads(asked(outdated, "mixed/pgd/guo", "--json").stdout)
    assert told["confusion_before"] is None
    assert told["of_cells"] == ["mixed/pgd/guo"]
    assert all(each["before"] is None for each in told["classes"])
    session = outdated.session()
    answers = session.examined().per_image
    found = failures_by_model(session.grid, answers, session.store, session.scores)
    assert [[cell.name for cell, _ in each.cells] for each in found] == [["mixed/pgd/guo"]]
    assert found[0].any.before is None


def test_an_abstention_is_no_class_even_where_the_first_class_is_the_true_one(
    tmp_path: Path,
) -> None:
    votes = "{label: votes, use: smooth, set: {draws: 5, standard_deviation_255ths: 1}}"
    grid = GRID.replace("guo", votes).replace("clean, pgd", "clean").replace("60", "20")
    tiny = Tiny(write_configs(tmp_path / "configs", {"grids/tiny.yaml": grid}), tmp_path / "store")
    _, finished = tiny.run()
    assert not finished.missing
    told = json.loads(asked(tiny, "mixed/clean/votes", "--json").stdout)
    # five draws are too few for any answer at this level
    after = np.array(told["confusion_after"])
    assert after.shape == (10, 11)
    assert after[:, 10].sum() == after.sum() == 2 * 20
    assert np.array(told["confusion_before"]).shape == (10, 10)
    assert {each["after"] for each in told["images_lost"]} == {10}
    assert "3 → abstains" in asked(tiny, "mixed/clean/votes").stdout
