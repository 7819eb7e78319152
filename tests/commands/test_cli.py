"""The commands as a person types them: what they print, and what they exit with."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import pytest
import torch
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result
from paper_numbers import NUMBERS
from tiny import FILES, write_configs

from pipeline.commands.cli import main
from pipeline.problems import Unwritable


class Shell:
    """Types commands in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.configs = write_configs(folder / "configs")
        self.store = folder / "store"

    def __call__(self, *words: str, grid: bool = True) -> Result:
        where = ["--store", str(self.store)]
        if grid:
            where += ["--grid", "tiny"]
        return CliRunner().invoke(main, [*words, *where], catch_exceptions=False)


@pytest.fixture
def shell(working_folder: Path) -> Shell:
    """A folder with the tiny grid's configs and a fresh MLflow database."""
    return Shell(working_folder)


def refused(result: Result) -> str:
    """The one line of an input that was refused."""
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0]


def test_a_run_prints_tables_and_where_everything_is(shell: Shell) -> None:
    result = shell("run", "--inline", "--only", "attack=pgd", "--only", "defense=*guo")
    assert result.exit_code == 0, result.output
    assert "counter+guo" in result.stdout
    assert all(letter.isprintable() for letter in result.output.replace("\n", ""))
    for word in ("report", "store", "MLflow"):
        assert word in result.stderr
    assert Path("reports/tiny/README.md").is_file()
    assert Path("reports/tiny/index.html").is_file()
    # then one cell again: its old and its new value
    again = shell("run", "--inline", "--only", "cell=mixed/pgd/guo", "--force")
    assert "unchanged" in again.stderr
    # then nothing
    third = shell("run", "--only", "attack=pgd", "--only", "defense=*guo")
    assert "nothing to compute" in third.stderr
    assert third.stdout == result.stdout


def test_plan_and_why_name_what_changed(shell: Shell) -> None:
    assert shell("run", "--inline", "--only", "attack=clean").exit_code == 0
    assert "nothing to do" in shell("plan", "--only", "attack=clean").stdout
    write_configs(shell.configs, {"defenses/guo.yaml": "kind: guo\ndraws: 3\n"})
    plan = shell("plan", "--only", "attack=clean").stdout.splitlines()
    assert plan[:2] == ["mixed/clean/guo", "mixed/clean/counter+guo"]
    assert "2 of 5 cells" in plan[2]
    assert plan[-1].startswith(f"none of the {NUMBERS} published numbers is covered")
    why = shell("why", "mixed/clean/guo").stdout
    assert "defense.draws: 2 → 3" in why
    assert "never computed" in shell("why", "mixed/pgd/guo").stdout
    write_configs(shell.configs)
    assert "nothing to do" in shell("plan", "--only", "attack=clean").stdout


def test_plan_as_json_says_the_same(shell: Shell) -> None:
    plan = json.loads(shell("plan", "--json").stdout)
    assert plan["nodes"]["score"] == len(plan["cells"]) == 10


def test_show_tells_the_story_of_a_cell(shell: Shell) -> None:
    assert "not in the store" in shell("show", "mixed/clean/none").stdout
    shell("run", "--inline", "--only", "cell=mixed/clean/none")
    told = json.loads(shell("show", "mixed/clean/none", "--json").stdout)
    assert told["score"]["images"] == 520
    assert told["mlflow_run"]
    (earlier,) = told["history"]
    assert earlier.endswith(f"{told['score']['accuracy']:.1f} %")
    assert {artifact["kind"] for artifact in told["artifacts"]} == {
        "dataset",
        "train",
        "defend",
        "score",
    }


def test_run_as_json_holds_every_cell(shell: Shell) -> None:
    result = shell("run", "--inline", "--json", "--only", "cell=mixed/clean/none")
    answer = json.loads(result.stdout)
    assert answer["computed"] == {"dataset": 1, "train": 1, "defend": 2, "score": 1}
    (cell,) = answer["cells"]
    assert answer["schema"] == 1
    assert (cell["model"], cell["attack"], cell["defense"]) == ("mixed", "clean", "none")
    assert cell["redraws"] == 1


