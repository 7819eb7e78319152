"""A user's own attack or defense is one Python file, or comes with an installed package."""

from __future__ import annotations

import importlib
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from click.testing import CliRunner
from tiny import Recorder, data_files, write_configs

from pipeline.catalogue.catalogue import Catalogue, Section
from pipeline.catalogue.code import own as own_code
from pipeline.catalogue.code.digests import source_digest, source_modules
from pipeline.catalogue.code.imported import own_modules, uncovered
from pipeline.catalogue.code.known import KNOWN
from pipeline.catalogue.code.own import Parcel, pack, unpack
from pipeline.catalogue.code.syntax import parse, parse_text
from pipeline.commands.cli import main
from pipeline.commands.session import Session, open_session
from pipeline.execution.events import Observers, RunFinished
from pipeline.grid.builder import Overrides, load_grid
from pipeline.grid.digests import own_modules_of
from pipeline.grid.graph import Node
from pipeline.plan.why import Comparison, of_node, why
from pipeline.problems import BadInput
from pipeline.store.store import Store
from tasks.networks.factory import Factory
from tasks.training.recipe import Recipe, TrainSpec

JPEG = """
import torch
from torchvision.transforms.v2 import functional as pictures

from tasks.defenses.transforms import straight
from tasks.defenses.base import Defense


class Jpeg(Defense):
    quality: int = 75

    def transform(self, pixels, rows, context):
        images = map(pictures.to_pil_image, (pixels * 255).round().byte().cpu())
        coded = [pictures.pil_to_tensor(pictures.jpeg(image, self.quality)) for image in images]
        return straight.through(pixels, torch.stack(coded).to(pixels) / 255)
"""
HEAD = "from tasks.defenses.base import Defense\n\n\nclass Mine(Defense):\n"
TRANSFORM = "    def transform(self, pixels, rows, context):\n"
FAULTS = {
    "shape": (
        f"{HEAD}{TRANSFORM}        return pixels[:, :, 1:]\n",
        "mine: returned shape (1, 1, 7, 8), expected (1, 1, 8, 8) (shape.py:5)",
    ),
    "nan": (
        f"{HEAD}{TRANSFORM}        return pixels / 0\n",
        "mine: transformed pixels: expected finite values in [0, 1], got nan to nan (nan.py:5)",
    ),
    "range": (
        f"{HEAD}{TRANSFORM}        return pixels + 1\n",
        "mine: transformed pixels: expected finite values in [0, 1], got 1 to 2 (range.py:5)",
    ),
    "nothing": (
        f"{HEAD}{TRANSFORM}        pixels * 2\n",
        "mine: returned NoneType, expected a tensor (nothing.py:5)",
    ),
    "exception": (
        f"{HEAD}    depth: int = 0\n\n{TRANSFORM}        return pixels.view(1 // self.depth)\n",
        "mine: ZeroDivisionError: integer division or modulo by zero (exception.py:8)",
    ),
    "a": (
        f"{HEAD}    def transform(self, pixels):\n        return pixels\n",
        "mine: TypeError: Mine.transform() takes 2 positional arguments but 4 were given (a.py:5)",
    ),
}
DECLARED = {
    "eight": (
        'draws: int = "eight"',
        "eight.py:5: draws: input should be a valid integer, got 'ei",
    ),
    "zero": ("draws: int = 0", "zero.py:5: draws: input should be greater than or equal to 1"),
    "sigma": (
        "sigma = 0.1",
        "sigma has no type; a parameter is declared with one, such as `sigma:",
    ),
    "again": ("draws = 5", "draws has no type; a parameter is declared with one, such as `draws:"),
    "once": (
        "once: bool = True",
        "once.py:5: once is no parameter; write `once: ClassVar[bool] = T",
    ),
    "spread": (
        "steps: int = 2\n    kernel: 'range | None' = None",
        "spread.py:6: Mine.kernel: the type range is not supported; a parameter is a bool, int",
    ),
    "binary": (
        "steps: int = 2\n    kernel: tuple[bytes, ...] = ()",
        "binary.py:6: Mine.kernel: the type bytes is not supported; a parameter is a bool, int",
    ),
    "nowhere": (
        "kernel: 'Nowhere' = 1",
        "nowhere.py:4: Mine: the type Nowhere of a parameter is not defined",
    ),
    "made": ("def __init__(self, x): ...", "TypeError: Mine.__init__() missing 1 required"),
}
"""Declarations that are wrong, and what is said."""
ATTACK = """
from tasks.attacks.base import BoundedAttack


class Brighter(BoundedAttack):
    def perturb(self, victim, pixels, labels, rows):
        return self.ball().project(pixels + {how}, pixels)
"""


