"""`pipeline judge`: from a file with a defense to a verdict, and an exit code for a machine."""

from __future__ import annotations

import csv
import json
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tiny import write_configs

from pipeline.commands.cli import main
from pipeline.commands.judge import advised
from pipeline.commands.judge_options import JudgeOptions, report_folder
from pipeline.commands.session import Session
from pipeline.execution.events import RunFinished
from pipeline.store.store import Store

CLIMB = "kind: adaptive\nlosses: [margin]\nsteps: {}\ndraws: 2\nselect_draws: 3\nimages: 60\n"
CONFIGS = {
    "recipes/short.yaml": (
        "method: mixup\nepochs: 6\nlearning_rate: 0.1\nschedule: one-cycle\n"
        "crop_padding_px: 1\nflip: false\n"
    ),
    "recipes/brief.yaml": "method: mixup\nepochs: 2\nlearning_rate: 0.1\nflip: false\n",
    "models/brief.yaml": "dataset: digits\nnetwork: {kind: small, width: 4}\nrecipe: brief\n",
    "attacks/untargeted-pgd50.yaml": "kind: pgd\nsteps: 3\n",
    "attacks/direct.yaml": "kind: direct\nsteps: 2\ndraws: 2\nimages: 60\n",
    "attacks/adaptive-quick.yaml": CLIMB.format(2) + "transferred: [{kind: pgd, steps: 2}]\n",
    "attacks/adaptive-standard.yaml": CLIMB.format(4000) + "random_starts: 500\n",
    "attacks/adaptive-full.yaml": CLIMB.format(8000) + "random_starts: 500\n",
}
FILE = """from tasks import straight
from tasks.defenses.base import Defense


class Mine(Defense):
    draws: int = 2

    def transform(self, pixels, rows, context):
        {}
"""
GREY = "return 0.4 + 0.02 * pixels"
NOISE = 'return straight.clip(pixels + 0.05 * rows.uniform("n", pixels[0].numel()).view_as(pixels))'

GRID = "judge-mine,model=mixed"
Judge = Callable[..., Result]


