"""Named things in YAML: what is wrong with one is told in one line, where it stands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.catalogue.catalogue import Catalogue, config_folders
from pipeline.catalogue.entries import CheckpointEntry
from pipeline.problems import BadInput
from tasks.attacks.pgd import PGD
from tasks.defenses.guo import Guo
from tasks.training.recipe import Recipe

FILES = {
    "datasets/digits.yaml": "kind: digits\nclasses: 10\nchannels: 1\nside_px: 8\n",
    "recipes/short.yaml": "method: mixup\nepochs: 2\n",
    "models/mixed.yaml": "dataset: digits\nnetwork: {kind: small}\nrecipe: short\n",
    "attacks/pgd.yaml": "kind: pgd\nsteps: 2\n",
    "defenses/guo.yaml": "kind: guo\ndraws: 2\n",
    "grids/tiny.yaml": "tables: []\n",
}
Make = Callable[..., Catalogue]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A catalogue of FILES with some of them changed, in ./configs."""
    monkeypatch.chdir(tmp_path)

    def made(**changes: str) -> Catalogue:
        named = {name.replace("__", "/") + ".yaml": text for name, text in changes.items()}
        for name, text in {**FILES, **named}.items():
            path = tmp_path / "configs" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return Catalogue([tmp_path / "configs"])

    return made


def told(action: Callable[[str], object], name: str) -> str:
    with pytest.raises(BadInput) as raised:
        action(name)
    message = str(raised.value)
    assert len(message.splitlines()) == 1
    return message


def test_a_name_is_a_file_and_its_defaults_are_those_of_its_kind(make: Make) -> None:
    catalogue = make()
    assert catalogue.attack("pgd") == PGD(steps=2)
    assert catalogue.defense("guo") == Guo(draws=2)
    assert catalogue.model("mixed")[2] == Recipe(epochs=2)
    assert list(catalogue.names("attacks")) == ["pgd"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: 2\n", "1: kind: no kind; known: "),
        ("kind: pdg\n", "1: kind: unknown kind 'pdg'; did you mean 'pgd'?"),
        ("kind: 3\n", "1: kind: unknown kind 3; known: "),
        ("kind: base\n", "1: kind: unknown kind 'base'; known: "),
        ("kind: pgd\nstep: 2\n", "2: step: unknown key; did you mean 'steps'?"),
        ("kind: pgd\nsteps: 2.5\n", "2: steps: input should be a valid integer, got 2.5"),
        ("kind: pgd\nsteps: '2'\n", "2: steps: input should be a valid integer, got '2'"),
        ("kind: pgd\nsteps: true\n", "2: steps: input should be a valid integer, got True"),
        ("kind: pgd\nsteps: 0\n", "2: steps: input should be greater than or equal to 1, got 0"),
        (
            "kind: pgd\n\nepsilon: -1\n",
            "3: epsilon: input should be greater than or equal to 0, got -1",
        ),
        ("kind: pgd\nepsilon: .inf\n", "2: epsilon: input should be a finite number, got inf"),
        ("kind: pgd\nepsilon: .nan\n", "2: epsilon: input should be a finite number, got nan"),
        ("kind: pgd\nnorm: l3\n", "2: norm: input should be 'linf' or 'l2', got 'l3'"),
        (
            "kind: pgd\ntargeted: true\nlabel: predicted\n",
            "3: label: only an untargeted attack has one; leave it out",
        ),
    ],
)
def test_what_does_not_fit_is_told_with_line_place_and_suggestion(
    make: Make, text: str, message: str
) -> None:
    line = told(make(attacks__pgd=text).attack, "pgd")
    assert line.startswith(f"configs/attacks/pgd.yaml:{message}")
    assert line.endswith(message) or message.endswith("known: ")


def test_an_unknown_name_has_a_suggestion(make: Make) -> None:
    assert told(make().defense, "gou") == "no defense named 'gou'; did you mean 'guo'?"


