import io

import pytest
import safetensors.torch
import torch

from tasks.classifier.checkpoint import BadCheckpoint, load_weights, weights_from_bytes
from tasks.networks.small import Small
from tasks.training.recipe import CheckpointSpec


def saved(content) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def saved_the_old_way(content) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    return Small(width=2).build(1, 8, 3, seed=1).state_dict()


class Malicious:
    def __reduce__(self):
        return print, ("code was run",)


@pytest.mark.parametrize(
    "encode",
    [
        safetensors.torch.save,
        saved,
        saved_the_old_way,
        lambda weights: saved({"state_dict": weights, "best_prec1": 91.7}),
    ],
)
def test_weights_come_back_from_every_layout_of_file(encode, weights):
    prefixed = {f"module.{name}": weight for name, weight in weights.items()}
    read = weights_from_bytes(encode(prefixed), "module.")
    assert read.keys() == weights.keys()
    assert all(torch.equal(read[name], weights[name]) for name in weights)


def test_loaded_weights_are_the_modules_own(weights):
    module = Small(width=2).build(1, 8, 3, seed=2)
    load_weights(module, weights)
    assert all(torch.equal(module.state_dict()[name], weights[name]) for name in weights)


def test_code_in_a_pickle_is_named_and_not_run(capsys):
    for data in (saved({"state_dict": Malicious()}), saved_the_old_way(Malicious())):
        with pytest.raises(BadCheckpoint, match=r"holds code .*print") as caught:
            weights_from_bytes(data)
        assert "\n" not in str(caught.value)
    assert "code was run" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a checkpoint at all",
        b"PK\x03\x04 and then nothing of use",
        b"\x10\x00\x00\x00\x00\x00\x00\x00{broken safetensors",
        b"\xff" * 100,
        saved([1, 2, 3]),
        saved({}),
    ],
)
def test_what_is_no_checkpoint_is_refused_in_one_line(data):
    with pytest.raises(BadCheckpoint) as caught:
        weights_from_bytes(data)
    assert str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_truncated_file_is_refused(weights):
    for data in (saved(weights), saved_the_old_way(weights), safetensors.torch.save(weights)):
        with pytest.raises(BadCheckpoint):
            weights_from_bytes(data[: len(data) // 2])


def test_entries_that_are_no_tensors_are_named():
    with pytest.raises(BadCheckpoint, match=r"1 entries are not tensors \(epoch\)"):
        weights_from_bytes(saved({"a": torch.zeros(1), "epoch": 3}))


def test_a_prefix_that_no_name_has_is_refused(weights):
    with pytest.raises(BadCheckpoint, match=r"starts with 'module\.'"):
        weights_from_bytes(saved(weights), "module.")


def test_every_fault_of_the_weights_is_named_in_one_line(weights):
    module = Small(width=2).build(1, 8, 3)
    del weights["linear.bias"]
    weights["linear.weight"] = weights["linear.weight"][:, :4]
    weights["head.weight"] = torch.zeros(2)
    weights["layers.0.0.weight"][0] = torch.nan
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(BadCheckpoint) as caught:
        load_weights(module, weights)
    message = str(caught.value)
    for part in (
        "1 missing (linear.bias)",
        "1 foreign (head.weight)",
        "1 of another shape (linear.weight 3x4 for 3x8)",
        "1 not finite (layers.0.0.weight)",
    ):
        assert part in message
    assert "\n" not in message
    assert all(torch.equal(before[name], now) for name, now in module.state_dict().items())


def test_many_missing_names_are_counted_and_the_first_listed(weights):
    module = Small(width=2).build(1, 8, 3)
    few = {"linear.weight": weights["linear.weight"]}
    with pytest.raises(BadCheckpoint, match=r"26 missing \(.*, \.\.\.\)"):
        load_weights(module, few)


def test_old_files_may_lack_counts_of_batches(weights):
    module = Small(width=2).build(1, 8, 3, seed=2)
    kept = {name: weights[name] for name in weights if not name.endswith("batches_tracked")}
    load_weights(module, kept)
    assert torch.equal(module.linear.weight, weights["linear.weight"])


def test_a_checkpoint_spec_keeps_the_networks_own_fields():
    spec = CheckpointSpec(network=Small(width=3), sha256="0" * 64)
    assert spec.model_dump()["network"]["width"] == 3
    with pytest.raises(ValueError, match="sha256"):
        CheckpointSpec(network=Small(), sha256="12fca82f")
