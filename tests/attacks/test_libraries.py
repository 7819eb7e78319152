"""Attacks of other libraries as YAML alone, under the contract of our own."""

from __future__ import annotations

import inspect
import random
import re
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tiny import write_configs
from torch import Tensor, nn

from pipeline.catalogue.catalogue import Catalogue
from pipeline.catalogue.code.libraries import UNKNOWN, library_version
from pipeline.commands import session
from pipeline.commands.session import Session, open_session
from pipeline.execution.events import Observers, RunFinished
from pipeline.grid import digests
from pipeline.grid.digests import digest
from pipeline.plan.why import Moves, changed_cells, why
from pipeline.problems import BadInput
from tasks import registry
from tasks.attacks.base import Victim
from tasks.attacks.libraries.base import LibraryAttack
from tasks.attacks.libraries.victim_module import VictimModule
from tasks.attacks.pgd import PGD
from tasks.data.arrays import as_float
from tasks.data.seeding import Rows
from tasks.data.splits import digits
from tasks.registry import LibraryProblem, kind_class
from tasks.specs import Problem

PROBLEM = Problem(epsilon=32.0, classes=10, side=8, pool=100)
COUNT = 60
YAML = {
    "art": "kind: art\nattack: ProjectedGradientDescent\nparameters: {max_iter: 10}\n",
    "foolbox": "kind: foolbox\nattack: LinfPGD\n",
    "torchattacks": "kind: torchattacks\nattack: PGD\n",
}
OTHERS = {
    "art-l2": "kind: art\nattack: FastGradientMethod\nnorm: l2\nepsilon: 128\n",
    "art-deepfool": (
        "kind: art\nattack: DeepFool\nnorm: l2\nepsilon: 128\nparameters: {max_iter: 5}\n"
    ),
    "foolbox-l2": "kind: foolbox\nattack: L2FastGradientAttack\nnorm: l2\nepsilon: 128\n",
    "torchattacks-apgd": "kind: torchattacks\nattack: APGD\nparameters: {steps: 5}\n",
    "torchattacks-l2": "kind: torchattacks\nattack: PGDL2\nnorm: l2\nepsilon: 128\n",
    "torchattacks-square": "kind: torchattacks\nattack: Square\nparameters: {n_queries: 5}\n",
}


def made(folder: Path, text: str) -> LibraryAttack:
    """The attack that a YAML file describes."""
    path = folder / "attack.yaml"
    path.write_text(text, encoding="utf-8")
    catalogue = Catalogue([])
    spec = catalogue.attack(catalogue.add("attacks", str(path)))
    assert isinstance(spec, LibraryAttack)
    return spec.resolved(PROBLEM)


def rows(count: int = COUNT, seed: int = 0) -> Rows:
    places = torch.arange(count)
    return Rows(seed, images=places, draws=torch.zeros_like(places))


@pytest.fixture(scope="module")
def images() -> tuple[Tensor, Tensor]:
    test = digits().test[:COUNT]
    return as_float(test.pixels), test.labels


def victim_of(network: nn.Module) -> Victim:
    return Victim(lambda pixels, _: network(pixels), classes=10)


def right(network: nn.Module, pixels: Tensor, labels: Tensor) -> float:
    return (network(pixels).argmax(dim=1) == labels).float().mean().item()


@pytest.mark.parametrize("text", {**YAML, **OTHERS}.values(), ids={**YAML, **OTHERS})
def test_a_librarys_attack_keeps_the_contract_of_our_own(
    tmp_path: Path, network: nn.Module, images: tuple[Tensor, Tensor], text: str
) -> None:
    """In the ball and the range, the input untouched, the same alone, the generators untouched."""
    pixels, labels = images[0][:6], images[1][:6]
    attack = made(tmp_path, text)
    before = pixels.clone(), torch.get_rng_state(), np.random.get_state()[1], random.getstate()
    crafted = attack.perturb(victim_of(network), pixels, labels, rows(6))
    assert crafted.dtype == torch.float32
    assert crafted.shape == pixels.shape
    assert crafted.min() >= 0
    assert crafted.max() <= 1
    assert attack.ball().contains(crafted, pixels, tolerance=1e-6).all()
    assert (crafted != pixels).any()
    alone = attack.perturb(victim_of(network), pixels[3:4], labels[3:4], rows(6)[3:4])
    assert torch.equal(alone, crafted[3:4])
    assert torch.equal(pixels, before[0])
    assert torch.equal(torch.get_rng_state(), before[1])
    assert np.array_equal(np.random.get_state()[1], before[2])
    assert random.getstate() == before[3]


