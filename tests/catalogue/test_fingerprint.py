import ast
import importlib
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from pipeline.catalogue.code import fingerprint, syntax
from pipeline.catalogue.code.digests import TASKS, Code, source_digest, source_modules
from pipeline.catalogue.code.fingerprint import KindCode, UndecidedCode, accept, check
from pipeline.catalogue.code.syntax import parse
from pipeline.grid.kinds import KINDS
from pipeline.problems import BadInput
from tasks.data.spec import DatasetSpec
from tasks.evaluation.specs import ScoreSpec

PACKAGE = {
    "__init__.py": "",
    "base.py": """
        from typing import ClassVar, Literal
        from tasks.specs import Kind, Spec

        class NodeSpec(Spec):
            version: ClassVar[int] = 1
        """,
    "defenses/__init__.py": "",
    "defenses/crop.py": """
        from __future__ import annotations
        from typing import TYPE_CHECKING, ClassVar, Literal
        from tasks.specs import Kind

        if TYPE_CHECKING:
            from toy.hints import Hint

        class Crop(Kind):
            '''Cuts a window.'''
            version: ClassVar[int] = 1
            kind: Literal["crop"] = "crop"

            def transform(self) -> int:
                from toy import warps
                return warps.crop(3)
        """,
    "defenses/turn.py": """
        from typing import ClassVar, Literal
        from tasks.specs import Kind

        class Turn(Kind):
            version: ClassVar[int] = 1
            kind: Literal["turn"] = "turn"

            def transform(self):
                from toy.warps import turn
                return turn(20)
        """,
    "warps.py": """
        from . import grids

        def crop(size):
            return size + grids.STEP

        def turn(degrees):
            return degrees * 2
        """,
    "grids.py": "STEP = 1\n",
    "perform.py": "LIMIT = 10\n",
    "hints.py": "Hint = int\n",
    "lonely.py": "ANSWER = 42\n",
}


class Toy:
    """A small package on disk, with its classes imported as they were at first."""

    def __init__(self, folder):
        self.folder = folder
        for name, text in PACKAGE.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
        self.node = importlib.import_module("toy.base").NodeSpec
        self.crop = importlib.import_module("toy.defenses.crop").Crop
        self.turn = importlib.import_module("toy.defenses.turn").Turn
        accept(folder)

    def edit(self, name, old, new):
        path = self.folder / name
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    def check(self, *classes):
        entries = [
            KindCode(frozenset({self.node, cls}), frozenset({"toy.perform"})) for cls in classes
        ]
        return check(entries, self.folder)

    def record(self):
        return json.loads((self.folder / "fingerprints.json").read_text())


@pytest.fixture
def toy(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path)
    yield Toy(tmp_path / "toy")
    for name in [name for name in sys.modules if name.split(".")[0] == "toy"]:
        del sys.modules[name]


def test_the_committed_fingerprints_are_those_of_the_code():
    recorded, present = fingerprint.read_record(), fingerprint.present()
    differing = [
        *(k for k in sorted({*recorded.modules, *present.modules})
          if recorded.modules.get(k) != present.modules.get(k)),
        *(k for k in sorted({*recorded.versions, *present.versions})
          if recorded.versions.get(k) != present.versions.get(k)),
        *recorded.nodes,
    ]  # fmt: skip
    assert not differing, (
        "tasks/fingerprints.json is not that of the code: raise the `version` of every class "
        "whose results change, then run `pipeline accept`"
    )


