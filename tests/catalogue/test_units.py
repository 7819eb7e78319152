"""Sizes in another unit than 1/255 are refused, with the value that was probably meant."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from pydantic import ValidationError
from tiny import write_configs

from pipeline.catalogue.catalogue import Catalogue
from pipeline.grid.builder import load_grid
from pipeline.grid.cells import Grid
from pipeline.problems import BadInput
from tasks import registry
from tasks.attacks.adaptive import Adaptive
from tasks.attacks.base import BoundedAttack
from tasks.attacks.pgd import PGD
from tasks.networks.resnet20 import ResNet20
from tasks.specs import Problem

PROBLEM = Problem(epsilon=8.0, classes=10, side=32, pool=100)


def grid_of(folder: Path, **files: str) -> Grid:
    configs = write_configs(
        folder, {name.replace("__", "/") + ".yaml": files[name] for name in files}
    )
    return load_grid(Catalogue([configs]), "tiny")


GRID = (
    "epsilon: {epsilon}\nimages: 20\ntables:\n  - name: main\n    models: [mixed]\n"
    "    attacks: [clean, pgd]\n    defenses: [none, counter, guo]\n{more}"
)


@pytest.mark.parametrize(
    ("files", "place", "meant"),
    [
        ({"attacks__pgd": "kind: pgd\nepsilon: 0.031\n"}, "attacks/pgd.yaml:2:", "8"),
        ({"attacks__pgd": "kind: pgd\nepsilon: 0.03137\n"}, "attacks/pgd.yaml:2:", "8"),
        ({"attacks__pgd": "kind: pgd\nstep_size: 0.007\n"}, "attacks/pgd.yaml:2:", "1.785"),
        ({"attacks__pgd": "kind: pgd\nstep_size: 0.0078431\n"}, "pgd.yaml:2:", "2"),
        (
            {"attacks__pgd": "kind: pgd\nnorm: l2\nepsilon: 0.5\n"},
            "attacks/pgd.yaml:3:",
            "128",
        ),
        ({"grids__tiny": GRID.format(epsilon="0.03137", more="")}, "grids/tiny.yaml:1:", "8"),
        (
            {
                "grids__tiny": GRID.format(
                    epsilon="8",
                    more="rules:\n  - where: {attack: pgd}\n    set: {attack.epsilon: 0.0157}\n",
                )
            },
            "grids/tiny.yaml:10:",
            "4",
        ),
        ({"defenses__counter": "kind: counter\nstep_size: 0.0157\n"}, "counter.yaml:2:", "4"),
        ({"defenses__counter": "kind: counter\nlimit: 0.031\n"}, "counter.yaml:2:", "8"),
        (
            {"defenses__guo": "kind: gaussian\nstandard_deviation_255ths: 0.025\n"},
            "defenses/guo.yaml:2:",
            "6.375",
        ),
        (
            {"recipes__short": "method: iat\nepochs: 1\ninner: {epsilon: 0.031}\n"},
            "recipes/short.yaml:3:",
            "8",
        ),
        (
            {"recipes__short": "method: iat\nepochs: 1\ninner: {step_size: 0.0078}\n"},
            "recipes/short.yaml:3:",
            "2",
        ),
        (
            {"attacks__pgd": "kind: adaptive\ntransferred:\n  - {kind: pgd, epsilon: 0.031}\n"},
            "attacks/pgd.yaml:2:",
            "8",
        ),
        (
            {
                "grids__tiny": GRID.format(epsilon="8", more="").replace(
                    "pgd]", "{label: small, use: pgd, set: {epsilon: 0.031}}]"
                )
            },
            "grids/tiny.yaml:6:",
            "8",
        ),
    ],
)
def test_a_size_below_a_255th_is_refused_with_the_one_that_was_meant(
    tmp_path: Path, files: dict[str, str], place: str, meant: str
) -> None:
    with pytest.raises(BadInput) as caught:
        grid_of(tmp_path, **files)
    line = str(caught.value)
    assert "\n" not in line
    assert place in line
    assert "less than one 255th of the pixel range" in line
    assert f"in 255ths: {meant} (" in line
    assert 'was probably meant; if not, write "0.' in line


@pytest.mark.parametrize("written", ["0.5/255", " .5 / 255", "'0.5/255'", "5e-1/255"])
def test_a_size_below_a_255th_is_taken_where_its_unit_is_written(
    tmp_path: Path, written: str
) -> None:
    grid = grid_of(
        tmp_path,
        attacks__pgd=f"kind: pgd\nepsilon: {written}\n",
        defenses__counter=f"kind: counter\nstep_size: {written}\n",
        grids__tiny=GRID.format(epsilon=written, more=""),
    )
    cell = grid.cell("mixed/pgd/counter")
    assert isinstance(cell.attack_spec, PGD)
    assert (cell.attack_spec.epsilon, cell.attack_spec.step_size) == (0.5, 0.125)
    assert cell.defense_spec.model_dump()["step_size"] == 0.5


def test_small_sizes_may_be_set_by_rules_and_swept(tmp_path: Path) -> None:
    more = "rules:\n  - where: {attack: pgd}\n    set: {attack.epsilon: 0.25/255}\n"
    ruled = grid_of(tmp_path / "rule", grids__tiny=GRID.format(epsilon="8", more=more))
    assert ruled.cell("mixed/pgd/none").attack_spec.model_dump()["epsilon"] == 0.25
    more = "    sweep: {attack.epsilon: [0.5/255, 2]}\n"
    swept = grid_of(tmp_path / "sweep", grids__tiny=GRID.format(epsilon="8", more=more))
    assert swept.cell("mixed/pgd[epsilon=0.5]/none").attack_spec.model_dump()["epsilon"] == 0.5
    values = [choice.values for choice in swept.tables[0].swept if choice.section == "attacks"]
    assert (("attack.epsilon", 0.5),) in values


def test_beside_a_small_size_another_parameter_may_be_changed(tmp_path: Path) -> None:
    more = "rules:\n  - where: {attack: pgd}\n    set: {attack.steps: 5}\n"
    grid = grid_of(
        tmp_path,
        attacks__pgd="kind: pgd\nepsilon: 0.5/255\n",
        grids__tiny=GRID.format(epsilon="8", more=more),
    )
    attack = grid.cell("mixed/pgd/none").attack_spec.model_dump()
    assert (attack["steps"], attack["epsilon"]) == (5, 0.5)


def test_other_fractions_and_units_are_refused(tmp_path: Path) -> None:
    for written in ("8/256", "8/255 px", "-1/255", "eight"):
        with pytest.raises(BadInput, match=r"expected a number, such as 8 or 0\.5/255"):
            grid_of(tmp_path, attacks__pgd=f"kind: pgd\nepsilon: {written}\n")


@pytest.mark.parametrize("epsilon", ["0", "1", "1.5", "8"])
def test_zero_and_whole_255ths_are_taken_as_they_are(tmp_path: Path, epsilon: str) -> None:
    grid = grid_of(tmp_path, attacks__pgd=f"kind: pgd\nepsilon: {epsilon}\n")
    attack = grid.cell("mixed/pgd/none").attack_spec
    assert isinstance(attack, BoundedAttack)
    assert attack.epsilon == float(epsilon)


def test_a_step_that_follows_from_a_small_epsilon_may_be_small(tmp_path: Path) -> None:
    grid = grid_of(tmp_path, grids__tiny=GRID.format(epsilon="1", more=""))
    attack = grid.cell("mixed/pgd/none").attack_spec
    assert isinstance(attack, PGD)
    assert attack.step_size == 0.25


def test_an_l2_ball_needs_an_epsilon_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"an l2 ball needs one of its own.*8/255.*128") as caught:
        grid_of(
            tmp_path / "a",
            attacks__pgd="kind: pgd\nnorm: l2\n",
            grids__tiny=GRID.format(epsilon="8", more=""),
        )
    assert "grids/tiny.yaml:6:" in str(caught.value)
    for kind in ("fgsm", "apgd", "square"):
        with pytest.raises(BadInput, match="an l2 ball needs one of its own"):
            grid_of(tmp_path / kind, attacks__pgd=f"kind: {kind}\nnorm: l2\n")
    own = grid_of(tmp_path / "b", attacks__pgd="kind: pgd\nnorm: l2\nepsilon: 128\n")
    attack = own.cell("mixed/pgd/none").attack_spec
    assert attack.ball().norm == "l2"
    assert attack.ball().radius == pytest.approx(128 / 255)


def test_what_an_adaptive_attack_transfers_is_in_its_own_ball() -> None:
    adaptive = Adaptive(norm="l2", epsilon=128.0).resolved(PROBLEM)
    assert all(attack.ball() == adaptive.ball() for attack in adaptive.transferred)
    assert [attack.ball().norm for attack in Adaptive().resolved(PROBLEM).transferred] == [
        "linf"
    ] * 4
    for inside in (PGD(epsilon=16.0), PGD(norm="l2", epsilon=8.0)):
        with pytest.raises(ValueError, match="transferred: pgd has"):
            Adaptive(transferred=(inside,)).resolved(PROBLEM)
    smaller = Adaptive(transferred=(PGD(epsilon=4.0),)).resolved(PROBLEM)
    assert smaller.transferred[0].ball().radius == pytest.approx(4 / 255)


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("mean: [123.7, 116.3, 103.5], std: [58.4, 57.1, 57.4]", "[0.4851, 0.4561, 0.4059]"),
        ("std: [58.4]", "[0.229]"),
        ("mean: [127.5], std: [0.5]", "[0.5]"),
        ("std: [255.0]", "[1]"),
    ],
)
def test_a_mean_or_std_in_0_to_255_is_refused_with_that_of_0_to_1(
    tmp_path: Path, line: str, meant: str
) -> None:
    text = f"dataset: digits\nnetwork:\n  {{kind: small, {line}}}\nrecipe: short\n"
    with pytest.raises(BadInput) as caught:
        grid_of(tmp_path, models__mixed=text)
    assert "models/mixed.yaml:3:" in str(caught.value)
    assert f"{meant} was probably meant" in str(caught.value)


@pytest.mark.parametrize("kind", ["factory", "timm", "exported"])
def test_networks_of_somebody_elses_code_are_held_to_the_same_range(
    tmp_path: Path, kind: str
) -> None:
    named = {"factory": "factory: 'net.py:net'", "timm": "name: resnet18"}.get(kind, "std: [1.0]")
    text = f"dataset: digits\nnetwork: {{kind: {kind}, {named}, mean: [123.7]}}\nrecipe: short\n"
    with pytest.raises(BadInput, match=r"\[0.4851\] was probably meant"):
        grid_of(tmp_path, models__mixed=text)


def test_the_usual_means_and_deviations_are_taken() -> None:
    for mean, std in (((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ((0.0,), (1.0,))):
        assert ResNet20(mean=mean, std=std).mean == mean


FAMILIES: tuple[Literal["attacks", "defenses"], ...] = ("attacks", "defenses")


@pytest.mark.parametrize(
    ("family", "kind", "name"),
    [
        (family, kind, name)
        for family in FAMILIES
        for kind in registry.written_kinds(family)
        for name, field in registry.kind_class(family, kind).model_fields.items()
        if field.default is None
    ],
)
def test_a_zero_is_refused_or_taken_and_never_stands_for_the_default(family, kind, name):
    cls = registry.kind_class(family, kind)
    try:
        spec = cls.model_validate({name: 0})
    except ValidationError:
        return
    assert getattr(spec.resolved(PROBLEM), name) == 0
