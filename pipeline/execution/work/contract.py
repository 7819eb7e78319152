"""Whether a user's own defense or attack keeps the contract, tried once for each state of its code.

The verdict is remembered on this machine by the digest of the spec, which holds that of the code.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass

from pipeline.catalogue.code.own import line_of
from pipeline.grid.digests import digest
from pipeline.problems.sanitize import clean
from pipeline.store.files import cache_folder, replace_text
from tasks.attacks.base import Attack
from tasks.defenses.base import Defense
from tasks.specs import Spec

REMEMBERED = "contracts"
"""In the cache folder, a file for each verdict."""


@dataclass(frozen=True)
class Verdict:
    """What was found, in one line with its place; "" where nothing was.

    repeatable: whether the same images and draws give the same a second time, without which no
    result can be found again; raised: whether the code raised something of its own.
    """

    line: str = ""
    repeatable: bool = True
    raised: bool = False


def own_parts(specs: Iterable[Spec]) -> Iterator[Defense | Attack]:
    """The defenses and attacks of a user's own among specs, those in chains too, each once."""
    found: dict[str, Defense | Attack] = {}
    for spec in specs:
        parts = [part for _, part in spec.stages()] if isinstance(spec, Defense) else [spec]
        for part in parts:
            if isinstance(part, Defense | Attack) and type(part).source_digest:
                found.setdefault(digest(part), part)
    yield from found.values()


def contract_verdict(spec: Defense | Attack, *, channels: int, side: int) -> Verdict:
    """What `tasks.contract` says of a spec on six images of a size, from memory if it is known."""
    key = digest({"spec": spec, "channels": channels, "side": side})
    if key not in _known:
        _known[key] = _remembered(key, spec, channels, side)
    return _known[key]


_known: dict[str, Verdict] = {}


def _remembered(key: str, spec: Defense | Attack, channels: int, side: int) -> Verdict:
    path = cache_folder() / REMEMBERED / f"{key}.json"
    try:
        return Verdict(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        found = _tried(spec, channels=channels, side=side)
    with contextlib.suppress(OSError):  # where nothing can be kept, the next run tries again
        replace_text(path, json.dumps(asdict(found)))
    return found


def _tried(spec: Defense | Attack, *, channels: int, side: int) -> Verdict:
    from pipeline.execution.work import process
    from tasks.contract import BrokenContract, NotRepeatable, check_attack, check_defense

    with process.kept():
        try:
            if isinstance(spec, Defense):
                check_defense(spec, channels=channels, side=side)
            elif isinstance(spec, Attack):
                check_attack(spec, channels=channels, side=side)
        except BrokenContract as broken:
            line = f"{_place(spec)}: {clean(broken)}"
            return Verdict(line, repeatable=not isinstance(broken, NotRepeatable))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001  a user's own code may raise anything
            return Verdict(line_of(error), raised=True)
    return Verdict()


def _place(spec: Defense | Attack) -> str:
    """The file and line of what was tried."""
    method = type(spec).transform if isinstance(spec, Defense) else type(spec).perturb
    return f"{method.__code__.co_filename}:{method.__code__.co_firstlineno}"