@pytest.mark.parametrize("library", YAML)
def test_a_librarys_pgd_is_as_strong_as_ours(
    tmp_path: Path, network: nn.Module, images: tuple[Tensor, Tensor], library: str
) -> None:
    pixels, labels = images
    attack = made(tmp_path, f"{YAML[library]}images_at_once: {COUNT}\n")
    ours = PGD(steps=10).resolved(PROBLEM).perturb(victim_of(network), pixels, labels, rows())
    theirs = attack.perturb(victim_of(network), pixels, labels, rows())
    assert right(network, pixels, labels) > 0.9
    assert right(network, ours, labels) < 0.6
    assert right(network, theirs, labels) <= right(network, ours, labels) + 0.1


@pytest.mark.parametrize("library", YAML)
def test_a_targeted_attack_of_a_library_leads_to_its_targets(
    tmp_path: Path, network: nn.Module, images: tuple[Tensor, Tensor], library: str
) -> None:
    pixels, labels = images
    attack = made(
        tmp_path, f"{YAML[library]}targeted: true\nepsilon: 80\nimages_at_once: {COUNT}\n"
    )
    crafted = attack.perturb(victim_of(network), pixels, labels, rows())
    targets = attack.targets(labels, rows(), 10)
    assert right(network, crafted, targets) > right(network, pixels, targets) + 0.5


