"""What comes from elsewhere is fit to be shown: no secrets, escape codes, HTML or formulas."""

from __future__ import annotations

import csv
import io
import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tiny import Tiny, write_configs

from pipeline.commands.cli import main
from pipeline.execution.events import Failure, Retry
from pipeline.problems import BadInput, Unwritable
from pipeline.problems.sanitize import (
    LONGEST,
    bounded,
    clean,
    command,
    csv_cell,
    markdown,
    page,
    printable,
    scrubbed,
    without_secrets,
)

SECRETS = ("hunter2pass", "t0kenvalue")
ADDRESS = f"http://someone:{SECRETS[0]}@127.0.0.1:1?token={SECRETS[1]}"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://me:pw@host:5000/x", "http://host:5000/x"),
        ("http://host/x?token=abc", "http://host/x?token=***"),
        ("http://ghp_token@host", "http://host"),
        ("http://host/#access_token=abc", "http://host/"),
        ("https://me:pa/ss@host/x", "https://host/x"),
        ("https://me:p?w@host/x", "https://host/x"),
        ("postgresql://u:pw@db/x?sslmode=a&password=p", "postgresql://db/x?sslmode=a&password=***"),
        ("s3://b/p?endpoint=http://u:pw@h:9&region=eu", "s3://b/p?endpoint=http://h:9&region=eu"),
        ("http://host?abcdef", "http://host?***"),
        ("me:pw@host:5000", "host:5000"),
        ("http:/me:pw@host", "host"),
        ("http://[::1]:5000/x", "http://[::1]:5000/x"),
        ("sqlite:////home/me@corp/mlflow.db", "sqlite:////home/me@corp/mlflow.db"),
        ("http://host/a@b", "http://host/a@b"),
        ("store", "store"),
    ],
)
def test_an_address_is_shown_without_its_secrets(address: str, shown: str) -> None:
    assert without_secrets(address) == shown


def test_the_page_of_a_server_has_neither_options_nor_secrets() -> None:
    assert page("http://me:pw@host:5000/base/?token=abc") == "http://host:5000/base"


def test_a_command_line_is_shown_without_the_secrets_of_any_of_its_words() -> None:
    words = ["run", f"--mlflow={ADDRESS}", "--address", "ray://a:pw@h", "--only", "cell=a/b/c"]
    shown = command([*words, "me:pw@host"])
    assert shown == [
        "run",
        "--mlflow=http://127.0.0.1:1?token=***",
        "--address",
        "ray://h",
        "--only",
        "cell=a/b/c",
        "host",
    ]


def test_a_librarys_error_is_told_without_the_secrets_however_it_writes_them() -> None:
    address = "postgresql://me:p%40ss%2Fword@db/x?options=q%20uiet"
    said = f"cannot open {address}; password p@ss/word, p%40ss%2Fword and 'q uiet'"
    told = scrubbed(said, address)
    for secret in ("p@ss", "p%40ss", "q uiet", "q%20uiet"):
        assert secret not in told
    assert told.startswith("cannot open postgresql://db/x")
    # and an address that nobody named beforehand
    assert "pw" not in clean("while asking https://me:pw@host/x: refused")
    assert "pw" not in str(BadInput("got 'ftp://me:pw@host'"))


def test_a_line_holds_nothing_that_steers_a_terminal() -> None:
    evil = "a\x1b[31mred\x1b]0;title\x07\r\nb\u202egnp\u2028c\x9b2J\x00"
    assert clean(evil) == "a[31mred]0;title bgnp c2J"
    assert printable("  kept  apart\x1b[2J") == "  kept  apart[2J"
    for error in (BadInput(evil), Unwritable(evil)):
        assert str(error).isprintable()


def test_a_message_of_megabytes_is_cut_and_says_so_in_no_time() -> None:
    for long in ("x" * 5_000_000, "x " * 2_500_000, "http://" + "u" * 5_000_000 + ":pw@host"):
        began = time.monotonic()
        line = clean(long)
        assert len(line) < LONGEST + 60
        assert line.endswith("more characters)")
        assert time.monotonic() - began < 0.5
        for result in (Failure("0", long, long), Retry("0", long)):
            assert len(result.reason) < LONGEST + 60
    assert len(Failure("0", "", "y" * 5_000_000).detail) < 30_000
    assert bounded("a\nb", 10) == "a\nb"
    # half of an address is not shown: its password may begin there
    assert "hunter" not in clean("z " * 1900 + "http://me:hunter2" + "q" * 5000 + "@host", 1000)