@pytest.mark.parametrize("module", ["locate", "classes", "arrays", "parquet"])
def test_a_change_of_how_labels_are_read_concerns_data_sets(module, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    recorded = fingerprint.read_record()
    name = f"pipeline.catalogue.sources.{module}"
    assert name in recorded.modules
    recorded.modules[name] = "0" * 64
    monkeypatch.setattr(fingerprint, "read_record", lambda folder: recorded)
    monkeypatch.setattr(fingerprint, "replace_text", lambda path, text: pytest.fail("written"))
    data = KindCode(frozenset({DatasetSpec}), frozenset(KINDS["dataset"].modules))
    with pytest.raises(
        UndecidedCode, match=rf"^pipeline/catalogue/sources/{module}\.py: .*Dataset"
    ):
        check([data])
    check([KindCode(frozenset({ScoreSpec}), frozenset(KINDS["score"].modules))])


def test_the_committed_fingerprints_follow_no_type_checking_import():
    code = Code(TASKS)
    specs = code.closure(["tasks.attacks.base"])
    assert "tasks.specs" in specs
    assert "tasks.data.arrays" not in specs


def test_unchanged_code_passes_and_writes_nothing(toy):
    before = (toy.folder / "fingerprints.json").stat().st_mtime_ns
    assert toy.check(toy.crop, toy.turn) == []
    assert (toy.folder / "fingerprints.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("defenses/crop.py", "Cuts a window.", "Cuts out a window."),
        ("defenses/crop.py", "'''Cuts a window.'''", "# Cuts a window."),
        ("warps.py", "size + grids.STEP", "(\n        size + grids.STEP  # wider\n    )"),
        ("warps.py", "def turn", '"""Degrees."""\n\n\ndef turn'),
    ],
)
def test_comments_docstrings_and_layout_do_not_trip(toy, name, old, new):
    toy.edit(name, old, new)
    assert toy.check(toy.crop) == []


@pytest.mark.parametrize(
    ("name", "old", "new", "cls"),
    [
        ("defenses/crop.py", "warps.crop(3)", "warps.crop(4)", "toy.defenses.crop.Crop"),
        ("warps.py", "size + grids.STEP", "size - grids.STEP", "toy.defenses.crop.Crop"),
        ("grids.py", "STEP = 1", "STEP = 1.0", "toy.defenses.crop.Crop"),
        ("perform.py", "10", "11", "toy.base.NodeSpec"),
        ("base.py", "class NodeSpec(Spec):", "class NodeSpec(Spec):\n    size: int = 0",
         "toy.base.NodeSpec"),
    ],
)  # fmt: skip
def test_changed_code_trips_with_the_file_the_class_and_the_command(toy, name, old, new, cls):
    toy.edit(name, old, new)
    with pytest.raises(UndecidedCode) as caught:
        toy.check(toy.crop)
    line = str(caught.value)
    assert line.startswith(f"toy/{name}: ")
    assert f"version of {cls}," in line
    assert "`pipeline accept`" in line
    assert "\n" not in line


def test_a_changed_helper_of_two_defenses_names_the_one_that_is_checked(toy):
    toy.edit("warps.py", "degrees * 2", "degrees * 3")
    with pytest.raises(UndecidedCode, match=r"^toy/warps\.py: .*toy\.defenses\.turn\.Turn"):
        toy.check(toy.turn)


@pytest.mark.parametrize("name", ["lonely.py", "hints.py", "defenses/turn.py"])
def test_an_edit_to_a_module_that_the_node_does_not_import_passes(toy, name):
    with (toy.folder / name).open("a") as handle:
        handle.write("MORE = 1\n")
    assert toy.check(toy.crop) == []


def test_a_raised_version_decides_and_the_next_edit_trips_again(toy, monkeypatch):
    toy.edit("defenses/crop.py", "crop(3)", "crop(4)")
    toy.edit("defenses/crop.py", "ClassVar[int] = 1", "ClassVar[int] = 2")
    monkeypatch.setattr(toy.crop, "version", 2)
    assert toy.check(toy.crop) == ["toy.defenses.crop.Crop: version 2 recorded (before: 1)"]
    assert toy.check(toy.crop) == []
    toy.edit("defenses/crop.py", "crop(4)", "crop(5)")
    with pytest.raises(UndecidedCode):
        toy.check(toy.crop)


def test_a_version_raised_for_one_defense_does_not_decide_for_another(toy, monkeypatch):
    toy.edit("grids.py", "STEP = 1", "STEP = 2")
    monkeypatch.setattr(toy.crop, "version", 2)
    toy.check(toy.crop)
    with pytest.raises(UndecidedCode, match=r"toy\.defenses\.turn\.Turn"):
        toy.check(toy.turn)


