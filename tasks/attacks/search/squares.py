"""Random search of the Square Attack (Andriushchenko et al., ECCV 2020), image by image."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.attacks.base import Victim
from tasks.attacks.search.geometry import Ball, lengths
from tasks.attacks.search.objectives import Goal
from tasks.data.seeding import Rows

HALVINGS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
"""Shares of the queries after which the squares' area is halved."""

_BLOCK = 64
_TILES = 5
_TINY = 1e-12

Window = tuple[Tensor, Tensor, Tensor, Tensor]


def search(
    victim: Victim,
    goal: Goal,
    pixels: Tensor,
    rows: Rows,
    *,
    ball: Ball,
    queries: int,
    area: float,
) -> Tensor:
    """Return the point with the highest margin that the search finds for each image.

    Points are compared on the same draws within `Victim.window` queries; at the next ones, the best
    point so far is asked about again.

    Args:
        victim: The model under attack.
        goal: Goal of the attack.
        pixels: float32 [N, C, H, W] in [0, 1], the originals.
        rows: Identities of the images.
        ball: Set of permitted perturbations.
        queries: Number of queries for each image.
        area: Share of the image that a square covers at first.

    Returns:
        float32 [N, C, H, W] in [0, 1].
    """

    judged, window = victim.judged, victim.window
    ask = victim.queried or victim.logits

    def margins(points: Tensor, query: int) -> Tensor:
        with torch.no_grad():
            if judged is None or window is None:
                logits = ask(points, query)
            else:
                logits = judged(points, query // window)
            return goal.objective(logits, "margin")

    best = ball.project(pixels + _first_change(pixels, rows, ball), pixels)
    highest = margins(best, 0)
    for square in _squares(pixels, rows, ball, queries=queries, area=area):
        if judged is not None and window is not None and square.query % window == 0:
            # on the next draws, lest the best point keep the value of lucky ones
            highest = margins(best, square.query)
        change = _set_square if ball.norm == "linf" else _move_mass
        points = ball.project(pixels + change(best - pixels, square, ball), pixels)
        values = margins(points, square.query)
        better = values > highest
        best = points.where(better[:, None, None, None], best)
        highest = values.where(better, highest)
    return best


def side_at(query: int, queries: int, *, area: float, height: int, width: int, odd: bool) -> int:
    """Return the side of a query's square, in pixels; for l2 (`odd`) it is odd and at least 3."""
    halvings = sum(query > share * queries for share in HALVINGS)
    side = max(round(math.sqrt(area / 2**halvings * height * width)), 3 if odd else 1)
    return min(side + (odd and side % 2 == 0), height, width)


def pyramid_pair(side: int) -> Tensor:
    """Return a positive and a negative half pyramid, float64 [side, side], of length 1.

    This is the shape that the paper adds in l2, as networks are most sensitive to it.
    """
    half = side // 2
    levels = [sum(1 / j**2 for j in range(d + 1, half + 2)) for d in range(side + 1)]
    levels_at = torch.tensor(levels, dtype=torch.float64)

    def rise(width: int) -> Tensor:
        across = (torch.arange(side) - half).abs()[:, None]
        along = (torch.arange(width) - width // 2).abs()[None, :]
        return levels_at[torch.maximum(across, along)]

    both: Tensor = torch.cat((rise(half), -rise(side - half)), dim=1)
    scaled: Tensor = both / torch.linalg.vector_norm(both)
    return scaled


@dataclass(frozen=True)
class _Square:
    """What one query changes: a window of each image and, for l2, where its norm comes from.

    signs: float [N, C, 1, 1] of -1 and 1; turned: bool [N], whether the pyramids are transposed.
    """

    query: int
    side: int
    window: Window
    source: Window
    signs: Tensor
    turned: Tensor


def _squares(
    pixels: Tensor, rows: Rows, ball: Ball, *, queries: int, area: float
) -> Iterator[_Square]:
    count, channels, height, width = pixels.shape
    odd = ball.norm == "l2"
    for block, first in enumerate(range(1, queries, _BLOCK)):
        asked = range(first, min(first + _BLOCK, queries))
        sides = [
            side_at(query, queries, area=area, height=height, width=width, odd=odd)
            for query in asked
        ]
        # Random numbers for many queries at once: one by one they would cost more than the queries.
        drawn = rows.at(block)
        room = torch.tensor(sides, device=pixels.device)[None, :]
        tops, lefts, source_tops, source_lefts = (
            drawn.integers(purpose, 0, limit - room, len(sides))
            for purpose, limit in (
                ("top", height),
                ("left", width),
                ("source-top", height),
                ("source-left", width),
            )
        )
        signs = drawn.integers("sign", 0, 1, len(sides) * channels) * 2 - 1
        signs = signs.reshape(count, len(sides), channels, 1, 1).to(pixels.dtype)
        turned = drawn.integers("turned", 0, 1, len(sides)).bool()
        for index, (query, side) in enumerate(zip(asked, sides, strict=True)):
            yield _Square(
                query,
                side,
                _window(tops[:, index], lefts[:, index], side, channels),
                _window(source_tops[:, index], source_lefts[:, index], side, channels),
                signs[:, index],
                turned[:, index],
            )


def _window(tops: Tensor, lefts: Tensor, side: int, channels: int) -> Window:
    """Return the index of a square in each of [N, C, H, W], from its corners, int64 [N]."""
    along = torch.arange(side, device=tops.device)
    return (
        torch.arange(len(tops), device=tops.device)[:, None, None, None],
        torch.arange(channels, device=tops.device)[None, :, None, None],
        (tops[:, None] + along)[:, None, :, None],
        (lefts[:, None] + along)[:, None, None, :],
    )


def _first_change(pixels: Tensor, rows: Rows, ball: Ball) -> Tensor:
    """Return vertical stripes of the whole radius; for l2, a grid of small pyramid pairs."""
    count, channels, height, width = pixels.shape
    if ball.norm == "linf":
        signs = rows.integers("stripe", 0, 1, channels * width) * 2 - 1
        stripes = signs.reshape(count, channels, 1, width).to(pixels.dtype)
        return ball.radius * stripes.expand_as(pixels)
    side = max(min(height, width) // _TILES, 1)
    down, across = height // side, width // side
    signs = rows.integers("tile", 0, 1, channels * down * across) * 2 - 1
    tiles = signs.reshape(count, channels, down, across).to(pixels.dtype)
    change = torch.zeros_like(pixels)
    pair = pyramid_pair(side).to(pixels)
    change[..., : down * side, : across * side] = torch.kron(tiles, pair[None, None])
    return ball.radius * change / lengths(change)


def _set_square(change: Tensor, square: _Square, ball: Ball) -> Tensor:
    """Set each image's square to a corner of the linf ball, with one sign for each channel."""
    changed = change.clone()
    changed[square.window] = (ball.radius * square.signs).expand(-1, -1, square.side, square.side)
    return changed


def _move_mass(change: Tensor, square: _Square, ball: Ball) -> Tensor:
    """Put the l2 norm of two squares, and what the ball has left, into the first of them."""
    channels = change.shape[1]
    left = (ball.radius**2 - lengths(change).square()).clamp_min(0.0)
    inside = torch.zeros_like(change, dtype=torch.bool)
    inside[square.window] = True
    inside[square.source] = True
    mass = change.where(inside, 0.0).square().sum(dim=(2, 3), keepdim=True)

    pair = pyramid_pair(square.side).to(change)
    bump = pair.T.where(square.turned[:, None, None], pair)[:, None]
    old = change[square.window]
    mixed = square.signs * bump + old / _size(old)
    changed = change.clone()
    changed[square.source] = 0.0
    changed[square.window] = mixed / _size(mixed) * (mass + left / channels).sqrt()
    return changed


def _size(windows: Tensor) -> Tensor:
    """Return the Euclidean length of each channel of [N, C, h, w], as [N, C, 1, 1], never zero."""
    found: Tensor = torch.linalg.vector_norm(windows, dim=(2, 3), keepdim=True)
    return found.clamp_min(_TINY)