class Bench:
    """The tiny grid, with files of one's own in the folder where one works."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.configs = write_configs(folder / "cfg")
        self.store = folder / "store"

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def session(
        self, *add: tuple[Section, str], only: Sequence[str] = (), images: int = 520
    ) -> Session:
        return open_session(
            "tiny",
            store=self.store,
            configs=[self.configs],
            only=only,
            overrides=Overrides(add=add, images=images),
        )

    def run(self, session: Session, *, inline: bool = True) -> tuple[Recorder, RunFinished]:
        session.store.prepare()
        recorder = Recorder()
        finished = session.run(
            Observers([recorder]), inline=inline, address=None, workers=None, forced=set()
        )
        return recorder, finished

    def stale(self, *add: tuple[Section, str]) -> set[str]:
        session = self.session(*add)
        todo = session.plan().todo
        return {name for name, node in session.chosen.items() if node.digest in todo}


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.chdir(tmp_path)
    return Bench(tmp_path)


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the model of the tiny grid and its undefended clean cell, on 520 images."""
    bench = Bench(tmp_path_factory.mktemp("computed"))
    _, finished = bench.run(bench.session(only=["attack=clean", "defense=none"]))
    assert not finished.missing
    return bench.store


def test_one_file_is_a_defense_alone_and_in_a_chain(bench: Bench, computed: Path) -> None:
    """Six lines of Python are judged without touching the project."""
    shutil.copytree(computed, bench.store)
    bench.write("jpeg.py", JPEG)
    session = bench.session(
        ("defenses", "jpeg.py"), ("defenses", "counter+jpeg"), only=["defense=*jpeg"]
    )
    _, finished = bench.run(session)
    assert not finished.missing
    assert set(finished.scored) == {
        f"mixed/{attack}/{defense}"
        for attack in ("clean", "pgd")
        for defense in ("jpeg", "counter+jpeg")
    }
    record = session.record(session.scores["mixed/clean/jpeg"].parent("shard0"))
    assert record is not None
    assert record.spec["defense"] == {"kind": "jpeg", "draws": 1, "quality": 75}
    assert record.how["own_code"] == {"Jpeg": type(session.cells[0].defense_spec).source_digest}


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_file_may_have_a_dot_in_its_name_and_a_byte_order_mark(bench: Bench, mark: str) -> None:
    bench.write("jpeg.v2.py", mark + JPEG)
    cells = bench.session(("defenses", "jpeg.v2.py"), only=["defense=jpeg.v2"]).cells
    assert {type(cell.defense_spec).__name__ for cell in cells} == {"Jpeg"}


def test_changed_code_makes_exactly_its_cells_stale_and_comments_none(
    bench: Bench, computed: Path
) -> None:
    shutil.copytree(computed, bench.store)
    add: tuple[Section, str] = ("defenses", "jpeg.py")
    bench.write("jpeg.py", JPEG)
    bench.run(bench.session(add, only=["attack=clean", "defense=jpeg"]))
    others = bench.stale(add)
    assert "mixed/clean/jpeg" not in others
    bench.write("jpeg.py", f"# mine\n{JPEG}\n\n# the end\n".replace("quality:", "quality :"))
    assert bench.stale(add) == others
    bench.write("jpeg.py", JPEG.replace(".round().byte()", ".byte()"))
    assert bench.stale(add) == {*others, "mixed/clean/jpeg"}
    session = bench.session(add)
    node = session.scores["mixed/clean/jpeg"]
    lines = why("mixed/clean/jpeg", "tiny", node, session.graph, session.store, session.ledger)
    assert lines[1:] == ["defend: the code of Jpeg changed (jpeg.py)"]