def test_a_store_that_was_named_and_is_not_there_replaces_no_report(
    shell: Shell, tmp_path: Path
) -> None:
    shell("run", "--inline", "--only", "cell=mixed/clean/none")
    page = Path("reports/tiny/index.html").read_bytes()
    done = CliRunner().invoke(main, ["report", "--grid", "tiny", "--store", "stroe"])
    assert done.exit_code == 2
    assert done.stderr == f"error: store {tmp_path / 'stroe'}: no such folder\n"
    assert Path("reports/tiny/index.html").read_bytes() == page


@pytest.mark.parametrize("words", [("scale", "--reports"), ("new", "defense", "mine", "--folder")])
def test_a_folder_below_a_file_cannot_be_written_to(
    shell: Shell, tmp_path: Path, words: tuple[str, ...]
) -> None:
    (tmp_path / "file").touch()
    grid = () if words[0] == "new" else ("--grid", "tiny")
    done = CliRunner().invoke(main, [*words, str(tmp_path / "file" / "below"), *grid])
    assert done.exit_code == 1
    assert done.stderr.endswith(": not a directory\n")
    assert done.stderr.count("\n") == 1


def test_a_folder_whose_name_is_not_utf8_can_hold_a_report(shell: Shell, tmp_path: Path) -> None:
    """The page repeats the options of the command."""
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/r\xff")
    words = ["--inline", "--only", "cell=mixed/clean/none", "--reports", folder]
    done = CliRunner().invoke(main, ["run", "--grid", "tiny", *words])
    assert done.exit_code == 0, done.output
    assert (Path(folder) / "tiny/index.html").is_file()


def test_report_and_lists(shell: Shell) -> None:
    shell.store.mkdir()
    assert "not computed" in shell("report").stdout
    names = CliRunner().invoke(main, ["list", "defenses"]).stdout
    assert "counter-untargeted" in names
    cells = shell("list", "cells").stdout.split()
    assert len(cells) == 10
    assert "mixed/pgd/counter+guo" in cells
    listed = json.loads(shell("list", "cells", "--json").stdout)["items"]
    assert [item["cell"] for item in listed] == cells
    assert {item["attack"] for item in listed} == {"clean", "pgd"}


def test_a_list_says_what_each_name_means_and_on_request_where_it_is(shell: Shell) -> None:
    (shell.configs / "defenses" / "own.py").write_text(
        'print("run")\n\n\nclass Own:\n    """Darkens a little. And more."""\n'
    )
    (shell.configs / "defenses" / "broken.yaml").write_text("kind: gou\n")
    told = shell("list", "defenses", grid=False).stdout
    lines = dict(line.split(maxsplit=1) for line in told.splitlines())
    assert lines["guo"].endswith("(draws=2)")
    assert lines["counter"].startswith(
        "Counter-perturbation: the clamped sum of one signed gradient"
    )
    assert lines["own"] == "Darkens a little"  # read, not run
    assert lines["broken"] == "unknown kind 'gou'"
    paths = shell("list", "defenses", "--paths", grid=False).stdout
    assert "guo.yaml" in paths
    (grid,) = json.loads(shell("list", "grids", "--json", grid=False).stdout)["items"][-1:]
    assert grid.keys() == {"name", "meaning", "path"}


def test_a_grid_may_be_named_without_its_option(shell: Shell) -> None:
    words = ["--configs", str(shell.configs), "--store", "s"]
    planned = CliRunner().invoke(main, ["plan", "tiny", *words])
    assert planned.exit_code == 0
    assert "10 of 10 cells to compute" in planned.stdout
    both = CliRunner().invoke(main, ["plan", "tiny", "--grid", "demo", *words])
    assert both.stderr == "error: tiny --grid demo: name one grid\n"


def test_help_stands_in_groups() -> None:
    text = CliRunner().invoke(main, ["run", "--help"]).stdout
    places = [text.index(f"\n{heading}:") for heading in ("Choosing", "Computing", "Output")]
    assert places == sorted(places)
    assert places[0] < text.index("  --only KEY") < places[1]
    assert places[1] < text.index("  --workers INT") < places[2]
    for name, command in main.commands.items():
        text = CliRunner().invoke(main, [name, "--help"]).stdout
        options = [each for each in command.params if isinstance(each, click.Option)]
        for option in options:
            lines = re.findall(rf"(?m)^  (?:-h, )?{option.opts[-1]}\b", text)
            assert lines, (name, option.opts)


