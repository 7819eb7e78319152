"""Test-time counterattacks (Xing et al., CVPR 2025)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from tasks.defenses.base import Context, GradientRule
from tasks.defenses.transforms.optimised import Optimised
from tasks.specs import Count, NonNegative, Passes, Pixel255, Positive, Problem

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.data.arrays import Images
    from tasks.data.seeding import Rows
    from tasks.defenses.transforms.descent import Descent

PERCENTILE = 0.05
AT_ONCE = 250
"""Training images that are asked about at a time."""
_TINY = 1e-12


class TTC(Optimised):
    """Signed steps away from the features of the image, where noise moves these little.

    Noise within the limit moves the features of an image by a share tau of their length. Where tau
    is below the threshold the offset is the mean of those before and after each step, weighted by
    exp(`sharpness` i) after step i; elsewhere it is the noise alone. The threshold is the 5th
    percentile of tau over `threshold_images` clean training images, unless it is given. To a
    gradient the gate is a constant, except by the rule `differentiable`.
    """

    kind: Literal["ttc"] = "ttc"
    version: ClassVar[int] = 1

    steps: Count = 2
    """N, of the optimiser inside."""
    limit: Pixel255 | None = None
    """The largest change of a pixel, in 1/255; `epsilons` times epsilon by default."""
    epsilons: Positive = 1.0
    """The limit in epsilons of the problem; 4 in the paper."""
    step_size: Pixel255 | None = None
    """Of each step, in 1/255; a quarter of the limit by default."""
    sharpness: NonNegative = 2.0
    """Beta, by which later offsets weigh more."""
    threshold: NonNegative | None = None
    """Of tau; of the training images by default."""
    threshold_images: Count = 1000
    """Training images that the threshold comes from."""

    def resolved(self, problem: Problem) -> Self:
        """Limit and step filled in."""
        limit = self.limit or min(255.0, self.epsilons * problem.epsilon)
        return self.model_copy(update={"limit": limit, "step_size": self.step_size or limit / 4})

    def deterministic(self, classes: int) -> bool:  # noqa: ARG002
        """Never: it begins with noise."""
        return False

    def needs_pool(self) -> bool:
        """For the threshold, unless it is given."""
        return self.threshold is None

    def descent(self) -> Descent:
        """See `Optimised.descent`."""
        from tasks.defenses.transforms.descent import Descent

        return Descent(self.steps, *self._sizes())

    def start(self, pixels: Tensor, rows: Rows) -> Tensor:
        """Noise uniform within the limit, and kept in the box."""
        _, limit = self._sizes()
        drawn = rows.uniform("start", pixels[0].numel()).view_as(pixels)
        noise = limit * (2 * drawn - 1)
        return (pixels.detach() + noise).clamp(0, 1) - pixels.detach()

    def gradients(self) -> tuple[GradientRule, ...]:
        """As of its steps, and through the gate, for an attacker who wants it open."""
        return (*super().gradients(), "differentiable")

    def forwards_and_backwards(self, *, rows: int, distinct: int, classes: int) -> Passes:  # noqa: ARG002
        """The features of the image, and a gradient for each step."""
        return Passes(1 + self.steps, self.steps) * rows

    def taus(self, pixels: Tensor, noise: Tensor, context: Context) -> Tensor:
        """float32 [M]: how far noise moves the features, as a share of their length; no graph."""
        import torch

        with torch.no_grad():
            features, moved = context.features(pixels), context.features(pixels + noise)
        return _share(features, moved)

    def gate(self, context: Context) -> float:
        """The threshold of tau, of the first training images unless it is given.

        Worked out once for a classifier; what is asked for it is no cost of a prediction.
        """
        if self.threshold is not None:
            return self.threshold
        if context.pool is None or not len(context.pool):
            raise ValueError(
                "ttc: the context has no pool of training images for a threshold; set `threshold`"
            )
        pool, classifier = context.pool[: self.threshold_images], context.classifier
        key = (self.kind, self.limit, len(pool))
        if key not in classifier.remembered:
            with classifier.aside():
                classifier.remembered[key] = self._percentile(pool, context)
        return classifier.remembered[key]

    def _percentile(self, pool: Images, context: Context) -> float:
        import torch

        from tasks.data.arrays import as_float_on
        from tasks.data.seeding import Rows

        found = []
        for first in range(0, len(pool), AT_ONCE):
            batch = pool[first : first + AT_ONCE]
            pixels = as_float_on(batch.pixels, context.classifier.device)
            ids = batch.ids.to(pixels.device)
            rows = Rows(0, ids, torch.zeros_like(ids)).within("ttc-threshold")
            found.append(self.taus(pixels, self.start(pixels, rows), context))
        return float(torch.cat(found).quantile(PERCENTILE))

    def _offsets(self, pixels: Tensor, rows: Rows, context: Context) -> list[Tensor]:
        """The last is what the gate makes of all; the weights are held constant."""
        import torch

        from tasks.defenses.transforms.descent import offsets

        reference = self._reference(pixels, context)
        first: list[Tensor] = []

        def value(moved: Tensor) -> Tensor:
            features = context.features(moved)
            if not first:
                first.append(_share(reference.detach(), features.detach()))
            return -(features - reference).square().sum(dim=1)

        start = self.start(pixels, rows)
        found = offsets(self.descent(), value, pixels, start, smoothing=context.smoothing)
        powers = torch.arange(len(found), dtype=pixels.dtype, device=pixels.device)
        weights = (self.sharpness * powers).softmax(dim=0)
        mean = torch.einsum("i,i...->...", weights, torch.stack(found))
        threshold = self.gate(context)
        acts = (first[0] < threshold).reshape(-1, 1, 1, 1)
        given = torch.where(acts, mean, found[0])
        if context.rule == "differentiable":
            given = self._through_the_gate(given, mean - found[0], pixels, start, context)
        return [*found[:-1], given]

    def _through_the_gate(
        self, given: Tensor, gain: Tensor, pixels: Tensor, start: Tensor, context: Context
    ) -> Tensor:
        """`given`, with the gradient of relu(threshold - tau) / threshold times `gain`.

        It tells an attacker how to move the features so much that the defense does not act.
        """
        from tasks.defenses.transforms import straight

        threshold = self.gate(context)
        shares = _share(context.features(pixels), context.features(pixels + start))
        closed = (threshold - shares).clamp_min(0) / max(threshold, _TINY)
        return straight.through(given + closed.reshape(-1, 1, 1, 1) * gain.detach(), given)

    @staticmethod
    def _reference(pixels: Tensor, context: Context) -> Tensor:
        return context.features(pixels if context.twice else pixels.detach())

    def _sizes(self) -> tuple[float, float]:
        """Step and limit in [0, 1] units."""
        if self.step_size is None or self.limit is None:
            raise ValueError("ttc: step_size and limit are unset; call resolved(problem)")
        return self.step_size / 255, self.limit / 255


def _share(features: Tensor, moved: Tensor) -> Tensor:
    share: Tensor = (moved - features).norm(dim=1) / features.norm(dim=1).clamp_min(_TINY)
    return share