def test_where_a_file_lies_is_no_part_of_the_digest(bench: Bench) -> None:
    bench.write("jpeg.py", JPEG)
    bench.write("elsewhere/jpeg.py", JPEG)
    digests = {
        bench.session(("defenses", name)).scores["mixed/pgd/jpeg"].digest
        for name in ("jpeg.py", "elsewhere/jpeg.py", str(bench.folder / "jpeg.py"))
    }
    assert len(digests) == 1


def test_a_file_in_configs_goes_by_its_name_and_a_yaml_sets_its_parameters(bench: Bench) -> None:
    bench.write("configs/defenses/jpeg.py", JPEG)
    bench.write("configs/defenses/coarse.yaml", "kind: jpeg.py\nquality: 20\n")
    bench.write("configs/defenses/test_jpeg.py", "raise RuntimeError")
    session = bench.session(("defenses", "jpeg"), ("defenses", "coarse"))
    specs = {cell.defense: cell.defense_spec for cell in session.cells}
    assert specs["jpeg"].model_dump() == {"kind": "jpeg", "draws": 1, "quality": 75}
    assert specs["coarse"].model_dump() == {"kind": "jpeg", "draws": 1, "quality": 20}
    names = session.catalogue.names("defenses")
    assert names["jpeg"] == bench.folder / "configs/defenses/jpeg.py"
    assert "test_jpeg" not in names


def test_code_that_nobody_names_is_not_run(bench: Bench) -> None:
    bench.write("configs/defenses/broken.py", "raise RuntimeError('was run')\n")
    assert bench.session().cells
    with pytest.raises(BadInput, match=r"configs/defenses/broken\.py:1: RuntimeError: was run"):
        bench.session(("defenses", "broken"))


@pytest.mark.filterwarnings("ignore:Field name .once")  # pydantic's, before the refusal
@pytest.mark.parametrize("name", DECLARED)
def test_a_wrong_declaration_is_one_line_with_its_place(bench: Bench, name: str) -> None:
    declared, line = DECLARED[name]
    bench.write(f"{name}.py", f"{HEAD}    {declared}\n\n{TRANSFORM}        return pixels\n")
    with pytest.raises(BadInput, match=re.escape(line)) as told:  # noqa: PT012  two calls of one
        catalogue = Catalogue([])
        catalogue.defense(catalogue.add("defenses", f"{name}.py"))
    assert str(told.value).startswith(f"{name}.py:")


@pytest.mark.parametrize(
    "declared",
    [
        "limit: Epsilon = 0.5",
        "limit: Pixel255 | None = 0.5",
        "limit: Length = Field(default_factory=lambda: 0.5)",
        "step_size: float = 0.5",
    ],
)
def test_a_default_below_a_255th_needs_its_unit_as_in_a_yaml_file(
    bench: Bench, declared: str
) -> None:
    name = declared.partition(":")[0]
    head = (
        "from pydantic import Field\nfrom tasks.defenses.anti_adversary import AntiAdversary\n"
        "from tasks.specs import Epsilon, Length, Pixel255\n\n\nclass Mine(AntiAdversary):\n"
    )
    line = f'^bare\\.py:7: {name}: 0\\.5 is less than one 255th of .* write "0\\.5/255"$'
    bench.write("bare.py", f"{head}    {declared}\n")
    with pytest.raises(BadInput, match=line):
        bench.session(("defenses", "bare.py"))
    bench.write("bare.yaml", f"kind: bare.py\n{name}: 2\n")
    bench.session(("defenses", "bare.yaml"))


def test_a_default_may_state_its_unit(bench: Bench) -> None:
    head = HEAD.replace("import Defense", "import Defense\nfrom tasks.specs import Epsilon")
    declared = '    limit: Epsilon = "0.5/255"\n\n'
    bench.write("stated.py", f"{head}{declared}{TRANSFORM}        return pixels\n")
    bench.write("given.yaml", "kind: stated.py\nlimit: 0.25/255\n")
    session = bench.session(("defenses", "stated.py"), ("defenses", "given.yaml"))
    limits = {cell.defense: getattr(cell.defense_spec, "limit", None) for cell in session.cells}
    assert (limits["stated"], limits["given"]) == (0.5, 0.25)
    assert type(session.grid.cell("mixed/pgd/stated").defense_spec)().limit == 0.5


