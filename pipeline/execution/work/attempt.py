"""One attempt at a node: compute, store the artifact, and turn errors into one-line failures."""

from __future__ import annotations

import platform
import time
import traceback

import torch

from pipeline import __version__
from pipeline.catalogue.code.known import declared_at, line_of, module_of, place_of, placed
from pipeline.catalogue.code.libraries import versions_of
from pipeline.catalogue.devices import cpu_name
from pipeline.execution.events import Done, Failure, Result, Retry, Stopped
from pipeline.execution.executors.base import silent_for
from pipeline.execution.settings import Settings
from pipeline.execution.signals import Interrupted, Silent
from pipeline.execution.work import memory, process
from pipeline.execution.work import unfinished as partial_state
from pipeline.execution.work.budget import worker_bytes
from pipeline.execution.work.contract import (
    FAMILIES,
    METHODS,
    check_node,
    check_unchanged,
    network_data,
    own_code,
)
from pipeline.execution.work.inputs import NodeInputs, forget
from pipeline.execution.work.kinds import PERFORM
from pipeline.execution.work.memory import keep_freed_memory
from pipeline.execution.work.prepare import Unfinished
from pipeline.grid.digests import libraries_of, own_digests, own_modules_of, parts_of
from pipeline.grid.graph import Node
from pipeline.problems import BadInput, Unwritable
from pipeline.problems.sanitize import clean
from pipeline.store.store import Damaged, Gone, Store
from tasks.attacks.base import Attack
from tasks.classifier.checkpoint import BadCheckpoint
from tasks.classifier.frozen import NotFrozen
from tasks.classifier.problems import BadNetwork
from tasks.contract.conditions import CHANGES, NotRepeatable
from tasks.data.arrays import BadTensor
from tasks.evaluation.stages import BadDefense
from tasks.progress import Tell
from tasks.registry import LibraryProblem
from tasks.specs import Kind, Spec
from tasks.training.train import Diverged

EXPECTED = (
    BadInput,
    BadTensor,
    BadCheckpoint,
    BadDefense,
    BadNetwork,
    Diverged,
    LibraryProblem,
    NotRepeatable,
)
"""Exceptions whose own message is sufficient for people, without the type of the error."""
PROGRAM = "test-time-defense-bench"
NO_MEMORY = ("can't allocate memory", "not enough memory")
"""Phrases of torch's error when CPU memory is exhausted; a GPU has its own exception."""
VERSIONS = ("torch", "numpy", "pillow", "scipy", "torchvision", "pyarrow")


def attempt(
    node: Node,
    store: Store,
    settings: Settings,
    tell: Tell,
    *,
    replace: bool = False,
    until: float | None = None,
) -> Result:
    """Compute a node; an error, even SystemExit, becomes a Failure or Retry with a one-line reason.

    Out of memory leads to a Retry with a smaller batch. Global state of the process is restored
    afterwards; if that fails, the process must not be used again, see `memory.unusable`.

    Args:
        tell: Receives progress.
        replace: Compute even if the artifact is stored, and replace it.
        until: Unix time in seconds after which a training stops at the end of an epoch.
    """
    before = memory.resident_bytes()
    bound = worker_bytes(settings.of(node.kind).memory_gb)
    with memory.bounded(above=bound), process.kept() as found:
        process.start_as_new()
        result = _attempted(node, store, settings, tell, replace=replace, until=until)
    if found.left:
        memory.give_up(f"{_told(node)} left {', '.join(found.left)} changed")
    if own_digests(node.spec):
        memory.note_growth(_told(node), memory.resident_bytes() - before)
    return result


def _attempted(
    node: Node, store: Store, settings: Settings, tell: Tell, *, replace: bool, until: float | None
) -> Result:
    try:
        return perform(node, store, settings, tell, replace=replace, until=until)
    except Unfinished:
        return Stopped(node.digest)
    except Damaged as damaged:
        what = (damaged.kind, damaged.digest)
        return Failure(node.digest, str(damaged), damaged=what, gone=isinstance(damaged, Gone))
    except Unwritable as error:
        return Failure(node.digest, str(error), traceback.format_exc(), fatal=True)
    except (Interrupted, GeneratorExit):
        raise
    except BaseException as error:  # noqa: BLE001  one node's failure must not end the others
        return _failure(node, settings, error)


def _failure(node: Node, settings: Settings, error: BaseException) -> Failure | Retry:
    """Classify an error of a node: a failure, or a retry after running out of memory."""
    if isinstance(error, Silent):
        return Failure(node.digest, _own_parts(node) + silent_for(settings), traceback.format_exc())
    if _is_no_memory(error):
        forget()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return Retry(node.digest, f"out of memory{memory.grown_by_others()}", smaller=True)
    if isinstance(error, NotFrozen) and (names := own_code(node)):
        reason = f"{' or '.join(names)}: {CHANGES} ({error})"
        return Failure(node.digest, reason, traceback.format_exc())
    line = clean(error) or "no message"
    reason = placed(error, line) if isinstance(error, EXPECTED) else line_of(error)
    family, part = _blamed(node.spec, error)
    if part is not None:
        named = f"{family} {part.kind}: "
        declared = declared_at(type(part), METHODS[family])
        if place_of(error) is None and declared is not None:
            reason += f" ({declared[0]}:{declared[1]})"
        reason = named + reason.removeprefix(f"{part.kind}: ")
    return Failure(node.digest, reason, traceback.format_exc())