@pytest.fixture
def judge(working_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Judge:
    """Types `judge` in a folder with a defense in `mine.py` and a network that is small."""
    write_configs(working_folder / "configs", CONFIGS)

    def typed(body: str, *words: str) -> Result:
        Path("mine.py").write_text(FILE.format(body), encoding="utf-8")
        given = ["judge", "mine.py", "--model", "mixed", "--inline", *words]
        monkeypatch.setattr(sys, "argv", ["pipeline", *given])  # for the ledger
        return CliRunner().invoke(main, given, catch_exceptions=False)

    return typed


@pytest.mark.slow
def test_a_defense_that_leaves_nothing_does_not_hold_and_exits_with_1(judge: Judge) -> None:
    result = judge(GREY, "--minutes", "3", "--epsilon", "4")
    assert result.exit_code == 1, result.output
    assert "budget quick, about " in result.stderr
    said = " ".join(result.stdout.split())
    assert "Does it hold? mine on mixed: harms, at a cost of" in said
    last = result.stdout.strip().splitlines()[-1]
    assert last == "mine does not hold on digits: mixed, 60 images, adaptive-quick, linf 4/255."
    page = Path("reports/judge-mine,epsilon=4,model=mixed/index.html").read_text(encoding="utf-8")
    assert "Does mine hold on digits?" in page
    assert "pipeline judge mine.py --model mixed --minutes 3.0" in page
    assert "flip-crop[draws=2]" in page
    # once more: nothing is computed, and the answer is the same
    again = judge(GREY, "--minutes", "3", "--epsilon", "4", "--json")
    assert again.exit_code == 1
    told = json.loads(again.stdout)
    assert told["computed"] == {}
    assert {row["defense"]: row["verdict"] for row in told["verdicts"]}["mine"] == "harms"
    # the verdict is in the store, so it is told although MLflow cannot be
    unreachable = judge(GREY, "--minutes", "3", "--epsilon", "4", "--mlflow", "http://127.0.0.1:9")
    assert unreachable.exit_code == 2
    assert "MLflow at" in unreachable.stderr
    assert unreachable.stdout.strip().splitlines()[-1] == last


def test_what_is_not_finished_in_time_cannot_be_told_and_exits_with_3(judge: Judge) -> None:
    result = judge(NOISE, "--minutes", "0.001")
    assert result.exit_code == 3, result.output
    last = result.stdout.strip().splitlines()[-1]
    said = " ".join(result.stdout.split())
    assert "Does it hold? On mixed, not computed: an adaptive attack on mine." in said
    assert (
        last
        == "Whether mine holds on digits cannot be told: mixed, nothing was scored, linf 40/255."
    )
    (stopped,) = (line for line in result.stderr.splitlines() if "stopped by --minutes" in line)
    assert re.fullmatch(
        r"judge   stopped by --minutes 0.001: \d of 3 cells of the networks without mine are "
        r"scored; the same command with roughly --minutes \d+ computes the rest",
        stopped,
    )
    assert Path("reports", GRID, "index.html").is_file()
    # the grid of this question has no file, and is built again from the command line
    mine = ["--grid", GRID, "--add", "defense=mine.py"]
    cells = CliRunner().invoke(main, ["list", "cells", *mine]).stdout.splitlines()
    assert {"mixed/clean/mine", "mixed/adaptive-quick/none"} <= set(cells)
    show = ["show", "mixed/clean/mine"]
    assert CliRunner().invoke(main, [*show, *mine]).exit_code == 0
    other = CliRunner().invoke(main, [*show, "--grid", "judge-mine"])
    assert other.stderr == f"error: no grid named 'judge-mine'; did you mean '{GRID}'?\n"
    # no code is loaded because a store names it
    Path("mine.py").write_text("raise SystemExit", encoding="utf-8")
    unnamed = CliRunner().invoke(main, [*show, "--grid", GRID])
    assert unnamed.exit_code == 2
    assert unnamed.stderr == (
        f"error: grid '{GRID}' is of `{shlex.join(sys.argv)}`: name the files that it was judged "
        "from: --add defense=mine.py\n"
    )
    # the network is named a second time
    again = judge(NOISE, "--minutes", "0.001", "--model", "mixed")
    assert again.exit_code == 3, again.output


def test_networks_with_no_accuracy_left_are_not_attacked_with_the_defense(
    judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    # between what is left of the two networks: 38 % and 77 % on one machine
    monkeypatch.setattr("tasks.evaluation.verdicts.FALLEN", 60.0)
    words = ("--model", "brief", "--epsilon", "4")
    result = judge(NOISE, *words, "--json")
    assert result.exit_code == 3, result.output
    first, then = (line for line in result.stderr.splitlines() if line.startswith("judge  "))
    assert first.startswith("judge   without mine on mixed, brief: budget quick, at least about ")
    both = (
        "mine on brief: no verdict possible, clean and replayed only; mine on mixed: budget quick"
    )
    assert both in then
    assert re.search(
        r", about \d.* or longer, \d+\.\d of 10 min are left; "
        r"roughly --minutes \d+ for budget standard$",
        then,
    )
    told = json.loads(result.stdout.rpartition("}")[0] + "}")
    scored = {
        (cell["model"], cell["attack"]) for cell in told["cells"] if cell["defense"] == "mine"
    }
    assert scored == {
        *(
            ("mixed", attack)
            for attack in ("clean", "untargeted-pgd50", "direct", "adaptive-quick")
        ),
        *(("brief", attack) for attack in ("clean", "untargeted-pgd50")),
    }
    verdicts = {row["model"]: row for row in told["verdicts"] if row["defense"] == "mine"}
    assert verdicts["mixed"]["verdict"] != "cannot tell"
    assert verdicts["brief"]["why"].startswith("accuracy without it is ")
    assert verdicts["brief"]["replayed"] is not None
    page = Path("reports/judge-mine,epsilon=4,model=mixed,model=brief/index.html")
    assert "not computed" not in page.read_text(encoding="utf-8")
    assert result.stderr.splitlines()[-1].endswith(
        ": mixed, 60 images, adaptive-quick, linf 4/255."
    )
    assert told["sentence"] == result.stderr.splitlines()[-1]
    expected = {"harms": "does not hold", "no gain": "does not hold", "holds": "holds"}
    assert told["conclusion"] == expected.get(verdicts["mixed"]["verdict"], "cannot tell")
    # with no other network, nothing is attacked, and a line says what to do
    monkeypatch.setattr("tasks.evaluation.verdicts.FALLEN", 100.0)
    result = judge(NOISE, *words)
    assert result.exit_code == 3, result.output
    said = " ".join(result.stdout.split())
    for model in ("mixed", "brief"):
        assert f"mine on {model}: cannot tell: accuracy without it is " in said
    assert "budget" not in result.stderr
    assert result.stderr.splitlines()[-1] == (
        "judge   without the defense, no network keeps more than 1 % accuracy, so none can tell; "
        "name an adversarially trained network with --model, or a smaller --epsilon"
    )


def test_the_answer_so_far_ends_a_judgement_that_a_signal_stops(
    judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(session: Session, *args: object, **more: object) -> RunFinished:
        missing = dict.fromkeys((cell.name for cell in session.cells), "not computed yet")
        return RunFinished(session.grid, {}, missing, {}, 0.0, interrupted=True)

    monkeypatch.setattr(Session, "run", run)
    result = judge(NOISE)
    assert result.exit_code == 130, result.output
    assert "stopped by --minutes" not in result.stderr
    assert result.stdout.splitlines()[-1].startswith("Whether mine holds on digits cannot be told:")


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("return pixels.detach() * 0.9", "no gradient comes back"),
        ("return pixels * (0.5 + 0.5 * pixels.mean())", "follows from the other images"),
        (
            "import torch; return straight.clip(pixels + torch.rand_like(pixels))",
            "numbers of torch",
        ),
        ('return straight.clip(pixels + 0.1 * rows[:1].uniform("n", 1))', "another image"),
    ],
)
def test_a_defense_that_cheats_is_told_so_with_file_and_line_before_anything_is_computed(
    judge: Judge, body: str, line: str
) -> None:
    result = judge(body)
    assert result.exit_code == 2
    (told,) = result.stderr.strip().splitlines()
    assert told.startswith("error: mine.py:8: defense mine: ")
    assert line in told
    assert not Path("store/score").exists()


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (
            "return pixels.mul_(0.9)",
            "mine.py:9: defense mine: changes the pixels that it is given;",
        ),
        ("return pixels * 0.9, 1", "mine.py:8: defense mine: returns tuple, expected a tensor"),
        ("return super().transform()", "mine.py:9"),
    ],
)
def test_what_a_defense_returns_or_changes_is_told_with_its_line(
    judge: Judge, body: str, line: str
) -> None:
    (told,) = judge(body).stderr.strip().splitlines()
    assert line in told


