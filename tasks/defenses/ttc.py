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
"""Training images per forward pass, for the threshold."""
_TINY = 1e-12


class TTC(Optimised):
    """Signed gradient steps away from the image's features, where noise moves these little.

    Let tau be the distance by which random noise within the limit moves the features, relative to
    their length. If tau is below the threshold, the change is a weighted mean of the offsets before
    and after each step, with weight exp(`sharpness` i) after step i. Otherwise it is the noise
    alone. Gradients take this gate for a constant, except under the rule `differentiable`.
    """

    kind: Literal["ttc"] = "ttc"
    version: ClassVar[int] = 1

    steps: Count = 2
    """Steps of the inner optimiser, N."""
    limit: Pixel255 | None = None
    """Largest change of a pixel, in 1/255; by default `epsilons` times the grid's epsilon."""
    epsilons: Positive = 1.0
    """Default of the limit, in multiples of the grid's epsilon; 4 in the paper."""
    step_size: Pixel255 | None = None
    """Size of each step, in 1/255; a quarter of the limit by default."""
    sharpness: NonNegative = 2.0
    """Beta, by which later offsets have more weight."""
    threshold: NonNegative | None = None
    """Threshold of tau; by default the 5th percentile of tau over `threshold_images` clean training
    images."""
    threshold_images: Count = 1000
    """Number of training images that determine the default threshold."""

    def resolved(self, problem: Problem) -> Self:
        """Return the spec with `limit` and `step_size` filled in."""
        limit = self.limit or min(255.0, self.epsilons * problem.epsilon)
        return self.model_copy(update={"limit": limit, "step_size": self.step_size or limit / 4})

    def deterministic(self, classes: int) -> bool:  # noqa: ARG002
        """Always false: it starts with noise."""
        return False

    def needs_pool(self) -> bool:
        """Return whether the threshold is not given, and so comes from training images."""
        return self.threshold is None

    def descent(self) -> Descent:
        """See `Optimised.descent`."""
        from tasks.defenses.transforms.descent import Descent

        return Descent(self.steps, *self._sizes())

    def start(self, pixels: Tensor, rows: Rows) -> Tensor:
        """Return noise uniform within the limit, clipped so that the image stays in [0, 1]."""
        _, limit = self._sizes()
        drawn = rows.uniform("start", pixels[0].numel()).view_as(pixels)
        noise = limit * (2 * drawn - 1)
        return (pixels.detach() + noise).clamp(0, 1) - pixels.detach()

    def gradients(self) -> tuple[GradientRule, ...]:
        """As for every inner optimiser, and through the gate (`differentiable`)."""
        return (*super().gradients(), "differentiable")

    def forwards_and_backwards(self, *, rows: int, distinct: int, classes: int) -> Passes:  # noqa: ARG002
        """One forward pass for the features, and one of each for every step."""
        return Passes(1 + self.steps, self.steps) * rows

    def taus(self, pixels: Tensor, noise: Tensor, context: Context) -> Tensor:
        """Return how far noise moves the features, relative to their length: float32 [M]."""
        import torch

        with torch.no_grad():
            features, moved = context.features(pixels), context.features(pixels + noise)
        return _share(features, moved)

    def gate(self, context: Context) -> float:
        """Return the threshold of tau: the one given, or that of the first training images.

        It is computed once for a classifier, and its passes are not counted as a cost of
        predictions.

        Raises:
            ValueError: If no threshold is given and the context has no pool.
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
        """Return the optimiser's offsets; the last is the gate's choice, with constant weights."""
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
        """Return `given`, plus the gradient of relu(threshold - tau) / threshold times `gain`.

        It shows an attacker how to move the features so far that the defense does not act.
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
        """Return step size and limit in pixel units."""
        if self.step_size is None or self.limit is None:
            raise ValueError("ttc: step_size and limit are unset; call resolved(problem)")
        return self.step_size / 255, self.limit / 255


def _share(features: Tensor, moved: Tensor) -> Tensor:
    share: Tensor = (moved - features).norm(dim=1) / features.norm(dim=1).clamp_min(_TINY)
    return share
