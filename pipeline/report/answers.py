"""Per-image answers of cells, and significance tests of gains based on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.grid.graph import Node
from pipeline.problems import BadInput
from pipeline.report.cache import kept_numbers
from pipeline.store import arrow
from pipeline.store.store import Damaged, Record, Store
from tasks.evaluation import statistics
from tasks.evaluation.statistics import paired_differences, sign_flip_test

STATISTICS = (Path(statistics.__file__),)
"""Source files that p-values depend on, as part of the cache key."""


class NotTested(Exception):
    """Why a gain cannot be tested, in one line."""


@dataclass(frozen=True)
class Answers:
    """A cell's answers, sorted by image id.

    Attributes:
        ids, labels: int64 [N].
        right: bool [N, R], whether the prediction of each redraw is the label.
    """

    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    right: NDArray[np.bool_]

    def same_images(self, other: Answers) -> bool:
        """Whether both are about the same images."""
        return np.array_equal(self.ids, other.ids) and np.array_equal(self.labels, other.labels)


class PerImage:
    """Answers by cell name, read once each; tests of gains, computed once each.

    Args:
        read: Returns the answers of a cell, or raises NotTested.
    """

    def __init__(self, read: Callable[[str], Answers]) -> None:
        self._read = cache(read)
        self._p_values: dict[tuple[tuple[str, str], ...], float] = {}

    def answers(self, name: str) -> Answers:
        """A cell's answers; NotTested if there are none."""
        return self._read(name)

    def p_value(self, pairs: Sequence[tuple[str, str]]) -> float:
        """The two-sided p-value of a gain, by a sign-flip test over images.

        An image's differences are summed over the seeds before its sign is flipped, since answers
        of several trainings on the same image are not independent evidence.

        Args:
            pairs: Names of a cell and its baseline, one pair for each seed.

        Raises:
            NotTested: If the answers are missing, or the baseline's lack some of the cell's images.
        """
        key = tuple(pairs)
        if key not in self._p_values:
            self._p_values[key] = self._tested(key)
        return self._p_values[key]

    def paired(self, name: str, base: str) -> tuple[Answers, Answers]:
        """The answers of a cell and its baseline, about the images of the cell.

        Raises:
            NotTested: If the answers are missing, or the baseline's lack some of the images.
        """
        own, other = self._read(name), self._read(base)
        if not np.isin(own.ids, other.ids).all():
            raise NotTested(f"{name} and its baseline were not asked about the same images")
        rows = np.searchsorted(other.ids, own.ids)
        return own, Answers(other.ids[rows], other.labels[rows], other.right[rows])

    def _tested(self, pairs: Sequence[tuple[str, str]]) -> float:
        read = [self.paired(name, base) for name, base in pairs]
        first = read[0][0]
        if not all(first.same_images(answers) for pair in read for answers in pair):
            raise NotTested(f"{pairs[0][0]} and its baseline were not asked about the same images")
        right, base = (np.hstack([pair[side].right for pair in read]) for side in (0, 1))
        differences = paired_differences(right, base)
        (found,) = kept_numbers(STATISTICS, [differences], lambda: [sign_flip_test(differences)])
        return found


def stored_answers(store: Store, scores: Mapping[str, Node]) -> PerImage:
    """Access to the answers in a store.

    Arrays of ids and labels are shared among cells with the same images.

    Args:
        scores: Score node of each cell, by cell name. A cell that is not among them has no answers,
            so a report leaves out those whose score is outdated.
    """
    shared: dict[bytes, NDArray[np.int64]] = {}

    def read(name: str) -> Answers:
        if name not in scores:
            raise NotTested(f"{name}: has no score in this store")
        found = _stored(store, scores[name])
        ids, labels = (
            shared.setdefault(array.tobytes(), array) for array in (found.ids, found.labels)
        )
        return Answers(ids, labels, found.right)

    return PerImage(read)


def _stored(store: Store, node: Node) -> Answers:
    record = store.known(node.kind, node.digest)
    if record is None:
        raise NotTested(f"{node.kind} {node.digest[:12]}: is not in this store")
    return answers_of(store, record)


def answers_of(store: Store, record: Record) -> Answers:
    """The answers that a score was computed from; NotTested if the store does not have them."""
    try:
        columns = arrow.read_arrays(
            store.path(record, "per_image.arrow"), {"ids": 1, "labels": 1, "correct": 2}
        )
    except (Damaged, BadInput) as problem:
        raise NotTested(str(problem)) from None
    except arrow.BadArrow as error:
        raise NotTested(f"{record.kind} {record.digest[:12]}: {error}") from None
    order = np.argsort(columns["ids"])
    return Answers(columns["ids"][order], columns["labels"][order], columns["correct"][order] != 0)
