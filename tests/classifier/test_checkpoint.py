import io
import warnings

import pytest
import safetensors.torch
import torch

from tasks.classifier.checkpoint import (
    BadCheckpoint,
    fitted,
    load_weights,
    read_checkpoint,
    weights_from_bytes,
)
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
    with pytest.raises(BadCheckpoint, match=r"entries that are not tensors: 1 \(epoch\)"):
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


def loaded(content: object, weights_key: str | None = None, key_prefix: str = ""):
    """Weights as the pipeline takes them from a file, in a network of their kind, and the notes."""
    module = Small(width=2).build(1, 8, 3, seed=2)
    read = read_checkpoint(saved(content), weights_key=weights_key, key_prefix=key_prefix)
    checkpoint = fitted(read, module)
    load_weights(module, checkpoint.weights)
    return module.state_dict(), list(checkpoint.notes)


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def averaged() -> dict[str, torch.Tensor]:
    return Small(width=2).build(1, 8, 3, seed=5).state_dict()


def test_of_two_sets_of_weights_the_one_taken_is_told_and_the_other_can_be_chosen(
    weights, averaged
):
    content = {"epoch": 3, "state_dict": weights, "state_dict_ema": averaged, "optimizer": {}}
    taken, notes = loaded(content)
    assert same(taken, weights)
    assert notes == [
        (
            "the weights are those under 'state_dict'; the file also has 'state_dict_ema', "
            "which weights_key names"
        )
    ]
    taken, notes = loaded(content, "state_dict_ema")
    assert same(taken, averaged)
    assert notes == ["the weights are those under 'state_dict_ema'"]
    with pytest.raises(BadCheckpoint, match="no weights under 'ema'; choose with weights_key: st"):
        loaded(content, "ema")
    with pytest.raises(BadCheckpoint, match="a safetensors file has no entry 'ema'"):
        read_checkpoint(safetensors.torch.save(weights), weights_key="ema")


@pytest.mark.parametrize("key", ["model", "net", "model_state_dict", "network", "params_ema"])
def test_weights_are_found_under_the_names_that_training_programs_give_them(key, weights):
    content = {key: weights, "acc": 91.2, "epoch": torch.tensor(7)}
    if key == "params_ema":
        del content["epoch"]
    taken, notes = loaded(content)
    assert same(taken, weights)
    assert notes == [f"the weights are those under '{key}'"]


def test_which_of_several_equal_sets_is_meant_is_asked(weights, averaged):
    for names in (("model", "net"), ("generator", "discriminator")):
        content = dict(zip(names, (weights, averaged), strict=True))
        with pytest.raises(BadCheckpoint, match=f"not clear .* weights_key: {', '.join(names)}$"):
            loaded(content)
        assert same(loaded(content, names[1])[0], averaged)


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.module."])
def test_a_prefix_on_every_name_is_stripped_and_told(prefix, weights):
    taken, notes = loaded({prefix + name: weight for name, weight in weights.items()})
    assert same(taken, weights)
    assert notes == [f"every weight's name starts with '{prefix}', which was stripped"]


def test_a_prefix_of_some_names_is_suggested(weights):
    lightning = {f"net.{name}": weight for name, weight in weights.items()}
    lightning["loss.weight"] = torch.ones(3)
    with pytest.raises(BadCheckpoint, match=r"foreign .*; is key_prefix: 'net\.' meant\?$"):
        loaded({"state_dict": lightning})


def test_a_prefix_that_would_make_two_names_one_is_refused(weights):
    twice = {**weights, **{f"ema.{name}": weight + 1 for name, weight in weights.items()}}
    with pytest.raises(BadCheckpoint, match=r"without 'ema\.' two weights have one name"):
        loaded(twice, key_prefix="ema.")


def test_counters_of_profilers_beside_the_weights_are_left_out_and_told(weights):
    profiled = {f"module.{name}": weight for name, weight in weights.items()}
    for name in ("total_ops", "linear.total_ops", "linear.total_params"):
        profiled[f"module.{name}"] = torch.zeros(1, dtype=torch.float64)
    taken, notes = loaded(profiled)
    assert same(taken, weights)
    assert notes[0].startswith("3 counters of a profiler were left out (module.total_ops, ")


def test_weights_of_another_arithmetic_are_refused_and_halves_are_taken_exactly(weights):
    half = {n: w.half() if w.is_floating_point() else w for n, w in weights.items()}
    taken, _ = loaded(half)
    assert torch.equal(taken["linear.weight"], half["linear.weight"].float())
    with warnings.catch_warnings():
        # torch is about to give this up; files of it will be about for longer
        warnings.simplefilter("ignore", UserWarning)
        quantised = torch.quantize_per_tensor(weights["linear.weight"], 0.1, 0, torch.qint8)
    for other, said in [
        (quantised, r"1 quantised \(linear.weight qint8\)"),
        # bitsandbytes and the like keep codes in the place of weights
        (weights["linear.weight"].char(), r"1 of another type \(linear.weight int8 for float32\)"),
        (weights["linear.weight"].to(torch.float8_e4m3fn), "linear.weight float8_e4m3fn for float"),
        (weights["linear.weight"].to(torch.complex64), "linear.weight complex64 for float32"),
        (weights["linear.weight"].to_sparse(), "linear.weight sparse float32 for"),
    ]:
        with pytest.raises(BadCheckpoint, match=said) as caught:
            loaded({**weights, "linear.weight": other})
        assert "\n" not in str(caught.value)