@pytest.mark.parametrize("first", list("=+-@\t\r\n＝＋－＠"))
def test_text_of_a_csv_file_is_no_formula(first: str) -> None:
    assert csv_cell(f"{first}cmd|' /C calc'!A0")[0] == "'"
    assert csv_cell(f"counter{first}guo") == f"counter{first}guo"


@pytest.mark.parametrize(
    "evil",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "</td><!-- hidden",
        "<https://example.org>",
        "[click](javascript:alert(1))",
        "![](https://example.org/seen.png)",
        "[a](//example.org)",
        "[a](<javascript:alert(1)>)",
    ],
)
def test_markdown_holds_no_html_and_no_links_to_elsewhere(evil: str) -> None:
    safe = markdown(f"# {evil}\n\n| {evil} | `{evil}` |\n")
    assert not any(f"<{letter}" in safe for letter in "si/!h")
    assert "](" not in safe.replace("]\\(", "")


def test_markdown_keeps_its_own_links_and_comparisons() -> None:
    own = "p < 0.05, a <- b, [results.csv](results.csv), ![plot](main.svg), **bold**, `code`"
    assert markdown(own) == own


class Shell:
    """Runs commands in a folder of its own, and greps all that they leave and say."""

    def __init__(self, folder: Path, changes: dict[str, str] | None = None) -> None:
        self.folder = folder
        write_configs(folder / "configs", changes)
        self.said = ""

    def __call__(self, *words: str) -> Result:
        result = CliRunner().invoke(main, list(words), catch_exceptions=False)
        self.said += result.output
        return result

    def leaks(self, *secrets: str) -> list[str]:
        """Where any of the secrets stands: files by their names or content, and what was said."""
        found = ["output"] if any(secret in self.said for secret in secrets) else []
        for path in self.folder.rglob("*"):
            content = path.read_bytes() if path.is_file() else b""
            if any(s in str(path) or s.encode() in content for s in secrets):
                found.append(str(path))
        return found


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("sys.argv", ["pipeline", "run", "--grid", "tiny", "--mlflow", ADDRESS])
    return Shell(tmp_path)


TINY = ("--grid", "tiny", "--images", "30", "--only", "defense=none")