def test_a_chain_is_no_kind_of_a_config(make: Make) -> None:
    text = "kind: chain\nparts: [{kind: guo}]\n"
    message = told(make(defenses__both=text).defense, "both")
    assert message.startswith("configs/defenses/both.yaml:1: kind: unknown kind 'chain'")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("network: {kind: small}\nrecipe: short\n", "1: dataset: is missing"),
        (
            "dataset: digit\nnetwork: {kind: small}\nrecipe: short\n",
            "1: dataset: no dataset named 'digit'; did you mean 'digits'?",
        ),
        (
            "dataset: digits\nnetwork: {kind: small}\nrecipe: shrt\n",
            "3: recipe: no recipe named 'shrt'; did you mean 'short'?",
        ),
        (
            "dataset: digits\nnetwork: {kind: smal}\nrecipe: short\n",
            "2: network.kind: unknown kind 'smal'; did you mean 'small'?",
        ),
        (
            "dataset: digits\nnetwork:\n  kind: small\n  widht: 4\nrecipe: short\n",
            "4: network.widht: unknown key; did you mean 'width'?",
        ),
        (
            "dataset: digits\nnetwork: {kind: small}\nrecipe:\n  method: iat\n  inner: {a: 3}\n",
            "5: recipe.inner.a: unknown key; known: epsilon, label, step_size, steps",
        ),
        (
            "dataset: digits\nnetwork: {kind: small}\n",
            "1: give either a recipe to train by or a checkpoint to load",
        ),
        (
            "dataset: digits\nnetwork: {kind: small}\nrecipe: short\ncheckpoint: {file: x}\n",
            "1: give either a recipe to train by or a checkpoint to load",
        ),
        (
            "dataset: digits\nnetwork: {kind: small}\ncheckpoint: {fil: x}\n",
            "3: checkpoint.fil: unknown key; did you mean 'file'?",
        ),
    ],
)
def test_a_model_that_does_not_fit_is_told_where(make: Make, text: str, message: str) -> None:
    told_line = told(make(models__mixed=text).model, "mixed")
    assert told_line == f"configs/models/mixed.yaml:{message}"


@pytest.mark.parametrize("kind", ["cifar10", "zip"])
def test_a_data_set_of_a_kind_that_nothing_reads_is_refused(make: Make, kind: str) -> None:
    message = told(make(datasets__digits=f"kind: {kind}\nclasses: 10\n").dataset, "digits")
    assert message.startswith("configs/datasets/digits.yaml:1: kind: input should be 'digits',")


def test_extends_starts_from_another_file_and_merges_what_is_inside(make: Make) -> None:
    catalogue = make(
        models__base="dataset: digits\nnetwork: {kind: small, width: 4}\nrecipe: short\n",
        models__wide="extends: base\nnetwork: {width: 8}\n",
        models__iat="extends: wide\nrecipe: {method: iat}\n",
    )
    assert catalogue.model("wide")[1].model_dump()["width"] == 8
    assert catalogue.model("wide")[0].dataset == "digits"
    _, network, recipe, _ = catalogue.model("iat")
    assert network == catalogue.model("wide")[1]
    assert recipe == Recipe(method="iat")


def test_what_is_wrong_in_an_extended_file_is_told_in_that_file(make: Make) -> None:
    catalogue = make(
        attacks__one="# a comment\nkind: pgd\nsteps: -1\n",
        attacks__two="extends: one\nepsilon: 4\n",
        attacks__three="extends: two\n\nsteps: 0\n",
    )
    assert told(catalogue.attack, "two").startswith("configs/attacks/one.yaml:3: steps: ")
    assert told(catalogue.attack, "three").startswith("configs/attacks/three.yaml:3: steps: ")


def test_extends_of_itself_in_a_circle_or_of_nothing_is_told_in_the_file_that_says_so(
    make: Make,
) -> None:
    catalogue = make(
        attacks__alone="extends: alone\n",
        attacks__one="extends: two\n",
        attacks__two="kind: pgd\nextends: three\n",
        attacks__three="kind: pgd\nsteps: 2\nextends: one\n",
        attacks__lost="extends: pdg\n",
        attacks__list="extends: [pgd]\n",
    )
    for name, message in [
        ("alone", "configs/attacks/alone.yaml:1: extends: no other attack 'alone'"),
        ("one", "configs/attacks/three.yaml:3: extends: no other attack 'one'"),
        ("lost", "configs/attacks/lost.yaml:1: extends: no other attack 'pdg'; did you mean 'pgd'"),
        ("list", "configs/attacks/list.yaml:1: extends: no other attack '['pgd']'"),
    ]:
        assert told(catalogue.attack, name).startswith(message)