def test_a_python_file_beside_its_yaml_file_is_judged_with_those_parameters(judge: Judge) -> None:
    made = CliRunner().invoke(main, ["new", "defense", "own"], catch_exceptions=False)
    assert "judge pipeline judge own" in made.stdout
    yaml = Path("configs/defenses/own.yaml")
    yaml.write_text("kind: own.py\ndraws: 2\n", encoding="utf-8")
    words = ["judge", "configs/defenses/own.py", "--model", "mixed", "--inline"]
    told = CliRunner().invoke(main, [*words, "--minutes", "0.001"], catch_exceptions=False)
    assert told.exit_code == 3, told.output
    page = Path("reports/judge-own,model=mixed/index.html").read_text(encoding="utf-8")
    assert "flip-crop[draws=2]" in page
    # a YAML file of the same name that sets the parameters of something else
    yaml.write_text("kind: guo\n", encoding="utf-8")
    told = CliRunner().invoke(main, words)
    assert told.exit_code == 2
    assert "configs/defenses/own.yaml is called 'own' too; rename one of them" in told.stderr


@pytest.mark.slow
def test_the_time_that_is_left_goes_into_the_next_budget_and_no_report_loses_a_budget(
    judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = "kind: adaptive\nlosses: [margin]\nsteps: 2\ndraws: 2\nselect_draws: 3\nimages: 20\n"
    for budget, text in (("quick", small), ("standard", f"{small}random_starts: 1\n")):
        Path(f"configs/attacks/adaptive-{budget}.yaml").write_text(text, encoding="utf-8")
    monkeypatch.setattr("pipeline.commands.judge.MARGIN", 1e6)
    monkeypatch.setattr("pipeline.commands.judge.AROUND_S", 0.0)
    result = judge(NOISE, "--minutes", "5", "--epsilon", "4", "--json")
    _, first, then = (line for line in result.stderr.splitlines() if line.startswith("judge  "))
    assert "mine on mixed: budget quick" in first
    assert "mine on mixed: budget standard" in then
    assert "of 5 min are left" in then
    attacks = {row["attack"] for row in json.loads(result.stdout)["verdicts"]}
    assert attacks == {"adaptive-standard"}
    # a smaller limit, when a part of the larger budget is missing, leaves the rest of it there
    folder = Path("reports/judge-mine,epsilon=4,model=mixed")
    rows = list(csv.DictReader(folder.joinpath("results.csv").read_text().splitlines()))
    control = ("adaptive-standard", "flip-crop[draws=2]")
    (lost,) = (row["digest"] for row in rows if (row["attack"], row["defense"]) == control)
    assert Store("store").set_aside("score", lost)
    monkeypatch.setattr("pipeline.commands.judge.MEASURED", 1e6)
    small = judge(NOISE, "--minutes", "0.05", "--epsilon", "4")
    assert "mine on mixed: budget quick" in small.stderr
    # what has been timed is no longer estimated with the larger factor
    monkeypatch.setattr("pipeline.commands.judge.MEASURED", 1.5)
    timed = judge(NOISE, "--minutes", "5", "--epsilon", "4").stderr.splitlines()
    said = next(each for each in timed if each.startswith("judge  "))
    assert "mine on mixed: budget standard" in said
    assert "or longer" not in said
    verdicts = csv.DictReader(folder.joinpath("verdicts.csv").read_text().splitlines())
    assert {row["attack"] for row in verdicts if row["defense"] == "mine"} == {"adaptive-standard"}


def test_an_exception_of_the_defense_is_told_with_its_line(judge: Judge) -> None:
    result = judge("return pixels.nothing")
    assert result.exit_code == 2
    (told,) = result.stderr.strip().splitlines()
    assert told.startswith(
        "error: mine.py:9: contract of defense mine not checked: AttributeError: "
    )
    assert told.count("mine.py") == 1
    # a method whose name is misspelt
    Path("typo.py").write_text(FILE.format(GREY).replace("transform(", "tranform("), "utf-8")
    result = CliRunner().invoke(main, ["judge", "typo.py"])
    assert result.stderr == (
        "error: typo.py:5: contract of defense mine not checked: TypeError: Mine does not "
        "define transform; "
        "is `tranform` meant as `transform`?\n"
    )


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["nothing.py"], "there is no file nothing.py"),
        (["mine"], "no defense named 'mine'; did you mean the file mine.py?"),
        (["mine.py:Mine"], "a YAML file selects a class of a file: `kind: mine.py:Mine`"),
        (["xi"], "no defense named 'xi'; did you mean 'xie'?"),
        (["xie", "--model", "demo-iat", "--model", "cifar10-iat"], "of cifar10 and digits"),
        (["none"], "judge none: it is what a defense is compared with; name a defense"),
        (["xie", "--model", "demo-iot"], "no model named 'demo-iot'"),
        (["crossmax-models"], "ensemble, and demo-mixup is a single network; name a model with"),
        (["counter+crossmax-models", "--model", "demo-iat"], "and demo-iat is a single network"),
        (["xie", "--epsilon", "0.031"], "8 (8/255 is 0.03137) was probably meant"),
        (["xie", "--epsilon", "0"], "'0' is no size above 0."),
        (["xie", "--epsilon", "nan"], "'nan' is not a finite number."),
        (["xie", "--epsilon", "eight"], "number"),
        (["xie", "--minutes", "0"], "0.0 is not in the range"),
        (["xie", "--minutes", "10m"], "'10m': expected a number of minutes, such as 10"),
        (["notes.txt"], "defense notes.txt: expected a .py or .yaml file, or the name of a defe"),
        (["guo+"], "a defense without a name; a chain has none before or after a +"),
        (
            ["kept.py"],
            "kept.py:9: contract of defense mine not checked: self.calls = …: parameters cannot",
        ),
    ],
)
def test_bad_input_is_told_in_a_line_and_exits_with_2(
    judge: Judge, words: list[str], line: str
) -> None:
    Path("mine.py").write_text(FILE.format(GREY), encoding="utf-8")
    Path("kept.py").write_text(FILE.format(f"self.calls = 1\n        {GREY}"), encoding="utf-8")
    Path("notes.txt").touch()
    result = CliRunner().invoke(main, ["judge", *words])
    assert result.exit_code == 2
    assert line in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("estimated", "minutes"),
    [(0.2, 1), (11.3, 15), (14.6, 15), (15.2, 20), (130, 180), (2000, 2880)],
)
def test_advised_minutes_are_rounded_up_so_that_they_hardly_vary(
    estimated: float, minutes: int
) -> None:
    assert advised(estimated) == minutes


