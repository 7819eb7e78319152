"""Grids: products, rules and variants become cells; any mistake in a config is one line."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline.catalogue.catalogue import Catalogue
from pipeline.commands.cli import main
from pipeline.grid.builder import Overrides, load_grid
from pipeline.grid.cells import Cell, Grid, Table
from pipeline.grid.nodes import CellNodes
from pipeline.problems import BadInput
from tasks.training.recipe import CheckpointSpec

SHIPPED = Path(__file__).parents[2] / "configs"
HEAD = "  - name: t\n    models: [mixed]\n"
FILES = {
    "datasets/digits.yaml": "kind: digits\nclasses: 10\nchannels: 1\nside_px: 8\n",
    "recipes/short.yaml": "method: mixup\nepochs: 2\n",
    "models/mixed.yaml": "dataset: digits\nnetwork: {kind: small}\nrecipe: short\n",
    "attacks/clean.yaml": "kind: clean\n",
    "attacks/pgd.yaml": "kind: pgd\n",
    "defenses/none.yaml": "kind: none\n",
    "defenses/counter.yaml": "kind: counter\n",
    "defenses/guo.yaml": "kind: guo\n",
}
OPTIONAL = {"labels", "loss", "confidence", "smoothing", "relu_width"}
OPTIONAL |= {"square_queries", "square_window"}
OPTIONAL |= {"class_names", "image_column", "randomised", "resize", "weights_key"}
Load = Callable[..., Grid]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Loads a grid `g` of a given text from ./configs, with other files beside it."""
    monkeypatch.chdir(tmp_path)

    def loaded(text: str, overrides: Overrides | None = None, **files: str) -> Grid:
        named = {name.replace("__", "/") + ".yaml": text for name, text in files.items()}
        for name, content in {**FILES, **named, "grids/g.yaml": text}.items():
            path = tmp_path / "configs" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
        return load_grid(Catalogue([tmp_path / "configs"]), "g", overrides)

    return loaded


def table(attacks: str = "[pgd]", defenses: str = "[none]", more: str = "") -> str:
    return f"tables:\n{HEAD}    attacks: {attacks}\n    defenses: {defenses}\n{more}"


def told(load: Load, text: str, overrides: Overrides | None = None, **files: str) -> str:
    with pytest.raises(BadInput) as raised:
        load(text, overrides, **files)
    message = str(raised.value)
    assert len(message.splitlines()) == 1
    return message


def spec_of(grid: Grid, name: str) -> dict[str, object]:
    return grid.cell(name).defense_spec.model_dump()


@pytest.fixture(scope="module")
def demo() -> Grid:
    return load_grid(Catalogue([SHIPPED]), "demo")


def test_the_shipped_grid_has_the_cells_of_its_tables_each_once(demo: Grid) -> None:
    assert len(demo.cells) == 94
    assert len({cell.name for cell in demo.cells}) == 94
    wanted = {
        f"{model}/{attack}/{defense}"
        for part in demo.tables
        for model in part.models
        for attack in part.attacks
        for defense in part.defenses
    }
    assert {cell.name for cell in demo.cells} == wanted
    assert Counter(cell.model for cell in demo.cells) == {"demo-mixup": 51, "demo-iat": 43}
    # the quick budget attacks the first 200 images
    by_budget = {(cell.attack_spec.compound, cell.images) for cell in demo.cells}
    assert by_budget == {(False, 600), (True, 200)}


def test_no_cell_of_the_shipped_grid_has_a_default_left_to_fill_in(demo: Grid) -> None:
    def unset(value: object) -> list[str]:
        if isinstance(value, dict):
            # a counter that is given no labels draws them; what an attack leaves out stays out
            known = [key for key in value if key not in OPTIONAL]
            return [key for key in known if value[key] is None or unset(value[key])]
        if isinstance(value, list | tuple):
            return [key for inner in value for key in unset(inner)]
        return []

    for cell in demo.cells:
        parts = (cell.attack_spec, cell.defense_spec, cell.dataset_spec, cell.model_spec)
        found = {key for spec in parts for key in unset(spec.model_dump())}
        # only interpolated adversarial training has an inner attack
        assert found <= ({"inner", "recipe"} if cell.model == "demo-mixup" else set())


