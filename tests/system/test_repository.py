"""What the repository holds, and what its light half may import."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOP_LEVEL = {
    "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md",
    "SECURITY.md", "configs",
    "constraints.txt", "docs", "pipeline", "pyproject.toml", "reports", "tasks", "tests",
}  # fmt: skip
# Written apart, so that this file does not hold what it looks for.
HOSTS = ("pypi." + "org", "pythonhosted." + "org", "pytorch." + "org/whl", "conda." + "anaconda")
MACHINE = ("/ro" + "ot/", "/wo" + "rk/")
"""Folders of the machines that the project is written on."""
DOWNLOAD = re.compile(
    r"https?://\S+\.(whl|zip|tar|tgz|gz|xz|bz2|pt|pth|ckpt|npz|npy|parquet|safetensors|onnx)\b"
)
INDEX_OPTION = re.compile(r"(^|\s)--?(index|extra-index|default-index|find-links)\b")


@pytest.fixture(scope="module")
def files():
    """Paths that are, or would be, committed."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout.decode()
    names = sorted({name for name in listed.split("\0") if name and (ROOT / name).is_file()})
    assert "pipeline/__init__.py" in names
    return names


def text(name):
    return (ROOT / name).read_bytes().decode(errors="ignore")


def test_the_top_level_holds_only_what_belongs_there(files):
    top = {name.split("/")[0] for name in files}
    assert {name for name in top if not name.startswith(".")} <= TOP_LEVEL


def test_no_file_names_a_package_index_or_a_download(files):
    found = [
        f"{name}: {match}"
        for name in files
        for match in (
            *(host for host in HOSTS if host in text(name)),
            *(found.group() for found in DOWNLOAD.finditer(text(name))),
        )
    ]
    assert not found


def test_no_file_names_a_folder_of_a_machine(files):
    assert not [f"{name}: {place}" for name in files for place in MACHINE if place in text(name)]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("https://host.example/weights/model" + ".pth", True),
        ("https://host.example/paper", False),
    ],
)
def test_a_download_is_known_by_what_it_ends_in(line, found):
    assert bool(DOWNLOAD.search(line)) == found


def test_constraints_are_exact_versions_and_nothing_else():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert len(lines) > 50
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][a-z0-9.]*", line)] == []


def test_constraints_cover_every_dependency():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = project["dependency-groups"].values()
    wanted = [*project["project"]["dependencies"], *(one for group in groups for one in group)]
    names = {re.split(r"[^\w-]", one, maxsplit=1)[0].lower() for one in wanted if type(one) is str}
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert names - pinned == set()


def test_the_commands_that_install_an_extra_name_packages_of_an_index(files):
    import tomllib

    from tasks.registry import REQUIREMENTS

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert {extra: [wanted] for extra, wanted in REQUIREMENTS.items()} == extras
    # the program itself is on none
    code = [name for name in files if name.startswith(("pipeline/", "tasks/", "docs/", "configs/"))]
    assert [name for name in code if f"{project['name']}[" in text(name)] == []


def test_nothing_chooses_a_package_index(files):
    tooling = [name for name in files if name in {"Makefile", ".ci/run", "constraints.txt"}]
    assert [name for name in tooling if INDEX_OPTION.search(text(name))] == []


def test_no_lock_files(files):
    assert [name for name in files if name.endswith((".lock", "-lock.json", "-lock.yaml"))] == []


RELEASED = re.compile(r"reports/[^/]+/weights/[^/]+\.safetensors")
"""Weights of a network that a report is of, as float16."""


def test_no_file_is_over_two_megabytes_but_released_weights(files):
    large = [name for name in files if (ROOT / name).stat().st_size > 2_000_000]
    assert [name for name in large if not RELEASED.fullmatch(name)] == []
    assert all((ROOT / name).stat().st_size < 10_000_000 for name in large)


def test_no_module_is_a_drawer_of_odds_and_ends(files):
    drawers = {"utils.py", "util.py", "helpers.py", "misc.py", "common.py"}
    assert [name for name in files if name.rsplit("/", maxsplit=1)[-1] in drawers] == []


def missing(module, name):
    """Whether a module has no such name, nor a submodule of that name."""
    if hasattr(importlib.import_module(module), name):
        return False
    try:
        importlib.import_module(f"{module}.{name}")
    except ModuleNotFoundError:
        return True
    return False


def test_what_the_benchmarks_import_exists(files):
    """No other test runs them."""
    imports = [
        (name, node.module, alias.name)
        for name in files
        if name.startswith("tests/benchmarks/") and name.endswith(".py")
        for node in ast.walk(ast.parse(text(name)))
        if isinstance(node, ast.ImportFrom)
        and (node.module or "").startswith(("pipeline.", "tasks."))
        for alias in node.names
    ]
    assert imports
    assert [each for each in imports if missing(*each[1:])] == []


def loaded_after(program):
    """The top-level modules that a fresh interpreter has loaded after a program."""
    program += "\nimport sys; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    return set(done.stdout.decode().split())


def test_spec_modules_import_without_torch():
    program = """
from typing import get_args
import tasks.data.spec, tasks.evaluation.specs, tasks.progress, tasks.training.recipe, tasks.specs
from tasks.registry import Family, kind_class, kinds
found = [kind_class(family, kind) for family in get_args(Family) for kind in kinds(family)]
assert len(found) > 10
"""
    assert loaded_after(program).isdisjoint({"torch", "torchvision", "sklearn", "safetensors"})


def test_planning_imports_nothing_that_computes():
    heavy = {"torch", "ray", "mlflow", "polars", "sklearn"}
    assert loaded_after("import pipeline.commands.cli, pipeline.commands.session").isdisjoint(heavy)


def test_importing_the_program_is_cheap():
    loaded = loaded_after("import pipeline; pipeline.__version__")
    assert loaded.isdisjoint({"torch", "ray", "mlflow", "polars", "sklearn", "click", "pydantic"})
