"""Tensors in Arrow files."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.problems import BadInput
from pipeline.store.arrow import BATCH_ROWS, BadArrow, read_tensors, write_tensors

TYPES = [torch.float32, torch.float64, torch.int64, torch.int32, torch.uint8]


def again(path: Path, **columns: torch.Tensor) -> dict[str, torch.Tensor]:
    write_tensors(path, columns, {})
    return read_tensors(path)


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    dtype=st.sampled_from(TYPES),
    order=st.randoms(use_true_random=False),
)
def test_tensors_come_back_as_they_were_whatever_their_strides(
    tmp_path: Path, shape: list[int], dtype: torch.dtype, order: object
) -> None:
    places = list(range(len(shape)))
    order.shuffle(places)  # type: ignore[attr-defined]
    stored = (torch.rand([shape[place] for place in places]) * 100).to(dtype)
    tensor = stored.permute([places.index(place) for place in range(len(shape))])
    assert same(again(tmp_path / "a.arrow", x=tensor)["x"], tensor)


def test_images_of_one_channel_that_lie_channels_last_keep_their_shape(tmp_path: Path) -> None:
    tensor = torch.rand(5, 1, 8, 8).contiguous(memory_format=torch.channels_last)
    tensor = tensor.as_strided((5, 1, 8, 8), (64, 1, 8, 1))
    assert same(again(tmp_path / "a.arrow", pixels=tensor)["pixels"], tensor)


def test_more_rows_than_a_batch_come_back_in_order(tmp_path: Path) -> None:
    rows = 2 * BATCH_ROWS + 3
    pixels, labels = torch.rand(rows, 1, 2, 2), torch.arange(rows)
    found = again(tmp_path / "a.arrow", pixels=pixels, labels=labels)
    assert list(found) == ["pixels", "labels"]
    assert same(found["pixels"], pixels)
    assert same(found["labels"], labels)


def test_no_rows_come_back_as_no_rows_of_the_same_shape(tmp_path: Path) -> None:
    found = again(tmp_path / "a.arrow", pixels=torch.rand(0, 3, 4, 5), labels=torch.arange(0))
    assert found["pixels"].shape == (0, 3, 4, 5)
    assert found["pixels"].dtype == torch.float32
    assert found["labels"].dtype == torch.int64


def test_special_numbers_come_back_bit_for_bit(tmp_path: Path) -> None:
    tensor = torch.tensor([float("nan"), float("inf"), -0.0, 1e-45])
    found = again(tmp_path / "a.arrow", x=tensor)["x"]
    assert torch.equal(found.view(torch.int32), tensor.view(torch.int32))


def test_equal_tensors_give_equal_bytes(tmp_path: Path) -> None:
    tensor = torch.rand(7, 2, 3)
    for name in ("one", "two"):
        write_tensors(tmp_path / name, {"x": tensor.clone()}, {"b": 1, "a": 2})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_any_reader_of_arrow_finds_shapes_and_what_the_file_is_about(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a.arrow", {"x": torch.rand(4, 2, 3)}, {"spec": {"steps": 10}})
    with pa.memory_map(str(tmp_path / "a.arrow")) as source:
        schema = pa.ipc.open_file(source).schema
    assert schema.field("x").type == pa.fixed_shape_tensor(pa.float32(), [2, 3])
    assert json.loads(schema.metadata[b"about"]) == {"spec": {"steps": 10}}


def test_columns_of_different_lengths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadArrow, match=r"different lengths: \[2, 3\]"):
        write_tensors(tmp_path / "a.arrow", {"x": torch.rand(2), "y": torch.rand(3)}, {})


@pytest.mark.parametrize("keep", [0, 3, 100, -8])
def test_a_file_that_is_cut_off_is_told(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "a.arrow"
    write_tensors(path, {"x": torch.rand(50, 4)}, {})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(BadArrow, match="not a readable Arrow file"):
        read_tensors(path)


def test_a_file_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.arrow").write_bytes(b"no such thing" * 100)
    with pytest.raises(BadArrow, match=r"a\.arrow: not a readable Arrow file"):
        read_tensors(tmp_path / "a.arrow")


def test_a_file_that_cannot_be_opened_is_no_bad_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"b\.arrow: cannot be read: "):
        read_tensors(tmp_path / "b.arrow")


def test_too_little_memory_to_read_a_file_is_not_the_files_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tensors(tmp_path / "a.arrow", {"x": torch.rand(3)}, {})

    def exhausted(*_: object) -> None:
        raise pa.ArrowMemoryError("malloc of size 64 failed")

    monkeypatch.setattr(pa.ipc, "open_file", exhausted)
    with pytest.raises(MemoryError):
        read_tensors(tmp_path / "a.arrow")

    def unmapped(*_: object) -> None:
        raise OSError("Memory mapping file failed: Cannot allocate memory")

    monkeypatch.setattr(pa, "memory_map", unmapped)
    with pytest.raises(BadInput, match="cannot be read: memory mapping file failed"):
        read_tensors(tmp_path / "a.arrow")
