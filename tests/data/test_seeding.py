import math

import pytest
import torch

from tasks.data.seeding import Rows, philox, stream_key

NUMBERS = {
    "words": lambda rows: rows.words("a", 37),
    "uniform": lambda rows: rows.uniform("a", 37),
    "integers": lambda rows: rows.integers("a", -3, 11, 37),
    "normal": lambda rows: rows.normal("a", 37),
    "choices": lambda rows: rows.choices("a", torch.ones(len(rows), 12, dtype=torch.bool), 5),
}


def rows_of(*images: int, draw: int = 0, seed: int = 3) -> Rows:
    return Rows(seed, torch.tensor(images), torch.full((len(images),), draw))


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        (
            (0, 0, 0, 0),
            (0, 0),
            [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8],
        ),
        (
            (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
            (0xFFFFFFFF, 0xFFFFFFFF),
            [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD],
        ),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_gives_the_known_answers_of_the_random123_distribution(
    counter: tuple[int, int, int, int], key: tuple[int, int], expected: list[int]
) -> None:
    zero, one, two, three = (torch.tensor(word) for word in counter)
    assert philox((zero, one, two, three), key).tolist() == expected


def test_philox_broadcasts_its_counter() -> None:
    column, row, zero = torch.arange(3)[:, None], torch.arange(5)[None], torch.tensor(0)
    assert philox((row, zero, column, zero), (1, 2)).shape == (3, 5, 4)
    single = philox((row[0, 4], zero, column[2, 0], zero), (1, 2))
    assert torch.equal(philox((row, zero, column, zero), (1, 2))[2, 4], single)


def test_a_stream_has_one_key_that_changes_with_seed_and_purpose() -> None:
    assert stream_key(0, "a/b") == (1235887018, 103305262)
    assert len({stream_key(0, "a"), stream_key(1, "a"), stream_key(0, "b")}) == 3


@pytest.mark.parametrize("kind", NUMBERS)
def test_an_image_gets_the_same_bits_alone_in_any_batch_and_in_any_order(kind: str) -> None:
    draw = NUMBERS[kind]
    images = list(range(0, 5000, 13))
    batch = draw(rows_of(*images))
    backwards = draw(rows_of(*reversed(images)))
    assert torch.equal(batch, backwards.flip(0))
    for place in (0, 1, 200, len(images) - 1):
        assert torch.equal(draw(rows_of(images[place]))[0], batch[place])


@pytest.mark.parametrize("kind", NUMBERS)
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_numbers(kind: str) -> None:
    rows = rows_of(*range(100))
    there = Rows(rows.seed, rows.images.cuda(), rows.draws.cuda())
    draw = NUMBERS[kind]
    if kind == "choices":
        allowed = torch.ones(100, 12, dtype=torch.bool, device="cuda")
        assert torch.equal(there.choices("a", allowed, 5).cpu(), draw(rows))
    else:
        assert torch.equal(draw(there).cpu(), draw(rows))


@pytest.mark.parametrize("kind", NUMBERS)
def test_everything_that_names_a_draw_changes_it(kind: str) -> None:
    draw = NUMBERS[kind]
    rows = rows_of(7)
    others = [
        rows,
        rows_of(8),
        rows_of(7, draw=1),
        rows_of(7, seed=4),
        rows.at(1),
        rows.at(2),
        rows.within("x"),
        rows.within("y"),
        rows.within("x").within("x"),
    ]
    drawn = {tuple(draw(other)[0].tolist()) for other in others}
    assert len(drawn) == len(others)


def test_two_purposes_of_the_same_rows_are_independent() -> None:
    rows = rows_of(*range(20_000))
    pair = torch.stack((rows.uniform("a")[:, 0], rows.uniform("b")[:, 0]))
    assert abs(torch.corrcoef(pair)[0, 1].item()) < 4 / math.sqrt(20_000)


@pytest.mark.parametrize("side", ["columns", "images", "draws", "steps"])
def test_uniform_numbers_are_uniform_along_every_index(side: str) -> None:
    count, bins = 64_000, 64
    if side == "columns":
        values = rows_of(5).uniform("a", count)
    elif side == "images":
        values = rows_of(*range(count)).uniform("a")
    elif side == "draws":
        values = (
            Rows(3, torch.tensor([5]), torch.tensor([0])).repeated(torch.arange(count)).uniform("a")
        )
    else:
        values = torch.cat([rows_of(*range(2000)).at(step).uniform("a") for step in range(32)])
    assert values.min() >= 0
    assert values.max() < 1
    observed = torch.histc(values, bins=bins, min=0, max=1)
    chi_square = ((observed - count / bins) ** 2 / (count / bins)).sum().item()
    assert chi_square < 115  # exceeded by one seed in 10,000 with 63 degrees of freedom


def test_integers_reach_both_ends_and_all_between_equally() -> None:
    values = rows_of(*range(40_000)).integers("a", 24, 32)
    counts = values.flatten().bincount()
    assert counts[:24].sum() == 0
    assert len(counts) == 33
    assert (counts[24:] - 40_000 / 9).abs().max() < 5 * math.sqrt(40_000 / 9)


def test_integers_take_an_end_of_its_own_for_each_row() -> None:
    high = torch.arange(50)[:, None]
    values = rows_of(*range(50)).integers("a", 0, high, count=400)
    assert torch.equal(values.amin(dim=1), torch.zeros(50, dtype=torch.int64))
    assert torch.equal(values.amax(dim=1), high[:, 0])


def test_normal_numbers_have_the_moments_and_tails_of_a_normal() -> None:
    values = rows_of(*range(400)).normal("a", 501).to(torch.float64).flatten()
    count = len(values)
    assert abs(values.mean().item()) < 4 / math.sqrt(count)
    assert abs(values.var().item() - 1) < 4 * math.sqrt(2 / count)
    assert abs((values**4).mean().item() - 3) < 4 * math.sqrt(96 / count)
    beyond = (values.abs() > 1.959964).to(torch.float64).mean().item()
    assert abs(beyond - 0.05) < 4 * math.sqrt(0.05 * 0.95 / count)


def test_choices_are_allowed_distinct_and_equally_likely() -> None:
    rows = rows_of(*range(30_000))
    allowed = torch.ones(len(rows), 10, dtype=torch.bool)
    allowed[:, 4] = False
    chosen = rows.choices("a", allowed, 3)
    assert chosen.shape == (30_000, 3)
    assert not (chosen == 4).any()
    assert all(len(set(row)) == 3 for row in chosen[:2000].tolist())
    for column in chosen.T:
        counts = column.bincount(minlength=10)
        counts = counts[torch.arange(10) != 4]
        assert (counts - 30_000 / 9).abs().max() < 5 * math.sqrt(30_000 / 9)


def test_choosing_all_that_is_allowed_leaves_none_out() -> None:
    allowed = torch.ones(100, 10, dtype=torch.bool)
    allowed[torch.arange(100), torch.arange(100) % 10] = False
    chosen = rows_of(*range(100)).choices("a", allowed, 9)
    for row, values in enumerate(chosen.tolist()):
        assert set(values) == set(range(10)) - {row % 10}


def test_repeated_rows_number_the_draws_of_two_predictions_apart() -> None:
    first = Rows(0, torch.tensor([4, 9]), torch.tensor([0, 0])).repeated(torch.arange(3))
    second = Rows(0, torch.tensor([4, 9]), torch.tensor([1, 1])).repeated(torch.arange(3))
    assert first.images.tolist() == [4, 4, 4, 9, 9, 9]
    assert first.draws.tolist() == [0, 1, 2, 0, 1, 2]
    assert second.draws.tolist() == [3, 4, 5, 3, 4, 5]


def test_a_slice_of_rows_keeps_what_names_them() -> None:
    rows = rows_of(*range(10)).within("a").at(3)
    assert torch.equal(rows[4:6].words("b", 9), rows.words("b", 9)[4:6])
    assert len(rows[4:6]) == 2
