"""Every block of code in every Markdown file is run, or checked by what reads such a block.

The fast tests take each command to the command line's parser, with the names that it chooses, and
each file to the reader of its kind. The slow ones run a page's blocks one after another in a folder
of their own, in a shell, on the demo's grid with few images.
"""

from __future__ import annotations

import ast
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from click.testing import CliRunner
from documented import PROGRAMS, ROOT, Block, blocks, commands, of_pipeline, pages, parsed
from PIL import Image
from ray.scripts.scripts import cli as ray

from pipeline.catalogue.catalogue import Catalogue, config_folders
from pipeline.catalogue.code.own import GROUP
from pipeline.commands.choosing import GridOptions, stored_grid_from
from pipeline.commands.cli import main
from pipeline.execution.settings import read_settings
from pipeline.report.views.adaptive import Rate
from pipeline.report.views.table import Entry
from pipeline.report.views.verdict_row import VerdictRow
from pipeline.report.words.numbers import entry_words, interval_words
from pipeline.report.words.verdicts import judged_sentence, plain, sentence
from tasks.evaluation.verdicts import Change, DefenseVerdict

SHOWN = [page for page in pages() if blocks(page)]
RUN = [page for page in SHOWN if any(block.language == "bash" for block in blocks(page))]

PICTURES = 1000
"""Test images of the data set that stands in for CIFAR-10."""
FEW = {
    "recipes/demo-mixup.yaml": (
        "method: mixup\nepochs: 3\nlearning_rate: 0.1\nschedule: one-cycle\n"
        "crop_padding_px: 1\nflip: false\n"
    ),
    "recipes/few.yaml": "method: mixup\nepochs: 1\nflip: false\n",
    "attacks/untargeted-pgd10.yaml": "kind: pgd\nsteps: 2\n",
    "attacks/untargeted-pgd50.yaml": "kind: pgd\nsteps: 3\n",
    "attacks/direct.yaml": "kind: direct\nsteps: 4\ndraws: 2\nimages: 20\n",
    **{
        f"attacks/adaptive-{name}.yaml": (
            f"kind: adaptive\nlosses: [margin]\nsteps: {steps}\ndraws: 2\nimages: 20\nredraws: 2\n"
        )
        for name, steps in (("quick", 2), ("standard", 20_000), ("full", 40_000))
    },
    "models/cifar10-gpu-iat.yaml": (
        "dataset: cifar10\nnetwork: {kind: small, width: 2}\nrecipe: few\n"
    ),
    "grids/demo.yaml": (
        "epsilon: 40\nimages: 20\nredraws: 2\ntables:\n"
        "  - {name: table1, models: [demo-mixup, demo-iat], attacks: [untargeted-pgd10], "
        "defenses: [none, guo, counter+guo], gains_of: counter}\n"
        "  - {name: adaptive, models: [demo-iat], attacks: [clean, adaptive-quick], "
        "defenses: [none, guo]}\n"
    ),
    "grids/table1.yaml": (
        "tables:\n  - {name: table1, models: [cifar10-gpu-iat], attacks: [clean], "
        "defenses: [none]}\n"
    ),
    "grids/table1-gpu.yaml": "extends: table1\nimages: 20\n",
}
"""Configs that stand before the project's own, under the names that the pages use."""


@dataclass(frozen=True)
class Home:
    """A folder in which somebody reads a page, with what the page takes for granted there."""

    folder: Path

    @property
    def work(self) -> Path:
        """Where the reader types."""
        return self.folder / "work"

    def furnish(self) -> None:
        """Data and weights such as a reader has, and the README's defense."""
        draws = np.random.default_rng(0)
        for split, count in (("train", 100), ("test", PICTURES)):
            images = draws.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
            place = self.folder / f"data/cifar10/{split}.npz"
            place.parent.mkdir(parents=True, exist_ok=True)
            np.savez(place, images=images, labels=np.resize(range(10), count))
            for name, shot in product(("cat", "dog", "eel"), range(7)):
                photo = self.work / f"photos/{split}/{name}/{shot}.png"
                photo.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (80, 70), (ord(name[0]), 30 * shot, count % 256)).save(photo)
        # what a page says from a folder within
        (self.folder / "photos").symlink_to(self.work / "photos")
        models = self.work / "configs/models"
        models.mkdir(parents=True)
        for name in ("my-resnet18", "cifar10-gpu-iat"):
            weights = {"weight": torch.zeros(1)}
            safetensors.torch.save_file(weights, models / f"{name}.safetensors")
        shown = {block.place: block for page in RUN for block in blocks(page)}
        self.write(shown["jpeg.py"])
        trained = runpy.run_path(str(self.write(shown["configs/models/net.py"])))["make"]()
        torch.save(trained.state_dict(), models / "net.pt")
        (self.work / "imported/animals/grids").mkdir(parents=True)
        (self.work / "mine.yaml").write_text(
            "dataset: digits\nnetwork: {kind: small, width: 4}\nrecipe: demo-mixup\n"
        )

    def write(self, block: Block) -> Path:
        """A block into the file that it names."""
        assert block.place is not None
        path = self.work / block.place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text.replace("~/", f"{self.work}/"), encoding="utf-8")
        return path

    def text(self, block: Block) -> str:
        """What a block says, with places of this machine, and a minute for each judgement."""
        text = block.text.replace("/data/cifar10", str(self.folder / "data/cifar10"))
        text = re.sub(r" --minutes \d+", "", text)
        text = re.sub(r"(pipeline judge \S+)", r"\1 --minutes 1", text)
        return text.replace("--mlflow URI", "--mlflow sqlite:///other.db")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    found = Home(tmp_path)
    found.furnish()
    monkeypatch.chdir(found.work)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return found