def test_the_nodes_own_version_decides_for_every_part_of_it(toy, monkeypatch):
    toy.edit("perform.py", "10", "11")
    monkeypatch.setattr(toy.node, "version", 2)
    assert toy.check(toy.crop) == ["toy.base.NodeSpec: version 2 recorded (before: 1)"]
    assert toy.check(toy.turn) == ["toy.base.NodeSpec: version 2 recorded (before: 1)"]


def test_a_part_does_not_decide_for_the_modules_that_perform_the_node(toy, monkeypatch):
    toy.edit("perform.py", "10", "11")
    monkeypatch.setattr(toy.crop, "version", 2)
    with pytest.raises(UndecidedCode, match=r"toy\.base\.NodeSpec"):
        toy.check(toy.crop)


def test_raising_a_version_changes_no_digest_of_the_code(toy):
    before = Code(toy.folder).digests
    toy.edit("base.py", "ClassVar[int] = 1", "ClassVar[int] = 7")
    assert Code(toy.folder).digests == before


def test_a_lowered_version_is_stopped(toy, monkeypatch):
    monkeypatch.setattr(toy.crop, "version", 2)
    toy.check(toy.crop)
    monkeypatch.setattr(toy.crop, "version", 1)
    with pytest.raises(UndecidedCode, match=r"Crop\.version is 1, below the recorded 2"):
        toy.check(toy.crop)


def test_accept_decides_for_everything(toy, monkeypatch):
    toy.edit("grids.py", "STEP = 1", "STEP = 1 + 0")
    monkeypatch.setattr(toy.crop, "version", 2)
    toy.check(toy.crop)
    assert "nodes" in toy.record()
    accept(toy.folder)
    assert "nodes" not in toy.record()
    assert toy.record()["versions"]["toy.defenses.crop.Crop"] == 2
    assert toy.check(toy.crop, toy.turn) == []


def test_a_new_defense_in_a_file_of_its_own_needs_no_decision(toy):
    (toy.folder / "defenses/blur.py").write_text(
        (toy.folder / "defenses/crop.py").read_text().replace("rop", "lur")
    )
    importlib.invalidate_caches()
    blur = importlib.import_module("toy.defenses.blur").Clur
    assert toy.check(blur) == ["toy.defenses.blur.Clur: version 1 recorded (before: none)"]
    toy.edit("defenses/blur.py", "(3)", "(4)")
    with pytest.raises(UndecidedCode):
        toy.check(blur)


def test_a_renamed_class_does_not_decide_for_the_code_it_took_along(toy):
    toy.edit("defenses/crop.py", "class Crop", "class Cut")
    toy.crop.__qualname__ = "Cut"
    with pytest.raises(UndecidedCode):
        toy.check(toy.crop)