def test_a_story_begins_with_the_answer(shell: Shell) -> None:
    shell("run", "--inline", "--only", "cell=mixed/clean/none")
    lines = shell("show", "mixed/clean/none").stdout.splitlines()
    assert lines[0] == "mixed/clean/none"
    assert re.fullmatch(r"  \d+\.\d %, 95 % interval \d+\.\d to \d+\.\d", lines[1])
    assert lines[2] == "  none on mixed under clean, seed 0"
    assert lines[3] == "  520 images of digits"
    (again,) = (line for line in lines[:8] if line.startswith("  compute again: "))
    assert again.startswith(
        "  compute again: pipeline run --grid tiny --only cell=mixed/clean/none --force"
    )
    # with the options by which the cell was found
    assert again.endswith(f"--force --store {shell.store}")


@pytest.mark.parametrize(
    ("command", "error", "code"),
    [
        (["judge", "guo"], RuntimeError("boom"), 4),
        (["judge", "guo"], Unwritable("store: no space left on device"), 4),
        (["compare"], RuntimeError("boom"), 4),
        (["compare"], Unwritable("store: no space left on device"), 4),
        (["plan"], RuntimeError("boom"), 4),
        (["plan"], Unwritable("store: no space left on device"), 1),
    ],
)
def test_an_unexpected_error_never_looks_like_an_answer(
    command: list[str], error: Exception, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("pipeline.catalogue.catalogue.Catalogue.names", fails)
    monkeypatch.setattr("pipeline.commands.compare.comparison", fails)
    result = CliRunner().invoke(main, command, catch_exceptions=False)
    assert result.exit_code == code
    assert str(error) in result.stderr
    assert ("Traceback" in result.stderr) == isinstance(error, RuntimeError)


@pytest.mark.parametrize("rich", [False, True])
def test_a_reader_of_stdout_that_is_gone_is_no_answer_either(
    monkeypatch: pytest.MonkeyPatch, rich: bool
) -> None:
    def gone(*_: object, **__: object) -> None:
        try:
            raise BrokenPipeError  # noqa: TRY301
        except BrokenPipeError:
            if rich:  # which ends the program itself
                raise SystemExit(1)  # noqa: B904
            raise

    thrown_away: list[object] = []
    monkeypatch.setattr("os.dup2", lambda *places: thrown_away.append(places))
    monkeypatch.setattr("sys.stdout.fileno", lambda: 1, raising=False)
    monkeypatch.setattr("pipeline.commands.compare.comparison", gone)
    with pytest.raises(SystemExit) as ended:
        main(["compare"])
    assert ended.value.code == 4
    assert thrown_away


def test_a_run_of_some_cells_shows_their_rows_alone(shell: Shell) -> None:
    told = shell("run", "--inline", "--only", "cell=mixed/clean/none").stdout
    assert "none" in told
    assert "guo" not in told
    assert "pgd" not in told
    assert "not computed" not in told


def test_doctor_says_a_line_for_each_thing(shell: Shell) -> None:
    result = shell("doctor", grid=False)
    assert result.exit_code == 0
    assert [line.split()[1] for line in result.stdout.splitlines()] == [
        "versions",
        "machine",
        "GPU",
        "Ray",
        "store",
        "MLflow",
    ]


def completed(*words: str) -> list[str]:
    """What a shell is offered for the last of some words."""
    complete = ShellComplete(main, {}, "pipeline", "_PIPELINE_COMPLETE")
    return [item.value for item in complete.get_completions(list(words[:-1]), words[-1])]


def test_a_shell_completes_commands_options_grids_and_cells(shell: Shell) -> None:
    assert "report" in completed("rep")
    assert {"--grid", "--only", "--quiet"} <= set(completed("run", "--"))
    assert completed("run", "--grid", "tin") == ["tiny"]
    cells = completed("show", "--grid", "tiny", "mixed/pgd/c")
    assert cells == ["mixed/pgd/counter", "mixed/pgd/counter+guo"]
    assert completed("why", "--grid", "no such grid", "m") == []


def test_a_misspelt_grid_gets_a_suggestion(shell: Shell) -> None:
    line = refused(CliRunner().invoke(main, ["run", "--grid", "tinny"]))
    assert "did you mean 'tiny'?" in line


def test_characters_that_stdout_cannot_encode_are_replaced(shell: Shell) -> None:
    (shell.configs / "defenses" / "own.py").write_text(
        'class Own:\n    """Perturbs by ε."""\n', encoding="utf-8"
    )
    words = [sys.executable, "-m", "pipeline", "list", "defenses", "--configs", str(shell.configs)]
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(words, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert b"Perturbs by ?" in done.stdout


@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_first_step_to_force_without_force_is_refused(shell: Shell, command: str) -> None:
    assert refused(shell(command, "--from", "craft")) == "error: --from needs --force"


LONG = "x" * 300
"""No file system takes so long a name; as an unreadable folder, `Path.exists` raises for it."""


@pytest.mark.parametrize(
    "words",
    [
        ("list", "--configs", LONG),
        ("judge", f"{LONG}.py"),
        ("list", "cells", "--add", f"defense={LONG}.py"),
        ("compare", LONG, "last"),
        ("gc", "--store", LONG),
        ("verify", "--store", LONG),
    ],
)
def test_a_path_that_cannot_be_looked_at_is_refused(
    words: tuple[str, ...], working_folder: Path
) -> None:
    line = refused(CliRunner().invoke(main, words))
    assert line.startswith("error: ")
    assert line.endswith("file name too long")


def test_doctor_tells_a_path_that_cannot_be_looked_at(working_folder: Path) -> None:
    words = ["doctor", "--store", LONG, "--mlflow", f"sqlite:///{LONG}/mlflow.db"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 1
    bad = [line.split()[1] for line in result.stdout.splitlines() if line.startswith("BAD")]
    assert bad[-2:] == ["store", "MLflow"]


def test_a_misspelt_command_gets_a_suggestion(shell: Shell) -> None:
    assert "did you mean 'report'?" in refused(CliRunner().invoke(main, ["reprot"]))


def test_a_misspelt_key_gets_its_place_and_a_suggestion(shell: Shell) -> None:
    write_configs(shell.configs, {"defenses/guo.yaml": "kind: guo\ndrwas: 3\n"})
    line = refused(shell("run", "--inline"))
    assert "configs/defenses/guo.yaml:2: drwas" in line
    assert "did you mean 'draws'?" in line


def test_a_negative_epsilon_is_refused(shell: Shell) -> None:
    text = FILES["grids/tiny.yaml"].replace("epsilon: 40", "epsilon: -1")
    write_configs(shell.configs, {"grids/tiny.yaml": text})
    assert "configs/grids/tiny.yaml:1: epsilon" in refused(shell("run", "--inline"))


def test_a_store_that_cannot_be_written_is_refused(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    shell.store = tmp_path / "file" / "store"
    assert "cannot be written" in refused(shell("run", "--inline"))


class Evil:
    """What a pickle could do."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("evil-was-here"),)  # type: ignore[return-value]


def test_a_checkpoint_with_code_in_it_is_refused_and_never_run(shell: Shell) -> None:
    torch.save({"state_dict": {"weight": Evil()}}, "evil.pt")
    model = "dataset: digits\nnetwork: {kind: small}\ncheckpoint: {file: ../../evil.pt}\n"
    write_configs(shell.configs, {"models/mixed.yaml": model})
    line = refused(shell("run", "--inline"))
    assert "code" in line
    assert not Path("evil-was-here").exists()


def test_a_silent_mlflow_server_loses_nothing(shell: Shell) -> None:
    only = ["--only", "cell=mixed/clean/none"]
    result = shell("run", "--inline", *only, "--mlflow", "http://127.0.0.1:9")
    assert result.exit_code == 2
    last = result.stderr.strip().splitlines()[-1]
    assert "http://127.0.0.1:9 does not answer; 1 cell waits in the store" in last
    # the next run computes nothing and logs what waits
    after = shell("run", *only)
    assert after.exit_code == 0
    assert json.loads(shell("show", "mixed/clean/none", "--json").stdout)["mlflow_run"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--only", "modle=x"], "did you mean 'model'?"),
        (["--only", "defense=gou"], "did you mean 'guo'?"),
        (["--only", "guo"], "expected KEY=PATTERN"),
        (["--data", "digits"], "expected NAME=FOLDER"),
        (["--images", "601"], "has 600 images"),
    ],
)
def test_a_choice_that_fits_nothing_is_refused(shell: Shell, words: list[str], said: str) -> None:
    assert said in refused(shell("plan", *words))


def test_a_failed_cell_is_named_with_the_command_that_retries_it(shell: Shell) -> None:
    write_configs(shell.configs, {"defenses/mi-ol.yaml": "kind: mi-ol\npool_size: 1\n"})
    result = shell("run", "--inline", "--only", "attack=clean", "--only", "defense=mi-ol")
    assert result.exit_code == 1
    assert "again   pipeline run --grid tiny --only cell=mixed/clean/mi-ol" in result.stderr
    assert "Traceback" not in result.output
    place = next(line for line in result.stderr.splitlines() if line.startswith("details "))
    details = Path(place.removeprefix("details ")).read_text()
    assert details.startswith("defend mixed/clean/mi-ol, images 0 to 500 (")
    assert "Traceback (most recent call last):" in details


def test_the_command_that_retries_has_the_options_that_the_run_had(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_configs(shell.configs, {"defenses/mi-ol.yaml": "kind: mi-ol\npool_size: 1\n"})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    shell.store = tmp_path / "a store"
    words = ["--images", "500", "--configs", "configs", "--device", "cpu", "--redraws", "1"]
    result = shell("run", "--inline", "--quiet", "--only", "cell=mixed/clean/mi-ol", *words)
    again = next(line for line in result.stderr.splitlines() if line.startswith("again"))
    typed = shlex.split(again.removeprefix("again"))
    assert typed[:6] == ["pipeline", "run", "--grid", "tiny", "--only", "cell=mixed/clean/mi-ol"]
    given = ["--inline", "--store", str(shell.store), *words]
    assert sorted(typed[6:]) == sorted(given)
    # it is the very same failure, typed again
    retried = CliRunner().invoke(main, typed[1:])
    assert retried.exit_code == 1
    assert again in retried.stderr


def test_a_run_with_nothing_to_do_prints_the_same_and_writes_the_same_files(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = ["run", "--inline", "--only", "cell=mixed/clean/none"]
    assert shell(*words).exit_code == 0
    folder = tmp_path / "reports" / "tiny"

    def files() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    second = shell(*words)
    before = files()
    third = shell(*words)
    assert files() == before
    assert third.stdout == second.stdout
    assert "mixed" in third.stdout
    assert "report  reports/tiny/index.html" in third.stderr
    # another title is another report
    write_configs(shell.configs, {"grids/tiny.yaml": "title: New\n" + FILES["grids/tiny.yaml"]})
    assert shell(*words).exit_code == 0
    assert b"New" in files()["index.html"]


@pytest.mark.parametrize(
    ("words", "spared"),
    [
        (["--help"], {"pydantic", "yaml", "rich"}),
        (["run", "--help"], {"pydantic", "yaml", "rich"}),
        (["plan", "--grid", "tiny", "--store", "store"], {"numpy", "pyarrow", "rich"}),
    ],
)
@pytest.mark.usefixtures("shell")
def test_help_and_plans_import_no_more_than_they_use(words: list[str], spared: set[str]) -> None:
    heavy = {"ray", "mlflow", "torch", "polars", "matplotlib", "sklearn"}
    assert imported(spared | heavy | {"click"}, words) == ["click"]


@pytest.mark.slow
def test_attacking_and_defending_on_a_cpu_does_not_import_torchs_compiler(shell: Shell) -> None:
    """It takes seconds in each process; torch's optimisers do, so the training comes before."""
    trained = shell("run", "--inline", "--only", "cell=mixed/clean/none", "--images", "10")
    assert trained.exit_code == 0
    words = ["run", "--grid", "tiny", "--store", str(shell.store), "--inline", "--quiet"]
    words += ["--only", "cell=mixed/pgd/guo", "--images", "10"]
    assert imported({"torch", "torch._dynamo", "torch._inductor"}, words) == ["torch"]


def test_a_second_run_imports_neither_ray_nor_mlflow_nor_torch(shell: Shell) -> None:
    assert shell("run", "--inline", "--only", "cell=mixed/clean/none").exit_code == 0
    words = [
        "run",
        "--grid",
        "tiny",
        "--store",
        str(shell.store),
        "--only",
        "cell=mixed/clean/none",
    ]
    assert imported({"ray", "mlflow", "torch"}, words) == []


def imported(modules: set[str], words: Sequence[str]) -> list[str]:
    """Those of the modules that `pipeline` has imported when such a command ends."""
    code = (
        "import sys\nfrom pipeline.commands.cli import main\n"
        "try:\n    main(sys.argv[2:])\nexcept SystemExit as end:\n    assert not end.code\n"
        "print(*sorted(set(sys.argv[1].split()) & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, " ".join(modules), *words],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()[-1].split()
