"""Nonsense in configs and options is refused in one line that says what would be right."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from tiny import FILES, write_configs

from pipeline import load_grid
from pipeline.catalogue.documents import read_yaml
from pipeline.commands.cli import main
from pipeline.problems import BadInput
from pipeline.store.store import Store

GRID = FILES["grids/tiny.yaml"]


class Shell:
    """Plans the tiny grid, some of whose files are changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *words: str, **changes: str) -> str:
        """What is said where a plan is refused; empty where it is not."""
        files = {name.replace("__", "/") + ".yaml": text for name, text in changes.items()}
        write_configs(self.folder / "configs", {k.replace("_", "-"): v for k, v in files.items()})
        command = [*(words or ("plan",)), "--grid", "tiny"]
        result = CliRunner().invoke(main, command, catch_exceptions=False)
        if result.exit_code == 0:
            return ""
        lines = result.stderr.strip().splitlines()
        assert result.exit_code == 2, result.output
        if lines[0].startswith("Usage:"):  # click's own, which has the usage before the line
            return lines[-1]
        assert len(lines) == 1, lines
        return lines[0]


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "PIPELINE_STORE"):
        monkeypatch.delenv(name, raising=False)
    return Shell(tmp_path)


@pytest.mark.parametrize(
    ("form", "old", "new"),
    [
        ("010", "the number 8", "the number 10"),
        ("1:30", "the number 90", "the text '1:30'"),
        ("yes", "true", "the text 'yes'"),
        ("Off", "false", "the text 'Off'"),
        ("1_000", "the number 1000", "the text '1_000'"),
        ("08", "the text '08'", "the number 8"),
        ("0o17", "the text '0o17'", "the number 15"),
        ("0b11", "the number 3", "the text '0b11'"),
        ("1e5", "the text '1e5'", "the number 100000.0"),
        ("1e-3", "the text '1e-3'", "the number 0.001"),
        ("1:30.5", "the number 90.5", "the text '1:30.5'"),
        ("0x_ff", "the number 255", "the text '0x_ff'"),
    ],
)
def test_what_two_versions_of_yaml_read_differently_is_refused_with_both_readings(
    tmp_path: Path, form: str, old: str, new: str
) -> None:
    path = tmp_path / "some.yaml"
    for text in (f"a: {form}\n", f"a:\n- 1\n- [{form}]\n"):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(BadInput) as raised:
            read_yaml(path)
        said = str(raised.value)
        assert f"{form} is {old} in YAML 1.1 and {new} in YAML 1.2" in said
        assert f"some.yaml:{text.count(chr(10))}: a" in said
    path.write_text(f"a: '{form}'\n", encoding="utf-8")
    assert read_yaml(path).value == {"a": form}


def test_what_every_version_of_yaml_reads_alike_is_read(tmp_path: Path) -> None:
    path = tmp_path / "some.yaml"
    forms = "[0, -1, +2, 1.5, .5, 1.0e-3, -1.5e+3, true, ~, null, word, 0xff, .inf, 2024-01-02, n]"
    path.write_text(f"a: {forms}\nyes: 1\n", encoding="utf-8")
    value = read_yaml(path).value
    assert value["a"][:8] == [0, -1, 2, 1.5, 0.5, 0.001, -1500.0, True]  # type: ignore[index]
    assert value["yes"] == 1


def test_a_bomb_of_aliases_is_refused_in_no_time(shell: Shell) -> None:
    bomb = "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    for before, after in zip("abcdefgh", "bcdefghi", strict=True):
        bomb += f"{after}: &{after} [{', '.join(10 * [f'*{before}'])}]\n"
    began = time.monotonic()
    assert "more than 100,000 values, aliases included" in shell(defenses__guo=bomb)
    maps = "a: &a {k: x, l: x}\n"
    for before, after in zip("abcdefghijklmnopq", "bcdefghijklmnopqr", strict=True):
        maps += f"{after}: &{after} {{k: *{before}, l: *{before}}}\n"
    assert "more than 100,000 values" in shell(defenses__guo=maps)
    assert time.monotonic() - began < 20