def test_the_rule_of_the_shipped_grid_reaches_mi_ol_of_the_iat_model_alone(demo: Grid) -> None:
    weights = {
        cell.name: part["input_weight"]
        for cell in demo.cells
        for part in [cell.defense_spec.model_dump(), *_parts(cell)]
        if part["kind"] == "mi-ol"
    }
    assert set(weights.values()) == {0.5, 0.6}
    assert all((weight == 0.6) == name.startswith("demo-iat/") for name, weight in weights.items())


def _parts(cell: Cell) -> list[dict[str, object]]:
    found = cell.defense_spec.model_dump().get("parts", ())
    return list(found) if isinstance(found, list | tuple) else []


def test_a_deterministic_defense_has_one_redraw(demo: Grid) -> None:
    redraws = {cell.defense: cell.redraws for cell in demo.cells}
    once = {defense for defense, count in redraws.items() if count == 1}
    assert once == {"none", "counter", "counter-untargeted"}
    assert set(redraws.values()) == {1, 3}


def test_the_shipped_grid_loads_without_torch_ray_or_mlflow() -> None:
    code = (
        "import sys; from pathlib import Path; from pipeline.catalogue.catalogue import Catalogue;"
        "from pipeline.grid.builder import load_grid; from pipeline.grid.nodes import CellNodes;"
        "from pipeline.plan.planning import make_plan; from pipeline.store.store import Store;"
        f"grid = load_grid(Catalogue([Path({str(SHIPPED)!r})]), 'demo');"
        "from pipeline.grid.graph import Graph; nodes = CellNodes();"
        "scores = [nodes.score(cell) for cell in grid.cells];"
        "plan = make_plan(Graph(scores), scores, Store(Path('nowhere')));"
        "print(len(plan.todo), {'torch', 'ray', 'mlflow', 'polars'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "397 set()\n"


def test_overrides_change_images_redraws_and_seeds() -> None:
    overrides = Overrides(images=50, redraws=5, seeds=2)
    grid = load_grid(Catalogue([SHIPPED]), "demo", overrides)
    assert len(grid.cells) == 188
    assert {cell.images for cell in grid.cells} == {50}
    assert {cell.redraws for cell in grid.cells} == {1, 5}
    first, second = (grid.cell(f"demo-mixup/clean/xie{seed}") for seed in ("", "/seed1"))
    assert (first.seed, second.seed) == (0, 1)
    assert [cell.model_spec.model_dump()["seed"] for cell in (first, second)] == [0, 1]


def test_a_variant_changes_parameters_under_a_label(load: Load) -> None:
    grid = load(
        table(
            "[pgd, {label: long, use: pgd, set: {steps: 99}}]",
            "[guo, {label: few, use: guo, set: {draws: 3}},"
            " {label: both, use: counter+guo, set: {guo.draws: 4, counter.limit: 2}}]",
        )
    )
    assert [cell.name for cell in grid.cells] == [
        f"mixed/{attack}/{defense}"
        for attack in ("pgd", "long")
        for defense in ("guo", "few", "both")
    ]
    assert grid.cell("mixed/long/guo").attack_spec.model_dump()["steps"] == 99
    assert grid.cell("mixed/pgd/guo").attack_spec.model_dump()["steps"] == 10
    assert spec_of(grid, "mixed/pgd/few")["draws"] == 3
    both = spec_of(grid, "mixed/pgd/both")
    assert both["draws"] == 4
    assert both["parts"][0]["limit"] == 2  # type: ignore[index]


def test_a_variant_without_changes_is_computed_as_what_it_uses(load: Load) -> None:
    grid = load(table(defenses="[guo, {label: same, use: guo, set: {}}]"))
    assert grid.cell("mixed/pgd/same").defense_spec == grid.cell("mixed/pgd/guo").defense_spec


def test_gains_of_are_counted_from_what_follows_the_defense_and_gains_over_from_one_row(
    load: Load,
) -> None:
    def bases(table: Table) -> dict[str, str | None]:
        found = {name: table.baseline("mixed", "pgd", name) for name in table.defenses}
        return {name: base[2] if base else None for name, base in found.items()}

    defenses = "[none, counter, guo, counter+guo]"
    of = load(table(defenses=defenses, more="    gains_of: counter\n")).tables[0]
    assert bases(of) == {"none": None, "counter": "none", "guo": None, "counter+guo": "guo"}
    over = load(table(defenses=defenses, more="    gains_over: guo\n")).tables[0]
    assert bases(over) == {"none": "guo", "counter": "guo", "guo": None, "counter+guo": "guo"}
    lone = load(table(defenses="[counter+guo]", more="    gains_of: counter\n")).tables[0]
    assert bases(lone) == {"counter+guo": None}


def test_gains_may_be_counted_over_one_model_or_one_attack(load: Load) -> None:
    both = table("[pgd, clean]").replace("[mixed]", "[mixed, other]")
    other = {"models__other": FILES["models/mixed.yaml"]}
    models = load(both + "    gains_over: mixed\n", **other).tables[0]
    assert models.baseline("other", "pgd", "none") == ("mixed", "pgd", "none")
    assert models.baseline("mixed", "pgd", "none") is None
    attacks = load(both + "    gains_over: pgd\n", **other).tables[0]
    assert attacks.baseline("other", "clean", "none") == ("other", "pgd", "none")
    assert attacks.baseline("other", "pgd", "none") is None


def test_a_grid_may_be_made_of_grids_that_share_cells(load: Load) -> None:
    one, two = table(defenses="[none, guo]"), table(defenses="[guo, counter]")
    grid = load("grids: [one, two]\n", grids__one=one, grids__two=two)
    assert [cell.defense for cell in grid.cells] == ["none", "guo", "counter"]
    assert len(grid.tables) == 2


def test_rules_apply_in_their_order_to_the_cells_that_match(load: Load) -> None:
    rules = (
        "rules:\n  - where: {attack: 'pg*'}\n    set: {attack.steps: 5, guo.draws: 7}\n"
        "  - where: {defense: '*+guo', table: t}\n    set: {guo.draws: 9}\n"
    )
    grid = load(table("[clean, pgd]", "[none, guo, counter+guo]", rules))
    assert spec_of(grid, "mixed/pgd/guo")["draws"] == 7
    assert spec_of(grid, "mixed/clean/guo")["draws"] == 50
    assert spec_of(grid, "mixed/pgd/counter+guo")["draws"] == 9
    assert grid.cell("mixed/pgd/none").attack_spec.model_dump()["steps"] == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title: x\n", "1: a grid needs tables or other grids"),
        (
            table("[pgd, pdg]"),
            "4: tables.0.attacks.1: no attack named 'pdg'; did you mean 'pgd'?",
        ),
        (
            table(defenses="\n      - none\n      - counter+gou"),
            "7: tables.0.defenses.1: no defense named 'gou'; did you mean 'guo'?",
        ),
        (
            table().replace("[mixed]", "[mixd]"),
            "3: tables.0.models.0: no model named 'mixd'; did you mean 'mixed'?",
        ),
        (
            table("[{label: x, use: pdg, set: {}}]"),
            "4: tables.0.attacks.0: no attack named 'pdg'; did you mean 'pgd'?",
        ),
        (
            table("[{label: x, use: pgd, set: {step: 3}}]"),
            "4: tables.0.attacks.0.set.step: no such parameter; did you mean 'steps'?",
        ),
        (
            table("[{label: x, use: pgd, set: {kind: fgsm}}]"),
            "4: tables.0.attacks.0.set.kind: no such parameter; known: confidence, epsilon, ",
        ),
        (
            table(defenses="[{label: x, use: counter+guo, set: {gou.draws: 3}}]"),
            "5: tables.0.defenses.0.set.gou.draws: nothing is called 'gou' here; did you mean",
        ),
        (
            table(defenses="[{label: x, use: counter+guo, set: {draws: 3}}]"),
            "5: tables.0.defenses.0.set.draws: say of what, such as 'counter.draws'",
        ),
        (
            table(defenses="[{label: x, use: counter+guo, set: {guo.draws: -3}}]"),
            "5: tables.0.defenses.0.set.guo.draws: input should be greater than or equal to 1",
        ),
        (
            table(defenses="[{label: x, use: guo, set: {smallest: 0.9, largest: 0.5}}]"),
            "5: tables.0.defenses.0.set: smallest 0.9 is above largest 0.5",
        ),
        (
            table(defenses="[none, {label: x, use: counter, set: {label_count: 12}}]"),
            "5: tables.0.defenses.1: counter: label_count is 12, but there are 9 labels",
        ),
        (
            table(defenses="[guo, {label: guo, use: guo, set: {draws: 3}}]"),
            "5: tables.0.defenses: 'guo' is given 2 times",
        ),
        (
            table(more="    gains_of: conter\n"),
            "6: tables.0.gains_of: no such defense in this table: 'conter'; did you mean 'none'",
        ),
        (
            table(more="    gains_over: non\n"),
            "6: tables.0.gains_over: no such defense, model or attack in this table: 'non'; did",
        ),
        (
            table(more="    gains_of: none\n    gains_over: none\n"),
            "7: tables.0.gains_over: give either gains_of or gains_over",
        ),
        (
            table(more="rules:\n  - where: {model: x}\n    set: {}\n"),
            "7: rules.0.where: matches no cell",
        ),
        (
            table(more="rules:\n  - set: {attack.stps: 5}\n"),
            "7: rules.0.set.attack.stps: no such parameter; did you mean 'steps'?",
        ),
        (
            table(more="rules:\n  - set:\n      attack.steps: x\n"),
            "8: rules.0.set.attack.steps: input should be a valid integer, got 'x'",
        ),
        (
            table(more="rules:\n  - set: {atack.steps: 5}\n"),
            "7: rules.0.set.atack.steps: nothing is called 'atack' here; did you mean 'attack'?",
        ),
        (
            table(more="rules:\n  - set: {steps: 5}\n"),
            "7: rules.0.set.steps: say of what, such as 'attack.steps'",
        ),
        (
            table(more="rules:\n  - set: {guo.draws: 5}\n"),
            "7: rules.0.set.guo.draws: nothing is called 'guo' here; known: attack, none",
        ),
        (
            "images: 601\n" + table(),
            "1: images: the test set of 'digits' has 600 images, not 601",
        ),
        ("grids: [g]\n", "1: grids.0: no other grid 'g'"),
        ("grids:\n  - h\n", "2: grids.0: no other grid 'h'"),
    ],
)
def test_what_does_not_fit_is_told_with_line_place_and_suggestion(
    load: Load, text: str, message: str
) -> None:
    assert told(load, text).startswith(f"configs/grids/g.yaml:{message}")