@pytest.mark.parametrize("given", ["option", "environment", "sqlite"])
def test_no_secret_of_an_address_is_written_or_printed_by_any_command(
    shell: Shell, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = ["--mlflow", ADDRESS]
    if given == "environment":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", ADDRESS)
        mlflow = []
    if given == "sqlite":
        # an address that opens no database: SQLAlchemy's error quotes it
        mlflow = ["--mlflow", f"postgresql://me:{SECRETS[0]}@127.0.0.1:1/x?options={SECRETS[1]}"]
    assert shell("run", "--inline", *TINY, *mlflow).exit_code == 2
    assert "MLflow at" in shell.said
    shell("report", *TINY, *mlflow)
    shell("show", "mixed/pgd/none", "--grid", "tiny", "--images", "30", *mlflow)
    shell("doctor", *mlflow)
    if given != "sqlite":
        assert "pages of its own" in shell("ui", *mlflow).stderr
    assert len(list(Path("store/ledger").glob("*.json"))) == 1
    assert shell.leaks(*SECRETS) == []


def test_no_secret_of_a_checkpoints_address_is_written_or_printed(shell: Shell) -> None:
    url = f"http://me:{SECRETS[0]}@127.0.0.1:1/weights/1?X-Amz-Signature={SECRETS[1]}"
    model = f"dataset: digits\nnetwork: {{kind: small}}\ncheckpoint:\n  url: {url}\n"
    place = Path("configs/models/mixed.yaml")
    place.write_text(f"{model}  sha256: {'ab' * 32}\n", encoding="utf-8")
    result = shell("run", "--inline", *TINY)
    assert result.exit_code == 2
    assert "http://127.0.0.1:1/weights/1" in result.stderr
    place.unlink()  # the user's own file, which of course holds it
    assert shell.leaks(*SECRETS) == []


LABELS = {
    "formula": "=cmd|' /C calc'!A0",
    "html": "<img src=x onerror=alert(1)>",
    "link": "[free](javascript:alert(1))",
    "plus": "+1+1",
}


def test_labels_act_neither_in_csv_files_nor_in_markdown_nor_on_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    variants = "".join(
        f"      - {{label: {json.dumps(label)}, use: guo, set: {{draws: {draws}}}}}\n"
        for draws, label in enumerate(LABELS.values(), 2)
    )
    grid = (
        "title: <b>Bold</b> title\nepsilon: 40\nimages: 30\nredraws: 1\ntables:\n"
        "  - name: main\n    title: '<script>alert(1)</script>'\n    models: [mixed]\n"
        f"    attacks: [clean]\n    defenses:\n      - none\n{variants}    gains_over: none\n"
    )
    shell = Shell(tmp_path, {"grids/tiny.yaml": grid})
    assert shell("report", "--grid", "tiny").exit_code == 0
    for name in ("results.csv", "main.csv"):
        rows = list(csv.reader(io.StringIO(Path(f"reports/tiny/{name}").read_text("utf-8"))))
        texts = [cell for row in rows for cell in row if not _is_number(cell)]
        assert f"'{LABELS['formula']}" in texts
        assert not [text for text in texts if text[:1] in set("=+-@")]
    for name in ("README.md", "main.md"):
        text = Path(f"reports/tiny/{name}").read_text("utf-8")
        assert "<img" not in text
        assert "<script" not in text
        assert "<b>" not in text
        assert "](javascript:" not in text
    page = Path("reports/tiny/index.html").read_text("utf-8")
    assert "<img src=x" not in page
    assert "<script>alert" not in page


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


LOUD = """
from tasks.defenses.base import Defense


class Loud(Defense):
    def transform(self, pixels, rows, context):
        if len(pixels) == 30:  # a shard, and no batch of the contract
            raise ValueError("\\x1b[2J<script>alert(1)</script>" + 5_000_000 * "x")
        return pixels
"""


def test_an_exception_of_five_megabytes_with_escape_codes_hurts_no_file_and_no_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shell = Shell(tmp_path, {"defenses/loud.py": LOUD})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    words = ("--grid", "tiny", "--images", "30", "--add", "defense=loud")
    result = shell("run", "--inline", *words, "--only", "defense=loud", "--only", "attack=clean")
    assert result.exit_code == 1
    assert "defense loud: ValueError: [2J<script>alert(1)</script>xxx" in result.stderr
    assert "more characters)" in result.stderr
    assert "\x1b" not in result.output
    assert len(result.output) < 20_000
    for path in Path("reports/tiny").iterdir():
        assert path.stat().st_size < 1_000_000, path
    assert "<script>alert" not in Path("reports/tiny/README.md").read_text("utf-8")
    assert "<script>alert" not in Path("reports/tiny/index.html").read_text("utf-8")
    for path in Path("store/ledger").glob("*.json"):
        assert path.stat().st_size < 100_000


def test_the_words_of_someone_elses_records_steer_no_terminal_and_no_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shell = Shell(tmp_path)
    tiny = Tiny(tmp_path / "configs", tmp_path / "store")
    tiny.run(only=["cell=mixed/clean/none"], images=30)
    for meta in Path("store").glob("*/??/*/meta.json"):
        record = json.loads(meta.read_text("utf-8"))
        record["how"]["device"] = "\x1b[2JCPU\n# <script>alert(1)</script>"
        meta.write_text(json.dumps(record), encoding="utf-8")
    words = ("--grid", "tiny", "--images", "30")
    for command_words in (
        ("report", *words),
        ("plan", *words),
        ("show", "mixed/clean/none", *words),
        ("verify",),
        ("export", "out.zip", *words),
        ("import", "out.zip", "--store", "other"),
    ):
        result = shell(*command_words)
        assert "\x1b" not in result.output, command_words
    readme = Path("reports/tiny/README.md").read_text("utf-8")
    assert "\x1b" not in readme
    assert "<script>" not in readme
