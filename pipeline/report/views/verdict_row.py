"""One row of the verdicts: whether a defense holds on a network, and the values behind it.

Rates are in percent, changes in points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.catalogue.claims import Claim
from pipeline.report.views.adaptive import Rate
from pipeline.report.views.costs import Cost
from tasks.evaluation.verdicts import Change, DefenseVerdict


@dataclass(frozen=True, kw_only=True)
class VerdictRow:
    """The verdict on one defense on one network, and the values that it is based on.

    Attributes:
        attack: The adaptive attack, which has this number of `candidates`, in the ball of `norm`
            and `epsilon`.
        worst: Accuracy under it.
        without: Accuracy of the bare network under it, with the same budget.
        lower: Another adaptive attack in the same ball that leaves the defense less on the same
            images, and the accuracy that it leaves.
        gain: The difference between the two.
        clean, clean_change: Accuracy without an attack, and its change from the bare network.
        replayed: Accuracy under `replayed_attack`, the strongest transferred attack.
        control: The flip-and-crop defense of the same cost.
        over_control: Difference in accuracy from the control.
        hidden: By how much the gain under a direct attack, which has only one candidate, exceeds
            the gain in the worst case.
        acts_on, acts_on_clean: Percentage of answers in the worst case, and on clean images, that
            differ from the bare network's, for the first seed.
        device, bare_device: What the answers of the defense, and of the bare network, were computed
            on, if it is known.
        is_control: Whether the defense is flips and crops itself.
        computed: False if nothing was computed for it or for the bare network, and nothing failed.
        one_of_several: Whether the network was attacked in several balls, so that the defense has
            several verdicts.
    """

    model: str
    defense: str
    dataset: str
    attack: str
    norm: str
    epsilon: float
    candidates: int
    verdict: DefenseVerdict
    images: int = 0
    worst: Rate | None = None
    without: Rate | None = None
    gain: Change | None = None
    lower: tuple[str, Rate] | None = None
    clean: Rate | None = None
    clean_change: Change | None = None
    replayed: Rate | None = None
    replayed_attack: str | None = None
    control: str | None = None
    over_control: Change | None = None
    hidden: Change | None = None
    acts_on: float | None = None
    acts_on_clean: float | None = None
    cost: Cost | None = None
    claims: Sequence[Claim] = ()
    device: str | None = None
    bare_device: str | None = None
    is_control: bool = False
    computed: bool = True
    one_of_several: bool = False

    @property
    def ball(self) -> str:
        """Norm and size of the attack's ball, such as `linf 8/255`."""
        return f"{self.norm} {self.epsilon:g}/255"

    @property
    def title(self) -> str:
        """The defense, with the ball if it has verdicts in several: `guo (linf 8/255)`."""
        return f"{self.defense} ({self.ball})" if self.one_of_several else self.defense

    def facts(self) -> dict[str, object]:
        """All values, unrounded, one per column."""
        claim = self.claims[0] if self.claims else None
        found: dict[str, object] = {
            "model": self.model,
            "defense": self.defense,
            "dataset": self.dataset,
            "attack": self.attack,
            "norm": self.norm,
            "epsilon": self.epsilon,
            "images": self.images,
            "candidates": self.candidates,
            "verdict": self.verdict.word,
            "why": self.verdict.why or None,
            "images_needed": self.verdict.needed,
            "replayed_attack": self.replayed_attack,
            "device": self.device,
            "control": self.control,
            "hides_gradients": None if self.hidden is None else self.hides_gradients,
        }
        for name in ("worst", "without", "clean", "replayed"):
            rate: Rate | None = getattr(self, name)
            low, high = (rate.interval if rate else None) or (None, None)
            found |= {name: rate and rate.accuracy, f"{name}_low": low, f"{name}_high": high}
        for name in ("gain", "clean_change", "over_control", "hidden"):
            each: Change | None = getattr(self, name)
            found |= {
                name: each and each.points,
                f"{name}_low": each and each.low,
                f"{name}_high": each and each.high,
            }
        return found | {
            "forwards": self.cost and self.cost.forwards,
            "backwards": self.cost and self.cost.backwards,
            "milliseconds": self.cost and self.cost.milliseconds,
            "acts_on": self.acts_on,
            "acts_on_clean": self.acts_on_clean,
            "claimed_before": claim and claim.before,
            "claimed_after": claim and claim.after,
            "claimed_attacked": claim and claim.attacked,
        }

    @property
    def hides_gradients(self) -> bool:
        """Whether a direct attack shows a gain that other attacks remove, beyond chance."""
        return self.hidden is not None and self.hidden.rises

    @property
    def costs_accuracy(self) -> bool:
        """Whether the accuracy on clean images is lower than without the defense, beyond chance."""
        return self.clean_change is not None and self.clean_change.falls

    @property
    def beats_control(self) -> bool | None:
        """Whether its accuracy exceeds the control's beyond chance; None without a control."""
        return None if self.over_control is None else self.over_control.rises