def test_grids_that_hold_each_other_are_told(load: Load) -> None:
    message = told(load, "grids: [h]\n", grids__h="title: x\ngrids: [i]\n", grids__i="grids: [g]\n")
    assert message == "configs/grids/i.yaml:1: grids.0: no other grid 'g'"


def test_two_mi_ol_pools_in_a_chain_are_told_where_the_chain_stands(load: Load) -> None:
    message = told(
        load,
        table(defenses="[one+two]"),
        defenses__one="kind: mi-ol\npool: test\n",
        defenses__two="kind: mi-ol\n",
    )
    assert message.startswith("configs/grids/g.yaml:5: tables.0.defenses.0: ")
    assert "must take one pool" in message


def test_what_cannot_be_followed_in_a_chain_is_told_in_one_line(load: Load) -> None:
    views = "kind: tte\n"
    message = told(load, table(defenses="[tte+none]"), defenses__tte=views)
    assert message == (
        "configs/grids/g.yaml:5: tables.0.defenses.0: 'tte+none': tte combines several answers, "
        "which only the last part of a chain can: put it last"
    )
    noisy = "kind: anti-adversary\nbox: false\n"
    message = told(load, table(defenses="[anti+none]"), defenses__anti=noisy)
    assert "'anti+none': anti-adversary may leave the range of pixels" in message
    [cell] = load(table(defenses="[none+tte]"), defenses__tte=views).cells
    assert cell.deterministic