def test_where_the_record_cannot_be_written_the_user_is_told(toy, monkeypatch):
    def refuse(self, *args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(toy.crop, "version", 2)
    monkeypatch.setattr(Path, "replace", refuse)
    (line,) = toy.check(toy.crop)
    assert line.startswith("toy/fingerprints.json: not writable (Permission denied)")
    assert [path.name for path in toy.folder.glob("fingerprints.json*")] == ["fingerprints.json"]


@pytest.mark.parametrize("content", [None, "{", "[]", '{"other": 1}'])
def test_a_missing_or_damaged_record_is_one_line_of_bad_input(toy, content):
    (toy.folder / "fingerprints.json").unlink()
    if content is not None:
        (toy.folder / "fingerprints.json").write_text(content)
    with pytest.raises(BadInput, match=r"^toy/fingerprints\.json: .*`pipeline accept`$"):
        toy.check(toy.crop)


def test_code_that_is_not_python_is_one_line_of_bad_input(toy):
    toy.edit("lonely.py", "42", "(")
    with pytest.raises(BadInput, match=r"lonely\.py:1: not Python"):
        toy.check(toy.crop)


@pytest.fixture
def aged(monkeypatch):
    """Files of a test are old enough to be remembered."""
    monkeypatch.setattr(syntax, "is_fresh", lambda _: False)


@pytest.mark.usefixtures("aged")
def test_a_digest_is_remembered_by_path_size_and_time(toy, monkeypatch):
    toy.check(toy.crop)
    monkeypatch.setattr(syntax, "parse", lambda path: pytest.fail(f"parsed {path} again"))
    assert toy.check(toy.crop) == []


@pytest.mark.usefixtures("aged")
def test_an_edit_is_seen_whatever_is_remembered(toy):
    toy.check(toy.crop)
    toy.edit("grids.py", "STEP = 1", "STEP = 3")
    with pytest.raises(UndecidedCode):
        toy.check(toy.crop)


def test_a_file_changed_this_moment_is_not_remembered(toy, tmp_path):
    toy.check(toy.crop)
    assert not list((tmp_path / "cache").rglob("*.json"))


@pytest.mark.parametrize("text", ["not JSON", "[]"])
@pytest.mark.usefixtures("aged")
def test_a_damaged_or_unwritable_memory_costs_only_time(toy, tmp_path, monkeypatch, text):
    toy.check(toy.crop)
    (memory,) = (tmp_path / "cache").rglob("*.json")
    memory.write_text(text)
    assert toy.check(toy.crop) == []
    monkeypatch.setenv("XDG_CACHE_HOME", str(toy.folder / "grids.py"))
    assert toy.check(toy.crop) == []


def test_checking_imports_no_torch():
    program = (
        "import sys; from pipeline.catalogue.code.fingerprint import KindCode, check\n"
        "from tasks.attacks.pgd import PGD; from tasks.evaluation.specs import CraftSpec\n"
        "from pipeline.problems import BadInput\n"
        "code = KindCode(frozenset({CraftSpec, PGD}), frozenset({'tasks.evaluation.craft'}))\n"
        "try: check([code])\n"
        "except BadInput: pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def test_a_plug_in_is_known_by_its_code_and_by_what_it_imports(toy, tmp_path):
    path = tmp_path / "mine.py"

    def digest() -> str:
        return source_digest(source_modules("mine.py", parse(path), {}, toy.folder), {})

    path.write_text("from toy.warps import crop\n\nSIZE = 1\n")
    first = digest()
    path.write_text("from toy.warps import crop  # the helper\n\nSIZE = 1\n")
    assert digest() == first
    toy.edit("lonely.py", "42", "43")
    assert digest() == first
    toy.edit("grids.py", "STEP = 1", "STEP = 2")
    second = digest()
    assert second != first
    path.write_text("from toy.warps import crop\n\nSIZE = 2\n")
    assert digest() not in {first, second}


@pytest.mark.parametrize(
    ("code", "form"),
    [
        (
            "def f(a, /, *, b=1.5) -> int: ...",
            (
                "Module(body=[FunctionDef(args=arguments(kw_defaults=[Constant(value=float:1.5)],"
                "kwonlyargs=[arg(arg=str:'b')],posonlyargs=[arg(arg=str:'a')]),"
                "body=[Expr(value=Constant(value=ellipsis:Ellipsis))],"
                "name=str:'f',returns=Name(id=str:'int'))])"
            ),
        ),
        (
            "f'{x:>{width}}'",
            (
                "Module(body=[Expr(value=JoinedStr[FormattedValue(conversion=int:-1,"
                "format_spec=JoinedStr[Constant(value=str:'>'),FormattedValue(conversion=int:-1,"
                "value=Name(id=str:'width'))],value=Name(id=str:'x'))])])"
            ),
        ),
        (
            "{**a, None: 'é'}",
            (
                "Module(body=[Expr(value=Dict(keys=[NoneType:None,Constant()],"
                "values=[Name(id=str:'a'),Constant(value=str:'\\xe9')]))])"
            ),
        ),
    ],
)
def test_the_canonical_form_is_what_every_python_gives(code, form):
    assert syntax.canonical(ast.parse(code)) == form


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = [1, 2]", "x = [12]"),
        ("x = 1", "x = 1.0"),
        ("x = 'a', 'b'", "x = 'a, b'"),
        ("x = ['']", "x = []"),
        ("def f(): return 1", "def f(): return"),
        ("f(a)", "f(*a)"),
        ("version = 1", "version = 2"),
    ],
)
def test_different_code_has_different_forms(one, other):
    assert syntax.canonical(ast.parse(one)) != syntax.canonical(ast.parse(other))