def test_a_users_folder_is_looked_into_first_and_hides_nothing_else(
    make: Make, tmp_path: Path
) -> None:
    make()
    own = tmp_path / "own"
    (own / "attacks").mkdir(parents=True)
    (own / "attacks" / "pgd.yaml").write_text("kind: pgd\nsteps: 7\n")
    (own / "attacks" / "more.yaml").write_text("extends: pgd\nepsilon: 2\n")
    catalogue = Catalogue([own, tmp_path / "configs"])
    assert catalogue.attack("pgd") == PGD(steps=7)
    assert catalogue.attack("more") == PGD(steps=7, epsilon=2)
    assert catalogue.defense("guo") == Guo(draws=2)


def test_the_configs_folder_where_one_stands_comes_before_the_programs_own(
    make: Make, tmp_path: Path
) -> None:
    make()
    (tmp_path / "extra" / "defenses").mkdir(parents=True)
    folders = config_folders([tmp_path / "extra"])
    assert folders[:2] == [(tmp_path / "extra").resolve(), (tmp_path / "configs").resolve()]
    assert "demo" in Catalogue(folders).names("grids")


def test_paths_start_from_the_file_that_names_them(make: Make, tmp_path: Path) -> None:
    catalogue = make(
        models__base="dataset: digits\nnetwork: {kind: small}\ncheckpoint: {file: ../w.pt}\n",
        datasets__files="kind: parquet\nclasses: 10\nfolder: ../../data\n",
    )
    _, _, checkpoint, document = catalogue.model("base")
    assert checkpoint == CheckpointEntry(file="../w.pt")
    assert document.file_of(("checkpoint", "file")).parent == tmp_path / "configs" / "models"
    assert catalogue.dataset("files").folder == str(tmp_path / "data")


def test_a_mistake_inside_a_variant_is_told_as_one(make: Make) -> None:
    head = "tables:\n  - name: t\n    models: [mixed]\n    attacks: [pgd]\n    defenses:\n"
    for entry, message in [
        ("{label: x, use: guo}", "6: tables.0.defenses.0.set: is missing"),
        (
            "{label: x, use: guo, sett: {}}",
            "6: tables.0.defenses.0.sett: unknown key; did you mean 'set'?",
        ),
        (
            "{label: x, use: guo, set: {}, lable: y}",
            "6: tables.0.defenses.0.lable: unknown key; did you mean 'label'?",
        ),
        (
            "{label: '', use: guo, set: {}}",
            "6: tables.0.defenses.0.label: a label with nothing",
        ),
        ("5", "6: tables.0.defenses.0: input should be a valid dictionary"),
    ]:
        line = told(make(grids__tiny=f"{head}      - {entry}\n").grid, "tiny")
        assert line.startswith(f"configs/grids/tiny.yaml:{message}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("images: 0\n", "1: images: input should be greater than or equal to 1, got 0"),
        ("epsilon: -1\n", "1: epsilon: input should be greater than or equal to 0, got -1"),
        ("seed: -1\n", "1: seed: input should be greater than or equal to 0, got -1"),
        ("title: x\nimage: 5\n", "2: image: unknown key; did you mean 'images'?"),
        (
            "tables:\n  - name: t\n",
            "2: tables.0.models: is missing",
        ),
        (
            "tables:\n  - name: t\n    attack: [pgd]\n",
            "3: tables.0.attack: unknown key; did you mean 'attacks'?",
        ),
        (
            "rules:\n  - where: {modle: x}\n    set: {}\n",
            "2: rules.0.where.modle: unknown key; did you mean 'model'?",
        ),
        ("precision: float16\n", "1: precision: input should be 'float32', 'tf32' or 'bfloat16'"),
    ],
)
def test_a_grid_that_does_not_fit_is_told_where(make: Make, text: str, message: str) -> None:
    line = told(make(grids__tiny=text).grid, "tiny")
    assert line.startswith(f"configs/grids/tiny.yaml:{message}")