def test_the_name_of_the_report_folder_differs_for_each_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def folder(defense: str, epsilon: float | None = None, *models: str, **places: Any) -> str:
        named = {"data": {}, "weights": {}, **places}
        return report_folder(JudgeOptions(defense=defense, epsilon=epsilon, models=models, **named))

    assert folder("jpeg") == folder("jpeg.py") == "judge-jpeg"
    assert folder("x/y.py", 0.5, "net") == "judge-y@x,epsilon=0.5,model=net"
    elsewhere = r"judge-my-y-[0-9a-f]{6}@other-[0-9a-f]{6}"
    assert re.fullmatch(elsewhere, folder("../other/my y.py"))
    assert folder("../other/my y.py") == folder(str(tmp_path.parent / "other" / "my y.py"))
    for each in ("cfg", "a/cfg", "a%2Fcfg", "cfg,data=digits=a"):
        (tmp_path / each / "defenses").mkdir(parents=True)
    same = [{"store": "./store"}, {"store": str(tmp_path / "store")}, {"device": "cpu"}]
    assert {folder("q", **each) for each in [*same, {"settings": Path("s.yaml")}]} == {"judge-q"}
    assert re.fullmatch(r"judge-q,store=x-[0-9a-f]{6}", folder("q", store="gs://me:pw@lab/x"))
    one, two = Path("a/x"), Path("a-x")
    named = folder("q", data={"d": one, "c": two})
    assert re.fullmatch(r"judge-q,data=c=a-x,data=d=x-[0-9a-f]{6}", named)
    long = [folder("q", weights={"net": Path("写" * 300, name)}) for name in ("a.pt", "b.pt")]
    assert max(len(name.encode()) for name in long) <= 255
    names = [
        *map(folder, ("x/y.py", "x-y.py", "y@x.py", "y-x.py", "a/x/y.py", "a-x/y.py", "/x/y.py")),
        *map(folder, ("q.py", "q.yaml", "q.yaml.py", "q r.py", "q%20r.py", "q-r.py")),
        *(folder("jpeg.py", 8), folder("jpeg-8.py"), folder("jpeg,epsilon=8.py")),
        *(folder("jpeg.py", 8.0000001), folder("jpeg.py", None, "8"), folder("jpeg", 8, "net")),
        *(folder("q", configs=[tmp_path / each]) for each in ("cfg", "a/cfg", "a%2Fcfg")),
        *(folder("q", configs=[Path(each)]) for each in ("cfg,data=digits=a",)),
        folder("q", configs=[Path("cfg"), Path("a/cfg")]),
        folder("q", configs=[Path("cfg")], data={"digits": Path("a")}),
        *(folder("q", data={name: place}) for name in "de" for place in (one, two)),
        *(folder("q", weights={"d": place}) for place in (one, two)),
        *(folder("q", store=each) for each in ("a/x", "a-x", "s3://a/x", "gs://a/x")),
        *long,
        *(folder("q.py", None, *nets) for nets in (["a/n.yaml"], ["b/n.yaml"], ["n"], ["n", "m"])),
    ]
    assert len(set(names)) == len(names)
    assert not any("/" in name for name in names)