def test_random_starts_depend_on_the_seed_and_a_radius_of_zero_changes_nothing(
    tmp_path: Path, network: nn.Module, images: tuple[Tensor, Tensor]
) -> None:
    pixels, labels = images[0][:4], images[1][:4]
    attack = made(tmp_path, YAML["foolbox"])
    first, again, other = (
        attack.perturb(victim_of(network), pixels, labels, rows(4, seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    nothing = made(tmp_path, f"{YAML['art']}epsilon: 0\n")
    assert torch.equal(nothing.perturb(victim_of(network), pixels, labels, rows(4)), pixels)


def test_parameters_enter_the_digest(tmp_path: Path) -> None:
    digests = {
        digest(made(tmp_path, f"kind: torchattacks\nattack: PGD\nparameters: {text}\n"))
        for text in ("{}", "{steps: 7}", "{steps: 8}", "{steps: 8, alpha: 0.1}")
    }
    assert len(digests) == 4
    assert len({made(tmp_path, YAML["art"]), made(tmp_path, YAML["art"])}) == 1


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("kind: art\nattack: Nonesuch\n", "art.attacks.evasion has no attack Nonesuch"),
        (
            "kind: torchattacks\nattack: PGD\nparameters: {stepz: 3}\n",
            r"PGD of torchattacks: .*unexpected keyword argument 'stepz'",
        ),
    ],
)
def test_what_a_library_does_not_have_is_said_in_one_line(
    tmp_path: Path, network: nn.Module, images: tuple[Tensor, Tensor], text: str, line: str
) -> None:
    attack = made(tmp_path, text)
    with pytest.raises(LibraryProblem, match=line):
        attack.perturb(victim_of(network), images[0][:1], images[1][:1], rows(1))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "kind: foolbox\nattack: L2PGD\n",
            "L2PGD of foolbox is an attack in l2, not linf; write norm: l2 with .* such as 128",
        ),
        (
            "kind: torchattacks\nattack: PGDL2\n",
            "PGDL2 of torchattacks is an attack in l2, not linf; write norm: l2 with",
        ),
        ("kind: art\nattack: DeepFool\n", "DeepFool of art is an attack in l2, not linf"),
        ("kind: art\nattack: CarliniL2Method\n", "CarliniL2Method of art is an attack in l2"),
        (
            "kind: foolbox\nattack: LinfPGD\nnorm: l2\nepsilon: 128\n",
            "LinfPGD of foolbox is an attack in linf, not l2; write norm: linf",
        ),
        (
            "kind: torchattacks\nattack: FGSM\nnorm: l2\nepsilon: 128\n",
            "FGSM of torchattacks is an attack in linf, not l2",
        ),
        ("kind: foolbox\nattack: HopSkipJumpAttack\n", "HopSkipJumpAttack of foolbox is .* l2"),
        ("kind: foolbox\nattack: L1PGD\n", "L1PGD of foolbox keeps the l1 norm small; only linf"),
        ("kind: torchattacks\nattack: OnePixel\n", "OnePixel of torchattacks keeps the l0 norm"),
        (
            "kind: torchattacks\nattack: PGD\nparameters: {eps: 8}\n",
            r"eps is the attack's own; write epsilon: 8 \(in 1/255\) beside parameters",
        ),
        (
            "kind: art\nattack: FastGradientMethod\nparameters: {eps: 0.0627451}\n",
            r"eps is the attack's own; write epsilon: 16 \(in 1/255\) beside parameters",
        ),
        (
            "kind: torchattacks\nattack: APGD\nparameters: {norm: L2}\n",
            "norm is the attack's own; write norm: l2 beside parameters",
        ),
        (
            "kind: art\nattack: SquareAttack\nparameters: {norm: 2}\n",
            "norm is the attack's own; write norm: l2 beside parameters",
        ),
        (
            "kind: art\nattack: FastGradientMethod\nparameters: {targeted: true}\n",
            "targeted is the attack's own; write targeted: true beside parameters",
        ),
        (
            "kind: torchattacks\nattack: PGD\nparameters: {alpha: 2}\n",
            r"alpha 2 is more than the pixel range, .*; 0.007843 \(2/255\) was probably meant",
        ),
        (
            "kind: art\nattack: ProjectedGradientDescent\nparameters: {eps_step: 2}\n",
            "eps_step 2 is more than the pixel range, which is 1 to art",
        ),
    ],
)
def test_an_attack_that_is_not_in_the_cells_ball_is_refused_with_what_was_meant(
    tmp_path: Path, text: str, line: str
) -> None:
    with pytest.raises(BadInput, match=line):
        made(tmp_path, text)


def test_the_norms_of_foolboxs_classes_are_those_of_its_distances() -> None:
    foolbox = pytest.importorskip("foolbox")
    known = {"l0": 0, "l1": 1, "l2": 2, "linf": np.inf}
    cls = kind_class("attacks", "foolbox")
    found = 0
    for name, attack in inspect.getmembers(foolbox.attacks, inspect.isclass):
        distance = inspect.getattr_static(attack, "distance", None)
        if isinstance(distance, foolbox.distances.LpDistance) and name != "HopSkipJumpAttack":
            spec = cls.model_construct(attack=name)
            assert known[spec.measure()] == distance.p, name
            found += 1
    assert found > 30


def test_the_norms_of_torchattackss_classes_are_those_that_their_docstrings_state() -> None:
    torchattacks = pytest.importorskip("torchattacks")
    cls = kind_class("attacks", "torchattacks")
    found = 0
    for name, attack in inspect.getmembers(torchattacks, inspect.isclass):
        stated = re.search(r"Distance Measure\s*:\s*(.*)", attack.__doc__ or "")
        if stated is None:
            continue
        takes = "norm" in inspect.signature(attack).parameters
        measure = cls.model_construct(attack=name).measure()
        assert measure == (None if takes else stated[1].strip().lower()), name
        found += 1
    assert found > 25


