"""YAML read strictly, every value with the file and line that it stands on."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.catalogue.documents import Document, read_yaml
from pipeline.problems import BadInput, suggestion


def read(folder: Path, text: str, name: str = "some.yaml") -> Document:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return read_yaml(path)


def problem_of(folder: Path, text: str) -> str:
    with pytest.raises(BadInput) as raised:
        read(folder, text)
    return str(raised.value).removeprefix(f"{folder}/")


def test_values_have_the_types_that_yaml_gives_them(tmp_path: Path) -> None:
    text = "a: 1\nb: 1.5\nc: true\nd: x\ne: ~\nf: [1, {g: 2}]\n"
    expected = {"a": 1, "b": 1.5, "c": True, "d": "x", "e": None, "f": [1, {"g": 2}]}
    assert read(tmp_path, text).value == expected


def test_a_problem_names_file_line_and_place(tmp_path: Path) -> None:
    document = read(tmp_path, "a: 1\nb:\n  - x\n  - c: 2\n    d: 3\n")
    message = str(document.problem(("b", 1, "d"), "is wrong"))
    assert message == f"{tmp_path}/some.yaml:5: b.1.d: is wrong"


def test_a_place_that_is_not_in_the_file_has_the_line_of_what_surrounds_it(tmp_path: Path) -> None:
    document = read(tmp_path, "a: 1\nb:\n  c: 2\n")
    assert str(document.problem(("b", "x", 3), "no")).endswith("some.yaml:2: b.x.3: no")
    assert str(document.problem((), "no")).endswith("some.yaml:1: no")


def test_a_date_is_a_word(tmp_path: Path) -> None:
    assert read(tmp_path, "label: 2024-13-45\n").value == {"label": "2024-13-45"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "some.yaml:3: a: is given twice"),
        ("a:\n  b: 1\n  b: 1\n", "some.yaml:3: a.b: is given twice"),
        ("", "some.yaml:1: expected a mapping of keys to values"),
        ("- 1\n- 2\n", "some.yaml:1: expected a mapping of keys to values"),
        ("a: 1\n---\nb: 2\n", "some.yaml:2: not valid YAML: but found another document"),
        ("a: 1\nb: [1, 2\n", "some.yaml:3: not valid YAML: expected ',' or ']'"),
        ("a: *nowhere\n", "some.yaml:1: not valid YAML: found undefined alias 'nowhere'"),
        ("a: 1\n? [b]\n: 2\n", "some.yaml:1: keys must be plain words"),
        ("a: 1\nb: !mine 2\n", "some.yaml:2: b: unknown tag !mine"),
        ("a: !!python/tuple [1]\n", "some.yaml:1: a: unknown tag"),
        ("a: !!int x\n", "some.yaml:1: a: 'x' is no int"),
        ("a: !!int ''\n", "some.yaml:1: a: '' is no int"),
        ("a: !!bool x\n", "some.yaml:1: a: 'x' is no bool"),
        ("a: &a\n  b: *a\n", "some.yaml:1: a: nested too deeply"),
        ("a: " + "[" * 40 + "]" * 40, "some.yaml:1: a: nested too deeply"),
        ("a: " + "[" * 200_000 + "]" * 200_000, "some.yaml: nested too deeply"),
        ("a: " + "[" * 4000, "some.yaml: nested too deeply"),
        ("a: \x07\n", "some.yaml: cannot be read as YAML: unacceptable character"),
    ],
)
def test_what_is_no_plain_mapping_is_told_in_one_line(
    tmp_path: Path, text: str, message: str
) -> None:
    told = problem_of(tmp_path, text)
    assert told.startswith(message)
    assert len(told.splitlines()) == 1


def test_a_key_with_a_line_break_does_not_break_the_line(tmp_path: Path) -> None:
    told = problem_of(tmp_path, '"a\\nb": 1\n"a\\nb": 2\n')
    assert told == "some.yaml:2: a b: is given twice"


def test_a_file_that_is_missing_no_text_or_a_folder_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9\n")
    (tmp_path / "folder.yaml").mkdir()
    for name, reason in [
        ("none.yaml", "cannot be read: no such file or directory"),
        ("folder.yaml", "cannot be read: is a directory"),
        ("latin.yaml", "cannot be read as YAML: 'utf-8' codec can't decode"),
    ]:
        with pytest.raises(BadInput, match=f"{name}: {reason}"):
            read_yaml(tmp_path / name)


def test_a_document_over_another_merges_mappings_and_replaces_all_else(tmp_path: Path) -> None:
    below = read(tmp_path, "a: 1\nb: {c: 2, d: {e: 3}}\nf: [1, 2]\ng: {h: 1}\n", "below.yaml")
    above = read(tmp_path, "b: {d: {e: 4}, x: 5}\nf: [9]\ng: ~\n", "above.yaml")
    merged = above.over(below)
    assert merged.value == {"a": 1, "b": {"c": 2, "d": {"e": 4}, "x": 5}, "f": [9], "g": None}


def test_in_a_merged_document_each_value_stands_where_it_was_written(tmp_path: Path) -> None:
    below = read(tmp_path, "# below\na: 1\nb:\n  c: 2\n  e: 3\nf:\n  - 1\n  - 2\n", "below.yaml")
    above = read(tmp_path, "b:\n  e: 4\nf: [9]\n", "above.yaml")
    merged = above.over(below)
    for place, standing in [
        (("a",), "below.yaml:2"),
        (("b", "c"), "below.yaml:4"),
        (("b", "e"), "above.yaml:2"),
        (("f", 0), "above.yaml:3"),
        (("f", 1), "above.yaml:3"),
        (("nowhere",), "above.yaml:1"),
    ]:
        assert f"{standing}: " in str(merged.problem(place, "x"))
    assert merged.file_of(("b", "c")) == below.path
    assert merged.file_of(("b", "e")) == above.path


def test_suggestions_are_the_near_name_or_all_names() -> None:
    assert suggestion("gou", ["guo", "xie"]) == "; did you mean 'guo'?"
    assert suggestion("zzz", ["xie", "guo"]) == "; known: guo, xie"
    assert suggestion("zzz", []) == ""
