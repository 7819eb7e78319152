"""Random numbers by counter: a function of (seed, purpose, image, draw), and of nothing else.

Philox4x32-10 (Salmon et al., SC 2011) in integer tensor arithmetic. The same image
gets the same numbers whatever its batch, shard, worker, order or device.
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
    """Four random 32-bit words for each counter.

    counter: four int64 tensors of one (broadcast) shape, values in [0, 2**32).
    Returns int64 of that shape with a last dimension of 4, values in [0, 2**32).
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
    """The Philox key of a purpose under a seed: two words of a SHA-256."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:8], "little")


@dataclass(frozen=True)
class Rows:
    """The identities of the rows of a batch: which image, which draw.

    images: int64 [M], an image's place in its data set's fixed order.
    draws: int64 [M], the number of the draw that the row belongs to.
    """

    seed: int
    images: Tensor
    draws: Tensor
    scope: str = ""
    step: int = 0

    def within(self, scope: str) -> Rows:
        """The same rows with streams of their own, named `scope`."""
        return replace(self, scope=f"{self.scope}/{scope}")

    def at(self, step: int) -> Rows:
        """The same rows at an attack's step: fresh numbers for each step."""
        return replace(self, step=step)

    def repeated(self, draws: Tensor) -> Rows:
        """Each row once for every entry of `draws` (int64 [K]), an image's draws adjacent.

        Row (i, k) has draw number `self.draws[i] * K + draws[k]`.
        """
        count = len(draws)
        numbers = self.draws[:, None] * count + draws[None, :]
        return replace(self, images=self.images.repeat_interleave(count), draws=numbers.reshape(-1))

    def __getitem__(self, index: slice | Tensor) -> Rows:
        return replace(self, images=self.images[index], draws=self.draws[index])

    def __len__(self) -> int:
        return len(self.images)

    def words(self, purpose: str, count: int) -> Tensor:
        """int64 [M, count], independent uniform words in [0, 2**32)."""
        blocks = torch.arange(-(-count // 4), device=self.images.device)
        key = stream_key(self.seed, f"{self.scope}/{purpose}")
        counter = (
            blocks[None, :],
            self.draws[:, None],
            self.images[:, None],
            torch.full_like(blocks[None, :], self.step),
        )
        return philox(counter, key).flatten(1)[:, :count]

    def uniform(self, purpose: str, count: int = 1) -> Tensor:
        """float32 [M, count], uniform in [0, 1) on a grid of 2**-24."""
        return (self.words(purpose, count) >> 8).to(torch.float32) * 2.0**-24

    def integers(self, purpose: str, low: int, high: int | Tensor, count: int = 1) -> Tensor:
        """int64 [M, count], uniform in low..high, both included; `high` may be int64 [M, 1].

        No number's chance is off by more than (high - low + 1) / 2**32 of itself.
        """
        span = torch.as_tensor(high, device=self.images.device) - low + 1
        return low + ((self.words(purpose, count) * span) >> 32)

    def normal(self, purpose: str, count: int = 1) -> Tensor:
        """float32 [M, count], standard normal (Box-Muller).

        Worked out in float64, so that devices whose sines differ in the last bit still round
        to one float32.
        """
        pairs = -(-count // 2)
        uniform = (self.words(purpose, 2 * pairs).to(torch.float64) + 0.5) * 2.0**-32
        radius = torch.sqrt(-2.0 * torch.log(uniform[:, :pairs]))
        angle = uniform[:, pairs:] * (2.0 * torch.pi)
        normal = torch.cat((radius * angle.cos(), radius * angle.sin()), dim=1)
        return normal[:, :count].to(torch.float32)

    def batch_seed(self, purpose: str) -> int:
        """One seed in [0, 2**63) for the batch as a whole, a function of all its identities.

        For what can only draw from a generator of its own, whose numbers then depend on the
        batch's make-up as well.
        """
        digest = hashlib.sha256(f"{self.seed}/{self.scope}/{purpose}/{self.step}".encode())
        for identities in (self.images, self.draws):
            digest.update(identities.cpu().contiguous().numpy().data)
        return int.from_bytes(digest.digest()[:8], "little") >> 1

    def choices(self, purpose: str, allowed: Tensor, count: int) -> Tensor:
        """int64 [M, count], drawn without replacement from each row's allowed columns.

        allowed: bool [M, C] with at least `count` true entries in each row.
        """
        scores = self.words(purpose, allowed.shape[1]).masked_fill(~allowed, -1)
        return scores.argsort(dim=1, descending=True, stable=True)[:, :count]