def _told(node: Node) -> str:
    """Description of a node for log lines of this process, including the user's own parts."""
    return f"{_own_parts(node)}{node.kind} {node.digest[:12]}"


def _own_parts(node: Node) -> str:
    own = [
        f"{family} {part.kind}: "
        for part in parts_of(node.spec)
        for family, base in FAMILIES.items()
        if isinstance(part, base) and (part.source_digest or part.library)
    ]
    return "".join(own[:1])


def _blamed(spec: Spec, error: BaseException) -> tuple[str, Kind | None]:
    """The part, of a user's own or a library's, that caused an error, and its family."""
    parts = [
        (family, part)
        for part in parts_of(spec)
        for family, base in FAMILIES.items()
        if isinstance(part, base)
    ]
    if isinstance(error, NotRepeatable):
        return "", None  # it names the part
    said, module = str(error), module_of(error)
    for family, part in parts:
        returned = isinstance(error, BadDefense) and said.startswith(f"{part.kind}: ")
        # a call that does not fit a method's arguments is in no line of the user's
        called = isinstance(error, TypeError) and said.startswith(f"{type(part).__qualname__}.")
        if type(part).__module__ == module or returned or called:
            return family, part
    for family, part in parts:
        if isinstance(part, Attack) and (part.source_digest or part.library):
            return family, part
    return "", None


def _is_no_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)


def perform(
    node: Node,
    store: Store,
    settings: Settings,
    tell: Tell,
    *,
    replace: bool = False,
    until: float | None = None,
) -> Done:
    """Compute a node's artifact and put it into the store.

    If the artifact exists, it is returned as it is, or replaced if `replace` is true.

    Raises:
        Unfinished: If `until` has passed and the training has epochs left.
    """
    standing = None if replace else store.record(node.kind, node.digest)
    if standing is not None:
        return Done(node.digest, standing.content, standing.facts, standing.how, found=True)
    check_unchanged(node)
    kind = settings.of(node.kind)
    device = device_of(settings)
    keep_freed_memory()
    torch.set_num_threads(kind.threads)
    deterministic = settings.deterministic and device.type == "cuda"
    if deterministic != torch.are_deterministic_algorithms_enabled():
        # called only if necessary, since it imports torch's compiler, which takes seconds
        torch.use_deterministic_algorithms(deterministic)
    inputs = NodeInputs(node, store, kind, device, tell, until, settings.beside)
    inputs.devices = [_device_name(device)]
    began = time.monotonic()
    lineage = inputs.lineage()
    result = PERFORM[node.kind](inputs)
    check_node(node.spec, inputs.generators)
    inputs.notes += network_data(node.spec)
    how = _circumstances(inputs, settings, time.monotonic() - began, result.asking_s)
    before = store.state(node.kind, node.digest).record if replace else None
    record = store.put(
        node.identity, result.files, lineage=lineage, facts=result.facts, how=how, replace=replace
    )
    if node.info.trains:
        partial_state.forget(store.backend, node.digest)
    return Done(
        node.digest,
        record.content,
        record.facts,
        record.how,
        unchanged=before is not None and record.content == before.content,
    )


def _circumstances(
    inputs: NodeInputs, settings: Settings, seconds: float, asking_s: float | None
) -> dict[str, object]:
    """How a node was computed, for its record.

    Args:
        seconds: Duration of the work.
        asking_s: See `NodeOutput`.
    """
    node, device, kind = inputs.node, inputs.device, inputs.settings
    how: dict[str, object] = {
        "seconds": seconds,
        "device": ", then ".join(inputs.devices),
        "threads": kind.threads,
        "batch_size": inputs.rows_at_once,
        "deterministic": settings.deterministic or device.type == "cpu",
        "forwards": inputs.passes.forwards,
        "backwards": inputs.passes.backwards,
        "host": platform.node(),
        "versions": {"python": platform.python_version(), PROGRAM: __version__}
        | versions_of(VERSIONS),
    }
    if device.type == "cpu":
        # affects rounding, as do the versions
        how["instructions"] = torch.backends.cpu.get_cpu_capability()
    if inputs.queried is not None:
        # identifies the model that was queried; `verify --suspect` checks it
        how["model"] = inputs.queried
    if inputs.notes:
        how["said"] = inputs.notes
    if asking_s is not None:
        how["asking_seconds"] = asking_s
    if kind.compiled:
        how["compiled"] = inputs.classifier is not None and inputs.classifier.compiled
    recipe = {
        "own_code": own_digests(node.spec),
        "own_modules": own_modules_of(node.spec),
        "libraries": libraries_of(node.spec),
    }
    return how | {name: found for name, found in recipe.items() if found}


def device_of(settings: Settings) -> torch.device:
    """The device of this machine that the settings choose; BadInput if it has none."""
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise BadInput("device cuda: torch sees no GPU here; choose `--device auto` or `cpu`")
    gpu = settings.device != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if gpu else "cpu")


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return cpu_name()
