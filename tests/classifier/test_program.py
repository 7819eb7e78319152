"""Programs of torch.export that somebody else wrote: they compute, or they are refused."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.classifier import exported
from tasks.classifier.checkpoint import BadCheckpoint
from tasks.classifier.program import operations
from tasks.networks.modules.exported import ExportedNetwork

Given = dict[str, Any]
ATEN = "torch.ops.aten."


def tensor(name: str) -> Given:
    return {"as_tensor": {"name": name}}


def node(target: str, *take: Given, give: str = "y", **named: Given) -> dict[str, Any]:
    """A step as the file has it; the names of positional arguments are the writer's to choose."""
    given = [{"name": "mode", "arg": arg, "kind": 1} for arg in take]
    given += [{"name": name, "arg": arg, "kind": 2} for name, arg in named.items()]
    return {"target": target, "inputs": given, "outputs": [tensor(give)]}


def pt2(*nodes: dict[str, Any], logits: str = "y", packed: bool = False) -> bytes:
    """A file of torch.export with one weight, `w`, float32 [2], and these steps."""
    size = [{"as_int": 2}]
    meta = {
        "dtype": 7,
        "sizes": size,
        "strides": [{"as_int": 1}],
        "storage_offset": {"as_int": 0},
    }
    entry = {"use_pickle": False, "path_name": "weight_0", "tensor_meta": meta}
    signature = {
        "input_specs": [
            {"parameter": {"arg": {"name": "p_w"}, "parameter_name": "w"}},
            {"user_input": {"arg": tensor("x")}},
        ],
        "output_specs": [{"user_output": {"arg": tensor(logits)}}],
    }
    model = {"graph_module": {"signature": signature, "graph": {"nodes": list(nodes)}}}
    members = {
        "models/model.json": json.dumps(model).encode(),
        "data/weights/model_weights_config.json": json.dumps({"config": {"w": entry}}).encode(),
        "data/weights/weight_0": torch.tensor([1.0, 2.0]).numpy().tobytes(),
        "data/constants/model_constants_config.json": b'{"config": {}}',
    }
    target = io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(target, "w", kind) as archive:
        for name, content in members.items():
            archive.writestr(f"archive/{name}", content)
    return target.getvalue()


def step(do: str, *take: Given, give: Sequence[object] = ("y",), **named: Given) -> dict[str, Any]:
    """A step as a store holds it."""
    return {"do": do, "take": list(take), "named": named, "give": list(give)}


def program(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"pixels": "x", "logits": "y", "weights": {"p_w": "w"}, "steps": list(steps)}


WEIGHTS = {"w": torch.tensor([1.0, 2.0])}
X, W, ONE = {"of": "x"}, {"of": "p_w"}, {"value": 1}


def test_a_program_of_pure_operators_computes() -> None:
    data = pt2(
        node(f"{ATEN}mul.Tensor", tensor("x"), tensor("p_w"), give="a"),
        node(f"{ATEN}relu_.default", tensor("a"), give="b"),
        node(f"{ATEN}add.Tensor", tensor("b"), {"as_int": 1}, alpha={"as_int": 2}),
    )
    weights, found = exported.read(data)
    network = ExportedNetwork(json.loads(json.dumps(found)), weights)
    torch.testing.assert_close(network(torch.tensor([[-1.0, 3.0]])), torch.tensor([[2.0, 8.0]]))


def test_a_program_that_maps_a_file_and_writes_through_it_is_refused_and_the_file_is_as_it_was(
    tmp_path: Path,
) -> None:
    victim = tmp_path / "thesis.txt"
    victim.write_bytes(b"\1" * 8)
    data = pt2(
        node(
            f"{ATEN}from_file.default",
            {"as_string": str(victim)},
            {"as_bool": True},
            {"as_int": 2},
            give="f",
        ),
        node(f"{ATEN}fill_.Scalar", tensor("f"), {"as_int": 0}, give="z"),
        node(f"{ATEN}add.Tensor", tensor("x"), tensor("z")),
    )
    with pytest.raises(BadCheckpoint, match=r"uses torch\.ops\.aten\.from_file\.default, which is"):
        exported.read(data)
    assert victim.read_bytes() == b"\1" * 8


