"""Texts that identify a result: what was attacked, how, and by which version of the program."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence

from pipeline.grid.cells import Cell, Grid
from pipeline.report.scores import Scores
from pipeline.report.words.numbers import accuracy, images_range
from tasks.attacks.base import BallAttack


def identity(grid: Grid, scores: Scores, provenance: Mapping[str, object]) -> list[tuple[str, str]]:
    """Terms and their values, in Markdown. provenance: see `write_report`."""
    return [
        ("data", "; ".join(_data(grid.cells))),
        ("attacks", "; ".join(_attacks(grid.cells))),
        ("attacker knows", _knowledge(grid.cells)),
        ("models", "; ".join(_models(grid.cells, scores))),
        *([("overrides", ", ".join(_overrides(grid)))] if grid.parameters else []),
        ("computed", _computed(provenance)),
        ("grid", f"`{grid.name}`, digest `{digest(scores)[:16]}`"),
    ]


def digest(scores: Scores) -> str:
    """Digest of a grid: SHA-256 over the digests of its cells, by name."""
    lines = (f"{name} {each}\n" for name, each in sorted(scores.digests.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _data(cells: Sequence[Cell]) -> Iterator[str]:
    for name in dict.fromkeys(cell.dataset for cell in cells):
        counts = sorted({cell.images for cell in cells if cell.dataset == name})
        yield f"`{name}`, the first {images_range(counts[0], counts[-1], 'test image')}"


def _attacks(cells: Sequence[Cell]) -> Iterator[str]:
    """The balls of the attacks, with epsilon in 1/255."""
    specs = [cell.attack_spec for cell in cells]
    balls = sorted(
        {(spec.norm, spec.epsilon) for spec in specs if isinstance(spec, BallAttack)},
        key=str,
    )
    for norm in dict.fromkeys(norm for norm, _ in balls):
        sizes = sorted(each for other, each in balls if other == norm and each is not None)
        yield f"{norm}, ε = {', '.join(f'{size:g}/255' for size in sizes)}"
    if any(spec.crafts and not isinstance(spec, BallAttack) for spec in specs):
        yield "not bounded by a norm"
    elif not balls:
        yield "none"


def _knowledge(cells: Sequence[Cell]) -> str:
    adaptive = dict.fromkeys(cell.attack for cell in cells if cell.attack_spec.compound)
    replayed = any(cell.attack_spec.crafts and not cell.attack_spec.compound for cell in cells)
    words = []
    if adaptive:
        names = ", ".join(f"`{name}`" for name in adaptive)
        known = "the network, the defense and the distribution of its draws, not the draws"
        words.append(f"{names}: {known}")
    if replayed:
        others = "all others: " if adaptive else ""
        words.append(f"{others}the network alone; the examples are replayed on the defense")
    return "; ".join(words) or "no attack"


def _models(cells: Sequence[Cell], scores: Scores) -> Iterator[str]:
    """Each model with the clean accuracy of the bare network."""
    for model in dict.fromkeys(cell.model for cell in cells):
        clean = [
            scores.accuracy(cell.name)
            for cell in cells
            if cell.model == model and cell.defense == "none" and not cell.attack_spec.crafts
        ]
        known = next((each for each in clean if each is not None), None)
        yield f"{model}" + ("" if known is None else f" ({accuracy(known)} % clean)")


def _overrides(grid: Grid) -> Iterator[str]:
    for name, value in grid.parameters.items():
        yield f"`{name}={value if isinstance(value, str) else json.dumps(value)}`"


def _computed(provenance: Mapping[str, object]) -> str:
    keys = ("computed", "test-time-defense-bench", "commit")
    names = {"test-time-defense-bench": "test-time-defense-bench ", "commit": "reported by commit "}
    words = [f"{names.get(key, '')}{provenance[key]}" for key in keys if provenance.get(key)]
    return ", ".join(words) or "not yet"
