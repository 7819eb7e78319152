"""What makes no sense in a grid is told under its tables and first at the end of a run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from made_up import make_cell
from made_up_verdicts import SHARES, grid_of, scores_of
from safetensors.torch import save_file
from tiny import write_configs
from torch import nn

from pipeline.commands.cli import main
from pipeline.grid.cells import Cell
from pipeline.grid.nodes import CellNodes
from pipeline.report.answers import Answers, PerImage
from pipeline.report.sanity import Sanity

NET = '''\
import torch
from torch import nn

print('imported')


class Plain(nn.Sequential):
    """As in the project's tests; `after` is what becomes of its logits."""

    before = staticmethod(lambda pixels: pixels)
    after = staticmethod(lambda logits: logits)

    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(256, 10),
        )

    def forward(self, pixels):
        return self.after(super().forward(self.before(pixels)))


class Probabilities(Plain):
    after = staticmethod(lambda logits: logits.softmax(dim=1))


class Sigmoid(Plain):
    after = staticmethod(torch.sigmoid)


class Rounded(Plain):
    before = staticmethod(lambda pixels: (pixels * 255).round() / 255)


class Scaled(Plain):
    after = staticmethod(lambda logits: 1000 * logits)


class Shifted(Plain):
    after = staticmethod(lambda logits: logits.roll(1, dims=1))


class Dark(Plain):
    before = staticmethod(lambda pixels: pixels / 255)


class Loud(Plain):
    def forward(self, pixels):
        print('asked')
        return super().forward(pixels)
