"""The paper's numbers: as published, each in one cell, and read strictly."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paper_numbers import EVERY_CELL, NUMBERS
from shared_files import TABLES

from pipeline.catalogue.catalogue import Catalogue
from pipeline.catalogue.paper import Key, Published, published
from pipeline.problems import BadInput

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "configs"
FILES = {
    "models/one.yaml": "dataset: digits\n",
    "attacks/pgd.yaml": "kind: pgd\n",
    "defenses/none.yaml": "kind: none\n",
    "defenses/guo.yaml": "kind: guo\n",
}
HEAD = "title: T\nsource: S\naccuracy:\n"


@pytest.fixture(scope="module")
def numbers() -> dict[Key, Published]:
    return published(Catalogue([SHIPPED]))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "paper").mkdir()
    return tmp_path


def read(folder: Path, **tables: str) -> dict[Key, Published]:
    for name, text in tables.items():
        (folder / "paper" / f"{name}.yaml").write_text(text, encoding="utf-8")
    return published(Catalogue([folder]))


def test_as_many_numbers_as_the_tables_print_belong_to_as_many_cells(
    numbers: dict[Key, Published],
) -> None:
    tables = Counter(table for number in numbers.values() for table in number.tables)
    assert tables == {"table1": 96, "table2": 96, "table3": 36, "table4": 24}
    assert (tables.total(), len(numbers)) == (NUMBERS, EVERY_CELL)
    assert Counter(len(number.tables) for number in numbers.values()) == {1: 228, 2: 12}


def test_every_number_is_the_published_one(
    numbers: dict[Key, Published], shared: Callable[[str], Path]
) -> None:
    expected: dict[Key, Published] = {}
    with shared(TABLES).open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            # Table IV's two rows of the paper's method name the direction of its steps.
            defense = {"counter-targeted": "counter"}.get(row["defense"], row["defense"])
            key = (f"{row['dataset']}-{row['training']}", row["attack"], defense)
            tables = (f"table{row['table']}",)
            if key in expected:
                tables = expected[key].tables + tables
            bound = row["note"] == "upper bound"
            expected[key] = Published(float(row["accuracy_percent"]), bound, tables)
    assert numbers == expected


def test_a_bound_is_told_from_a_number(numbers: dict[Key, Published]) -> None:
    assert numbers["cifar10-mixup", "targeted-pgd10", "none"] == Published(1, True, ("table1",))
    assert sum(number.upper_bound for number in numbers.values()) == 6


def test_tables_that_agree_share_a_number_and_others_are_refused(folder: Path) -> None:
    first = f"{HEAD}  one:\n    none: {{pgd: 5}}\n    none+guo: {{pgd: '<= 1.5'}}\n"
    assert read(folder, a=first, b=f"{HEAD}  one:\n    none: {{pgd: 5.0}}\n") == {
        ("one", "pgd", "none"): Published(5, False, ("a", "b")),
        ("one", "pgd", "none+guo"): Published(1.5, True, ("a",)),
    }
    with pytest.raises(BadInput) as raised:
        read(folder, a=first, b=f"{HEAD}  one:\n    none: {{pgd: '<= 5'}}\n")
    where = folder / "paper" / "b.yaml"
    assert str(raised.value) == f"{where}:5: accuracy.one.none.pgd: <= 5, but a has 5"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title: T\naccuracy: {}\n", "1: source: is missing"),
        (f"{HEAD}  oen: {{none: {{pgd: 5}}}}\n", "4: accuracy.oen: no model named 'oen'; did you"),
        (f"{HEAD}  one: {{noen: {{pgd: 5}}}}\n", "4: accuracy.one.noen: no defense named 'noen'"),
        (f"{HEAD}  one: {{guo+noen: {{pgd: 5}}}}\n", "4: accuracy.one.guo+noen: no defense named"),
        (f"{HEAD}  one: {{none: {{pdg: 5}}}}\n", "4: accuracy.one.none.pdg: no attack named 'pdg'"),
        (f"{HEAD}  one:\n    none:\n      pgd: 101\n", "6: accuracy.one.none.pgd: expected perc"),
        (f"{HEAD}  one:\n    none:\n      pgd: -1\n", "6: accuracy.one.none.pgd: expected percent"),
        (f"{HEAD}  one:\n    none:\n      pgd: '<1'\n", "6: accuracy.one.none.pgd: expected perc"),
        (f"{HEAD}  one:\n    none:\n      pgd: [1]\n", "6: accuracy.one.none.pgd: input should be"),
        (
            f"{HEAD}  one:\n    none:\n      pgd: .nan\n",
            "6: accuracy.one.none.pgd: input should be",
        ),
        (f"{HEAD}  one: 5\n", "4: accuracy.one: input should be a valid"),
        (f"{HEAD}  one: {{none: {{pgd: 5, pgd: 5}}}}\n", "4: accuracy.one.none.pgd: is given"),
        (f"{HEAD}  one: {{}}\ntitel: x\n", "5: titel: unknown key; did you mean 'title'?"),
    ],
)
def test_what_does_not_fit_is_told_in_one_located_line(
    folder: Path, text: str, message: str
) -> None:
    with pytest.raises(BadInput) as raised:
        read(folder, t=text)
    assert len(str(raised.value).splitlines()) == 1
    assert str(raised.value).startswith(f"{folder / 'paper' / 't.yaml'}:{message}")


TEXT = (SHIPPED / "paper" / "table3.yaml").read_text(encoding="utf-8")


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, len(TEXT)), st.integers(0, 12), st.sampled_from(["", " ", "\n", ":", "{", "9"])
)
def test_any_change_of_a_table_gives_numbers_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, start: int, length: int, piece: str
) -> None:
    folder = tmp_path_factory.mktemp("changed")
    (folder / "paper").mkdir()
    changed = TEXT[:start] + piece + TEXT[start + length :]
    (folder / "paper" / "table3.yaml").write_text(changed, encoding="utf-8")
    try:
        found = published(Catalogue([folder, SHIPPED]))
    except BadInput as problem:
        lines = str(problem).splitlines()
    else:
        assert all(0 <= number.value <= 100 for number in found.values())
        lines = ["fine"]
    assert len(lines) == 1
