"""No defense: the bare classifier, the first row of every table."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from tasks.defenses.base import Context, Defense

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.data.seeding import Rows


class NoDefense(Defense):
    """No defense: the classifier as it is."""

    kind: Literal["none"] = "none"
    version: ClassVar[int] = 1
    once: ClassVar[bool] = True

    def deterministic(self, classes: int) -> bool:  # noqa: ARG002
        """Always true."""
        return True

    def transform(self, pixels: Tensor, rows: Rows, context: Context) -> Tensor:  # noqa: ARG002
        """Return the pixels unchanged."""
        return pixels
