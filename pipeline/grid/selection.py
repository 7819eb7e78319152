"""Selection of cells by `--only`, such as `--only model=demo-iat --only 'attack=targeted-*'`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial

from pipeline.grid.cells import Cell, Grid, Section
from pipeline.problems import BadInput, suggestion

KEYS = ("dataset", "model", "attack", "defense", "seed", "cell")
SECTIONS: Mapping[str, Section] = {"model": "models", "attack": "attacks", "defense": "defenses"}


def selected(grid: Grid, only: Sequence[str]) -> tuple[Cell, ...]:
    """The cells that match the `--only` options.

    Options with the same key are alternatives; different keys must all match. Raises BadInput if no
    cell matches.
    """
    wanted: dict[str, list[str]] = {}
    for key, given in asked(only):
        pattern = given
        if key == "cell":
            pattern = grid.cell_name(given)
        elif key in SECTIONS:
            pattern = grid.label(SECTIONS[key], given)
        wanted.setdefault(key, []).append(pattern)
    for key, patterns in wanted.items():
        known = {_value(cell, key) for cell in grid.cells}
        for pattern in patterns:
            if not any(_fits(value, pattern) for value in known):
                hint = suggestion(pattern, known) if key != "cell" else ""
                raise BadInput(f"--only {key}={pattern}: no such {key} in grid '{grid.name}'{hint}")
    cells = tuple(cell for cell in grid.cells if matches(partial(_value, cell), wanted))
    if not cells:
        raise BadInput(f"no cell of grid '{grid.name}' matches every --only")
    return cells


def asked(only: Sequence[str], keys: Collection[str] = KEYS) -> list[tuple[str, str]]:
    """The keys and patterns of the `--only` options; BadInput for an unknown key."""
    found = []
    for choice in only:
        key, sign, pattern = choice.partition("=")
        if not sign:
            raise BadInput(f"--only {choice}: expected KEY=PATTERN, such as model=demo-iat")
        if key not in keys:
            raise BadInput(f"--only {choice}: no key '{key}'{suggestion(key, keys)}")
        found.append((key, pattern))
    return found


def matches(value: Callable[[str], str], wanted: Mapping[str, Iterable[str]]) -> bool:
    """Whether a cell, by its value for a key, matches one pattern of each key."""
    return all(
        any(_fits(value(key), pattern) for pattern in patterns) for key, patterns in wanted.items()
    )


def _fits(value: str, pattern: str) -> bool:
    """Whether a value equals a pattern or matches it; labels may contain pattern characters."""
    return value == pattern or fnmatchcase(value, pattern)


def _value(cell: Cell, key: str) -> str:
    return cell.name if key == "cell" else str(getattr(cell, key))