def test_a_file_of_megabytes_is_not_read_as_a_config(shell: Shell) -> None:
    assert "1,048,576 are the most" in shell(defenses__guo="kind: guo\n#" + 2**20 * "x")


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("configs/defenses/pipe.yaml", ("plan", "--add", "defense=pipe")),
        ("configs/defenses/pipe.py", ("plan", "--add", "defense=pipe")),
        ("configs/settings.yaml", ("plan",)),
        ("pipe.yaml", ("plan", "--settings", "pipe.yaml")),
        ("pipe.yaml", ("plan", "--add", "defense=pipe.yaml")),
        ("pipe.zip", ("import", "pipe.zip")),
        ("pipe.pt", ("plan", "--weights", "mixed=pipe.pt")),
        ("configs/paper/pipe.yaml", ("plan",)),
    ],
)
def test_a_pipe_in_the_place_of_a_file_is_refused_and_never_waited_for(
    tmp_path: Path, place: str, words: tuple[str, ...]
) -> None:
    write_configs(tmp_path / "configs")
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).unlink(missing_ok=True)
    os.mkfifo(tmp_path / place)
    grid = () if words[0] == "import" else ("--grid", "tiny")
    if "--weights" in words:
        loaded = "dataset: digits\nnetwork: {kind: small, width: 4}\ncheckpoint: {}\n"
        write_configs(tmp_path / "configs", {"models/mixed.yaml": loaded})
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *words, *grid],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "pipe" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("plan", "--configs", "cfgs"), "--configs cfgs: there is no such folder"),
        (("plan", "--configs", "empty"), "--configs empty: holds no folder of configs"),
        (("plan", "--configs", "configs/grids/tiny.yaml"), "there is no such folder"),
        (("list", "cells", "--configs", "cfgs"), "there is no such folder"),
        (("plan", "--data", "digits=a", "--data", "digits=b"), "--data digits: given twice"),
        (("plan", "--weights", "mixed=a", "--weights", "mixed=b"), "given twice"),
        (
            ("plan", "--add", "defense=a/x.py", "--add", "defense=b/x.py"),
            "is called 'x' too; rename one of them",
        ),
        (("plan", "--seeds", "100000"), "1<=x<=1000"),
        (("plan", "--redraws", str(10**40)), "1<=x<=1000000"),
        (("plan", "--images", "0"), "1<=x<=100000000"),
        (("plan", "--images", "7_000"), "test set of 'digits' has 600 images"),
        (("plan", "--workers", "1000000"), "1<=x<=100000"),
        (("run", "--stop-after", "inf"), "0<x<=525600"),
        (("run", "--stop-after", "1e300"), "0<x<=525600"),
    ],
)
def test_options_outside_their_bounds_or_without_a_meaning_are_refused(
    shell: Shell, words: tuple[str, ...], said: str
) -> None:
    (shell.folder / "empty").mkdir()
    for folder in ("a", "b"):
        (shell.folder / folder).mkdir()
        (shell.folder / folder / "x.py").write_text("", encoding="utf-8")
    assert said in shell(*words)


@pytest.mark.parametrize(
    "address",
    [
        "gcs://bucket/prefix",
        "S3://bucket/prefix",
        "s3:/bucket/prefix",
        "s3:bucket",
        "file:///data/store",
        "postgresql://me:hunter2@host/base",
        "abfs://container",
        "hdfs:/data",
        "",
        "a\x1b[31m",
    ],
)
def test_a_store_with_the_address_of_something_else_is_refused_and_no_folder_made(
    shell: Shell, address: str
) -> None:
    said = shell("run", "--inline", "--store", address)
    assert said.startswith("error: --store")
    assert "hunter2" not in said
    assert {path.name for path in shell.folder.iterdir()} == {"configs"}
    for place in (address, Path(address)) if address else ():
        with pytest.raises(BadInput):
            Store(place)
        with pytest.raises(BadInput):
            load_grid("tiny", store=place)


@pytest.mark.parametrize(
    "address",
    [
        "S3://bucket/mlflow",
        "http:/localhost:5000",
        "sqlite://mlflow.db",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite://",
        "mlruns",
        "localhost:5000",
        "ftp://host",
        "http://",
        "postgresql",
    ],
)
def test_an_mlflow_address_that_is_none_is_refused_before_anything_is_computed(
    shell: Shell, address: str
) -> None:
    for words in (("run", "--inline"), ("report",), ("show", "mixed/clean/none")):
        said = shell(*words, "--mlflow", address)
        assert "no address of a server" in said, words
    assert {path.name for path in shell.folder.iterdir()} == {"configs"}


