"""No attack: the test images themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from tasks.attacks.base import Attack, Victim
from tasks.specs import Passes

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.data.seeding import Rows


class Clean(Attack):
    """No attack: leaves every image as it is."""

    version: ClassVar[int] = 1
    kind: Literal["clean"] = "clean"
    crafts: ClassVar[bool] = False

    def perturb(
        self,
        victim: Victim,  # noqa: ARG002
        pixels: Tensor,
        labels: Tensor,  # noqa: ARG002
        rows: Rows,  # noqa: ARG002
    ) -> Tensor:
        """Return the pixels unchanged."""
        return pixels

    def forwards_and_backwards(self) -> Passes:
        """No passes."""
        return Passes()
