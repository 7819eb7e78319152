"""The counter-perturbation, the paper's contribution (section IV, equation 4, algorithm 1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from tasks.defenses.base import Context, Defense
from tasks.specs import Count, Passes, Pixel255, Problem

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.data.seeding import Rows


Label = Annotated[int, Field(ge=0, lt=10**5)]


class Counter(Defense):
    """Counter-perturbation: the clamped sum of one signed gradient step for each of N labels.

    All N gradients of the cross-entropy are taken at the same image x. A targeted step goes down
    the loss of its label, an untargeted one up.
    """

    kind: Literal["counter"] = "counter"
    version: ClassVar[int] = 1
    once: ClassVar[bool] = True
    unset_is_left_out: ClassVar[frozenset[str]] = frozenset({"labels"})

    direction: Literal["targeted", "untargeted"] = "targeted"
    """Step down the loss of the chosen labels, or up."""
    label_pool: Literal["not-predicted", "all"] = "not-predicted"
    """Classes that labels are drawn from: all but the predicted one, or all."""
    label_count: Count | None = None
    """Number of labels, N; by default 9, or all other classes if there are fewer."""
    step_size: Pixel255 | None = None
    """Size of each step, the paper's alpha, in 1/255; half of the grid's epsilon by default."""
    limit: Pixel255 | None = None
    """Largest change of a pixel, the paper's mu, in 1/255; the grid's epsilon by default."""
    labels: Annotated[tuple[Label, ...], Field(strict=False, min_length=1)] | None = None
    """Labels to use for every image instead of drawing them, as in the paper's figure 1."""

    @model_validator(mode="after")
    def _fixed_labels_leave_nothing_to_draw(self) -> Self:
        if self.labels is None:
            return self
        count = len(self.labels)
        if len(set(self.labels)) < count:
            raise ValueError(f"labels {list(self.labels)} has a label twice")
        if self.label_count not in {None, count}:
            raise ValueError(f"label_count is {self.label_count}, but labels has {count}")
        if self.label_pool != "not-predicted":
            raise ValueError("label_pool is what labels are drawn from; labels are given")
        return self

    def resolved(self, problem: Problem) -> Self:
        """Return the spec with N, alpha and mu filled in.

        Raises:
            ValueError: If a label does not exist, or if N is more than the labels to draw from.
        """
        count = self._count(problem.classes)
        if self.labels is not None and max(self.labels) >= problem.classes:
            raise ValueError(
                f"counter: labels has {max(self.labels)}, "
                f"but the classes are 0 to {problem.classes - 1}"
            )
        available = self._available(problem.classes)
        if self.labels is None and count > available:
            raise ValueError(f"counter: label_count is {count}, but there are {available} labels")
        return self.model_copy(
            update={
                "label_count": count,
                "step_size": self.step_size or problem.epsilon / 2,
                "limit": self.limit or problem.epsilon,
            }
        )

    def deterministic(self, classes: int) -> bool:
        """Return whether the labels are given, or N is the number of labels to draw from."""
        return self.labels is not None or self._count(classes) == self._available(classes)

    def smooths(self) -> bool:
        """Always true, for the sign of each gradient."""
        return True

    def transform(self, pixels: Tensor, rows: Rows, context: Context) -> Tensor:
        """Add the perturbation and clip. The perturbation has no gradient unless it is smoothed."""
        from tasks.defenses.transforms import straight

        return straight.clip(pixels + self.perturbation(pixels, rows, context))

    def forwards_and_backwards(self, *, rows: int, distinct: int, classes: int) -> Passes:  # noqa: ARG002
        """One forward pass, for the gradients and the predicted class, and N backward passes."""
        return Passes(1, self._count(classes)) * rows

    def chosen_labels(self, logits: Tensor, rows: Rows) -> Tensor:
        """Return the labels of each row, given or drawn without repetition, int64 [M, N].

        Args:
            logits: float32 [M, classes], of the bare classifier.
            rows: Identities of the M rows.
        """
        import torch

        if self.labels is not None:
            return torch.tensor(self.labels, device=logits.device).expand(len(logits), -1)
        classes = logits.shape[1]
        allowed = torch.ones_like(logits, dtype=torch.bool)
        if self.label_pool == "not-predicted":
            predicted = logits.argmax(dim=1)
            allowed.scatter_(1, predicted[:, None], value=False)
        return rows.choices("labels", allowed, self._count(classes))

    def perturbation(self, pixels: Tensor, rows: Rows, context: Context) -> Tensor:
        """Return the perturbation, float32 [M, C, H, W] in pixel units, within the limit.

        It is detached, or differentiable if `context.smoothing` is set. The width of the smoothed
        signs is then one for all N labels of a row, from the mean of abs over all their gradients.
        """
        from tasks.defenses.transforms import straight

        if self.step_size is None or self.limit is None:
            raise ValueError("counter: step_size and limit are unset; call resolved(problem)")

        def choose(logits: Tensor) -> Tensor:
            return self.chosen_labels(logits, rows)

        step = self.step_size / 255 * (-1 if self.direction == "targeted" else 1)
        bound = self.limit / 255
        if context.smoothing is None:
            gradients = context.classifier.label_gradients(pixels.detach(), choose)
            return (step * gradients.sign().sum(dim=1)).clamp(-bound, bound).detach()
        gradients = context.classifier.label_gradients(
            pixels, choose, differentiable=True, relu_width=context.relu_width
        )
        signs = straight.smooth_sign(gradients, context.smoothing)  # [M, N, C, H, W]
        return (step * signs.sum(dim=1)).clamp(-bound, bound)

    def _count(self, classes: int) -> int:
        given = None if self.labels is None else len(self.labels)
        return given or self.label_count or min(9, classes - 1)

    def _available(self, classes: int) -> int:
        return classes if self.label_pool == "all" else classes - 1
