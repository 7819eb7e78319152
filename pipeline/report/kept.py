"""A report that need not be written again: what it was made from, and its tables as printed.

Kept in this program's cache folder, and of no use any more once anything that the report follows
from is another, or one of its files was changed, added or taken away.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

from pipeline.store.files import cache_folder, replace_text, stamps

PROGRAM = Path(__file__).parents[1]
CODE = (PROGRAM, PROGRAM.parent / "tasks")


class KeptReport:
    """What is kept of the report in a folder. made_from: all that it follows from but code."""

    def __init__(self, folder: Path, made_from: Iterable[object]) -> None:
        self._folder = folder.resolve()
        whole = hashlib.sha256(repr(stamps(_code())).encode())
        for part in made_from:
            whole.update(f"{part!r}\n".encode())
        self._key = whole.hexdigest()
        name = hashlib.sha256(os.fsencode(self._folder)).hexdigest()
        self._place = cache_folder() / "reports" / f"{name[:32]}.json"

    def shown(self, terminal: str) -> str | None:
        """What was printed on a terminal of this sort; None where a report is to be written."""
        found = self._read().get(terminal)
        return found if isinstance(found, str) else None

    def keep(self, terminal: str, text: str) -> None:
        """Remember that the folder holds the report, and what was printed."""
        content = {**self._state(), "shown": {**self._read(), terminal: text}}
        # where nothing can be kept, the next run writes it again
        with contextlib.suppress(OSError):
            replace_text(self._place, json.dumps(content))

    def _read(self) -> dict[str, object]:
        """What was printed, by the sort of terminal, if the report is still this one."""
        try:
            content = json.loads(self._place.read_text(encoding="utf-8"))
            shown = content.pop("shown")
            same = content == self._state()
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}
        return shown if same and isinstance(shown, dict) else {}

    def _state(self) -> dict[str, object]:
        return {"key": self._key, "files": stamps(self._folder.glob("*"))}


def _code() -> Iterable[Path]:
    for folder in CODE:
        yield from folder.rglob("*.py")
    yield from (PROGRAM / "page").glob("*")