def test_the_limits_of_the_base_class_hold_for_values_of_a_yaml_file_and_of_set(
    bench: Bench,
) -> None:
    bench.write("mine.py", f"{HEAD}    draws: int = 2\n\n{TRANSFORM}        return pixels\n")
    bench.write("nil.yaml", "kind: mine.py\ndraws: 0\n")
    with pytest.raises(BadInput, match=r"^nil\.yaml:2: draws: input should be greater"):
        bench.session(("defenses", "nil.yaml"))
    add: tuple[Section, str] = ("defenses", "mine.py")
    with pytest.raises(BadInput, match=r"^--set mine\.draws=0: input should be greater"):
        load_grid(
            Catalogue([bench.configs]), "tiny", Overrides(add=[add], parameters={"mine.draws": 0})
        )


def test_a_size_that_is_declared_again_needs_its_unit_in_set_as_in_a_yaml_file(
    bench: Bench,
) -> None:
    base = "from tasks.defenses.anti_adversary import AntiAdversary\n\n\n"
    bench.write("mine.py", f"{base}class Mine(AntiAdversary):\n    step_size: float = 2.0\n")
    bench.write("small.yaml", "kind: mine.py\nstep_size: 0.5\n")
    said = r'0\.5 is less than one 255th of .* write "0\.5/255"$'
    with pytest.raises(BadInput, match=rf"^small\.yaml:2: step_size: {said}"):
        bench.session(("defenses", "small.yaml"))
    add: tuple[Section, str] = ("defenses", "mine.py")
    sizes: dict[str, object] = {"mine.step_size": 0.5}
    with pytest.raises(BadInput, match=rf"^--set mine\.step_size=0\.5: {said}"):
        load_grid(Catalogue([bench.configs]), "tiny", Overrides(add=[add], parameters=sizes))


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_one_line_that_names_the_defense_and_the_other_cells_finish(
    bench: Bench, computed: Path, name: str
) -> None:
    text, line = FAULTS[name]
    shutil.copytree(computed, bench.store)
    bench.write(f"{name}.py", text)
    add: tuple[Section, str] = ("defenses", f"{name}.py")
    session = bench.session(add, only=["attack=clean", f"defense={name}", "defense=none"])
    _, finished = bench.run(session)
    assert set(finished.scored) == {"mixed/clean/none"}
    assert finished.missing["mixed/clean/" + name] == f"defense {line}"


def test_a_faulty_part_of_a_chain_is_the_one_that_is_named(bench: Bench, computed: Path) -> None:
    shutil.copytree(computed, bench.store)
    bench.write("exception.py", FAULTS["exception"][0])
    chain = "counter+exception"
    session = bench.session(
        ("defenses", "exception.py"),
        ("defenses", chain),
        only=["attack=clean", f"defense={chain}"],
    )
    _, finished = bench.run(session)
    assert finished.missing == {f"mixed/clean/{chain}": f"defense {FAULTS['exception'][1]}"}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("class Mine(Defense)\n    pass\n", "mine.py:1: not Python: expected ':'"),
        (
            "import nonesuch\n",
            "mine.py:1: No module named 'nonesuch'; it has to be installed, or in a",
        ),
        ("SIZE = 1\n", "mine.py: no class derived from tasks.defenses.base.Defense"),
        (
            f"{HEAD}    pass\n\n\nclass Other(Defense):\n    pass\n",
            "mine.py: has several classes; a YAML file says which: `kind: mine.py:Mine` or `kind",
        ),
    ],
)
def test_a_file_that_is_no_defense_is_refused_in_one_line(
    bench: Bench, text: str, line: str
) -> None:
    bench.write("mine.py", text)
    with pytest.raises(BadInput) as caught:
        bench.session(("defenses", "mine.py"))
    assert str(caught.value).startswith(line)
    assert "<unknown>" not in str(caught.value)


def test_a_mistake_in_a_yaml_is_told_at_its_place(bench: Bench) -> None:
    bench.write("configs/defenses/jpeg.py", JPEG)
    for text, line in [
        ("kind: jpeg.py\nqualty: 20\n", ":2: qualty: unknown key; did you mean 'quality'?"),
        ("kind: jpg.py\n", "coarse.yaml:1: kind: configs/defenses/jpg.py: cannot be read"),
        ("kind: jpeg.py:Jpg\n", "no class 'Jpg' derived from Defense; did you mean 'Jpeg'?"),
        ("draws: 2\nkind: no.module:Jpeg\n", "coarse.yaml:2: kind: no module 'no.module'"),
    ]:
        bench.write("configs/defenses/coarse.yaml", text)
        with pytest.raises(BadInput) as caught:
            bench.session(("defenses", "coarse"))
        assert line in str(caught.value)