@pytest.mark.parametrize(
    "name",
    [
        f"{ATEN}from_file.default",
        f"{ATEN}save.default",
        f"{ATEN}empty.memory_format",
        f"{ATEN}resize_.default",
        f"{ATEN}set_.source_Storage",
        f"{ATEN}rand.default",
        f"{ATEN}bernoulli.default",
        f"{ATEN}native_dropout.default",
        f"{ATEN}relu.out",
        f"{ATEN}add.str",
        f"{ATEN}pow.int",
        f"{ATEN}native_batch_norm.default",
        "torch.ops.prim.Print.default",
        "torch.ops.profiler._record_function_enter.default",
        "_operator.pow",
        "_operator.getitem",
        "os.system",
        "torch.ops.aten.relu.default\n",
        "torch.ops.aten.__class__.default",
    ],
)
def test_an_operator_that_is_no_pure_one_is_refused_wherever_a_program_is_read(name: str) -> None:
    with pytest.raises(BadCheckpoint):
        exported.read(pt2(node(name, tensor("x"))))
    with pytest.raises(BadCheckpoint):
        ExportedNetwork(program(step(name, X)), WEIGHTS)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        # a string where the schema has a number, in place and by name
        (step(f"{ATEN}leaky_relu.default", X, {"value": "/etc/passwd"}), "a negative_slope that"),
        (
            step(f"{ATEN}leaky_relu.default", X, negative_slope={"value": "same"}),
            "a negative_slope",
        ),
        # a string that is none of the words of its argument
        (step(f"{ATEN}gelu.default", X, approximate={"value": "/etc/passwd"}), "an? approximate"),
        (step(f"{ATEN}pad.default", X, {"value": [1, 1]}, {"value": "/etc/passwd"}), "a mode that"),
        # an argument that the schema does not have, and one too many
        (step(f"{ATEN}relu.default", X, filename={"value": "same"}), "a filename that"),
        (step(f"{ATEN}relu.default", X, {"value": "same"}), "a argument 2 that"),
        (step(f"{ATEN}relu.default", X, self=X), "a self that"),
        (step(f"{ATEN}mul.Tensor", X), "lacks its other"),
        # a tensor for a number, a number for a list, no number at all
        (step(f"{ATEN}flatten.using_ints", X, X), "a start_dim that"),
        (step(f"{ATEN}cat.default", X), "a tensors that"),
        (step(f"{ATEN}view.default", X, {"value": [1, "2"]}), "a size that"),
        (step(f"{ATEN}sum.dim_IntList", X, {"value": [True]}), "a dim that"),
        (step("_operator.mul", {"value": "a"}, {"value": 9}), "a argument 1 that"),
        (step("_operator.add", X, ONE), "a argument 1 that"),
        # values that nothing gives, or that are given twice
        (step(f"{ATEN}relu.default", {"of": "z"}), "takes 'z', which nothing gives"),
        (step(f"{ATEN}relu.default", X, give=("x",)), "gives 'x' twice"),
        (step(f"{ATEN}relu.default", X, give=("y", "z")), "gives what is not read here"),
        (step(f"{ATEN}relu.default", X, give=(["y"],)), "gives what is not read here"),
    ],
)
def test_names_and_types_of_arguments_are_those_of_the_operators_schema(
    bad: dict[str, Any], said: str
) -> None:
    with pytest.raises(BadCheckpoint, match=said):
        operations(program(bad))


