"""The grids of the ledger that are computed on different machines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

GRIDS = Path(__file__).parents[2] / "configs/grids"


def _labelled(grid: str) -> dict[str, Any]:
    """The attacks of a grid that have a label, by label."""
    tables = yaml.safe_load((GRIDS / f"{grid}.yaml").read_text(encoding="utf-8"))["tables"]
    attacks = [attack for table in tables for attack in table["attacks"]]
    return {attack["label"]: attack for attack in attacks if isinstance(attack, dict)}


def test_the_rows_that_a_cpu_computes_have_the_attacks_of_the_ledger() -> None:
    ledger, rest = _labelled("ledger"), _labelled("ledger-cpu")
    assert rest
    assert rest == {label: ledger[label] for label in rest}