# Without running anything that takes its time ---------------------------------------------------


def test_pages_are_found_and_show_something() -> None:
    assert {"README.md", "docs/your-own.md", "docs/cluster.md"} <= set(RUN)
    assert set(RUN) <= set(SHOWN) <= set(pages())


@pytest.mark.parametrize("page", SHOWN)
def test_every_block_is_read_by_what_reads_its_language(page: str, home: Home) -> None:
    """A block without a language, or of one that nothing here reads, fails."""
    for block in blocks(page):
        reads = READERS.get(block.language)
        assert reads is not None, f"{block}: no test runs a block of {block.language or 'nothing'}"
        reads(block, home)


def _shell(block: Block, home: Home) -> None:
    for words in commands(home.text(block)):
        own = of_pipeline(words)
        if own is not None:
            _accepted(block, own)
        elif "ray" in words:
            parsed(ray, words[words.index("ray") + 1 :])
        elif words[0] == "make":
            dry = subprocess.run(["make", "-n", "-C", ROOT, *words[1:]], check=False)
            assert dry.returncode == 0, f"{block}: {shlex.join(words)}"
        elif words[0] in {"pytest", "python"}:
            assert Path(words[1]).is_file(), block
        else:
            assert words[0] in OTHERS, f"{block}: {words[0]} is run by no test"
    syntax = subprocess.run(["bash", "-n"], input=block.text, text=True, check=False)
    assert syntax.returncode == 0, block


OTHERS = {".", "cd", "head", "head=$(scontrol", "jq", "mkdir", "sleep"}
"""Programs whose words nothing here looks at, before the slow tests run them."""


def _accepted(block: Block, words: list[str]) -> None:
    """The command line takes the words, and everything that they name is there."""
    try:
        context = parsed(main, words)
    except click.UsageError as error:
        raise AssertionError(f"{block}: {shlex.join(words)}: {error.format_message()}") from error
    given = dict(context.params)
    if context.info_name == "new":
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 0, f"{block}: {done.output}"
    if context.info_name == "judge":
        catalogue = Catalogue(config_folders(given["configs"]))
        catalogue.defense(catalogue.add("defenses", given["defense"]))
        for model in given["models"]:
            catalogue.model(catalogue.add("models", model))
    if "grid" in given:
        given["grid"] = given.get("grid_named") or given["grid"]
        chosen = {field.name: given[field.name] for field in fields(GridOptions)}
        chosen["store"] = "store"  # a bucket would be asked
        opened = stored_grid_from(GridOptions(**chosen))
        assert opened.cells, f"{block}: {shlex.join(words)} chooses no cell"
        names = {cell.name for cell in opened.cells}
        assert given.get("cell") is None or given["cell"] in names, block
        assert given.get("model") in {None, *(cell.model for cell in opened.cells)}, block


def _python(block: Block, home: Home) -> None:
    """Names are those that its modules have; the slow tests run it."""
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom):
            module = __import__(str(node.module), fromlist=["*"])
            assert all(hasattr(module, each.name) for each in node.names), block
        if isinstance(node, ast.Import):
            assert all(find_spec(each.name) for each in node.names), block
    if block.place is not None and Path(block.place).parent.name != "models":
        path = home.write(block)
        catalogue = Catalogue(config_folders())
        catalogue.defense(catalogue.add("defenses", str(path)))


def _model(catalogue: Catalogue, name: str) -> None:
    entry, _ = catalogue.model_entry(name)
    if entry.members is None:
        catalogue.model(name)