@pytest.mark.parametrize(
    "steps",
    [
        [step(f"{ATEN}fill_.Scalar", X, {"value": 0})],
        [step(f"{ATEN}add_.Tensor", W, X)],
        [step(f"{ATEN}view.default", X, {"value": [2]}, give=("v",)),
         step(f"{ATEN}zero_.default", {"of": "v"})],
        # what gives its input back when it is not training
        [step(f"{ATEN}dropout.default", W, {"value": 0.5}, {"value": False}, give=("v",)),
         step(f"{ATEN}relu_.default", {"of": "v"})],
        [step(f"{ATEN}unbind.int", W, give=(["a", "b"],)),
         step(f"{ATEN}copy_.default", {"of": "a"}, X)],
        [step(f"{ATEN}einsum.default", {"value": "a->a"}, {"list": [W]}, give=("v",)),
         step(f"{ATEN}mul_.Tensor", {"of": "v"}, {"value": 2})],
        [step(f"{ATEN}fill_.Scalar", ONE, {"value": 0})],
    ],
)  # fmt: skip
def test_a_program_writes_to_no_memory_but_its_own(steps: list[dict[str, Any]]) -> None:
    with pytest.raises(BadCheckpoint, match=r"writes to its input or to a weight|has a self"):
        operations(program(*steps))


@pytest.mark.parametrize(
    "bad",
    [
        step(f"{ATEN}batch_norm.default", X, W, W, W, W, {"value": True}, {"value": 0.1},
             {"value": 1e-5}, {"value": False}),
        step(f"{ATEN}instance_norm.default", X, W, W, W, W, {"value": True}, {"value": 0.1},
             {"value": 1e-5}, {"value": False}),
        step(f"{ATEN}dropout.default", X, {"value": 0.5}, {"value": True}),
        step(f"{ATEN}scaled_dot_product_attention.default", X, X, X, dropout_p={"value": 0.5}),
    ],
)  # fmt: skip
def test_what_would_keep_statistics_or_draw_at_random_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(BadCheckpoint, match=r"train mode|keeps statistics|drops at random"):
        operations(program(bad))


def test_sizes_of_a_program_stay_below_the_largest_that_torch_has() -> None:
    steps = [step(f"{ATEN}sym_size.int", X, {"value": 0}, give=("n0",))]
    steps += [
        step("_operator.mul", {"of": f"n{i}"}, {"of": f"n{i}"}, give=(f"n{i + 1}",))
        for i in range(80)
    ]
    steps.append(step(f"{ATEN}add.Tensor", X, ONE))
    network = ExportedNetwork(program(*steps), WEIGHTS)
    with pytest.raises(ValueError, match="a size of the exported program"):
        network(torch.zeros(7, 2))


@pytest.mark.parametrize(
    "bad",
    [
        None,
        [],
        {"steps": []},
        {**program(), "logits": "z"},
        {**program(), "weights": {"p_w": "a/../b"}},
        {**program(), "more": 1},
        {**program(), "steps": [{**step("x"), "take": [[["deep"]]]}]},
        {**program(step(f"{ATEN}relu.default", {"of": ["x"]}))},
        {**program(step(f"{ATEN}relu.default", {"of": "x", "value": 1}))},
        {**program(step(f"{ATEN}relu.default", {}))},
        {**program(step(f"{ATEN}to.dtype", X, {"type": [7]}))},
    ],
)
def test_what_is_no_program_is_refused_in_one_line(bad: object) -> None:
    with pytest.raises(BadCheckpoint) as caught:
        operations(bad)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("name", ["forward", "training", "_operations", "absent"])
def test_a_weight_cannot_take_the_name_of_a_part_of_the_module(name: str) -> None:
    found = {**program(step(f"{ATEN}add.Tensor", X, ONE)), "weights": {"p_w": name}}
    held = {} if name == "absent" else {name: WEIGHTS["w"]}
    with pytest.raises(BadCheckpoint, match=f"weight {name} is absent, or cannot"):
        ExportedNetwork(found, held)


def test_a_file_that_is_compressed_or_nested_too_deeply_is_refused_in_one_line() -> None:
    good = node(f"{ATEN}relu.default", tensor("x"))
    with pytest.raises(BadCheckpoint, match="is compressed"):
        exported.read(pt2(good, packed=True))
    deep = b"[" * 100_000 + b"]" * 100_000
    source, target = zipfile.ZipFile(io.BytesIO(pt2(good))), io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name in source.namelist():
            archive.writestr(name, deep if name.endswith("model.json") else source.read(name))
    with pytest.raises(BadCheckpoint, match=r"not a file of torch\.export: RecursionError"):
        exported.read(target.getvalue())