def test_options_that_do_not_fit_are_told_by_their_own_name(load: Load, tmp_path: Path) -> None:
    assert told(load, table(), Overrides(images=601)) == (
        "--images 601: the test set of 'digits' has 600 images"
    )
    assert told(load, table(), Overrides(data={"digit": tmp_path})) == (
        "--data digit: no such data set in grid 'g'; did you mean 'digits'?"
    )
    assert told(load, table(), Overrides(data={"digits": tmp_path})).startswith("--data digits: ")


def test_a_checkpoint_is_known_by_its_sha256_and_its_path_stays_outside(
    load: Load, tmp_path: Path
) -> None:
    (tmp_path / "weights.pt").write_bytes(b"weights")
    (tmp_path / "same.pt").write_bytes(b"weights")
    model = "dataset: digits\nnetwork: {kind: small}\ncheckpoint:\n  file: ../../weights.pt\n"
    other = model.replace("weights.pt", "same.pt")
    grid = load(
        table().replace("[mixed]", "[mixed, other]"), models__mixed=model, models__other=other
    )
    one, two = grid.cells
    assert isinstance(one.model_spec, CheckpointSpec)
    assert one.model_spec == two.model_spec
    assert dict(one.model_files) == {"weights": str(tmp_path / "weights.pt")}
    assert dict(two.model_files) == {"weights": str(tmp_path / "same.pt")}