'''

GRID = """\
epsilon: 40
images: 60
redraws: 1
tables:
  - name: main
    models: [mine]
    attacks: [clean, pgd]
    defenses: [none, guo]
    gains_over: none
"""


class Shell:
    """Runs a grid of one network of a user's own that was trained on the digits."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(
        self, *words: str, name: str = "Plain", more: str = "", grid: str = GRID
    ) -> Result:
        configs = write_configs(
            self.folder / "configs",
            {
                "models/mine.yaml": (
                    f"dataset: digits\nnetwork: {{kind: factory, factory: 'net.py:{name}'}}\n"
                    f"checkpoint:\n  file: weights.safetensors\n{more}"
                ),
                "models/net.py": NET,
                "attacks/pgd.yaml": "kind: pgd\nsteps: 10\n",
                "attacks/tiny-pgd.yaml": "kind: pgd\nsteps: 2\nepsilon: 1\n",
                "grids/tiny.yaml": grid,
            },
        )
        weights = (self.folder / "weights.safetensors").read_bytes()
        (configs / "models" / "weights.safetensors").write_bytes(weights)
        where = ["--store", str(self.folder / "store"), "--grid", "tiny", "--inline"]
        return CliRunner().invoke(main, ["run", *where, *words], catch_exceptions=False)


@pytest.fixture
def shell(working_folder: Path, monkeypatch: pytest.MonkeyPatch, network: nn.Module) -> Shell:
    monkeypatch.setenv("XDG_CACHE_HOME", str(working_folder / "cache"))
    weights = {name: each.detach().clone() for name, each in network.state_dict().items()}
    save_file(weights, str(working_folder / "weights.safetensors"))
    return Shell(working_folder)


def doubts(result: Result) -> list[str]:
    """The lines of a run's end about what makes no sense, which come before all others there."""
    assert result.exit_code == 0, result.output
    lines = result.stderr.splitlines()
    found = [line.removeprefix("doubt   ") for line in lines if line.startswith("doubt   ")]
    if found:
        first = next(i for i, line in enumerate(lines) if line.startswith("doubt   "))
        assert lines[first + len(found)].startswith("report  ")
    return found


def test_a_model_and_an_attack_that_make_sense_are_not_doubted(shell: Shell) -> None:
    result = shell(more="  published_accuracy: 95\n")
    assert doubts(result) == []
    assert "Doubtful" not in result.stdout


@pytest.mark.parametrize(
    ("name", "more", "expected"),
    [
        (
            "Probabilities",
            "",
            ["mine: outputs: the outputs for all of 60 images are probabilities"],
        ),
        ("Sigmoid", "", ["mine: outputs: the outputs for all of 60 images are between 0 and 1"]),
        (
            "Rounded",
            "",
            [
                "mine/pgd: attack-gradient: its first gradient is zero for 60 of 60 images",
                "mine/pgd: attack-breaks: it leaves ",
            ],
        ),
        (
            "Scaled",
            "",
            [
                "mine/pgd: attack-gradient: its first gradient is zero for ",
                "mine/pgd: attack-breaks: it leaves ",
            ],
        ),
        (
            "Shifted",
            "",
            ["mine: clean-accuracy: the clean accuracy is 0.0 % of 60 images, less than chance"],
        ),
        (
            "Dark",
            "  published_accuracy: 97.5\n",
            ["mine: clean-accuracy: the clean accuracy is "],
        ),
    ],
)
def test_what_makes_no_sense_is_told_first_at_the_end_and_under_the_table(
    shell: Shell, name: str, more: str, expected: list[str]
) -> None:
    result = shell(name=name, more=more)
    found = doubts(result)
    for words in expected:
        assert any(line.startswith(words) for line in found), found
    page = Path("reports/tiny/main.md").read_text(encoding="utf-8")
    for line in found:
        assert f"Doubtful: {line}." in page
    assert "Doubtful: mine" in result.stdout.replace("\n", " ")
    # a run with nothing to do says the same, and a program is told as well
    assert doubts(shell(name=name, more=more)) == found
    assert json.loads(shell("--json", name=name, more=more).stdout)["doubts"] == found


def test_a_number_far_below_the_published_one_is_told(shell: Shell) -> None:
    found = doubts(shell(name="Dark", more="  published_accuracy: 97.5\n"))
    assert any("no better than chance" in line or "far below the 97.5 %" in line for line in found)
    # without a published number there is nothing to compare with, unless it is at chance
    [line] = doubts(shell(more="  published_accuracy: 100\n")) or [""]
    assert "far below the 100.0 %" in line or not line


def test_an_attack_that_is_too_weak_is_told_for_its_column_alone(shell: Shell) -> None:
    grid = GRID.replace("[clean, pgd]", "[clean, pgd, tiny-pgd]")
    [line] = doubts(shell(grid=grid))
    assert line.startswith("mine/tiny-pgd: attack-breaks: it leaves ")
    assert "little that a defense could gain" in line


def test_what_a_network_prints_does_not_stand_in_the_answer_of_a_program(shell: Shell) -> None:
    result = shell("--json", name="Loud")
    assert json.loads(result.stdout)["grid"] == "tiny"
    assert "asked" in result.stderr


def sanity_of(
    cells: list[Cell], accuracies: dict[str, float], seen: dict[str, int] | None = None
) -> Sanity:
    """Of made-up cells; seen: what answers and attacks showed, where that is known."""
    nodes = CellNodes()
    scores = {cell.name: nodes.score(cell) for cell in cells}
    known = {"seen": seen} if seen else {}
    facts = {
        name: {"accuracy": value, "images": 360, **known} for name, value in accuracies.items()
    }
    return Sanity(cells, facts, scores, lambda _: {"accuracy": 0.9})


def made(*names: str) -> list[Cell]:
    return [make_cell(*name.split("/")) for name in names]


def test_a_cells_card_gets_what_is_about_its_model_and_about_its_attack() -> None:
    cells = made("demo-iat/clean/none", "demo-iat/untargeted-pgd10/none", "demo-iat/clean/guo")
    accuracies = {
        "demo-iat/clean/none": 90.0,
        "demo-iat/untargeted-pgd10/none": 85.0,
        "demo-iat/clean/guo": 88.0,
    }
    seen = {"answers": 60, "in_unit_range": 60, "sum_to_one": 60}
    seen |= {"gradients": 60, "zero_gradients": 60}
    sane = sanity_of(cells, accuracies, seen)
    checks = [(finding.check, finding.verdict) for finding in sane.of(cells[0])]
    assert checks == [("clean-accuracy", "pass"), ("outputs", "fail")]
    checks = [(finding.check, finding.verdict) for finding in sane.of(cells[1])]
    assert checks[2:] == [("attack-gradient", "fail"), ("attack-breaks", "warn")]
    lines = [doubt.line for doubt in sane.doubts()]
    assert [line.partition(":")[0] for line in lines] == [
        "demo-iat",
        "demo-iat/untargeted-pgd10",
        "demo-iat/untargeted-pgd10",
    ]


def test_a_defense_that_another_attack_of_the_ball_breaks_more_often_is_told() -> None:
    def told(**shares: float) -> list[str]:
        grid = grid_of()
        answers = scores_of(grid, SHARES | {(name, "guo"): share for name, share in shares.items()})
        quick = [cell for cell in grid.cells if cell.attack in {"adaptive-quick", "direct"}]
        facts = {cell.name: {"accuracy": 50.0} for cell in quick}
        sane = Sanity(quick, facts, {}, lambda _: {}, answers.per_image)
        return [doubt.line for doubt in sane.doubts() if doubt.defense == "guo"]

    (line,) = told(direct=0.35)
    assert line == (
        "demo-iat/adaptive-quick/guo: adaptive: the adaptive attack leaves 40.0 % of 300 images, "
        "direct 35.0 %, so what the adaptive attack leaves is an upper bound"
    )
    # a single gradient attack is not expected to leave as little as the adaptive one
    assert told(direct=0.4) == told(direct=0.9) == []


def test_a_failure_on_many_images_is_told_before_a_larger_difference_on_few() -> None:
    grid = grid_of(attacks=("untargeted-pgd50", "adaptive-quick", "direct"), defenses=("guo",))
    facts = {cell.name: {"accuracy": 50.0} for cell in grid.cells}
    places = np.arange(300)
    right = {
        "adaptive-quick": places % 5 < 4,
        "direct": places % 10 < 7,  # of 300 images, 10 points less
        "untargeted-pgd50": places[:5] < 3,  # of 5 images, 20 points less
    }

    def read(name: str) -> Answers:
        found = right[name.split("/")[1]]
        return Answers(places[: len(found)], places[: len(found)] % 10, found[:, None])

    def told(*attacks: str) -> list[str]:
        cells = [cell for cell in grid.cells if cell.attack in attacks]
        sane = Sanity(cells, facts, {}, lambda _: {}, PerImage(read))
        found = [doubt for doubt in sane.doubts() if doubt.finding.check == "adaptive"]
        return [f"{doubt.attack} {doubt.finding.verdict}" for doubt in found]

    assert told("adaptive-quick", "untargeted-pgd50") == ["adaptive-quick warn"]
    assert told(*right) == ["adaptive-quick fail"]
    # `direct` leaves more than the replayed attack, and no verdict is based on it
    assert told("direct", "untargeted-pgd50") == []


def test_a_store_of_an_earlier_version_is_judged_by_its_scores_alone() -> None:
    cells = made("demo-iat/clean/none", "demo-iat/untargeted-pgd10/none")
    sane = sanity_of(cells, {"demo-iat/clean/none": 9.0, "demo-iat/untargeted-pgd10/none": 8.9})
    assert [finding.check for finding in sane.of(cells[1])] == ["clean-accuracy", "attack-breaks"]
    assert [doubt.finding.check for doubt in sane.doubts()] == ["clean-accuracy", "attack-breaks"]


def test_without_an_undefended_clean_cell_the_best_defended_one_is_looked_at() -> None:
    cells = made("demo-iat/clean/guo", "demo-iat/clean/counter")
    sane = sanity_of(cells, {"demo-iat/clean/guo": 88.0, "demo-iat/clean/counter": 10.0})
    assert sane.doubts() == ()
    sane = sanity_of(cells, {"demo-iat/clean/guo": 10.0, "demo-iat/clean/counter": 9.0})
    [doubt] = sane.doubts()
    assert "no better than chance" in doubt.line


def test_a_clean_accuracy_far_below_the_trainings_is_told() -> None:
    cells = made("demo-iat/clean/none")
    [doubt] = sanity_of(cells, {"demo-iat/clean/none": 50.0}).doubts()
    assert "far below the 90.0 % at the end of its training" in doubt.line


def test_cells_without_a_score_are_not_judged() -> None:
    cells = made("demo-iat/clean/none", "demo-iat/untargeted-pgd10/none")
    assert sanity_of(cells, {}).doubts() == ()
