"""Every key of the YAML files is explained, and configs/README.md says what the code says."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.catalogue.catalogue import SECTIONS, Catalogue
from pipeline.catalogue.documents import read_yaml
from pipeline.commands import reference
from tasks.attacks.pgd import PGD
from tasks.training.recipe import Recipe

CONFIGS = Path(__file__).parents[2] / "configs"


def test_the_reference_in_configs_is_up_to_date() -> None:
    """`make reference` writes it anew."""
    assert (CONFIGS / "README.md").read_text(encoding="utf-8") == reference.reference()


def test_every_key_has_a_meaning() -> None:
    unexplained = [
        f"{cls.__name__}.{key}"
        for _, _, classes in reference._sections()
        for _, cls in classes
        for key in cls.model_fields
        if key not in reference.HIDDEN and not reference.meaning(cls, key)
    ]
    assert unexplained == []


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_of_the_shipped_files_is_in_the_reference(section: str) -> None:
    text = reference.reference()
    catalogue = Catalogue([CONFIGS])
    for path in catalogue.names(section).values():  # type: ignore[arg-type]
        for key in read_yaml(path).value.keys() - {"extends", "kind"}:
            assert f"| `{key}` |" in text, f"{path.name}: {key}"


def test_limits_defaults_and_units_are_those_of_the_code() -> None:
    text = reference.reference()
    assert "| `epochs` | whole number, at least 1, at most 1,000,000 | `200` |" in text
    assert "| `momentum` | number, at least 0, below 1 | `0.9` |" in text
    assert reference.meaning(PGD, "step_size") == "In 1/255, a quarter of epsilon by default"
    assert reference.meaning(PGD, "epsilon").startswith("In 1/255 of the pixel range")
    assert "`adversarial` (Madry et al. 2018)" in reference.meaning(Recipe, "method")
