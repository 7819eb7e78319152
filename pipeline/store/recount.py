"""Recomputes the facts of an artifact from its own files.

A checksum detects accidental changes of a record. Somebody who changes a number on purpose can
update the checksum as well, so whatever can be derived from the files is derived again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.problems import BadInput, reason_of
from pipeline.store import arrow
from pipeline.store.reading import Malformed, parsed
from pipeline.store.records import Record
from tasks.integrity.findings import Finding, overall

Locate = Callable[[str], Path]
"""Finds a file of an artifact by its name in the record."""
CLOSE = 1e-6
"""Tolerance for numbers that another version of torch may have computed."""


def contradiction(record: Record, locate: Locate) -> str | None:
    """The first difference between an artifact's facts and its files, in one line; None if none.

    Facts that no file contains, such as durations, are not checked.

    Raises:
        BadInput: If a file cannot be read.
    """
    told: dict[str, object] = {}
    try:
        for name, read in READERS.get(record.kind, {}).items():
            if name in record.files:
                told |= read(locate(name), record.spec)
    except (Malformed, arrow.BadArrow) as error:
        return f"what its files say cannot be worked out: {error}"
    except OSError as error:
        what = f"{record.kind} {record.digest[:12]}"
        raise BadInput(f"a file of {what} cannot be read: {reason_of(error)}") from None
    for name, value in told.items():
        stated = record.facts.get(name, value)
        if not _same(stated, value):
            return f"its {name} is {_short(stated)}, and by its own files it is {_short(value)}"
    return None


def _same(one: object, other: object) -> bool:
    """Whether two JSON values are equal, up to rounding of numbers."""
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    numbers = (int, float)
    if type(one) in numbers and type(other) in numbers:
        assert isinstance(one, int | float)
        assert isinstance(other, int | float)
        return one == other or math.isclose(one, other, rel_tol=CLOSE, abs_tol=CLOSE)
    return one == other


def _short(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _score(path: Path, _: Mapping[str, object]) -> dict[str, object]:
    return parsed(path.read_bytes(), dict[str, object])


def _answers(path: Path, _: Mapping[str, object]) -> dict[str, object]:
    from tasks.evaluation.score import rates

    columns = arrow.read_tensors(path)
    if absent := {"labels", "predicted", "correct"} - columns.keys():
        raise Malformed(f"{path.name} has no column {min(absent)}")
    predicted, correct = columns["predicted"], columns["correct"] != 0
    if predicted.ndim != 2 or predicted.shape != correct.shape or not predicted.numel():
        raise Malformed(f"{path.name} has no answers")
    right = predicted == columns["labels"][:, None]
    if (abstained := columns.get("abstained")) is not None:
        right = right & (abstained == 0)
    if not (correct == right).all():
        raise Malformed(f"{path.name} calls answers right that are not the label, or the reverse")
    return rates(correct)


def _card(path: Path, _: Mapping[str, object]) -> dict[str, object]:
    findings = parsed(path.read_bytes(), list[Finding])
    said = [finding.model_dump(mode="json") for finding in findings]
    return {"findings": said, "verdict": overall(findings)}


def _history(path: Path, _: Mapping[str, object]) -> dict[str, object]:
    epochs = parsed(path.read_bytes(), list[dict[str, object]])
    return {**(epochs[-1] if epochs else {}), "epochs": len(epochs)}


def _weights(path: Path, _: Mapping[str, object]) -> dict[str, object]:
    from tasks.classifier.checkpoint import BadCheckpoint, weights_from_bytes

    try:
        weights = weights_from_bytes(path.read_bytes())
    except BadCheckpoint as error:
        raise Malformed(str(error)) from None
    return {"weights": sum(weight.numel() for weight in weights.values())}


def _program(path: Path, _: Mapping[str, object]) -> dict[str, object]:
    from tasks.classifier.checkpoint import BadCheckpoint
    from tasks.classifier.program import operations

    try:
        operations(parsed(path.read_bytes(), dict[str, Any]))
    except BadCheckpoint as error:
        raise Malformed(str(error)) from None
    return {}


def _rows(path: Path, _: Mapping[str, object]) -> dict[str, object]:
    columns = arrow.read_arrays(path)
    return {"images": len(next(iter(columns.values())))} if columns else {}


def _outcomes(path: Path, _: Mapping[str, object]) -> dict[str, object]:
    found = arrow.read_arrays(path).get("probabilities")
    if found is None or found.ndim != 3:
        raise Malformed(f"{path.name} has no probabilities [N, R, classes]")
    return {"images": found.shape[0], "redraws": found.shape[1]}


def _train_split(path: Path, spec: Mapping[str, object]) -> dict[str, object]:
    return {"train_images": _rows(path, spec).get("images")}


def _test_split(path: Path, spec: Mapping[str, object]) -> dict[str, object]:
    labels = arrow.read_tensors(path).get("labels")
    classes = spec.get("classes")
    if labels is None or labels.ndim != 1 or not isinstance(classes, int):
        raise Malformed(f"{path.name} has no labels")
    counted = labels.bincount(minlength=classes).tolist() if len(labels) else [0] * classes
    return {"test_images": len(labels), "test_images_by_class": counted}


READERS: Mapping[str, Mapping[str, Callable[[Path, Mapping[str, object]], dict[str, object]]]] = {
    "dataset": {"train.arrow": _train_split, "test.arrow": _test_split},
    "train": {"history.json": _history},
    "checkpoint": {"weights.safetensors": _weights, "program.json": _program},
    "ensemble": {"weights.safetensors": _weights},
    "craft": {"examples.arrow": _rows},
    "select": {"choice.arrow": _rows},
    "defend": {"outcomes.arrow": _outcomes},
    "score": {"score.json": _score, "per_image.arrow": _answers},
    "card": {"card.json": _card},
    "exhibit": {"exhibits.arrow": _rows},
}
"""Functions that derive facts from files, by kind of artifact and file name."""