def test_code_that_fails_while_a_grid_is_read_is_told_in_one_line(bench: Bench) -> None:
    bench.write("mine.py", f"{HEAD}    def deterministic(self, classes):\n        return 1 / 0\n")
    words = ["plan", "--grid", "tiny", "--configs", "cfg", "--add", "defense=mine.py"]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2
    assert done.stderr == "error: ZeroDivisionError: division by zero (mine.py:6)\n"


def test_what_is_added_must_be_known(bench: Bench) -> None:
    for add, line in [
        (("defenses", "gou"), "no defense named 'gou'; did you mean 'guo'?"),
        (("attacks", "nonesuch.py"), "there is no file nonesuch.py"),
    ]:
        with pytest.raises(BadInput) as caught:
            bench.session(add)
        assert str(caught.value) == line


def test_an_attack_is_one_file_too_and_must_stay_in_its_ball(bench: Bench, computed: Path) -> None:
    shutil.copytree(computed, bench.store)
    bench.write("brighter.py", ATTACK.replace("{how}", "self.epsilon / 255"))
    bench.write("nowhere.py", ATTACK.replace("self.ball().project", "self.far"))
    bench.write(
        "far.py", ATTACK.replace("self.ball().project(pixels + {how}, pixels)", "1 - pixels")
    )
    names = ("brighter", "nowhere", "far")
    session = bench.session(*(("attacks", f"{name}.py") for name in names), only=["defense=none"])
    _, finished = bench.run(session)
    assert finished.scored.keys() == {f"mixed/{name}/none" for name in ("clean", "pgd", "brighter")}
    lost = {name: finished.missing[f"mixed/{name}/none"] for name in ("nowhere", "far")}
    assert lost["nowhere"].startswith("attack brighter: AttributeError: ")
    assert lost["nowhere"].endswith("(nowhere.py:7)")
    assert lost["far"].startswith("attack brighter: crafted pixels: ")


def test_only_the_code_that_a_node_needs_is_sent(bench: Bench) -> None:
    # code of no other test, since a process keeps the place where it met a code first
    bench.write("jpeg.py", f"{JPEG}\nOF_THIS_TEST = True\n")
    bench.write("mine.py", f"{HEAD}    depth: int = 1\n")
    session = bench.session(("defenses", "jpeg.py"), ("defenses", "mine.py"))
    for name, place in (("jpeg", "jpeg.py"), ("mine", "mine.py"), ("guo", None)):
        parcel = pack(session.scores[f"mixed/pgd/{name}"])
        assert [code.place for code in parcel.codes] == [place] * (place is not None)
        assert unpack(parcel) == session.scores[f"mixed/pgd/{name}"]


