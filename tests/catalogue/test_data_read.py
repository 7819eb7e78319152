"""Files of data that a user's code reads are in no digest, so a line names them."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from documented import blocks
from tiny import opened_with, write_configs

from pipeline.catalogue.code import data
from pipeline.commands.session import Session, open_session
from pipeline.execution.events import Observers
from pipeline.execution.work import contract

NOTE = (
    "{} reads {}, whose content is in no digest: results are not computed again when it changes; "
    "put the values, or the file's SHA-256, in the module or a YAML parameter"
)
HEAD = """from pathlib import Path

from tasks import straight
from tasks.defenses.base import Defense

"""
READ = 'float(Path("levels.txt").read_text(encoding="utf-8"))'
BODY = """

class Mine(Defense):
    def transform(self, pixels, rows, context):
        levels = {}
        return straight.through(pixels, (levels * pixels).round() / levels)
"""
IN_TRANSFORM = f"{HEAD}{BODY.format(READ)}"
APPENDED = f"""{HEAD}
def levels_of(path):
    with path.open("a+") as file:
        file.seek(0)
        return float(file.read())
{BODY.format('levels_of(Path("levels.txt"))')}"""
POOLED = f"""from concurrent.futures import ThreadPoolExecutor
{HEAD}
def levels_of(path):
    with ThreadPoolExecutor(1) as pool:
        return float(next(iter(pool.map(Path.read_text, [path]))))
{BODY.format('levels_of(Path("levels.txt"))')}"""
AT_IMPORT = f"{HEAD}LEVELS = {READ}\n{BODY.format('LEVELS')}"
TEMPORARY = """(
            file := __import__("tempfile").NamedTemporaryFile("w+", delete=False),
            file.write("15"),
            file.close(),
            float(Path(file.name).read_text()),
        )[-1]"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(contract, "_known", {})
    monkeypatch.setattr(data, "_read", {})
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    Path("levels.txt").write_text("15", encoding="utf-8")


@pytest.mark.parametrize("text", [IN_TRANSFORM, AT_IMPORT, APPENDED, POOLED])
def test_a_file_that_a_defense_reads_is_named(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert opened_with(text).check_contracts() == [NOTE.format("mine.py", "levels.txt")]
    # in a new process too, which only remembers the verdict
    monkeypatch.setattr(contract, "_known", {})
    monkeypatch.setattr(contract, "_tried", None)
    assert opened_with(text).check_contracts() == [NOTE.format("mine.py", "levels.txt")]


def test_a_file_that_an_inherited_transform_reads_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inherited_levels.py").write_text(IN_TRANSFORM, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    text = "import inherited_levels\n\n\nclass Mine(inherited_levels.Mine):\n    pass\n"
    assert opened_with(text).check_contracts() == [NOTE.format("mine.py", "levels.txt")]


def test_a_verdict_of_a_version_that_did_not_record_files_is_found_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened_with(IN_TRANSFORM).check_contracts()
    (path,) = Path("cache").rglob("contracts/*.json")
    known = json.loads(path.read_text(encoding="utf-8"))
    del known["data"]
    path.write_text(json.dumps(known), encoding="utf-8")
    monkeypatch.setattr(contract, "_known", {})
    assert opened_with(IN_TRANSFORM).check_contracts() == [NOTE.format("mine.py", "levels.txt")]


def test_an_honest_defense_and_one_with_a_temporary_file_have_no_note() -> None:
    (jpeg,) = (b.text for b in blocks("README.md") if b.text.startswith("# jpeg.py"))
    for text in (jpeg, f"{HEAD}{BODY.format(TEMPORARY)}"):
        assert not any("reads" in line for line in opened_with(text).check_contracts())


def test_a_path_that_cannot_be_looked_at_is_no_data() -> None:
    text = f"""{HEAD}
def number(text):
    try:
        return float(open(text).read())
    except OSError:
        return float(text.strip("x"))
{BODY.format('number("15" + "x" * 5000)')}"""
    assert not any("reads" in line for line in opened_with(text).check_contracts())


def test_the_same_code_in_another_folder_reads_the_files_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened_with(IN_TRANSFORM).check_contracts()
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    Path("levels.txt").write_text("9", encoding="utf-8")
    monkeypatch.setattr(contract, "_known", {})
    monkeypatch.setattr(data, "_read", {})
    assert opened_with(IN_TRANSFORM).check_contracts() == [NOTE.format("mine.py", "levels.txt")]


def test_files_of_python_of_libraries_and_of_the_system_are_no_data() -> None:
    import torch

    files = [json.__file__, f"{Path(torch.__file__).parent}/version.py", "/etc/hosts", "levels.txt"]
    scope = {"__name__": opened_with(IN_TRANSFORM).cells[0].defense_spec.__module__, "files": files}
    exec("for file in files: open(file).close()", scope)  # noqa: S102
    assert data.data_read(str(scope["__name__"])) == (str(Path("levels.txt").resolve()),)


def test_a_file_that_a_factory_reads_is_named_by_the_run_and_by_each_later_one() -> None:
    Path("net.py").write_text(
        "from pathlib import Path\n\nfrom torch import nn\n\n\ndef make():\n"
        '    assert Path("levels.txt").read_text(encoding="utf-8")\n'
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n",
        encoding="utf-8",
    )
    network = "{kind: factory, factory: '../../net.py:make'}"
    model = f"dataset: digits\nrecipe: short\nnetwork: {network}\n"
    configs = write_configs(Path("configs"), {"models/mixed.yaml": model})

    def session() -> Session:
        only = ["attack=clean", "defense=none"]
        return open_session("tiny", store="store", configs=[configs], only=only)

    first = session()
    assert first.notes() == []
    first.store.prepare()
    told: list[str] = []

    class Heard:
        def notify(self, event: object) -> None:
            told.extend(getattr(getattr(event, "done", None), "how", {}).get("said", []))

        def close(self) -> None: ...

    first.run(Observers([Heard()]), inline=True, address=None, workers=None, forced=set())
    assert told == [NOTE.format("net.py", "levels.txt")]
    assert session().notes() == told


def test_what_is_no_call_of_open_cannot_fail_in_the_hook() -> None:
    data.record_open("open", ())
    data.record_open("open", (b"\xff", None, "r"))
