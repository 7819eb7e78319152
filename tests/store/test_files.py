"""Files that are replaced whole, and the reason that an error gives."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from pathlib import Path

import pytest

from pipeline.problems import reason_of
from pipeline.store.files import CACHE, cache_folder, replace_text, replacing


def test_a_file_is_replaced_when_its_draft_is_whole_and_its_folder_is_made(tmp_path: Path) -> None:
    target = tmp_path / "new" / "numbers.txt"
    replace_text(target, "1")
    with replacing(target) as draft:
        draft.write_text("2")
        assert draft.parent == target.parent
        assert target.read_text() == "1"
    assert target.read_text() == "2"
    assert list(target.parent.iterdir()) == [target]


def test_a_draft_that_is_broken_off_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "numbers.txt"
    replace_text(target, "1")
    with contextlib.suppress(ValueError), replacing(target) as draft:
        draft.write_text("half")
        raise ValueError
    assert target.read_text() == "1"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "no space left on device"),
        (OSError("The Disk is gone"), "the disk is gone"),
        (ValueError("Bad Port"), "bad port"),
        (OSError(), "oserror"),
    ],
)
def test_the_reason_is_what_the_system_said(error: Exception, reason: str) -> None:
    assert reason_of(error) == reason


def test_nothing_but_one_function_words_an_error_of_the_system() -> None:
    root = Path(__file__).parents[2] / "pipeline"
    again = [path.name for path in root.rglob("*.py") if "strerror or str(" in path.read_text()]
    assert again == []


def test_a_user_without_a_home_has_a_cache_folder_of_his_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    assert cache_folder() == tmp_path / f"cache-{os.getuid()}" / CACHE
