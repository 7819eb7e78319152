from pathlib import Path

import pytest

from pipeline.catalogue.catalogue import Catalogue, config_folders
from pipeline.catalogue.claims import claims
from pipeline.problems import BadInput

SHIPPED = Path(__file__).parents[2] / "configs"
CLAIM = (
    "{defense: hedge, network: a small one, attack: PGD, attacked: bare, before: 59.2, after: 65}"
)


def catalogue_with(folder: Path, text: str) -> Catalogue:
    (folder / "claims").mkdir(exist_ok=True)
    (folder / "claims" / "croce-2022.yaml").write_text(text, encoding="utf-8")
    return Catalogue([folder, SHIPPED])


def test_the_shipped_claims_are_read_and_the_papers_own_numbers_come_from_its_tables():
    found = claims(Catalogue(config_folders()))
    first = found["counter"][0]
    assert (first.before, first.after, first.attacked) == (42.5, 60.9, "bare")
    assert "Table I" in first.source
    assert {claim.after for claim in found["hedge"]} == {65.5, 59.2, 54.1, 45.2, 65.9, 61.0}
    assert [claim.before for claim in found["crossmax"]] == [None, None]


def test_what_authors_claim_comes_before_what_others_found(tmp_path):
    text = f"source: A paper\nclaims:\n - {CLAIM}\n"
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / "z-authors.yaml").write_text(text, encoding="utf-8")
    catalogue = catalogue_with(tmp_path, f"source: A study\nby: others\nclaims:\n - {CLAIM}\n")
    assert [claim.by for claim in claims(catalogue)["hedge"]] == ["authors", "others"]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (("after: 65", "after: 650"), "less than or equal to 100"),
        ((", after: 65", ""), "give either after"),
        (("attacked: bare", "attacked: everybody"), "'bare' or 'defended'"),
        (("hedge,", "hedge, strength: 3,"), "unknown key"),
        (
            ("before: 59.2, after: 65", "paper: {model: cifar10-iat, attack: clean-ish}"),
            "the paper has no number of cifar10-iat/clean-ish/none",
        ),
    ],
)
def test_what_is_no_claim_is_refused_at_its_place(tmp_path, change, line):
    catalogue = catalogue_with(tmp_path, f"source: x\nclaims:\n - {CLAIM.replace(*change)}\n")
    with pytest.raises(BadInput, match=line) as caught:
        claims(catalogue)
    assert "croce-2022.yaml" in str(caught.value)
