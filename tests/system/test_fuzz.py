"""Two minutes of mutated configs and options: no traceback, no hang, nothing beyond its bounds."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from annotated_types import Ge, Gt, Le, Lt
from click.testing import CliRunner
from pydantic import BaseModel
from tiny import FILES, write_configs

from pipeline.commands.cli import main
from pipeline.grid import builder
from tasks.specs import Spec

SECONDS = 120.0
LONGEST_S = 150.0
"""A plan of a tiny grid takes a fraction of a second; one of the demo with a thousand seeds, which
has 405,000 nodes, takes a minute and a half, and a loaded machine may take longer."""
SEED = 16
NUMBERS = [
    "0", "-1", "1", "2", "3", "255", "256", "1000000", "1000001", "4294967296", "1.0e+40",
    "1" + 40 * "0", "9" * 5000, ".nan", ".inf", "-.inf", "-0.0", "1.0e-300", "0.5", "010", "1:30",
    "1_000", "1e5", "0x10", "0o7", "'5'", "yes", "~", "[]", "{}", "[1, 2]", "2024-01-01",
]  # fmt: skip
TEXTS = [
    "''", "' '", "guo", "none", "counter+guo", "+", "guo+guo+guo", '"\\x1b[2J"', '"a\\nb"', "=1+1",
    "<b>x</b>", "'../../../etc/passwd'", "*x", "&x y", "!!python/object:os.system x", "x" * 5000,
    "jpeg.py", "os:getcwd", "subprocess:getoutput", "tasks.defenses.guo:Guo", "null", "'*'", "[",
    "{a: b", "- x", "'\u202e'", "\u00e9", "!x", "? y", "true", "linf", "l2",
]  # fmt: skip
OPTIONS = {
    "--images": [*map(str, (0, 1, 30, 601, 10**9, -1)), "x", "1.5", "1_0", "nan"],
    "--seeds": ["0", "1", "3", "1000", "1001", "100000", "-1"],
    "--redraws": ["0", "1", "5", "1000001", "1e3"],
    "--workers": ["0", "1", "8", "100001"],
    "--only": ["model=mixed", "x=y", "cell=*", "defense=[", "seed=0", "=", "model=", "attack=*g*"],
    "--add": ["defense=guo", "model=x", "defense=", "defense=a.py", "attack=pgd", "x", "defense=+"],
    "--adaptive": ["quick", "standard", "none", ""],
    "--card": ["full", "none", "quarter", "x"],
    "--data": ["digits=/tmp", "x=y", "digits", "=", "digits="],
    "--weights": ["mixed=/dev/null", "mixed=x", "y"],
    "--configs": ["none", "/dev/null", "configs", "/"],
    "--settings": ["none.yaml", "/dev/null", "configs/settings.yaml", "configs"],
    "--device": ["cpu", "auto", "gpu"],
    "--grid": ["tiny", "demo", "none", "", "../tiny", "tiny.yaml"],
    "--store": ["store", "gs://x", "s3:/x", "file:///x", "x" * 300, "\x1b[2J", "configs"],
    "--for-device": ["cpu", "H100", "", "CPU"],
    "--from": ["craft", "defend", "x"],
}
FLAGS = ["--force", "--all", "--json"]


class Hang(Exception):
    """A command took longer than it may."""


def mutated(text: str, chance: random.Random) -> str:
    """A file with one thing or a few changed."""
    lines = text.splitlines()
    for _ in range(chance.choice([1, 1, 1, 2, 4])):
        place = chance.randrange(len(lines))
        key, sign, _ = lines[place].partition(":")
        choice = chance.randrange(8)
        value = chance.choice(NUMBERS + TEXTS)
        if choice < 4 and sign:
            lines[place] = f"{key}: {value}"
        elif choice == 4:
            lines.insert(place, lines[place])
        elif choice == 5:
            lines.insert(place, f"{chance.choice(KEYS)}: {value}")
        elif choice == 6 and len(lines) > 1:
            del lines[place]
        else:
            at = chance.randrange(len(lines[place]) + 1)
            letter = chance.choice(":{}[]&*!|>'\"%@`,#?-\t\x00\x1b é")
            lines[place] = lines[place][:at] + letter + lines[place][at:]
    return "\n".join(lines) + "\n"


def command(chance: random.Random) -> list[str]:
    """The words of a command that looks and writes nothing."""
    words = [chance.choice(["plan", "plan", "list", "why"])]
    words += {"list": ["cells"], "why": ["mixed/pgd/guo"]}.get(words[0], [])
    words += ["--grid", "tiny"]
    for _ in range(chance.choice([0, 0, 0, 1, 2])):
        option = chance.choice(sorted(OPTIONS))
        words += [option, chance.choice(OPTIONS[option])]
    return [*words, chance.choice(FLAGS)] if chance.random() < 0.1 else words


KEYS = [
    "draws", "steps", "epsilon", "kind", "targeted", "norm", "random_start", "limit", "labels",
    "epochs", "milestones", "learning_rate", "momentum", "seed", "images", "redraws", "extends",
    "classes", "side_px", "channels", "folder", "batch_size", "threads", "attempts", "rules",
    "node_timeout_s", "smallest", "largest", "width", "mean", "std", "gains_over", "figure",
    "equal_cost", "grids", "title", "transferred", "losses", "<<", "label", "use", "set",
]  # fmt: skip


def beyond(model: BaseModel) -> Iterator[str]:
    """The numbers in a model that lie outside the bounds that its fields state."""
    for name, field in type(model).model_fields.items():
        values = getattr(model, name)
        for value in values if isinstance(values, tuple) else (values,):
            if isinstance(value, BaseModel):
                yield from beyond(value)
            for limit in limits(field):
                if isinstance(value, int | float) and not within(value, limit):
                    yield f"{type(model).__name__}.{name} = {value!r} is not {limit}"


def limits(field: Any) -> list[Any]:
    from typing import get_args

    found: list[Any] = []
    waiting = [field.annotation, *field.metadata]
    while waiting:
        each = waiting.pop()
        if isinstance(each, Ge | Gt | Le | Lt):
            found.append(each)
        waiting += [*get_args(each), *getattr(each, "metadata", ())]
    return found


def within(value: float, limit: Any) -> bool:
    match limit:
        case Ge(ge=low):
            return bool(value >= low)
        case Gt(gt=low):
            return bool(value > low)
        case Le(le=high):
            return bool(value <= high)
        case Lt(lt=high):
            return bool(value < high)
        case _:
            return True


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_mutated_config_or_option_gives_a_traceback_hangs_or_is_taken_beyond_its_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "PIPELINE_STORE"):
        monkeypatch.delenv(name, raising=False)
    taken: list[Spec] = []
    load = builder.load_grid

    def noted(*given: Any, **more: Any) -> Any:
        grid = load(*given, **more)
        for cell in grid.cells:
            taken.extend([cell.attack_spec, cell.defense_spec, cell.model_spec, cell.dataset_spec])
        return grid

    monkeypatch.setattr("pipeline.commands.view.load_grid", noted)
    chance = random.Random(SEED)
    files = {**FILES, "attacks/adaptive.yaml": "kind: adaptive\nsteps: 5\ndraws: 2\n"}
    deadline = time.monotonic() + SECONDS
    refused = accepted = 0

    def hangs(number: int, frame: FrameType | None) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, hangs)
    alarm = signal.setitimer(signal.ITIMER_REAL, 0.0)
    try:
        while time.monotonic() < deadline:
            changed = chance.choice(sorted(files))
            text = mutated(files[changed], chance) if chance.random() < 0.8 else files[changed]
            write_configs(tmp_path / "configs", {**files, changed: text})
            words = command(chance)
            told = f"{words}\n{changed}:\n{text[:2000]}"
            taken.clear()
            signal.setitimer(signal.ITIMER_REAL, LONGEST_S)
            try:
                result = CliRunner().invoke(main, words)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0.0)
            crash = result.exception
            assert crash is None or isinstance(crash, SystemExit), f"{crash!r}\n{told}"
            assert result.exit_code in {0, 1, 2}, told
            if result.exit_code == 2:
                refused += 1
                last = result.stderr.strip().splitlines()[-1]
                assert last.lower().startswith("error: "), f"{result.stderr}\n{told}"
                assert last.isprintable(), told
            else:
                accepted += 1
                outside = [line for spec in taken for line in beyond(spec)]
                assert outside == [], f"{outside[:5]}\n{told}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, *alarm)
        signal.signal(signal.SIGALRM, before)
    print(f"{refused} refused, {accepted} taken")  # noqa: T201
    # both happened, or the mutations are of no use
    assert refused > 20, (refused, accepted)
    assert accepted > 20, (refused, accepted)


def test_the_fuzzer_sees_a_number_beyond_its_bounds() -> None:
    from tasks.defenses.guo import Guo

    assert list(beyond(Guo(draws=3))) == []
    assert list(beyond(Guo(draws=3).model_copy(update={"draws": 0})))
    assert list(beyond(Guo().model_copy(update={"smallest": 2.0})))
