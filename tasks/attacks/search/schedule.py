"""The checkpoints of APGD's step size (Croce and Hein 2020, section 3)."""

from __future__ import annotations


def checkpoints(steps: int) -> list[int]:
    """Return the numbers of steps after which APGD reviews its step size, ascending.

    These are the paper's shares 0.22, 0.41, 0.57, ... of `steps`, rounded up. They are computed in
    whole hundredths, so that no rounding error moves one.
    """
    shares = [0, 22]
    while (following := shares[-1] + max(shares[-1] - shares[-2] - 3, 6)) <= 100:
        shares.append(following)
    return sorted({-(-share * steps // 100) for share in shares[1:]})
