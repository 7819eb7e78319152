"""What a report keeps by content: what is known, what makes it unknown, and what cannot be kept."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from pipeline.report import cache
from pipeline.report.cache import kept, kept_numbers


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder and code of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "code.py").write_text("one")
    return tmp_path


@dataclass(frozen=True)
class Shown:
    name: str
    values: np.ndarray


class Made:
    """Counts how often it was made."""

    def __init__(self, value: bytes = b"value") -> None:
        self.times = 0
        self.value = value

    def __call__(self) -> bytes:
        self.times += 1
        return self.value


def test_a_value_is_made_once_for_equal_inputs(folder: Path) -> None:
    made = Made()
    for _ in range(3):
        shown = Shown("a", np.arange(3))
        assert kept([folder / "code.py"], [shown, 0.5, None, ("x", {"y": 1})], made) == b"value"
    assert made.times == 1


@pytest.mark.parametrize(
    "other",
    [
        [Shown("b", np.arange(3))],
        [Shown("a", np.arange(4))],
        [Shown("a", np.arange(3).astype(np.int32))],
        [Shown("a", np.arange(3)[:, None])],
        ["a", np.arange(3)],
        [Shown("a", np.arange(3)), None],
    ],
)
def test_other_inputs_have_another_value(folder: Path, other: list[object]) -> None:
    kept([folder / "code.py"], [Shown("a", np.arange(3))], Made())
    assert kept([folder / "code.py"], other, Made(b"other")) == b"other"


def test_text_and_numbers_that_read_alike_are_told_apart(folder: Path) -> None:
    code = [folder / "code.py"]
    parts: list[list[object]] = [["1", "2"], ["12"], [1, 2], [12], [b"12"], [["1"], "2"], [1.0, 2]]
    values = [kept(code, each, Made(str(each).encode())) for each in parts]
    assert values == [str(each).encode() for each in parts]


def test_changed_code_makes_a_value_anew(folder: Path) -> None:
    kept([folder / "code.py"], [1], Made())
    (folder / "other.py").write_text("two")
    assert kept([folder / "other.py"], [1], Made(b"new")) == b"new"


def test_numbers_come_back_as_they_were(folder: Path) -> None:
    numbers = [0.1, -float("inf"), 3.0, 1e-300]
    for _ in range(2):
        assert kept_numbers([folder / "code.py"], [1], lambda: numbers) == numbers


def test_what_has_no_bytes_is_refused(folder: Path) -> None:
    with pytest.raises(TypeError, match="nothing can be kept by a set"):
        kept([folder / "code.py"], [{1, 2}], Made())


def test_a_torn_file_is_begun_anew(folder: Path) -> None:
    path = folder / "cache" / "test-time-defense-bench" / cache.FILE
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no database" * 1000)
    made = Made()
    assert [kept([folder / "code.py"], [1], made) for _ in range(2)] == [b"value"] * 2
    assert made.times == 1


def test_where_nothing_can_be_kept_values_are_made_each_time(folder: Path) -> None:
    (folder / "cache").write_text("no folder")
    made = Made()
    assert [kept([folder / "code.py"], [1], made) for _ in range(2)] == [b"value"] * 2
    assert made.times == 2


def test_the_older_half_goes_where_there_is_too_much(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "LARGEST_BYTES", 1000)
    for number in range(30):
        kept([folder / "code.py"], [number], Made(b"x" * 100))
    path = folder / "cache" / "test-time-defense-bench" / cache.FILE
    (total,) = sqlite3.connect(path).execute("SELECT sum(length(value)) FROM kept").fetchone()
    assert 500 <= total <= 1000
    last, first = Made(), Made()
    kept([folder / "code.py"], [29], last)
    kept([folder / "code.py"], [0], first)
    assert (last.times, first.times) == (0, 1)