def _yaml(block: Block, home: Home) -> None:
    """It is read as what its folder makes it; a file for another program, as YAML."""
    assert block.place is not None, f"{block}: its first line does not name its file"
    path = home.write(block)
    section, name = path.parent.name, path.stem
    catalogue = Catalogue(config_folders())
    if section == "grids":
        assert stored_grid_from(_chosen(name)).cells
    elif section == "models":
        _model(catalogue, name)
    elif section == "datasets":
        catalogue.dataset(name)
    elif section == "attacks":
        catalogue.attack(name)
    elif section == "defenses":
        catalogue.defense(name)
    elif block.place == "configs/settings.yaml":
        read_settings(path)
        path.unlink()
    else:
        for text in _strings(yaml.safe_load(block.text)):
            for words in commands(text):
                if own := of_pipeline(words):
                    _accepted(block, own)


def _chosen(grid: str) -> GridOptions:
    context = parsed(main, ["list", "cells", "--grid", grid])
    return GridOptions(**{field.name: context.params[field.name] for field in fields(GridOptions)})


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for each in value.values() if isinstance(value, dict) else value if type(value) is list else ():
        yield from _strings(each)


def _toml(block: Block, _: Home) -> None:
    """Entry points of a package, in groups that are looked into."""
    for group in tomllib.loads(block.text)["project"]["entry-points"]:
        assert group in {f"{GROUP}.{family}" for family in ("attacks", "defenses", "networks")}


def _bibtex(block: Block, _: Home) -> None:
    fields_of = dict(re.findall(r"^  (\w+) = \{(.*)\},$", block.text, re.MULTILINE))
    assert len(fields_of) == len(block.text.splitlines()) - 2
    assert {"author", "title", "year", "note"} <= fields_of.keys()


def _output(block: Block, _: Home) -> None:
    """What the program prints: each line comes again from the numbers that stand in it."""
    for line in block.text.splitlines():
        forms = [again(found) for form, again in PRINTED if (found := re.fullmatch(form, line))]
        assert forms == [line], f"{block}: {line}"


NUMBER = r"([-+]?[\d.,]+)"
VERDICT = (
    rf"(\S+) on (\S+): (\w+)((?:, hides gradients)?)\. Worst-case accuracy {NUMBER} % "
    rf"\[{NUMBER}, {NUMBER}\], {NUMBER} % without the defense: "
    rf"gain {NUMBER} \[{NUMBER}, {NUMBER}\] points\."
)


def _verdict_row(**given: Any) -> VerdictRow:
    about = {"dataset": "digits", "attack": "adaptive-full", "norm": "linf", "epsilon": 40.0}
    return VerdictRow(**{**about, "candidates": 9, **given})


def _verdict_again(found: re.Match[str]) -> str:
    name, model, word, hides, *numbers = found.groups()
    stand, low, high, without, points, lowest, highest = map(float, numbers)
    row = _verdict_row(
        model=model,
        defense=name,
        verdict=DefenseVerdict(word),  # type: ignore[arg-type]
        worst=Rate(stand, (low, high)),
        without=Rate(without, None),
        gain=Change(points, lowest, highest, 600),
        hidden=Change(9, 5, 12, 600) if hides else None,
    )
    return plain(sentence(row))


def _fallen_again(found: re.Match[str]) -> str:
    verdict = DefenseVerdict("cannot tell", why=found[3], fallen=True)
    return plain(sentence(_verdict_row(model=found[2], defense=found[1], verdict=verdict)))


def _judged_again(found: re.Match[str]) -> str:
    row = _verdict_row(
        model=found[2], defense=found[1], images=int(found[3]), verdict=DefenseVerdict("harms")
    )
    return plain(judged_sentence([row], "does not hold"))


def _changed_again(found: re.Match[str]) -> str:
    """What `pipeline plan` says of a store of before, unpacked into the working folder."""
    with tarfile.open(ROOT / "tests/upgrade/before.tar.xz") as archive:
        archive.extractall("before", filter="data")
    places = ["--store", "before/store", "--configs", "before/configs"]
    said = CliRunner().invoke(main, ["plan", "mine", *places]).stdout.splitlines()
    return next(line for line in said if line == found[0])


PRINTED: list[tuple[str, Callable[[re.Match[str]], str]]] = [
    (VERDICT, _verdict_again),
    (r"(\S+) on (\S+): cannot tell: (.*)\.", _fallen_again),
    (r"(\S+) does not hold on digits: (\S+), (\d+) images, .*", _judged_again),
    (r"changed since .*", _changed_again),
    (
        rf"({NUMBER} \({NUMBER}\))(   .*)",
        lambda found: (
            " ".join(entry_words(Entry(attack="", accuracy=float(found[2]), gain=float(found[3]))))
            + found[4]
        ),
    ),
    (
        rf"{NUMBER} to {NUMBER}(   .*)",
        lambda found: interval_words((float(found[1]), float(found[2]))) + found[3],
    ),
    (r"paper [\d.]+, (inside|outside)   .*", lambda found: found[0]),
]
"""Lines that the program prints, and how it makes each of its numbers."""
READERS: Mapping[str, Callable[[Block, Home], None]] = {
    "bash": _shell,
    "python": _python,
    "yaml": _yaml,
    "toml": _toml,
    "bibtex": _bibtex,
    "text": _output,
}


