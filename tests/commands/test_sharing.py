"""A bundle carries the grid, its configs and one's own code; a second person sees the report."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
from click.testing import CliRunner, Result
from tiny import write_configs

import pipeline
from pipeline.commands.cli import main
from tasks.networks.small import Small

DARK = (
    "from pathlib import Path\nfrom tasks.defenses.base import Defense\n\n"
    "Path('it-ran').touch()\n\n\nclass Dark(Defense):\n    share: float = 0.5\n\n"
    "    def transform(self, pixels, rows, context):\n        return pixels * self.share\n"
)
OWN = {
    "models/own.yaml": (
        "dataset: digits\nnetwork: {kind: small, width: 2}\ncheckpoint: {file: own.safetensors}\n"
    ),
    "grids/tiny.yaml": (
        "title: Mine\nepsilon: 40\nimages: 40\nredraws: 1\ntables:\n  - name: main\n"
        "    models: [own]\n    attacks: [clean]\n    defenses: [none]\n"
    ),
}


def typed(*words: str) -> Result:
    done = CliRunner().invoke(main, list(words), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a first person exports: a checkpoint and a defense of their own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = tmp_path / "first"
    write_configs(first / "configs", OWN)
    weights = Small(width=2).build(1, 8, 10, seed=0).state_dict()
    safetensors.torch.save_file(weights, first / "configs/models/own.safetensors")
    (first / "dark.py").write_text(DARK)
    monkeypatch.chdir(first)
    session = pipeline.load_grid("tiny", add=["defense=dark.py"])
    assert not pipeline.run(session, inline=True, progress=False).missing
    typed("export", "results.zip", "--grid", "tiny", "--add", "defense=dark.py")
    return first / "results.zip"


def test_a_second_person_sees_the_same_report_once_they_say_so(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = json.loads(typed("report", "tiny", "--add", "defense=dark.py", "--json").stdout)
    second = tmp_path / "second"
    second.mkdir()
    monkeypatch.chdir(second)
    for name in [name for name in sys.modules if "dark" in name]:
        monkeypatch.delitem(sys.modules, name)  # as in a process of theirs
    came = typed("import", str(bundle)).stdout.splitlines()
    assert not (second / "it-ran").exists()
    offered = "pipeline report tiny --configs imported/results --add defense=dark"
    assert f"grid    tiny: {offered}" in came
    assert came[-1].endswith("it was not run: imported/results/defenses/dark.py")
    # nothing is looked into by itself
    assert "dark" not in typed("list", "defenses").stdout
    again = json.loads(typed(*shlex.split(offered)[1:], "--json").stdout)
    assert (second / "it-ran").exists()
    assert [cell["accuracy"] for cell in again["cells"]] == [
        cell["accuracy"] for cell in told["cells"]
    ]
    assert [cell["cell"] for cell in again["cells"]] == ["own/clean/none", "own/clean/dark"]
    page = (second / "reports/tiny/index.html").read_text(encoding="utf-8")
    assert "Mine" in page
    theirs = (bundle.parent / "reports/tiny/index.html").read_text(encoding="utf-8")
    said = re.compile(r"40 test images of 10 classes[^<]*")
    assert said.findall(page) == said.findall(theirs) != []


def test_a_bundle_has_no_place_of_the_senders_machine(bundle: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(bundle) as archive:
        names = {name for name in archive.namelist() if name.startswith("configs/")}
        texts = b"".join(archive.read(name) for name in (*names, "manifest.json"))
    assert names == {
        "configs/grids/tiny.yaml",
        "configs/models/own.yaml",
        "configs/datasets/digits.yaml",
        "configs/attacks/clean.yaml",
        "configs/defenses/none.yaml",
        "configs/defenses/dark.py",
    }
    assert str(tmp_path).encode() not in texts


@pytest.mark.parametrize("given", [True, False], ids=["by --data", "in the config"])
def test_the_report_of_images_that_only_the_sender_has_needs_none_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: bool
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first, second = tmp_path / "first", tmp_path / "second"
    folder = "" if given else "folder: ../../photos\n"
    photos = {"datasets/photos.yaml": f"kind: npz\nclasses: 10\nchannels: 1\nside_px: 8\n{folder}"}
    model = OWN["models/own.yaml"].replace("digits", "photos")
    write_configs(first / "configs", {**OWN, **photos, "models/own.yaml": model})
    weights = Small(width=2).build(1, 8, 10, seed=0).state_dict()
    safetensors.torch.save_file(weights, first / "configs/models/own.safetensors")
    (first / "photos").mkdir()
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8)
    np.savez(first / "photos/test.npz", images=images, labels=np.arange(40) % 10)
    monkeypatch.chdir(first)
    words = ["--grid", "tiny", *(["--data", "photos=photos"] if given else [])]
    typed("run", *words, "--inline")
    told = json.loads(typed("report", *words, "--json").stdout)
    typed("export", "results.zip", *words)
    second.mkdir()
    monkeypatch.chdir(second)
    came = typed("import", str(first / "results.zip"), "--store", "theirs").stdout.splitlines()
    offered = "pipeline report tiny --configs imported/results --store theirs"
    assert f"grid    tiny: {offered}" in came
    again = json.loads(typed(*shlex.split(offered)[1:], "--json").stdout)
    assert again["cells"] == told["cells"]
    assert again["cells"][0]["accuracy"] is not None
    # what reads the images asks for them
    more = ["--grid", "tiny", "--configs", "imported/results", "--add", "defense=guo"]
    needed = "data set 'photos': name the files of these results: --data photos=FOLDER"
    planned = typed("plan", *more).stdout.splitlines()
    assert f"a run needs one more option: {needed}" in planned
    refused = CliRunner().invoke(main, ["run", *more, "--inline"])
    assert (refused.exit_code, refused.stderr.splitlines()[-1]) == (2, f"error: {needed}")


def test_modules_that_own_code_imports_and_that_do_not_go_along_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "my_shares.py").write_text("SHARE = 0.5\n")
    monkeypatch.syspath_prepend(site)
    monkeypatch.chdir(tmp_path)
    dark = DARK.replace("Path('it-ran').touch()", "from my_shares import SHARE")
    texts = {
        "grids/tiny.yaml": OWN["grids/tiny.yaml"]
        .replace("[none]", "[dark]")
        .replace("own", "mixed"),
        "defenses/dark.py": dark,
    }
    write_configs(tmp_path / "configs", texts)
    typed("run", "--grid", "tiny", "--inline", "--quiet")
    done = typed("export", "results.zip", "--grid", "tiny")
    assert "not included: my_shares, which your code imports; they have" in done.stderr
    monkeypatch.delitem(sys.modules, "my_shares", raising=False)


@pytest.fixture
def two_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Defenses of one file name in two folders of configs, and one in a folder below."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    dark = DARK.replace("Path('it-ran').touch()\n\n\n", "")
    grid = OWN["grids/tiny.yaml"].replace("[none]", "[x, y, z]").replace("[own]", "[mixed]")
    texts = {
        "grids/tiny.yaml": grid,
        "defenses/x.yaml": "kind: dark.py\n",
        "defenses/dark.py": dark,
        "defenses/z.yaml": "kind: below/dark.py\n",
        "defenses/below/dark.py": dark.replace("0.5", "0.125"),
    }
    write_configs(tmp_path / "configs", texts)
    (tmp_path / "more/defenses").mkdir(parents=True)
    (tmp_path / "more/defenses/y.yaml").write_text("kind: dark.py\n")
    (tmp_path / "more/defenses/dark.py").write_text(dark.replace("0.5", "0.25"))
    monkeypatch.chdir(tmp_path)
    session = pipeline.load_grid("tiny", configs=["more"])
    assert len(set(session.scores.values())) == 3
    assert not pipeline.run(session, inline=True, progress=False).missing
    return tmp_path


def test_two_files_of_one_name_are_not_sent_as_one(two_folders: Path) -> None:
    """The recipient's table would show the results of one in the row of the other."""
    words = ["export", "results.zip", "--grid", "tiny", "--configs", "more"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2, done.output
    assert done.stderr == (
        "error: export: configs/defenses/dark.py and more/defenses/dark.py are different files of "
        "one name, so they cannot both go along; rename one of them\n"
    )
    assert not (two_folders / "results.zip").exists()
    # copies of one file are no problem, and what is left out is told
    shutil.copy("configs/defenses/dark.py", "more/defenses/dark.py")
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    assert done.stderr.startswith("not included: configs/defenses/below/dark.py; only files that")


def test_other_files_of_the_same_names_are_not_overwritten(bundle: Path, tmp_path: Path) -> None:
    place = tmp_path / "there"
    (place / "grids").mkdir(parents=True)
    (place / "grids/tiny.yaml").write_text("tables: []\n")
    words = ["import", str(bundle), "--store", str(tmp_path / "s"), "--configs-to", str(place)]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2
    assert "grids/tiny.yaml is there already and is another; --configs-to FOLDER" in done.stderr
    assert not (tmp_path / "s").exists()


def test_a_place_that_configs_cannot_be_written_to_is_named_in_one_line(
    bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "a-folder/grids/tiny.yaml").mkdir(parents=True)
    (tmp_path / "a-file").touch()
    words = ["import", str(bundle), "--store", str(tmp_path / "s"), "--configs-to"]
    for place, said in (
        ("a-folder", r"error: .*a-folder/grids/tiny.yaml: cannot be read: is a directory\n"),
        ("a-file/below", r"error: .*a-file/below: cannot be written to: not a directory\n"),
    ):
        done = CliRunner().invoke(main, [*words, str(tmp_path / place)])
        assert done.exit_code == 2, done.output
        assert re.fullmatch(said, done.stderr)
        assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    "name", ["../../evil.py", "defenses/../../evil.py", "evil.py", "defenses/.evil.py"]
)
def test_a_config_with_another_name_than_a_config_has_is_refused(
    bundle: Path, tmp_path: Path, name: str
) -> None:
    bad = tmp_path / "bad.zip"
    with zipfile.ZipFile(bundle) as archive, zipfile.ZipFile(bad, "w") as out:
        for member in archive.namelist():
            data = archive.read(member)
            if member == "manifest.json":
                manifest = json.loads(data)
                manifest["configs"][name] = manifest["configs"].pop("defenses/dark.py")
                data = json.dumps(manifest).encode()
            out.writestr(member.replace("defenses/dark.py", name), data)
    done = CliRunner().invoke(main, ["import", str(bad), "--store", str(tmp_path / "s")])
    assert done.exit_code == 2
    assert "its manifest.json is not readable here" in done.stderr
    assert not list(tmp_path.rglob("*evil.py"))


def test_a_bundle_of_the_format_before_is_imported_without_configs(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "old.zip"
    with zipfile.ZipFile(bundle) as archive, zipfile.ZipFile(old, "w") as out:
        for member in archive.namelist():
            data = archive.read(member)
            if member == "manifest.json":
                manifest = json.loads(data)
                manifest["format"] = 1
                del manifest["configs"], manifest["options"]
                data = json.dumps(manifest).encode()
            if not member.startswith("configs/"):
                out.writestr(member, data)
    monkeypatch.chdir(tmp_path)
    came = typed("import", str(old)).stdout
    assert "2 score" in came
    assert "grid    " not in came
    assert not Path("imported").exists()