def test_a_checkpoint_that_is_missing_or_another_is_told_in_the_models_file(
    load: Load, tmp_path: Path
) -> None:
    model = "dataset: digits\nnetwork: {kind: small}\ncheckpoint:\n  file: ../../weights.pt\n"
    assert told(load, table(), models__mixed=model) == (
        "configs/models/mixed.yaml:4: checkpoint.file: there is no file weights.pt"
    )
    (tmp_path / "weights.pt").write_bytes(b"weights")
    message = told(load, table(), models__mixed=f"{model}  sha256: '{'0' * 64}'\n")
    assert message.startswith("configs/models/mixed.yaml:5: checkpoint.sha256: weights.pt has the")


def test_a_model_stands_for_one_that_there_is_and_its_digests_do_not_tell(load: Load) -> None:
    model = FILES["models/mixed.yaml"]
    text = table().replace("[mixed]", "[mixed, other]")
    plain, other = load(text, models__other=f"{model}stands_for: mixed\n").cells
    assert (plain.stands_for, other.stands_for) == (None, "mixed")
    assert CellNodes().score(plain).digest == CellNodes().score(other).digest
    message = told(load, text, models__other=f"{model}stands_for: mixd\n")
    assert message == (
        "configs/models/other.yaml:4: stands_for: no model named 'mixd'; did you mean 'mixed'?"
    )


def test_an_unknown_cell_has_a_suggestion(demo: Grid) -> None:
    with pytest.raises(BadInput, match="did you mean 'demo-iat/clean/none'"):
        demo.cell("demo-iat/clean/nnoe")
    with pytest.raises(BadInput, match="pipeline list cells"):
        demo.cell("zzz")


