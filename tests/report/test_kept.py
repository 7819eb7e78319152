"""Reports that need not be written again: what makes one to be written, and what does not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.report import kept as report_kept
from pipeline.report.kept import KeptReport
from pipeline.store.files import stamps


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a report, beside a cache folder and code of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "module.py").write_text("one")
    monkeypatch.setattr(report_kept, "CODE", (tmp_path / "code",))
    reports = tmp_path / "reports"
    reports.mkdir()
    (reports / "index.html").write_text("page")
    return reports


def test_nothing_is_kept_of_a_report_that_was_never_written(folder: Path) -> None:
    assert KeptReport(folder, ["scores"]).shown("80 None") is None


def test_the_same_report_on_the_same_terminal_is_known(folder: Path) -> None:
    KeptReport(folder, ["scores", 1]).keep("80 None", "tables")
    KeptReport(folder, ["scores", 1]).keep("120 None", "wide")
    kept = KeptReport(folder, ["scores", 1])
    assert (kept.shown("80 None"), kept.shown("120 None")) == ("tables", "wide")
    assert kept.shown("100 None") is None


def test_a_report_of_other_scores_is_not_known(folder: Path) -> None:
    KeptReport(folder, ["scores", 1]).keep("80 None", "tables")
    assert KeptReport(folder, ["scores", 2]).shown("80 None") is None
    assert KeptReport(folder, ["scores"]).shown("80 None") is None


@pytest.mark.parametrize("name", ["reports/index.html", "code/module.py"])
def test_a_changed_file_of_the_report_or_of_the_code_makes_it_unknown(
    folder: Path, name: str
) -> None:
    KeptReport(folder, []).keep("80 None", "tables")
    path = folder.parent / name
    before = path.stat().st_mtime_ns
    path.write_text("other")
    os.utime(path, ns=(before + 1, before + 1))
    assert KeptReport(folder, []).shown("80 None") is None


def test_a_file_that_was_taken_away_or_added_makes_it_unknown(folder: Path) -> None:
    KeptReport(folder, []).keep("80 None", "tables")
    (folder / "new.csv").touch()
    assert KeptReport(folder, []).shown("80 None") is None
    (folder / "new.csv").unlink()
    assert KeptReport(folder, []).shown("80 None") == "tables"
    (folder / "index.html").unlink()
    assert KeptReport(folder, []).shown("80 None") is None


def test_a_damaged_memory_is_as_good_as_none(folder: Path, tmp_path: Path) -> None:
    KeptReport(folder, []).keep("80 None", "tables")
    (file,) = (tmp_path / "cache").rglob("reports/*.json")
    for text in ("", "[]", '{"shown": 3}', "{"):
        file.write_text(text)
        assert KeptReport(folder, []).shown("80 None") is None


def test_where_nothing_can_be_kept_a_report_is_just_written_again(
    folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("no folder")
    KeptReport(folder, []).keep("80 None", "tables")
    assert KeptReport(folder, []).shown("80 None") is None


def test_what_is_not_there_has_no_stamp(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("12")
    found = stamps([tmp_path / "b", tmp_path / "a"])
    assert [row[:2] for row in found] == [[str(tmp_path / "b"), 2]]
