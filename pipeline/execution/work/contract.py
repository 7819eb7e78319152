"""Checks once for each version of a user's defense or attack whether it keeps the contract.

The verdict is cached on this machine under the digest of the spec, which covers the code, and that
of the checks. An exception is not: a library that was missing, or memory, may be there next time.
What six images do not show, such as a draw in large batches alone, `check_node` looks for in nodes.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

from pipeline.catalogue.code.data import data_note, data_read, is_data
from pipeline.catalogue.code.digests import TASKS, Code
from pipeline.catalogue.code.known import (
    KNOWN,
    declared_at,
    place_of,
    require_unchanged,
    words_of,
)
from pipeline.catalogue.code.members import lookalikes
from pipeline.grid.digests import digest, parts_of
from pipeline.grid.graph import Node
from pipeline.problems.sanitize import clean
from pipeline.store.files import cache_folder, replace_text
from tasks.attacks.base import Attack
from tasks.defenses.base import Defense
from tasks.networks.base import Network
from tasks.networks.factory import Factory
from tasks.specs import Kind, Spec

FAMILIES: Mapping[str, type[Kind]] = {"attack": Attack, "defense": Defense, "network": Network}
"""Base classes of what a user may write, by their name in messages."""
METHODS = {"attack": "perturb", "defense": "transform", "network": "module"}
"""The method of a user's class that computes."""
REMEMBERED = "contracts"
"""Subfolder of the cache folder, with a file for each verdict."""


@dataclass(frozen=True)
class Verdict:
    """Result of a check.

    Attributes:
        line: The violation in one line, with its place; empty if there is none.
        repeatable: Whether the same images and draws give the same result twice, which all results
            rely on.
        raised: Whether the code raised an exception of its own; then the contract is not checked.
        data: Absolute paths of the files of data that the code has read, see `data_read`.
    """

    line: str = ""
    repeatable: bool = True
    raised: bool = False
    data: tuple[str, ...] = ()


def own_parts(specs: Iterable[Spec]) -> Iterator[Kind]:
    """Specs of the user's own classes among specs, including parts of chains, each once."""
    found: dict[str, Kind] = {}
    for spec in specs:
        parts = [part for _, part in spec.stages()] if isinstance(spec, Defense) else [spec]
        for part in parts:
            if isinstance(part, Attack | Defense | Network) and type(part).source_digest:
                found.setdefault(digest(part), part)
    yield from found.values()


def own_generators() -> dict[str, bytes]:
    """State of the global random generators that are a node's own while it is computed.

    Python's `random` is left out, since other threads of the process draw from it, such as
    MLflow's.
    """
    from tasks.contract.conditions import generators

    return {name: state for name, state in generators().items() if name != "random"}


def check_node(spec: Spec, before: Mapping[str, bytes]) -> None:
    """Check that the user's own parts of a node have used no global random generator.

    Args:
        spec: The node's spec.
        before: State of `own_generators` before its work.

    Raises:
        NotRepeatable: If one has been used, with file and line.
    """
    from tasks.contract.conditions import check_generators

    if names := own_names(spec):
        check_generators(" or ".join(names), before)


def own_names(spec: Spec) -> list[str]:
    """The specs of the user's own classes in a spec, each with file and line."""
    parts = [part for part in own_parts(parts_of(spec)) if not part.library]
    return [f"{_place(part)}: {title(part)}" for part in parts]


def own_code(node: Node) -> list[str]:
    """As `own_names`, for a node that calls a network, with the network if it is the user's own."""
    model = node.parent("model").spec
    made = [f"network {part.title()}" for part in parts_of(model) if isinstance(part, Factory)]
    return [*own_names(node.spec), *own_names(model), *made]


def check_unchanged(node: Node) -> None:
    """Check that a node, and the model that it calls, will run the code that their digests cover.

    Raises:
        BadInput: If the code of a part has changed since the grid was loaded.
    """
    models = [parent.spec for role, parent in node.parents if role == "model"]
    for part in (part for spec in (node.spec, *models) for part in parts_of(spec)):
        if isinstance(part, Factory) and part.source:
            require_unchanged(part.factory.partition(":")[0], part.source)
        elif type(part).source_digest:
            require_unchanged(type(part).__module__, type(part).source_digest)