MODEL = "dataset: digits\nnetwork: {{kind: small, {}}}\nrecipe: short\n"
DEVICES = "CPU:\n  float32: {peak_teraflop_per_s: 1.0e+30, share: 0.5, basis: assumed}\n"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"attacks__pgd": "kind: pgd\nepsilon: 1.0e+40\n"}, "attacks/pgd.yaml:2: epsilon"),
        ({"attacks__pgd": "kind: pgd\nepsilon: 256\n"}, "epsilon: 256 is above 255, in 1/255"),
        ({"attacks__pgd": "kind: pgd\nsteps: 1000000000000000000000\n"}, "pgd.yaml:2: steps"),
        ({"attacks__pgd": "kind: pgd\nsteps: 0\n"}, "pgd.yaml:2: steps"),
        ({"attacks__pgd": f"kind: pgd\nepsilon: {'9' * 5000}\n"}, "pgd.yaml:2: epsilon"),
        ({"defenses__guo": f"kind: guo\ndraws: 1{'0' * 40}\n"}, "guo.yaml:2: draws"),
        ({"defenses__guo": "kind: guo\ndraws: -1\n"}, "guo.yaml:2: draws"),
        ({"defenses__counter": "kind: counter\nlimit: 300\n"}, "counter.yaml:2: limit"),
        ({"defenses__counter": "kind: counter\nlabels: [3, 10]\n"}, "labels has 10"),
        ({"defenses__guo": "kind: rotation\nlimit_deg: 400\n"}, "guo.yaml:2: limit_deg"),
        ({"recipes__short": "epochs: 3000000\n"}, "short.yaml:1: epochs"),
        ({"recipes__short": "learning_rate: 100000\n"}, "short.yaml:1: learning_rate"),
        ({"recipes__short": "momentum: 1.0\n"}, "short.yaml:1: momentum"),
        (
            {"models__mixed": MODEL.format("width: 99999")},
            "network.width",
        ),
        (
            {"models__mixed": MODEL.format("std: [0.0]")},
            "network.std.0",
        ),
        ({"grids__tiny": GRID.replace("epsilon: 40", "epsilon: 300")}, "tiny.yaml:1: epsilon"),
        ({"grids__tiny": GRID.replace("epsilon: 40", "epsilon: .nan")}, "tiny.yaml:1: epsilon"),
        ({"grids__tiny": f"seed: {2**40}\n{GRID}"}, "tiny.yaml:1: seed"),
        ({"settings": "attempts: 1000\n"}, "settings.yaml:1: attempts"),
        ({"settings": "kinds:\n  defend: {batch_size: 100000000000}\n"}, "kinds.defend.batch_size"),
        ({"settings": "kinds:\n  defend: {threads: 100000}\n"}, "kinds.defend.threads"),
        ({"devices": DEVICES}, "float32.peak_teraflop_per_s"),
        (
            {
                "datasets__digits": FILES["datasets/digits.yaml"].replace(
                    "classes: 10", "classes: 1000000"
                )
            },
            "classes",
        ),
    ],
)
def test_numbers_outside_the_bounds_of_their_field_are_refused(
    shell: Shell, changes: dict[str, str], said: str
) -> None:
    assert said in shell(**changes)