def test_a_worker_gets_the_code_with_the_node(bench: Bench, tmp_path: Path) -> None:
    bench.write("jpeg.py", f"{HEAD}    depth: int = 0\n")
    node = bench.session(("defenses", "jpeg.py")).scores["mixed/pgd/jpeg"]
    sent = tmp_path / "parcel"
    sent.write_bytes(pickle.dumps((node.digest, pack(node))))
    (tmp_path / "jpeg.py").unlink()
    program = (
        "import pickle, sys; from pathlib import Path\n"
        "from pipeline.catalogue.code.own import unpack\n"
        "digest, parcel = pickle.loads(Path(sys.argv[1]).read_bytes())\n"
        "node = unpack(parcel); del node.__dict__['digest']\n"
        "assert node.digest == digest\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(sent)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_defense_in_one_file_gives_the_same_bytes_on_ray(bench: Bench, computed: Path) -> None:
    bench.write("jpeg.py", JPEG)
    made = {}
    for inline in (True, False):
        shutil.rmtree(bench.store, ignore_errors=True)
        shutil.copytree(computed, bench.store)
        _, finished = bench.run(
            bench.session(("defenses", "jpeg.py"), only=["defense=jpeg"]), inline=inline
        )
        assert not finished.missing
        made[inline] = data_files(bench.store)
    assert made[True] == made[False]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package that offers a defense, and its code."""
    site = tmp_path / "site"
    code = site / "gentle" / "jpeg.py"
    code.parent.mkdir(parents=True)
    code.write_text(JPEG, encoding="utf-8")
    (code.parent / "__init__.py").write_text("from gentle.jpeg import Jpeg\n", encoding="utf-8")
    about = site / "gentle-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: gentle\nVersion: 1.0\n")
    offered = "[test_time_defense_bench.defenses]\ngentle-jpeg = gentle.jpeg:Jpeg\n"
    (about / "entry_points.txt").write_text(offered)
    monkeypatch.syspath_prepend(str(site))
    yield code
    for name in [name for name in sys.modules if name.partition(".")[0] == "gentle"]:
        sys.modules.pop(name, None)
        KNOWN.pop(name, None)


def test_an_installed_package_offers_defenses_by_name(bench: Bench, package: Path) -> None:
    bench.write("configs/defenses/coarse.yaml", "kind: gentle-jpeg\nquality: 20\n")
    bench.write("configs/defenses/plain.yaml", "kind: gentle:Jpeg\n")
    session = bench.session(*(("defenses", n) for n in ("gentle-jpeg", "coarse", "plain")))
    specs = {cell.defense: cell.defense_spec for cell in session.cells}
    assert specs["gentle-jpeg"] == specs["plain"]
    assert specs["coarse"].model_dump()["quality"] == 20
    assert len(specs["plain"].source_digest) == 64
    with pytest.raises(BadInput, match="did you mean 'gentle-jpeg'"):
        bench.session(("defenses", "gentl-jpeg"))


def test_a_package_that_is_another_on_a_worker_is_refused(package: Path) -> None:
    catalogue = Catalogue([])
    spec = catalogue.defense("gentle-jpeg")
    parcel = pack(spec)
    assert unpack(parcel) == spec
    other = [
        replace(code, digest="0" * 64) for code in parcel.codes if code.module == "gentle.jpeg"
    ]
    KNOWN.pop("gentle.jpeg")
    with pytest.raises(BadInput, match=r"gentle\.jpeg: this worker has other code"):
        unpack(Parcel(parcel.content, tuple(other)))


def test_an_installed_factory_that_changed_after_its_import_is_refused_in_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "changing_nets.py"
    package.write_text("from torch import nn\n\n\ndef make():\n    return nn.Flatten()\n")
    monkeypatch.syspath_prepend(tmp_path)
    network = Factory(factory="changing_nets:make")
    first = own_code.with_source(network, tmp_path)
    # read, and not imported: a change is a change
    package.write_text("from torch import nn\n\n\ndef make():\n    return nn.Identity()\n")
    second = own_code.with_source(network, tmp_path)
    assert second.source != first.source
    assert type(second.module(1, 8, 10)).__name__ == "Identity"
    assert own_code.with_source(network, tmp_path) == second
    package.write_text("from torch import nn\n\n\ndef make():\n    return nn.ReLU()\n")
    with pytest.raises(BadInput, match=r"^changing_nets: its code has changed since this process"):
        own_code.with_source(network, tmp_path)
    monkeypatch.delitem(sys.modules, "changing_nets")
    KNOWN.pop("changing_nets")


def test_an_installed_factory_that_is_another_on_a_worker_is_refused(
    bench: Bench, package: Path
) -> None:
    package.write_text(f"{JPEG}\n\ndef make():\n    return torch.nn.Identity()\n")
    network = own_code.with_source(Factory(factory="gentle.jpeg:make"), bench.folder)
    parcel = pack(network)
    assert unpack(parcel) == network
    # a class of the same module has its digest, too
    assert type(Catalogue([]).defense("gentle-jpeg")).source_digest == network.source
    KNOWN.pop("gentle.jpeg")
    for name in ("gentle", "gentle.jpeg"):
        sys.modules.pop(name, None)
    package.write_text(f"{JPEG}\n\ndef make():\n    return torch.nn.Flatten()\n")
    with pytest.raises(BadInput, match=r"gentle\.jpeg: this worker has other code of it than"):
        unpack(parcel)


def helped(level: int) -> str:
    """A defense that uses `helper`; a process imports the file of each level once."""
    transform = f"{TRANSFORM}        return pixels * AMOUNT\n"
    return f"from helper import AMOUNT\n{HEAD}    level: int = {level}\n\n{transform}"


@pytest.fixture
def beside(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A bench with the modules `helper` and `deeper`, which its files may import."""
    monkeypatch.syspath_prepend(str(Path.cwd()))
    bench.write("deeper.py", "BASE = 0.5\n")
    bench.write("helper.py", "import json\nfrom deeper import BASE\n\nAMOUNT = BASE + 0.25\n")
    yield bench
    for name in ("helper", "deeper"):
        sys.modules.pop(name, None)


def digest_of(bench: Bench, file: str) -> str:
    """The digest of the code of a defense in a file, as a new process has it."""
    for name in ("helper", "deeper"):
        sys.modules.pop(name, None)
    cells = bench.session(("defenses", file)).cells
    return next(type(cell.defense_spec).source_digest for cell in cells if file[:-3] in cell.name)


@pytest.mark.parametrize("module", ["helper.py", "deeper.py"])
def test_a_change_of_a_module_that_a_file_imports_in_turn_recomputes_its_cells(
    beside: Bench, module: str
) -> None:
    beside.write("mine.py", helped(0))
    first = digest_of(beside, "mine.py")
    text = Path(module).read_text()
    beside.write(module, f"{text}# a comment\n")
    assert digest_of(beside, "mine.py") == first
    beside.write(module, text.replace("BASE = 0.5", "BASE = 0.4").replace("0.25", "0.3"))
    assert digest_of(beside, "mine.py") != first


def test_why_names_the_modules_of_ones_own_that_changed(beside: Bench, computed: Path) -> None:
    shutil.copytree(computed, beside.store)
    beside.write("mine.py", helped(4))
    add: tuple[Section, str] = ("defenses", "mine.py")
    beside.run(beside.session(add, only=["attack=clean", "defense=mine"]))

    def told() -> list[str]:
        digest_of(beside, "mine.py")  # as a new process reads it
        session = beside.session(add)
        node = session.scores["mixed/clean/mine"]
        cell = "mixed/clean/mine"
        return why(cell, "tiny", node, session.graph, session.store, session.ledger)[1:]

    beside.write("deeper.py", "BASE = 0.1\n")
    assert told() == ["defend: the code of Mine changed (deeper)"]
    beside.write("mine.py", helped(4).replace("pixels *", "pixels / 2 *"))
    beside.write("helper.py", "AMOUNT = 0.1\n")
    # `deeper` is imported no more
    assert told() == ["defend: the code of Mine changed (mine.py, helper, deeper)"]


def test_why_names_the_modules_of_a_factory_that_changed(beside: Bench) -> None:
    def node() -> Node:
        network = own_code.with_source(Factory(factory="net.py:make"), beside.folder)
        return Node("train", TrainSpec(network=network, recipe=Recipe(), seed=0))

    beside.write("net.py", "import helper\n\n\ndef make():\n    pass\n")
    old = node()
    store = Store(beside.store)
    store.prepare()
    how = {"own_modules": own_modules_of(old.spec)}
    store.put(old.identity, {}, lineage={}, facts={}, how=how)
    beside.write("deeper.py", "BASE = 0.1\n")
    new = node()
    told = Comparison(store).changes(of_node(new), "train", old.digest)
    one, other = (node.identity.spec["network"]["source"] for node in (old, new))
    assert told == (f"train.network.source: {one} → {other} (deeper)",)


def test_a_module_that_changed_after_its_import_is_refused_in_this_process(beside: Bench) -> None:
    beside.write("mine.py", helped(1))
    digest_of(beside, "mine.py")
    assert "helper" in sys.modules
    beside.write("deeper.py", "BASE = 0.1\n")
    with pytest.raises(BadInput, match=r"^deeper: its code has changed since this process"):
        beside.session(("defenses", "mine.py"))


def test_a_module_that_is_found_only_while_the_code_runs_is_refused(beside: Bench) -> None:
    beside.write("hidden/found_late.py", "AMOUNT = 0.5\n")
    folder = str(Path.cwd() / "hidden")
    text = f"import sys\n\nsys.path.append({folder!r})\n{helped(3)}".replace("helper", "found_late")
    beside.write("late.py", text)
    with pytest.raises(BadInput, match=r"late\.py: found_late \(hidden/found_late\.py\) is found"):
        beside.session(("defenses", "late.py"))
    assert "found_late" not in sys.modules
    sys.path.remove(folder)


def test_the_program_and_what_was_imported_before_are_no_new_modules_under_another_name(
    beside: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pipeline.__main__ as program

    script = importlib.import_module("helper")
    before = set(sys.modules)
    nowhere = ModuleType("torch.classes")
    nowhere.__file__ = "_classes.py"
    others = {"again": program, "torch_again": torch, "nowhere": nowhere}
    for name, module in {"__mp_main__": script, **others}.items():
        monkeypatch.setitem(sys.modules, name, module)
    assert uncovered(before, []) == {}
    beside.write("other.py", "")
    monkeypatch.setitem(sys.modules, "other", importlib.import_module("other"))
    assert uncovered(before, []) == {"other": Path.cwd() / "other.py"}
    assert uncovered(before, ["other"]) == {}
    del sys.modules["other"]


@pytest.mark.parametrize(
    ("statement", "file"),
    [
        ("import pack.inner", "pack/__init__.py"),
        ("from pack.inner import VALUE", "pack/__init__.py"),
        ("import noise", "noise.py"),
        ("import trace", "trace.py"),
    ],
)
def test_what_an_import_executes_is_in_the_digest(
    beside: Bench, statement: str, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package, a module beside a folder of its name, and one that hides Python's own."""
    monkeypatch.delitem(sys.modules, "trace", raising=False)
    for name in ("pack/__init__.py", "pack/inner.py", "noise.py", "trace.py"):
        beside.write(name, "VALUE = 1\n")
    beside.write("noise/data.txt", "none\n")
    code = parse_text(statement, Path("mine.py"), whole=True)
    first = own_modules(code)
    beside.write(file, "VALUE = 2\n")
    assert own_modules(code).keys() == first.keys()
    assert own_modules(code) != first


def test_a_version_is_part_of_a_users_code(beside: Bench) -> None:
    text = "class Table:\n    version: ClassVar[int] = {}\n"
    digests = {parse_text(text.format(n), Path("mine.py"), whole=True).digest for n in (1, 2)}
    assert len(digests) == 2


def test_installed_libraries_are_in_no_digest(beside: Bench) -> None:
    beside.write("mine.py", f"{HEAD}{TRANSFORM}        return pixels\n")
    plain = digest_of(beside, "mine.py")
    imports = "import json\nimport numpy.linalg\nimport torchvision\n"
    code = parse_text(f"{imports}{Path('mine.py').read_text()}", Path("mine.py"), whole=True)
    assert own_modules(code) == {}
    modules = source_modules("mine.py", parse(Path("mine.py"), whole=True), {})
    assert plain == source_digest(modules, {})


def test_a_worker_whose_module_differs_is_refused(beside: Bench) -> None:
    beside.write("mine.py", helped(2))
    digest_of(beside, "mine.py")
    parcel = pack(beside.session(("defenses", "mine.py")).scores["mixed/pgd/mine"])
    for code in parcel.codes:
        KNOWN.pop(code.module)
    for name in ("helper", "deeper"):
        sys.modules.pop(name)
    beside.write("deeper.py", "BASE = 0.1\n")
    with pytest.raises(BadInput, match=r"mine\.py: this worker has other code of what it imports"):
        unpack(parcel)


def test_a_change_within_an_installed_package_is_a_change_of_its_defense(package: Path) -> None:
    helper = package.parent / "tables" / "quality.py"
    helper.parent.mkdir()
    helper.write_text("QUALITY = 50\n")
    package.write_text(f"from .tables import quality\n{JPEG}".replace("75", "quality.QUALITY"))

    def digest() -> str:
        for name in [name for name in sys.modules if name.partition(".")[0] == "gentle"]:
            del sys.modules[name]
            KNOWN.pop(name, None)
        return type(Catalogue([]).defense("gentle-jpeg")).source_digest

    first = digest()
    assert digest() == first
    (package.parent / "unrelated.py").write_text("X = 1\n")
    assert digest() == first
    helper.write_text("QUALITY = 40\n")
    assert digest() != first