def check_stateless(node: Node, before: Mapping[str, bytes], *, same: bool) -> None:
    """Check that a node's own code answered the same when it was asked again at the end.

    Args:
        node: The node.
        before: See `check_node`, whose checks come first, since they are more specific.
        same: Whether it did.

    Raises:
        NotRepeatable: If it did not, with file and line: the result depends on the order of batches
            and on what else the process has computed.
    """
    from tasks.contract.conditions import NOTHING_KEPT, NotRepeatable

    check_node(node.spec, before)
    if not same:
        raise NotRepeatable(
            f"{' or '.join(own_code(node))}: the first images give something else when they come "
            f"again at the end; {NOTHING_KEPT}"
        )


def network_data(spec: Spec) -> list[str]:
    """Lines about the files of data that the code of the user's own networks in a spec has read."""
    digests = {type(part).source_digest for part in parts_of(spec) if isinstance(part, Network)}
    digests |= {part.source for part in parts_of(spec) if isinstance(part, Factory)}
    modules = [code.module for code in KNOWN.values() if code.digest in digests]
    return [data_note(module, files) for module in modules if (files := data_read(module))]


def contract_verdict(spec: Kind, *, channels: int, side: int) -> Verdict:
    """Check a spec with `tasks.contract` on six images of this size; cached."""
    code = KNOWN.get(type(spec).__module__)
    # the same code in another folder may read other files
    place = "" if code is None else str(Path(code.place).resolve())
    asked = {"spec": spec, "place": place, "channels": channels, "side": side}
    key = digest({**asked, "checks": _checks()})
    found = _known.get(key) or _remembered(key, spec, channels, side)
    if not found.raised:
        _known[key] = found
    return found


_known: dict[str, Verdict] = {}


@cache
def _checks() -> str:
    """Digest of the code that checks."""
    code = Code(TASKS)
    return digest({name: code.digests[name] for name in code.closure(["tasks.contract"])})


def _remembered(key: str, spec: Kind, channels: int, side: int) -> Verdict:
    path = cache_folder() / REMEMBERED / f"{key}.json"
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return Verdict(**{**known, "data": tuple(filter(is_data, known["data"]))})
    except (OSError, ValueError, TypeError, KeyError):
        # KeyError: of a version that did not record data
        found = _tried(spec, channels=channels, side=side)
        found = replace(found, data=data_read(type(spec).__module__))
    if found.raised:
        return found
    with contextlib.suppress(OSError):  # without a writable cache the next run checks again
        replace_text(path, json.dumps(asdict(found)))
    return found


def _tried(spec: Kind, *, channels: int, side: int) -> Verdict:
    from pipeline.execution.work import process
    from tasks.contract import BrokenContract, NotRepeatable, check_attack, check_defense

    # output of user code goes to stderr, since stdout is for results
    with process.kept(), contextlib.redirect_stdout(sys.stderr):
        try:
            if isinstance(spec, Defense):
                check_defense(spec, channels=channels, side=side)
            elif isinstance(spec, Attack):
                check_attack(spec, channels=channels, side=side)
        except BrokenContract as broken:
            line = f"{place_of(broken) or _place(spec)}: {clean(broken)}"
            return Verdict(line, repeatable=not isinstance(broken, NotRepeatable))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001  a user's own code may raise anything
            place = place_of(error) or _place(spec)
            line = f"{place}: contract of {title(spec)} not checked: {words_of(error)}"
            for name, (_, near) in lookalikes(type(spec)).items():
                if line.endswith(f"does not define {near}"):
                    line += f"; is `{name}` meant as `{near}`?"
            return Verdict(line, raised=True)
    return Verdict()


def title(spec: Kind) -> str:
    """A part for messages: its family and kind."""
    return f"{_family(spec)} {spec.kind}"


def _family(spec: Kind) -> str:
    return next(family for family, base in FAMILIES.items() if isinstance(spec, base))


def _place(spec: Kind) -> str:
    """File and line of the method that computes, or of its class if that inherits it."""
    path, line = declared_at(type(spec), METHODS[_family(spec)]) or (spec.kind, 1)
    return f"{path}:{line}"
