"""How often the network is run: what work is counted in before it is done."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Passes:
    """Images that go forward through a network, and images whose gradient comes back.

    A backward pass to the pixels multiplies about as often as a forward pass; one that
    reaches the weights as well counts as two.
    """

    forwards: int = 0
    backwards: int = 0

    def __add__(self, other: Passes) -> Passes:
        return Passes(self.forwards + other.forwards, self.backwards + other.backwards)

    def __mul__(self, times: int) -> Passes:
        return Passes(self.forwards * times, self.backwards * times)

    @property
    def equivalents(self) -> int:
        """The forward passes that take as many multiplications."""
        return self.forwards + self.backwards
