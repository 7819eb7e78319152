"""The speed of this machine, measured once and remembered."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import Tiny, write_configs

from pipeline.commands import plan as plan_command
from pipeline.execution.work import calibration
from pipeline.plan.speeds import known_speeds, remember_speed
from pipeline.store.files import cache_folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_speed_that_was_measured_is_known_from_then_on() -> None:
    assert known_speeds() == {}
    remember_speed("float32", 4e10)
    remember_speed("bfloat16", 9e10)
    known = known_speeds()
    assert {name: speed.flop_per_s for name, speed in known.items()} == {
        "float32": pytest.approx(4e10),
        "bfloat16": pytest.approx(9e10),
    }
    assert str(known["float32"]) == "0.04 TFLOP/s, measured"


def test_a_spoilt_memory_of_speeds_is_measured_anew() -> None:
    remember_speed("float32", 4e10)
    (cache_folder() / "speeds.json").write_text("[", encoding="utf-8")
    assert known_speeds() == {}


def test_a_core_reaches_more_than_nothing_and_less_than_a_gpu() -> None:
    assert 1e8 < calibration.calibrate("float32", seconds=0.1) < 1e13


def test_a_plan_measures_once_what_nothing_tells_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def calibrate(precision: str) -> float:
        asked.append(precision)
        return 2e10

    monkeypatch.setattr(calibration, "calibrate", calibrate)
    session = Tiny(write_configs(tmp_path / "configs"), tmp_path / "store").session()
    options = {"forced": set(), "every": False, "device": None, "workers": 1}
    assumed = list(plan_command.plan_lines(session, **options))  # type: ignore[arg-type]
    assert any("an assumed 30 % of 0.1 TFLOP/s" in line for line in assumed)
    for _ in range(2):
        said = list(plan_command.plan_lines(session, **options, measures=True))  # type: ignore[arg-type]
        assert any("0.02 TFLOP/s, measured" in line for line in said)
        assert not any("assumed" in line for line in said)
    assert asked == ["float32"]
