"""`pipeline new` writes something that works as it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from tiny import write_configs
from torch import nn

from pipeline.catalogue.catalogue import Catalogue, Section
from pipeline.commands.cli import main
from pipeline.commands.new import FORMS
from tasks.classifier.frozen import Frozen
from tasks.classifier.problems import BadNetwork
from tasks.contract import BrokenContract, check_attack, check_defense, check_network
from tasks.data.seeding import Rows
from tasks.defenses.base import Context
from tasks.evaluation.defend import predict
from tasks.evaluation.victim import defended
from tasks.networks.factory import Factory

KINDS = {"defense": "defenses", "attack": "attacks", "model": "models"}
HEADS = {
    "defense": "from tasks.defenses.base import Defense\n\n\nclass Mine(Defense):\n"
    "    def transform(self, pixels, rows, context):\n        return ",
    "attack": "from tasks.attacks.base import BoundedAttack\n\n\nclass Mine(BoundedAttack):\n"
    "    def perturb(self, victim, pixels, labels, rows):\n        return ",
}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_skeleton_is_judged_in_a_grid(kind: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["new", kind, "my-idea"], catch_exceptions=False)
    assert done.exit_code == 0
    assert done.output.splitlines()[-1] == f"run   pipeline run --grid demo --add {kind}=my-idea"
    recipe = {"recipes/demo-mixup.yaml": "method: mixup\nepochs: 1\n"} if kind == "model" else {}
    write_configs(tmp_path / "cfg", recipe)
    words = ["plan", "--grid", "tiny", "--configs", "cfg", "--add", f"{kind}=my-idea", "--all"]
    planned = CliRunner().invoke(main, words, catch_exceptions=False)
    assert planned.exit_code == 0, planned.output
    assert "my-idea" in planned.output


@pytest.mark.parametrize("kind", KINDS)
def test_the_test_of_a_skeleton_passes_and_sees_a_fault(kind: str, tmp_path: Path) -> None:
    CliRunner().invoke(main, ["new", kind, "my-idea"], catch_exceptions=False)
    path = tmp_path / "configs" / KINDS[kind] / "test_my_idea.py"
    [test] = [value for name, value in run_path(str(path)).items() if name.startswith("test_")]
    test()
    code = path.with_name("my-idea.py")
    code.write_text(code.read_text().replace("return ", "return 0 and "))
    with pytest.raises((BrokenContract, BadNetwork)):
        test()


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_defense_keeps_the_contract_and_is_attacked(
    form: str, tmp_path: Path
) -> None:
    words = ["new", "defense", "my-idea", "--form", form]
    assert CliRunner().invoke(main, words, catch_exceptions=False).exit_code == 0
    path = tmp_path / "configs/defenses/test_my_idea.py"
    [test] = [value for name, value in run_path(str(path)).items() if name.startswith("test_")]
    test()
    spec = Catalogue([tmp_path / "configs"]).defense("my-idea")
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    images = torch.arange(4)
    rows = Rows(0, images, torch.zeros_like(images))
    context = Context(Frozen(network, classes=10))
    pixels = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert predict(spec, context, pixels, rows, 100).shape == (4, 10)
    victim = defended(spec, context, rows, draws=5)
    leaf = pixels.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(victim.logits(leaf, 0)[:, 1].sum(), leaf)
    assert (gradient.flatten(1).abs().amax(dim=1) > 0).all()


def test_a_form_is_of_a_defense() -> None:
    done = CliRunner().invoke(main, ["new", "model", "mine", "--form", "votes"])
    assert (done.exit_code, done.stderr) == (
        2,
        "error: new model mine: --form is only for defenses; leave it out\n",
    )


def test_nothing_is_written_over_and_a_name_is_a_name(tmp_path: Path) -> None:
    run = CliRunner().invoke
    assert run(main, ["new", "defense", "mine", "--folder", "c"]).exit_code == 0
    text = (tmp_path / "c/defenses/mine.py").read_text()
    again = run(main, ["new", "defense", "mine", "--folder", "c"])
    assert (again.exit_code, again.stderr) == (2, "error: c/defenses/mine.py already exists\n")
    assert (tmp_path / "c/defenses/mine.py").read_text() == text
    wrong = run(main, ["new", "defense", "../Mine"])
    assert wrong.exit_code == 2
    assert "lower-case letters, digits and hyphens" in wrong.stderr


@pytest.mark.parametrize(
    ("kind", "code", "line"),
    [
        ("defense", "None", "defense mine: returns NoneType, expected a tensor"),
        ("defense", "pixels[:1]", r"mine: returns shape \(1, 1, 8, 8\), expected shape \(6, 1"),
        ("defense", "pixels.double()", r"defense mine: gives torch.float64, not torch.float32"),
        ("defense", "2 * pixels", r"defense mine: gives values from 0 to 2, not in"),
        ("defense", "pixels.detach()", "defense mine: no gradient comes back"),
        ("defense", "pixels * pixels.mean()", "defense mine: an image alone gives something else"),
        (
            "defense",
            "pixels.mul_(0.5)",
            "defense mine: changes the pixels that it is given; write `pi",
        ),
        ("attack", "pixels.sub_(0.01).clamp_(0, 1)", "attack mine: changes the pixels"),
        ("attack", "1 - pixels", r"attack mine: goes farther than 8/255 \(linf\)"),
        ("attack", "pixels.flip(0)", "attack mine: goes farther"),
    ],
)
def test_a_contract_says_what_is_broken(kind: str, code: str, line: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(f"{HEADS[kind]}{code}\n")
    catalogue = Catalogue([])
    section: Section = "defenses" if kind == "defense" else "attacks"
    name = catalogue.add(section, "mine.py")
    spec = catalogue.defense(name) if kind == "defense" else catalogue.attack(name)
    check: Callable[[Any], None] = check_defense if kind == "defense" else check_attack
    with pytest.raises(BrokenContract, match=line):
        check(spec)


def test_a_network_must_give_a_logit_for_each_class() -> None:
    factory = Factory(factory="torch.nn:Flatten")
    with pytest.raises(BrokenContract, match=r"network factory: gives \(1, 64\), not \(1, 10\)"):
        check_network(factory)


def test_printed_commands_of_a_folder_with_a_space_can_be_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = CliRunner().invoke(main, ["new", "defense", "mine", "--folder", "o b"]).stdout
    assert "test  python 'o b/defenses/test_mine.py'" in told
    assert "judge pipeline judge mine --configs 'o b'" in told