TEXTS = {
    path.relative_to(SHIPPED): path.read_text(encoding="utf-8")
    for path in sorted(SHIPPED.glob("*/*.yaml"))
}
USED = [
    path
    for path in TEXTS
    if path.parts[0] not in {"grids", "paper", "claims"}
    and not any(word in path.name for word in ("cifar", "cpu", "fgsm", "gpu", "paper"))
]
PIECES = [
    *"\n :-,[]{}'\"#&*!|>%@?~\t0aé",
    "\n  ",
    "- ",
    ": ",
    "1e9",
    "-1",
    "&a ",
    "*a",
    "<<: ",
    "!!",
]


@st.composite
def mutated(draw: st.DrawFn) -> tuple[Path, str]:
    """A shipped file, the grid half of the time, with some of its text changed."""
    name = Path("grids/demo.yaml") if draw(st.booleans()) else draw(st.sampled_from(USED))
    text = TEXTS[name]
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        stop = min(len(text), start + draw(st.integers(0, 12)))
        piece = draw(st.sampled_from(["", text[start:stop] * 2, *PIECES]))
        text = text[:start] + piece + text[stop:]
    return name, text


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(SHIPPED, tmp_path_factory.mktemp("mutated") / "configs"))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(mutated())
@example((Path("grids/demo.yaml"), "tables: " + "[" * 3000))
@example((Path("grids/demo.yaml"), "a: &a [*a]\n"))
@example((Path("models/demo-iat.yaml"), "dataset: [digits]\n"))
def test_any_text_in_a_config_gives_a_grid_or_one_line(
    copied: Path, change: tuple[Path, str]
) -> None:
    name, text = change
    (copied / name).write_text(text, encoding="utf-8")
    lines = []
    try:
        lines += [cell.name for cell in load_grid(Catalogue([copied]), "demo").cells]
    except BadInput as problem:
        lines += [str(problem)]
    finally:
        (copied / name).write_text(TEXTS[name], encoding="utf-8")
    assert lines
    assert all(len(line.splitlines()) <= 1 for line in lines)