@pytest.mark.parametrize(
    "text",
    [
        "    pipeline list\n",
        "```\npipeline list\n```\n",
        "```console\n$ pipeline list\n```\n",
        "```bash\npipeline lost\n```\n",
        "```bash\npipeline list --grids demo\n```\n",
        "```bash\npipeline run --grid demon\n```\n",
        "```bash\npipeline run --only model=nobody\n```\n",
        "```bash\npipeline show demo-iat/untargeted-pgd10/cuonter\n```\n",
        "```bash\npipeline judge nowhere.py\n```\n",
        "```bash\nmake nothing-of-this-name\n```\n",
        "```bash\nray begin\n```\n",
        "```bash\ncurl somewhere\n```\n",
        "```bash\npipeline run 'demo\n```\n",
        "```yaml\nkind: guo\n```\n",
        "```yaml\n# configs/defenses/x.yaml\nkind: guo\ndrawings: 3\n```\n",
        "```python\nfrom pipeline import nothing_of_this_name\n```\n",
        "```text\n81.23 (+57)   accuracy\n```\n",
        '```toml\n[project.entry-points."another.defenses"]\nx = "y:Z"\n```\n',
    ],
)
def test_a_block_that_is_wrong_or_of_an_unknown_language_fails(
    text: str, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or else the tests of pages would see nothing."""
    (home.work / "page.md").write_text(text, encoding="utf-8")
    monkeypatch.setattr("documented.ROOT", home.work)
    with pytest.raises(Exception):  # noqa: B017, PT011  whatever each reader says
        test_every_block_is_read_by_what_reads_its_language("page.md", home)


# One after another, in a shell ------------------------------------------------------------------


def _environment(home: Home) -> dict[str, str]:
    """Programs that stand in for others come first; the code is this checkout's."""
    programs = home.folder / "programs"
    programs.mkdir(exist_ok=True)
    for name in PROGRAMS:
        script = programs / name
        script.write_text(
            f'#!/bin/sh\nexec {sys.executable} {ROOT / "tests/documented.py"} {name} "$@"\n'
        )
        script.chmod(0o755)
    own = os.pathsep.join([str(programs), str(Path(sys.executable).parent)])
    return {
        **os.environ,
        "PATH": f"{own}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "HOME": str(home.folder),
        "XDG_CACHE_HOME": str(home.folder / "cache"),
        "OMP_NUM_THREADS": "1",
        "SLURM_JOB_NODELIST": "first,second",
        "SLURM_JOB_NUM_NODES": "2",
    }


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Path:
    """A folder in which the demo has run, with few images."""
    home = Home(tmp_path_factory.mktemp("read"))
    home.furnish()
    for name, text in FEW.items():
        path = home.work / "configs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    cifar = (ROOT / "configs/datasets/cifar10.yaml").read_text(encoding="utf-8")
    (home.work / "configs/datasets").mkdir()
    (home.work / "configs/datasets/cifar10.yaml").write_text(
        f"{cifar}folder: {home.folder / 'data/cifar10'}\n", encoding="utf-8"
    )
    (home.work / ".venv/bin").mkdir(parents=True)
    (home.work / ".venv/bin/activate").touch()
    (home.work / "mlflow.db").write_bytes(mlflow_template.read_bytes())
    _run_shell("pipeline run demo --quiet\npipeline export results.zip --grid demo\n", home)
    shutil.copytree(home.work / "store", home.folder / "colleague/store")
    return home.folder


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("page", RUN)
def test_the_blocks_of_a_page_run_one_after_another(
    page: str, computed: Path, tmp_path: Path
) -> None:
    home = Home(tmp_path / "home")
    shutil.copytree(computed, home.folder)
    shutil.rmtree(home.work / "imported/animals")
    for block in blocks(page):
        if block.language == "bash":
            _run_shell(home.text(block), home)
        elif block.place is not None:
            path = home.write(block)
            if path.parent.name == "grids":
                path.write_text(f"images: 20\nredraws: 2\n{path.read_text()}")
        elif block.language == "python":
            _run_shell(f"python -c {shlex.quote(block.text)}", home)


def _run_shell(text: str, home: Home) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        cwd=home.work,
        env=_environment(home),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{text}\n{done.stdout}"
    return done.stdout
