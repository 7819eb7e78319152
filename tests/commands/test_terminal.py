"""What a person sees on a terminal of 80 columns, and on a wide one."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from pipeline.commands import output, showing
from pipeline.commands.cli import main
from pipeline.commands.listing import fitting
from pipeline.commands.show import story_lines

NARROW = 80


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if stdout went to a terminal of 80 columns."""
    for module in (output, showing):
        monkeypatch.setattr(module, "terminal_columns", lambda: NARROW)


def lines_of(*words: str) -> list[str]:
    done = CliRunner().invoke(main, list(words), terminal_width=NARROW, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout.splitlines()


def test_a_command_is_told_in_a_sentence_that_is_whole() -> None:
    lines = lines_of("--help")
    told = lines[lines.index("Commands:") + 1 :]
    assert len(told) == len(main.commands)
    assert [line for line in told if not line.endswith(".") or line.endswith("..")] == []
    assert max(map(len, lines)) <= NARROW


@pytest.mark.parametrize("name", sorted(main.commands))
def test_help_of_a_command_fits(name: str) -> None:
    assert max(map(len, lines_of(name, "--help"))) <= NARROW


@pytest.mark.parametrize("section", ["attacks", "defenses", "models", "grids"])
def test_names_of_a_list_are_told_apart_in_80_columns(section: str, narrow: None) -> None:
    lines = lines_of("list", section)
    assert max(map(len, lines)) <= NARROW
    if section == "defenses":
        found = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines}
        assert found["median-3"].endswith("… (size=3)")
        assert found["none"] == "No defense: the classifier as it is"


@pytest.mark.parametrize(
    ("room", "said"),
    [
        (40, "Pixels moved by a step, twice (steps=2)"),
        (38, "Pixels moved by a step,… (steps=2)"),
        (27, "Pixels moved by… (steps=2)"),
        (24, "Pixels moved by a step,…"),
    ],
)
def test_parameters_stay_as_long_as_they_leave_room(room: int, said: str) -> None:
    assert fitting("Pixels moved by a step, twice (steps=2)", room) == said
    assert len(said) <= room


def test_prose_is_broken_at_words_and_what_is_to_be_copied_is_not(
    narrow: None, capsys: pytest.CaptureFixture[str]
) -> None:
    output.say_wrapped("memory: " + 30 * "much of it ")
    output.say_wrapped("x" * 100)
    *prose, word = capsys.readouterr().out.splitlines()
    assert len(prose) > 3
    assert max(map(len, prose)) <= NARROW
    assert all(line.startswith("  ") and line[2] != " " for line in prose[1:])
    assert word == "x" * 100


def test_prose_to_a_file_stays_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    output.say_wrapped("memory: " + 30 * "much of it ")
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_the_commands_of_runs_stand_below_where_they_do_not_fit(
    narrow: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Run:
        def __init__(self, command: str) -> None:
            self.command = command

        def facts(self) -> dict[str, object]:
            cells = {"cells": 10, "computed": 2, "grid": "demo", "command": self.command}
            return {"run": "885f14f5", "time": "2026-11-27 12:59:13", **cells}

    long = "pipeline run demo --only model=demo-iat --only attack=untargeted-pgd10"
    runs = [Run("a"), Run(long)]
    monkeypatch.setattr("pipeline.commands.listing.runs_of", lambda _: runs)
    short, above, below = lines_of("list", "runs")
    assert short.endswith(" computed     a")
    assert above.endswith("10 cells, 2 computed")
    assert below == f"  {long}"


def test_a_story_has_no_more_digits_than_its_measurements_and_its_settings_whole() -> None:
    told = {
        "cell": "m/a/d",
        "state": "nothing to do",
        "defense": "d",
        "model": "m",
        "attack": "a",
        "seed": 0,
        "images": 20,
        "redraws": 2,
        "dataset": "digits",
        "again": "pipeline run",
        "specs": {"defense": {"deviation_255ths": 15.9375}},
        "score": {
            "accuracy": 17.5,
            "interval": [6.610623089104359, 38.86251218432889],
            "true_probability": 0.1647512001451105,
            "seconds_per_prediction": 0.0049512,
            "candidates": [{"failed_draws_percent": 80.95237612724304, "forwards": 1000}],
        },
        "card": {"verdict": "pass", "checks": {"steps": "pass: " + 12 * "it does not grow "}},
    }
    lines = list(story_lines(told))
    text = "\n".join(lines)
    for whole in (
        "deviation_255ths: 15.9375",
        "- 6.6\n  - 38.9",
        "true_probability: 0.16",
        "seconds_per_prediction: 0.005 s",
        "failed_draws_percent: 81.0",
        "forwards: 1000",
    ):
        assert whole in text
    assert max(map(len, lines)) <= NARROW