def test_two_files_of_one_name_do_not_become_one_row(load: Load, tmp_path: Path) -> None:
    for folder, text in (("one", "kind: guo\n"), ("two", "kind: gaussian\n")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.yaml").write_text(text)
    add = [("defenses", "one/mine.yaml"), ("defenses", "two/mine.yaml")]
    assert told(load, table(), Overrides(add=add)) == (
        "defense two/mine.yaml: one/mine.yaml is called 'mine' too; rename one of them"
    )
    # once and again is once
    [cell] = load(table("[clean]", "[mine]"), Overrides(add=add[:1] * 2)).cells
    assert cell.defense_spec.kind == "guo"


def test_an_added_defense_is_in_a_figure_too_or_its_absence_is_told(load: Load) -> None:
    swept = "    sweep: {guo.draws: [1, 2]}\n    figure: {x: guo.draws}\n"
    probabilities = "  - {name: p, models: [mixed], attacks: [pgd], defenses: [none], "
    probabilities += "figure: {probabilities: true}}\n"
    added = Overrides(add=[("defenses", "counter")])
    grid = load(table("[pgd]", "[none, guo]", swept) + probabilities, added)
    assert [each.defenses[-1] for each in grid.tables] == ["counter", "none"]
    assert grid.notes == ("defense counter: not in p, which shows class probabilities",)
    assert load(table("[pgd]", "[none, guo]", swept), added).notes == ()
    assert "nothing can be added" in told(load, f"tables:\n{probabilities}", added)


@pytest.mark.parametrize(
    ("section", "name", "text"),
    [
        ("models", "mixed", FILES["models/mixed.yaml"].replace("small", "resnet20")),
        ("attacks", "pgd", "kind: pgd\nsteps: 3\n"),
        # not in the table by itself, but in a chain of it
        ("defenses", "guo", "kind: gaussian\n"),
    ],
)
def test_what_is_added_does_not_replace_what_the_grid_has_by_its_name(
    load: Load, tmp_path: Path, section: str, name: str, text: str
) -> None:
    (tmp_path / f"{name}.yaml").write_text(text)
    add = Overrides(add=[(section, f"{name}.yaml")])
    assert told(load, table(defenses="[none, counter+guo]"), add) == (
        f"{section[:-1]} {name}.yaml: configs/{section}/{name}.yaml is called '{name}' too; "
        "rename one of them"
    )
    # the file itself is no other
    own = Overrides(add=[(section, f"configs/{section}/{name}.yaml")])
    assert load(table(), own).cells


def test_what_is_added_is_neither_lost_behind_a_variant_nor_taken_for_a_chain(
    load: Load, tmp_path: Path
) -> None:
    (tmp_path / "weak.yaml").write_text("kind: pgd\nsteps: 1\n")
    variant = "[{label: weak, use: pgd, set: {steps: 2}}]"
    assert told(load, table(variant), Overrides(add=[("attacks", "weak.yaml")])) == (
        "--add attack=weak: table 't' calls a variant 'weak'; rename one of them"
    )
    (tmp_path / "counter+guo.yaml").write_text("kind: gaussian\n")
    message = told(load, table(), Overrides(add=[("defenses", "counter+guo.yaml")]))
    assert message.endswith("'counter+guo' would be a chain of defenses; rename the file")


@pytest.mark.parametrize("option", ["--data", "--weights"])
def test_two_places_for_one_name_are_told(option: str) -> None:
    done = CliRunner().invoke(main, ["plan", option, "digits=a", option, "digits=b"])
    assert done.exit_code == 2
    assert done.stderr == f"error: {option} digits: given twice\n"


def test_what_needs_training_images_is_refused_where_there_are_none(
    load: Load, tmp_path: Path
) -> None:
    np.savez(tmp_path / "test.npz", images=np.zeros((9, 8, 8), np.uint8), labels=np.arange(9) % 3)
    files = {
        "datasets__digits": "kind: npz\nclasses: 3\nchannels: 1\nside_px: 8\nfolder: ../..\n",
        "defenses__mi-ol": "kind: mi-ol\n",
    }
    none = "data set 'digits' has no images to train on or to draw from"
    assert told(load, table(), **files).endswith(f": tables.0.models.0: {none}")
    loaded = "dataset: digits\nnetwork: {kind: small}\ncheckpoint: {file: ../../test.npz}\n"
    files["models__mixed"] = loaded
    assert load(table(), **files).cells
    pooled = told(load, table(defenses="[none, mi-ol]"), **files)
    assert pooled.endswith(f": tables.0.defenses.1: {none}")


@pytest.mark.parametrize(
    "chosen",
    [
        "{label: none, use: guo, set: {draws: 3}}",
        "{label: none, use: counter+guo, set: {guo.draws: 3}}",
    ],
)
def test_only_the_network_without_a_defense_is_called_none(load: Load, chosen: str) -> None:
    said = told(load, table(defenses=f"[{chosen}]"))
    assert "g.yaml:5: tables.0.defenses.0: 'none' is the network without a defense" in said
    assert said.endswith("give it another name or label")


def test_a_config_called_none_of_another_kind_is_refused(load: Load) -> None:
    said = told(load, table(), defenses__none="kind: guo\n")
    assert "is of kind 'guo'" in said


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("tables: 3\n", "tables: expected a list, got 3"),
        (table(defenses="[]"), "tables.0.defenses: expected a list of at least 1 value, got []"),
        (table(attacks="pgd"), "tables.0.attacks: expected a list, got 'pgd'"),
    ],
)
def test_where_a_list_is_expected_the_message_says_so(load: Load, text: str, line: str) -> None:
    assert told(load, text).endswith(line)