ADAPTIVE = "kind: adaptive\ntransferred: [{kind: pgd, steps: 2}]\n"
DIGITS = FILES["datasets/digits.yaml"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"attacks__pgd": f"{ADAPTIVE}targeted: true\n"},
            "pgd.yaml:3: targeted: an attack of kind adaptive is untargeted",
        ),
        (
            {"attacks__pgd": f"{ADAPTIVE.replace('steps: 2', 'norm: l2, epsilon: 1')}"},
            "transferred: pgd has the norm l2",
        ),
        (
            {"attacks__pgd": f"{ADAPTIVE.replace('steps: 2', 'epsilon: 50')}"},
            "transferred: pgd has an epsilon of 50, and this attack of 40",
        ),
        ({"attacks__pgd": f"{ADAPTIVE}losses: [margin, margin]\n"}, "losses"),
        (
            {"datasets__digits": DIGITS.replace("side_px: 8", "side_px: 32")},
            "side_px: digits has 8, not 32",
        ),
        (
            {"datasets__digits": DIGITS.replace("classes: 10", "classes: 7")},
            "classes: digits has 10, not 7",
        ),
        (
            {"datasets__digits": DIGITS.replace("channels: 1", "channels: 3")},
            "channels: digits has 1, not 3",
        ),
        (
            {"datasets__digits": f"{DIGITS}folder: here\n"},
            "folder: the digits come with scikit-learn",
        ),
        ({"datasets__digits": f"{DIGITS}label_column: x\n"}, "label_column: only Parquet files"),
        (
            {"datasets__digits": "kind: cifar\nclasses: 10\nside_px: 16\n"},
            "side_px: cifar has 32, not 16",
        ),
        (
            {"recipes__short": "epochs: 20\nmilestones: [10, 25]\n"},
            "short.yaml:2: milestones.1: 25 is not before the end of epoch 20, the last",
        ),
        ({"recipes__short": "epochs: 20\nmilestones: [20]\n"}, "milestones.0: 20 is not before"),
        (
            {"recipes__short": "epochs: 20\nmilestones: [10, 5]\n"},
            "milestones: each has to come after",
        ),
        (
            {"recipes__short": "schedule: one-cycle\nmilestones: [10]\n"},
            "milestones: the schedule one-cycle has none",
        ),
        ({"recipes__short": "nesterov: true\nmomentum: 0.0\n"}, "nesterov: needs a momentum"),
        (
            {"grids__tiny": GRID.replace("[mixed]", "[mixed, mixed]")},
            "models: 'mixed' is given 2 times",
        ),
        (
            {"grids__tiny": GRID.replace("[clean, pgd]", "[pgd, pgd]")},
            "attacks: 'pgd' is given 2 times",
        ),
        (
            {"grids__tiny": GRID.replace("[none, counter", "[guo, counter")},
            "defenses: 'guo' is given 2 times",
        ),
        (
            {
                "grids__tiny": GRID.replace(
                    "[none, counter", "[{label: guo, use: guo, set: {}}, counter"
                )
            },
            "defenses: 'guo' is given 2 times",
        ),
        (
            {"grids__tiny": GRID + GRID[GRID.index("  - name") :]},
            "tables: 'main' is given 2 times",
        ),
    ],
)
def test_contradictions_and_duplicates_are_named(
    shell: Shell, changes: dict[str, str], said: str
) -> None:
    assert said in shell(**changes)


@pytest.mark.parametrize("label", ["''", "'  '", '"a\\nb"', '"\\x1b[31m"', "' guo'", "x" * 201])
def test_a_label_that_cannot_be_read_or_typed_is_refused(shell: Shell, label: str) -> None:
    variant = f"{{label: {label}, use: guo, set: {{}}}}"
    assert "defenses.0.label" in shell(grids__tiny=GRID.replace("[none,", f"[{variant},"))
    assert "tables.0.name" in shell(grids__tiny=GRID.replace("name: main", f"name: {label}"))


def test_a_file_whose_name_steers_a_terminal_is_no_label_either(shell: Shell) -> None:
    evil = "a\x1b[31mb"
    path = shell.folder / "configs" / "defenses" / f"{evil}.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("kind: guo\n", encoding="utf-8")
    said = shell("plan", "--add", f"defense={evil}")
    assert "is not printable" in said
    assert said.isprintable()
    listed = CliRunner().invoke(main, ["list", "defenses"], catch_exceptions=False)
    assert "\x1b" not in listed.output


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("defense", "none"),
        ("defense", "guo"),
        ("defense", "chain"),
        ("attack", "clean"),
        ("attack", "pgd"),
        ("model", "demo-iat"),
        ("model", "small"),
        ("defense", "mine"),
        ("defense", "x" * 65),
    ],
)
def test_a_skeleton_never_takes_the_name_of_something_that_is_there(
    shell: Shell, kind: str, name: str
) -> None:
    mine = shell.folder / "configs" / "defenses" / "mine.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("kind: guo\n", encoding="utf-8")
    result = CliRunner().invoke(main, ["new", kind, name, "--folder", "other"])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: new {kind} {name}: ")
    assert not (shell.folder / "other").exists()
