"""Integrity cards of a run: computed, told, and taken seriously."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from made_up import make_facts, make_grid, printed, read_csv
from tiny import write_configs

from pipeline.commands.cli import main
from pipeline.commands.session import open_session
from pipeline.observers.tracking.results import Results
from pipeline.observers.tracking.runs import score_key
from pipeline.report.answers import Answers, PerImage
from pipeline.report.cards import Card
from pipeline.report.formats.markdown import cards_markdown, table_markdown
from pipeline.report.scores import Scores
from pipeline.report.views.table_rows import views
from pipeline.report.writer import write_report
from tasks.integrity.findings import Finding, found

ADAPTIVE = (
    "kind: adaptive\nlosses: [margin]\nsteps: 20\ndraws: 2\nselect_draws: 2\nimages: 200\n"
    "redraws: 2\ntransferred:\n  - {kind: pgd, steps: 3}\n"
)
GRID = (
    "epsilon: 40\nimages: 200\nredraws: 2\ntables:\n"
    "  - name: main\n    models: [mixed]\n    attacks: [pgd, adaptive-mini]\n"
    "    defenses: [none, guo]\n"
)


class Shell:
    """Types commands in a folder of its own, with a tiny adaptive grid."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_configs(
            folder / "configs",
            {"attacks/adaptive-mini.yaml": ADAPTIVE, "grids/tiny.yaml": GRID},
        )

    def __call__(self, *words: str) -> Result:
        where = ["--grid", "tiny", "--store", str(self.folder / "store")]
        return CliRunner().invoke(main, [*words, *where], catch_exceptions=False)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> tuple[Path, Result]:
    """A run of the grid, its cards a quarter of the work, and what it said."""
    folder = tmp_path_factory.mktemp("cards")
    shutil.copy(mlflow_template, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return folder, Shell(folder)("run", "--inline", "--quiet")


@pytest.fixture
def shell(ran: tuple[Path, Result], monkeypatch: pytest.MonkeyPatch) -> Shell:
    folder, result = ran
    assert result.exit_code == 0, result.output
    monkeypatch.chdir(folder)
    return Shell(folder)


def test_a_run_makes_the_cards_with_its_cells_and_a_second_one_nothing(shell: Shell):
    cards = list((shell.folder / "store").glob("card/??/*/meta.json"))
    assert len(cards) == 2
    assert "nothing to do" in shell("plan").stdout
    assert "4 of 4 cells" not in shell("plan").stdout


def test_plan_counts_the_cards_that_are_missing(shell: Shell):
    # other cards than those of a quarter
    result = shell("plan", "--card", "full")
    assert "0 of 4 cells to compute: 2 card" in result.stdout
    assert "nothing to do" in shell("plan", "--card", "none").stdout


def test_show_tells_a_cells_card_with_every_check(shell: Shell):
    told = json.loads(shell("show", "mixed/adaptive-mini/guo", "--json").stdout)["card"]
    assert told["examined"] == "mixed/guo"
    assert told["verdict"] in {"pass", "warn", "fail"}
    assert {"frozen", "alone", "steps", "epsilon", "scored-again", "adaptive"} <= told[
        "checks"
    ].keys()
    assert told["checks"]["scored-again"].startswith("pass: scoring again")
    inherited = json.loads(shell("show", "mixed/pgd/guo", "--json").stdout)["card"]
    assert inherited["examined"] == "mixed/none"
    assert "adaptive" not in inherited["checks"]


def test_the_report_has_a_section_and_a_file_of_cards(shell: Shell):
    folder = shell.folder / "reports" / "tiny"
    page = (folder / "README.md").read_text(encoding="utf-8")
    assert "## Integrity cards" in page
    rows = read_csv(folder / "cards.csv")
    assert {row["examined"] for row in rows} == {"mixed/none", "mixed/guo"}
    assert all(row["words"] and json.loads(row["measured"]) is not None for row in rows)
    about_cells = {row["cell"] for row in rows if row["cell"]}
    assert len(about_cells) == 4
    assert all(row["card"] for row in read_csv(folder / "results.csv"))


def test_mlflow_is_told_what_each_card_says(shell: Shell):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{shell.folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tiny")
    runs = client.search_runs([experiment.experiment_id], "tags.cell LIKE '%'")
    said = {run.data.tags["cell"]: run.data.tags.get("card") for run in runs}
    assert len(said) == 4
    for name, verdict in said.items():
        told = json.loads(shell("show", name, "--json").stdout)["card"]["verdict"]
        assert verdict == told
    (adaptive,) = (run for run in runs if run.data.tags["cell"] == "mixed/adaptive-mini/guo")
    history = client.get_metric_history(adaptive.info.run_id, "epsilon/accuracy")
    known = {row["check"]: row for row in read_csv(shell.folder / "reports/tiny/cards.csv")}
    measured = json.loads(known["epsilon"]["measured"])  # of mixed/guo, which comes last
    assert {f"{point.step}/255": point.value for point in history} == measured


def test_mlflow_is_told_of_a_card_that_fails_and_of_its_passing_again(shell: Shell):
    session = open_session("tiny", store=shell.folder / "store", configs=[shell.folder / "configs"])
    name = "mixed/adaptive-mini/guo"
    card = session.known_cards()[name]
    finding = Finding(check="steps", verdict="fail", words="more steps leave more")
    wrong = replace(card, model=(*card.model, finding))
    shown: list[Card] = []
    results = Results(
        session.grid,
        session.scores,
        session.store,
        session.ledger,
        "http://server",
        cards=lambda: {name: shown[-1]},
    )
    cells = {cell.name: cell for cell in session.cells}
    key = score_key(cells[name], session.record(session.scores[name]))
    session.ledger.mark_logged("http://server", key, "run")
    for current in (card, wrong, card):
        shown.append(current)
        (tagged,) = results.untagged()
        assert (tagged.run_id, tagged.verdict) == ("run", current.verdict)
        results.mark_tagged(tagged)
        assert results.untagged() == []
    assert wrong.verdict == "fail" != card.verdict


def test_the_report_draws_accuracy_against_epsilon(shell: Shell):
    folder = shell.folder / "reports" / "tiny"
    assert "(main-epsilon.svg)" in (folder / "main.md").read_text(encoding="utf-8")
    assert (folder / "main-epsilon.svg").stat().st_size > 5_000
    assert "against the epsilon of the attack" in (folder / "index.html").read_text("utf-8")


DETACHED = """
from tasks.defenses.base import Defense


class Detached(Defense):
    def transform(self, pixels, rows, context):
        return pixels.detach().round(decimals=1)
"""


def test_a_users_defense_that_detaches_is_named_in_one_line_and_the_other_cells_finish(
    ran: tuple[Path, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.copytree(ran[0], tmp_path, dirs_exist_ok=True)
    (tmp_path / "detached.py").write_text(DETACHED)
    monkeypatch.chdir(tmp_path)
    said = Shell(tmp_path)("run", "--inline", "--quiet", "--add", "defense=detached.py")
    assert said.exit_code == 1
    assert "Traceback" not in said.output
    (line,) = (line for line in said.stderr.splitlines() if line.startswith("missing: "))
    assert line == (
        "missing: mixed/adaptive-mini/detached: defense detached: its transform lets no gradient "
        "through (it detaches its input); write what has none with tasks.straight.through "
        "(detached.py:6)"
    )
    rows = read_csv(tmp_path / "reports" / "tiny" / "results.csv")
    assert len(rows) == 6
    (missing,) = (row for row in rows if not row["accuracy"])
    assert (missing["attack"], missing["defense"]) == ("adaptive-mini", "detached")


def test_cards_travel_with_the_results(shell: Shell, tmp_path: Path):
    assert "2 card" in shell("export", str(tmp_path / "results.zip")).stdout
    store = tmp_path / "elsewhere"
    taken = CliRunner().invoke(
        main, ["import", str(tmp_path / "results.zip"), "--store", str(store)]
    )
    assert taken.exit_code == 0, taken.output
    words = ["show", "mixed/adaptive-mini/guo", "--json", "--grid", "tiny"]
    told = json.loads(CliRunner().invoke(main, [*words, "--store", str(store)]).stdout)
    here = json.loads(shell("show", "mixed/adaptive-mini/guo", "--json").stdout)
    assert told["card"] == here["card"]


def test_a_card_that_cannot_be_made_fails_the_run_and_no_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow_template: Path
):
    def broken(*args: object, **options: object) -> None:
        raise RuntimeError("out of cards")

    monkeypatch.setattr("pipeline.execution.work.evaluate.card", broken)
    monkeypatch.chdir(tmp_path)
    shutil.copy(mlflow_template, tmp_path / "mlflow.db")
    result = Shell(tmp_path)("run", "--inline", "--quiet")
    assert result.exit_code == 1
    assert "failed  card mixed/none and 1 more: RuntimeError: out of cards" in result.stderr
    assert "again   pipeline run --grid tiny" in result.stderr
    rows = read_csv(tmp_path / "reports" / "tiny" / "results.csv")
    assert all(row["accuracy"] for row in rows)
    assert {row["card"] for row in rows} == {"skipped"}


# What a report makes of cards, with made-up ones


def card(verdict: str, attack: str | None = None) -> Card:
    passed = found("alone", {}, "fine")
    other = Finding(check="square", verdict=verdict, words="Square leaves less than gradients")
    return Card("demo-iat/counter", 100, attack=attack, model=(passed, other))


def scores_with(**verdicts: str) -> Scores:
    """A gain of 40 images in 300, and cards of its cell and of its baseline."""

    def read(name: str) -> Answers:
        right = np.ones((300, 1), dtype=bool)
        right[:40] = not name.endswith("/none")
        ids = np.arange(300)
        return Answers(ids, ids % 10, right)

    names = [f"demo-iat/clean/{name}" for name in ("none", "counter", "guo", "counter+guo")]
    facts = {name: make_facts(90.0 if name.endswith("/none") else 100.0) for name in names}
    cards = {f"demo-iat/clean/{name}": card(verdict) for name, verdict in verdicts.items()}
    return Scores(facts, per_image=PerImage(read), cards=cards)


def only_clean():
    return make_grid(("clean",), models=("demo-iat",))


def test_a_failed_card_takes_the_bold_away_and_puts_a_numbered_footnote_under_the_table():
    grid = only_clean()
    (view,) = views(grid, scores_with(counter="pass"))
    assert "(**+10.0**)" in table_markdown(view)
    (view,) = views(grid, scores_with(counter="fail"))
    text = table_markdown(view)
    assert "**" not in text
    assert "100.0 (+10.0) [1] |" in text
    assert (
        "- [1] integrity card of demo-iat/counter: square: Square leaves less than gradients"
        in text
    )
    assert "0 significant at 5 % (bold), 1 more would be but for a failed integrity card." in text
    assert "[1] integrity card of demo-iat/counter" in printed(
        grid, scores_with(counter="fail"), 120
    )


def test_a_warning_takes_nothing_away_and_has_no_footnote():
    (view,) = views(only_clean(), scores_with(counter="warn"))
    text = table_markdown(view)
    assert "(**+10.0**)" in text
    assert "[1]" not in text


def test_a_card_of_the_baseline_takes_nothing_from_the_gain():
    (view,) = views(only_clean(), scores_with(none="fail", counter="pass"))
    assert "(**+10.0**)" in table_markdown(view)


def test_files_hold_the_verdict_beside_what_is_significant(tmp_path: Path):
    write_report(only_clean(), scores_with(counter="fail"), tmp_path)
    rows = {row["defense"]: row for row in read_csv(tmp_path / "demo" / "table1.csv")}
    assert rows["counter"]["significant"] == "true"
    assert rows["counter"]["card"] == "fail"
    assert not rows["none"]["card"]


def test_a_report_without_cards_says_nothing_of_them(tmp_path: Path):
    write_report(only_clean(), scores_with(), tmp_path)
    assert "ntegrity" not in (tmp_path / "demo" / "README.md").read_text(encoding="utf-8")
    assert not (tmp_path / "demo" / "cards.csv").exists()


def test_the_section_names_each_model_once_and_what_did_not_pass():
    doubtful = Card(
        "demo-iat/none",
        100,
        model=(found("alone", {}, "fine"),),
        stored=(found("oblivious-steps", {}, "the accuracy grows", warns=True),),
    )
    unexamined = Card("demo-iat/guo", 35, attack="adaptive-full", draws=5, own_draws=50)
    cards = {
        "demo-iat/pgd/none": doubtful,
        "demo-iat/pgd/guo": doubtful,
        "demo-iat/adaptive-quick/guo": card("fail", "adaptive-quick"),
        "demo-iat/adaptive-full/guo": unexamined,
    }
    text = cards_markdown(cards)
    assert text.count("| demo-iat/none | replayed | pass | – | 1 | 100 |") == 1
    assert (
        "| adaptive-quick | fail | square (fail): Square leaves less than gradients | 1 | 100 |"
        in text
    )
    assert "| demo-iat/guo | adaptive-full | skipped | not computed | 5 of 50 | 35 |" in text
    assert "- `demo-iat/pgd/guo`: oblivious-steps (warn): the accuracy grows" in text


def test_the_verdict_is_the_gravest_and_says_nothing_while_the_model_was_not_examined():
    warned = found("scored-again", {}, "hm", warns=True)
    failed = found("scored-again", {}, "no", fails=True)
    passed = found("alone", {}, "fine")
    assert Card("m/none", 9, stored=(warned,)).verdict == "skipped"
    assert Card("m/none", 9, stored=(failed,)).verdict == "fail"
    assert Card("m/none", 9, model=(passed,), stored=(warned,)).verdict == "warn"
    assert Card("m/none", 9, model=(passed,)).complaint() == ""
    both = Card("m/none", 9, model=(passed, warned), stored=(failed,))
    assert both.complaint() == "integrity card of m/none: scored-again: no (and 1 more)"