def test_every_class_of_art_that_takes_no_norm_has_one_here() -> None:
    evasion = pytest.importorskip("art.attacks.evasion")
    cls = kind_class("attacks", "art")
    for name, measure in cls.measures.items():
        assert "norm" not in inspect.signature(getattr(evasion, name)).parameters, name
        assert measure in {"l0", "l1", "l2", "linf"}


class ChannelsLast(nn.Module):
    """A network whose gradient in its input is in the channels-last layout, as Frozen's are."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.last = nn.Linear(8, 10)
        self.to(memory_format=torch.channels_last)

    def forward(self, pixels: Tensor) -> Tensor:
        features = self.first(pixels.contiguous(memory_format=torch.channels_last))
        logits: Tensor = self.last(features.relu().mean(dim=(2, 3)))
        return logits


@pytest.mark.parametrize("name", ["torchattacks-l2", "foolbox-l2", "art-l2"])
def test_a_library_gets_contiguous_gradients_of_a_network_in_channels_last(
    tmp_path: Path, name: str
) -> None:
    network = ChannelsLast().eval().requires_grad_(False)
    attack = made(tmp_path, OTHERS[name])
    pixels, labels = torch.rand(2, 3, 8, 8), torch.tensor([0, 1])
    leaf = pixels.clone().requires_grad_()
    module = VictimModule(victim_of(network), pixels.device)
    (gradient,) = torch.autograd.grad(module(leaf).sum(), leaf)
    assert gradient.is_contiguous()
    crafted = attack.perturb(victim_of(network), pixels, labels, rows(2))
    assert (crafted != pixels).any()
    assert attack.ball().contains(crafted, pixels, tolerance=1e-6).all()


def test_nothing_that_a_library_prints_reaches_standard_output(
    tmp_path: Path,
    network: nn.Module,
    images: tuple[Tensor, Tensor],
    capsys: pytest.CaptureFixture[str],
) -> None:
    # set_mode_targeted_by_function prints a line
    attack = made(tmp_path, f"{YAML['torchattacks']}targeted: true\n")
    attack.perturb(victim_of(network), images[0][:2], images[1][:2], rows(2))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("library", YAML)
def test_a_library_that_is_absent_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    network: nn.Module,
    images: tuple[Tensor, Tensor],
    library: str,
) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named '{library}'", name=library)

    attack = made(tmp_path, YAML[library])
    monkeypatch.setattr(registry.importlib, "import_module", missing)
    with pytest.raises(LibraryProblem) as caught:
        attack.perturb(victim_of(network), images[0][:1], images[1][:1], rows(1))
    assert str(caught.value) == (
        f"{library} is not installed here: pip install '{registry.REQUIREMENTS[library]}'"
    )


def test_an_attacks_name_is_a_word(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="attack"):
        kind_class("attacks", "art")(attack="a.b")


GRID = (
    "epsilon: 40\nimages: 20\ntables:\n"
    "  - {name: main, models: [mixed, vit], defenses: [none],\n"
    "     attacks: [clean, pgd, art, foolbox, torchattacks, autoattack]}\n"
)


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    """A tiny grid with attacks and a network of each library beside our own, for 20 images."""
    monkeypatch.chdir(tmp_path)
    write_configs(
        tmp_path / "cfg",
        {
            **{f"attacks/{name}.yaml": text for name, text in YAML.items()},
            "attacks/autoattack.yaml": "kind: autoattack\nsteps: 2\nqueries: 2\n",
            "models/vit.yaml": (
                "dataset: digits\nnetwork: {kind: timm, name: resnet18}\nrecipe: short\n"
            ),
            "grids/tiny.yaml": GRID,
        },
    )
    return read("clean", *YAML)


def read(*attacks: str) -> Session:
    """The grid as it is read now; a run computes these attacks on `mixed`."""
    only = ["model=mixed", *(f"attack={name}" for name in attacks)]
    return open_session("tiny", store=Path("store"), configs=[Path("cfg")], only=only)


def compute(grid: Session) -> RunFinished:
    grid.store.prepare()
    return grid.run(Observers([]), inline=True, address=None, workers=None, forced=set())


def test_an_attack_of_each_library_is_a_yaml_file_in_a_grid(grid: Session) -> None:
    finished = compute(grid)
    assert not finished.missing
    accuracy = {name: float(str(facts["accuracy"])) for name, facts in finished.scored.items()}
    for library in YAML:
        assert accuracy[f"mixed/{library}/none"] < accuracy["mixed/clean/none"]


def test_a_run_without_a_library_that_it_needs_ends_before_it_begins(
    grid: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(name: str) -> object:
        return None if name == "foolbox" else object()

    monkeypatch.setattr(session, "find_spec", found)
    with pytest.raises(BadInput, match=r"pip install 'foolbox>=3\.3\.4'"):
        compute(grid)
    assert not list(grid.store.root.glob("*/??/*/meta.json"))


def test_the_version_of_a_library_is_that_of_its_distribution() -> None:
    assert library_version("art") == version("adversarial-robustness-toolbox")
    assert library_version("foolbox") == version("foolbox")
    assert library_version("nonesuch") == UNKNOWN


def installed(monkeypatch: pytest.MonkeyPatch, library: str, seen: str) -> None:
    """Let a library have another version, as after an upgrade and in a new process."""

    def version_of(name: str) -> str:
        return seen if name == library else library_version(name)

    monkeypatch.setattr(digests, "library_version", version_of)


@pytest.mark.parametrize(
    ("library", "cells"),
    [
        ("art", {"mixed/art/none", "vit/art/none"}),
        ("foolbox", {"mixed/foolbox/none", "vit/foolbox/none"}),
        (
            "torchattacks",
            {f"{m}/{a}/none" for m in ("mixed", "vit") for a in ("torchattacks", "autoattack")},
        ),
        ("timm", {f"vit/{a}/none" for a in ("clean", "pgd", "autoattack", *YAML)}),
    ],
)
def test_another_version_of_a_library_has_other_digests_where_it_does_the_work(
    grid: Session, monkeypatch: pytest.MonkeyPatch, library: str, cells: set[str]
) -> None:
    before, graph = grid.scores, grid.graph
    installed(monkeypatch, library, "9.9")
    after = read()
    assert {name for name, node in after.scores.items() if node != before[name]} == cells
    new = [node for node in after.graph if node.digest not in graph]
    # not what autoattack makes before FAB
    assert {node.libraries.get(library) for node in new} == {"9.9"}


def test_another_version_of_a_library_is_told_by_plan_and_why(
    grid: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = "mixed/foolbox/none"
    compute(old := read("foolbox"))
    installed(monkeypatch, "foolbox", "9.9")
    now = read("foolbox")
    line = f"craft: foolbox: version {version('foolbox')} → 9.9"
    lines = why(cell, "tiny", now.scores[cell], now.graph, now.store, now.ledger)
    assert lines == [f"{cell}: 1 craft, 1 defend, 1 score to do", line]
    assert changed_cells("tiny", now.scores, now.store, now.ledger, most=99) == {line: 1}
    compute(now)
    first, second = (session.scores[cell].digest for session in (old, now))
    # once, and not as a property of the machine, too
    assert Moves(now.store, now.store).reasons(second, first) == (line,)
    told = read("foolbox").provenance()
    assert (told["foolbox"], told["pillow"]) == ("9.9", version("pillow"))


def test_a_record_without_the_version_of_a_library_is_told_as_such(
    grid: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = "mixed/foolbox/none"
    with monkeypatch.context() as before:
        before.setattr(digests, "_library", lambda _: {})
        compute(read("foolbox"))
    now = read("foolbox")
    told = why(cell, "tiny", now.scores[cell], now.graph, now.store, now.ledger)
    assert told[1:] == [f"craft: foolbox: version not recorded → {version('foolbox')}"]
