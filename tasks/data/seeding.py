"""Counter-based random numbers, a function of (seed, purpose, image, draw) and of nothing else.

Philox4x32-10 (Salmon et al., SC 2011) in integer tensor arithmetic. An image gets the same numbers
whatever its batch, shard, worker, order or device.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import torch
from torch import Tensor

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_WORD = 0xFFFFFFFF


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> Tensor:
    """Return four random 32-bit words for each counter.

    Args:
        counter: Four int64 tensors that broadcast to one shape, values in [0, 2**32).
        key: Two integers in [0, 2**32).

    Returns:
        int64 of that shape with a last dimension of 4, values in [0, 2**32).
    """
    zero, one, two, three = counter
    low, high = key
    for _ in range(10):
        first = zero * _MULTIPLIERS[0]
        second = two * _MULTIPLIERS[1]
        zero = ((second >> 32) & _WORD) ^ one ^ low
        two = ((first >> 32) & _WORD) ^ three ^ high
        one = second & _WORD
        three = first & _WORD
        low = (low + _WEYL[0]) & _WORD
        high = (high + _WEYL[1]) & _WORD
    return torch.stack((zero, one, two, three), dim=-1)


def stream_key(seed: int, purpose: str) -> tuple[int, int]:
    """Return the Philox key of a purpose under a seed: two words of a SHA-256."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:8], "little")


@dataclass(frozen=True)
class Rows:
    """Identities of the rows of a batch: the image and the draw that each row belongs to.

    The methods that draw take the name of a purpose; each purpose has a stream of its own.
    """

    seed: int
    """Seed of all streams."""
    images: Tensor
    """int64 [M], the place of each row's image in the fixed order of its data set."""
    draws: Tensor
    """int64 [M], the number of each row's draw."""
    _scope: str = ""
    """Name that separates streams, a path such as `/defend/guo#0`. Private, as `_step`, since it
    tells a prediction from an attack, in which a defense has to be the same."""
    _step: int = 0
    """Step of an attack; each step has numbers of its own."""

    def within(self, scope: str) -> Rows:
        """Return the same rows with separate streams, named `scope`."""
        return replace(self, _scope=f"{self._scope}/{scope}")

    def at(self, step: int) -> Rows:
        """Return the same rows at a step of an attack, with numbers of their own."""
        return replace(self, _step=step)

    def repeated(self, draws: Tensor) -> Rows:
        """Repeat each row once for every entry of `draws`, the draws of an image adjacent.

        Args:
            draws: int64 [K]; row (i, k) has the draw number `self.draws[i] * K + draws[k]`.
        """
        count = len(draws)
        numbers = self.draws[:, None] * count + draws[None, :]
        return replace(self, images=self.images.repeat_interleave(count), draws=numbers.reshape(-1))

    def __getitem__(self, index: slice | Tensor) -> Rows:
        return replace(self, images=self.images[index], draws=self.draws[index])

    def __len__(self) -> int:
        return len(self.images)

    def words(self, purpose: str, count: int) -> Tensor:
        """Return independent uniform words, int64 [M, count] in [0, 2**32)."""
        blocks = torch.arange(-(-count // 4), device=self.images.device)
        key = stream_key(self.seed, f"{self._scope}/{purpose}")
        counter = (
            blocks[None, :],
            self.draws[:, None],
            self.images[:, None],
            torch.full_like(blocks[None, :], self._step),
        )
        return philox(counter, key).flatten(1)[:, :count]

    def uniform(self, purpose: str, count: int = 1) -> Tensor:
        """Return uniform numbers, float32 [M, count] in [0, 1), multiples of 2**-24."""
        return (self.words(purpose, count) >> 8).to(torch.float32) * 2.0**-24

    def integers(self, purpose: str, low: int, high: int | Tensor, count: int = 1) -> Tensor:
        """Return uniform integers from `low` to `high`, both included, int64 [M, count].

        The probability of a number is exact up to a relative error of (high - low + 1) / 2**32.

        Args:
            purpose: Name of the stream.
            low: Smallest integer.
            high: Largest integer, or int64 [M, 1] for one of each row.
            count: Numbers for each row.
        """
        span = torch.as_tensor(high, device=self.images.device) - low + 1
        return low + ((self.words(purpose, count) * span) >> 32)

    def normal(self, purpose: str, count: int = 1) -> Tensor:
        """Return standard normal numbers (Box-Muller), float32 [M, count].

        Computed in float64, so that devices whose sine differs in the last bit still round to the
        same float32.
        """
        pairs = -(-count // 2)
        uniform = (self.words(purpose, 2 * pairs).to(torch.float64) + 0.5) * 2.0**-32
        radius = torch.sqrt(-2.0 * torch.log(uniform[:, :pairs]))
        angle = uniform[:, pairs:] * (2.0 * torch.pi)
        normal = torch.cat((radius * angle.cos(), radius * angle.sin()), dim=1)
        return normal[:, :count].to(torch.float32)

    def batch_seed(self, purpose: str) -> int:
        """Return one seed in [0, 2**63) for the whole batch, a function of all its identities.

        For code that can only draw from a generator of its own; its numbers then also depend on the
        composition of the batch.
        """
        digest = hashlib.sha256(f"{self.seed}/{self._scope}/{purpose}/{self._step}".encode())
        for identities in (self.images, self.draws):
            digest.update(identities.cpu().contiguous().numpy().data)
        return int.from_bytes(digest.digest()[:8], "little") >> 1

    def choices(self, purpose: str, allowed: Tensor, count: int) -> Tensor:
        """Draw columns without replacement from those allowed in each row, int64 [M, count].

        Args:
            purpose: Name of the stream.
            allowed: bool [M, C], with at least `count` true entries in each row.
            count: Columns to draw for each row.
        """
        scores = self.words(purpose, allowed.shape[1]).masked_fill(~allowed, -1)
        return scores.argsort(dim=1, descending=True, stable=True)[:, :count]
