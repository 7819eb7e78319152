"""What belongs to a store: a place is marked as one, adopted as one, or left alone."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from artifacts import NODE, put
from click.testing import CliRunner, Result

from pipeline.commands.cli import main
from pipeline.problems import BadInput
from pipeline.store import garbage
from pipeline.store.garbage import DAY_S, collectable, remove
from pipeline.store.layout import MARKER, belongs
from pipeline.store.ledger import Invocation, Ledger
from pipeline.store.store import Store
from pipeline.store.verify import verify

HEX = "0123456789abcdef" * 2
FOREIGN: Mapping[str, tuple[str, ...]] = {
    "another program's scratch": ("scratch/job-7/output.bin",),
    "scratch with a name like ours": (f"scratch/{HEX}/output.bin",),
    "a file beside": (f"train/ab/ab{HEX}{HEX[:30]}/meta.json", "thesis.txt"),
    "a folder beside": (f"ledger/wanted/{HEX}", "photos/2026/a.jpg"),
    "other names in our folders": ("partial/notes.txt",),
}


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def typed(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))


@pytest.fixture
def old(tmp_path: Path) -> Store:
    """A store of an older version, which has no marker."""
    store = Store(tmp_path / "store")
    store.prepare()
    put(store)
    Ledger(store.backend).write(Invocation(grid="g", command=[], version="1", cells={}))
    Ledger(store.backend).want([NODE.digest])
    (store.root / MARKER).unlink()
    return store


@pytest.mark.parametrize("files", FOREIGN.values(), ids=FOREIGN.keys())
@pytest.mark.parametrize(
    "words",
    [["gc", "--keep", "0", "--yes"], ["verify", "--set-aside"], ["run", "--inline"], ["import"]],
    ids=lambda words: words[0],
)
def test_a_folder_that_holds_other_things_is_neither_written_to_nor_cleaned_nor_verified(
    tmp_path: Path, files: tuple[str, ...], words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(garbage, "YOUNGEST_S", -1.0)
    folder = tmp_path / "shared"
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("theirs")
    before = snapshot(folder)
    if words == ["import"]:
        with pytest.raises(BadInput, match=r"is no store, since it has no store\.json"):
            Store(folder).prepare()
    else:
        result = typed(*words, "--store", str(folder))
        assert result.exit_code == 2
        [line] = result.stderr.splitlines()
        assert line.startswith(f"error: store {folder}: is no store, since it has no store.json")
    assert snapshot(folder) == before


def test_a_new_store_is_marked_with_its_formats_version(tmp_path: Path) -> None:
    store = Store(tmp_path / "new")
    assert store.prepare() is None
    content = json.loads((tmp_path / "new" / MARKER).read_text())
    assert content == {"program": "test-time-defense-bench", "format": 1}
    # and then it may hold what a person puts there
    (tmp_path / "new" / "notes.txt").write_text("mine")
    assert store.prepare() is None
    assert store.check() is None


@pytest.mark.parametrize("words", [["gc"], ["verify"]])
def test_a_store_of_an_older_version_is_adopted_with_one_line(old: Store, words: list[str]) -> None:
    before = snapshot(old.root)
    for name in (".DS_Store", "lost+found/x", f"probe-{HEX}"):
        (old.root / name).parent.mkdir(exist_ok=True)
        (old.root / name).touch()
    first = typed(*words, "--store", str(old.root))
    assert first.exit_code == 0
    assert first.stderr == f"store {old.root}: adopted, and marked by {MARKER}\n"
    assert (old.root / MARKER).is_file()
    assert before.items() <= snapshot(old.root).items()
    assert typed(*words, "--store", str(old.root)).stderr == ""


def test_an_old_store_is_adopted_by_a_run_and_read_where_it_cannot_be_written(
    old: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", refused)
        assert old.check() is None
    assert verify(old).sound == 1
    (old.root / MARKER).unlink()
    assert old.prepare() == f"store {old.root}: adopted, and marked by {MARKER}"
    assert old.prepare() is None


@pytest.mark.parametrize(
    ("marker", "said"),
    [
        (
            '{"program": "test-time-defense-bench", "format": 2}',
            "is of format 2, and this version of the program knows formats up to 1",
        ),
        ('{"program": "another", "format": 1}', "is no marker of a store: program: input should"),
        ("", "is no marker of a store: invalid JSON"),
        ("[" * 9999, "is no marker of a store: invalid JSON"),
        ('{"format": "1"}', "is no marker of a store: format: input should be a valid integer"),
    ],
)
def test_a_store_of_a_later_format_or_of_another_program_is_refused(
    old: Store, marker: str, said: str
) -> None:
    (old.root / MARKER).write_text(marker)
    for use in (old.prepare, old.check):
        with pytest.raises(BadInput) as caught:
            use()
        assert said in str(caught.value)


def test_what_a_store_does_not_write_stays_also_in_a_store(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.prepare()
    names = (
        "scratch/job-7/out",
        "aside/mine.txt",
        "partial/notes",
        "train/readme/of/mine",
        "x/y/z",
    )
    for name in (*names, f"scratch/{HEX}/draft"):
        (store.root / name).parent.mkdir(parents=True, exist_ok=True)
        (store.root / name).write_text("text")
    items = collectable(store, keep_s=0, now=time.time() + 9 * DAY_S)
    assert [item.key for item in items] == [f"scratch/{HEX}"]
    remove(store, items)
    assert all((store.root / name).is_file() for name in names)


def test_a_link_in_scratch_is_removed_and_what_it_leads_to_is_not(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.prepare()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "thesis.txt").write_text("mine")
    (store.root / "scratch").mkdir()
    (store.root / "scratch" / HEX).symlink_to(outside)
    (store.root / "scratch" / f"gone-{HEX}").symlink_to(tmp_path / "nowhere")
    (store.root / "aside").mkdir()
    (store.root / "aside" / f"craft-{HEX[:12]}-1").symlink_to(outside / "thesis.txt")
    items = collectable(store, keep_s=0, now=time.time() + 9 * DAY_S)
    assert len(items) == 3
    remove(store, items)
    assert (outside / "thesis.txt").read_text() == "mine"
    assert not [*(store.root / "scratch").iterdir(), *(store.root / "aside").iterdir()]


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "NaN", "1e400"])
@pytest.mark.parametrize("option", [("gc", "--keep"), ("run", "--stop-after")])
def test_what_is_no_finite_number_is_none_for_any_option(
    old: Store, option: tuple[str, str], value: str
) -> None:
    before = snapshot(old.root)
    command, name = option
    result = typed(command, name, value, "--store", str(old.root))
    assert result.exit_code == 2
    assert "is not a finite number" in result.stderr or "is not in the range" in result.stderr
    assert snapshot(old.root) == before


def test_every_key_that_a_store_writes_belongs_to_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.prepare()
    record = put(store)
    store.remember(record)
    ledger = Ledger(store.backend)
    ledger.write(Invocation(grid="g", command=[], version="1", cells={}))
    ledger.want([NODE.digest])
    ledger.mark_logged("server", f"{NODE.digest}-x", "run")
    store.set_aside(NODE.kind, NODE.digest)
    put(store)
    store.backend.write(f"partial/{NODE.digest}/facts.json", b"{}")
    keys = [str(path.relative_to(store.root)) for path in store.root.rglob("*")]
    assert len(keys) > 20
    assert all(map(belongs, keys))


def test_a_marker_that_is_a_folder_is_refused_in_one_line(old: Store) -> None:
    (old.root / MARKER).mkdir()
    with pytest.raises(BadInput, match=r"store\.json cannot be read: is a directory"):
        old.prepare()
