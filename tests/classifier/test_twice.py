"""Networks of many kinds, asked for a gradient that is itself differentiated."""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Callable

import pytest
import torch
from tiny import Recorder, write_configs
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from pipeline.commands.session import open_session
from pipeline.execution.events import Observers
from pipeline.execution.work.inputs import forget
from pipeline.grid.builder import Overrides
from tasks.classifier import exported
from tasks.classifier.frozen import Frozen
from tasks.classifier.problems import BadNetwork
from tasks.defenses.base import Context
from tasks.networks.modules.exported import ExportedNetwork

WIDTH = 0.2
STEP = 1e-3


class Net(nn.Module):
    """float32 [N, 1, 8, 8] to [N, 10], with something between a convolution and a linear layer."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv, self.linear = nn.Conv2d(1, 8, 3, stride=2), nn.Linear(72, 10)
        self.between = between

    def forward(self, pixels: Tensor) -> Tensor:
        return self.linear(self.between(self.conv(pixels)).flatten(1))


def attention(values: Tensor) -> Tensor:
    rows = values.flatten(2)[:, None].transpose(2, 3)
    return functional.scaled_dot_product_attention(rows, 2 * rows, rows.sin())


def encoder() -> Callable[[Tensor], Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, functional.gelu, batch_first=True)
    return nn.Sequential(nn.Flatten(2), Transposed(), layer)


class Transposed(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return values.transpose(1, 2)


def frozen(between: Callable[[Tensor], Tensor]) -> Frozen:
    return Frozen(Net(between), classes=10)


def images(count: int = 2) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def gradient(classifier: Frozen, pixels: Tensor, width: float | None = None) -> Tensor:
    """Of each image's energy, as a defense takes it that an attacker goes back through."""
    leaf = pixels if pixels.requires_grad else pixels.clone().requires_grad_()
    energy = classifier.answers(leaf, relu_width=width).double().logsumexp(dim=1)
    return torch.autograd.grad(energy.sum(), leaf, create_graph=True)[0]


@pytest.mark.parametrize("between", [attention, encoder()], ids=["attention", "encoder"])
def test_attention_has_the_second_derivative_that_differences_of_gradients_have(between):
    classifier = frozen(between)
    leaf = images().requires_grad_()
    (found,) = torch.autograd.grad(gradient(classifier, leaf).sum(), leaf)
    ones = STEP * torch.ones_like(leaf)
    ahead, behind = (gradient(classifier, (leaf + side).detach()) for side in (ones, -ones))
    assert found.abs().max() > 1e-3
    torch.testing.assert_close(found, (ahead - behind).detach() / (2 * STEP), rtol=0.02, atol=2e-4)


def test_what_is_compiled_inside_a_network_runs_as_it_was_written():
    plain, compiled = (
        frozen(between) for between in (torch.sin, torch.compile(torch.sin, backend="aot_eager"))
    )
    leaf = images().requires_grad_()
    found, expected = (
        torch.autograd.grad(gradient(each, leaf).square().sum(), leaf)[0]
        for each in (compiled, plain)
    )
    assert torch.equal(found, expected)
    assert compiled.features(leaf, again=True).shape == (2, 72)


def test_attention_that_is_not_differentiated_twice_is_asked_as_ever():
    classifier = frozen(attention)
    pixels = images()
    leaf = pixels.clone().requires_grad_()
    plain = classifier.logits(leaf)
    names = {"once": [], "again": []}
    for context, kept in (
        (Context(classifier), names["once"]),
        (Context(classifier, smoothing=1.0), names["again"]),
    ):
        for given in (context.logits(leaf), context.features(leaf)):
            kept.append(fused(given))
    assert names == {"once": [True, True], "again": [False, False]}
    # also without a gradient, where there is nothing to be differentiated
    with torch.no_grad():
        assert torch.equal(classifier.answers(pixels), plain)


def fused(result: Tensor) -> bool:
    waiting, seen = [result.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [before for before, _ in node.next_functions]
    return any("Flash" in node.name() for node in seen)


def without(values: Tensor) -> Tensor:
    rows = values.flatten(2)[:, None].contiguous()
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(rows, rows, rows)[0]


def checkpointed_attention(values: Tensor) -> Tensor:
    return checkpoint(attention, values, use_reentrant=False)


@pytest.mark.parametrize(
    ("between", "reason"),
    [
        (without, "torch has none for aten::_scaled_dot_product_flash_attention_for_cpu$"),
        (checkpointed_attention, "attention inside torch.utils.checkpoint has none; leave"),
    ],
)
def test_an_operator_without_a_second_derivative_is_named_in_one_line(between, reason):
    classifier = frozen(between)
    leaf = images().requires_grad_()
    classifier.gradient(leaf, lambda logits: logits[:, 0])  # a first one it has
    asked = classifier.passes
    line = f"network Net has no second derivative, so no attack can go back .*: {reason}"
    for ask in (
        lambda: classifier.answers(leaf),
        lambda: classifier.features(leaf, again=True),
        lambda: classifier.label_gradients(
            leaf, lambda _: torch.tensor([[0], [1]]), differentiable=True, relu_width=WIDTH
        ),
    ):
        with pytest.raises(BadNetwork, match=line):
            ask()
    assert classifier.passes == asked


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values):
        return 2 * values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, given):
        return 2 * given


def scripted() -> Callable[[Tensor], Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return torch.jit.script(nn.ReLU())


def in_a_thread(values: Tensor) -> Tensor:
    found: list[Tensor] = []
    thread = threading.Thread(target=lambda: found.append(values.relu()))
    thread.start()
    thread.join()
    return found[0]


MISSED = "`relu_width` does not reach 1 of {} ReLUs ({}), as those in scripted"
NONE = "no ReLU is found in it, so candidates with `relu_width` are as without it"


@pytest.mark.parametrize(
    ("between", "lines"),
    [
        (functional.relu, []),
        (nn.ReLU6(inplace=True), []),
        (functional.silu, [NONE]),
        (lambda values: values.clamp_min(-0.5), [NONE]),
        (scripted(), [MISSED.format(1, "ReluBackward0")]),
        (lambda values: in_a_thread(values.relu() - 0.1), [MISSED.format(2, "ReluBackward0")]),
        (torch.vmap(functional.relu), [MISSED.format(1, "ReluBackward0")]),
        (lambda values: in_a_thread(values).clamp(0, 6), [MISSED.format(2, "ReluBackward0")]),
        (nn.PReLU(), [MISSED.format(1, "PreluKernelBackward0")]),
        (lambda values: Doubled.apply(values).relu(), ["a function of its own is once_differ"]),
    ],
)
def test_what_the_second_derivative_of_a_network_lacks_is_known_at_the_first_question(
    between, lines
):
    classifier = frozen(between)
    leaf = images().requires_grad_()
    classifier.answers(leaf, relu_width=WIDTH)
    found = classifier.examined[True]
    assert len(found) == len(lines)
    assert all(line.startswith(start) for line, start in zip(found, lines, strict=True))
    classifier.answers(leaf)
    assert classifier.examined[False] == tuple(line for line in found if "once_differ" in line)


def test_looking_changes_no_number_and_is_not_counted():
    classifier = frozen(lambda values: functional.dropout(values, 0.5))
    leaf = images().requires_grad_()
    torch.manual_seed(3)
    first = classifier.answers(leaf)
    torch.manual_seed(3)
    assert torch.equal(classifier.answers(leaf), first)
    assert classifier.forwards == 2 * len(leaf)
    assert classifier.backwards == 0


@pytest.mark.parametrize("form", [functional.relu, nn.ReLU6(inplace=True)])
def test_the_relus_of_an_exported_network_are_reached(form):
    made = Net(form).eval()
    batch = torch.export.Dim("batch")
    program = torch.export.export(made, (images(3),), dynamic_shapes=({0: batch},))
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    weights, steps = exported.read(buffer.getvalue())
    network = ExportedNetwork(steps, weights)
    seconds = []
    for module in (made, network):
        leaf = images().requires_grad_()
        classifier = Frozen(module, classes=10)
        given = gradient(classifier, leaf, WIDTH)
        seconds.append(torch.autograd.grad(given.square().sum(), leaf)[0])
        assert classifier.examined[True] == ()
    torch.testing.assert_close(*seconds)


NETWORKS = """
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

class Attention(nn.Module):
    def forward(self, values):
        rows = values.flatten(2)[:, None].contiguous()
        return self.ask(rows)[:, 0]

class Formula(Attention):
    def ask(self, rows):
        return scaled_dot_product_attention(rows, rows, rows)

class Kernel(Attention):
    def ask(self, rows):
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(rows, rows, rows)[0]

def make(name):
    between = {"formula": Formula, "kernel": Kernel, "relu": nn.ReLU}[name]()
    return nn.Sequential(nn.Conv2d(1, 8, 3, stride=2), between, nn.Flatten(), nn.Linear(72, 10))
"""
ATTACK = """
kind: adaptive
transferred: []
steps: 2
draws: 1
smoothing: 1.0
relu_width: 0.2
sure_margin: null
images: 4
"""


@pytest.mark.parametrize(
    ("name", "said", "reason"),
    [
        ("formula", [f"network net.py:make: {NONE}"], ""),
        ("relu", [], ""),
        ("kernel", [], "torch has none for aten::_scaled_dot_product_flash_attention_for_cpu"),
    ],
)
def test_a_run_judges_a_network_with_attention_and_says_what_a_second_derivative_lacks(
    tmp_path, name, said, reason
):
    forget()
    (tmp_path / "net.py").write_text(NETWORKS, encoding="utf-8")
    network = f"{{kind: factory, factory: ../../net.py:make, arguments: {{name: {name}}}}}"
    files = {
        "models/mixed.yaml": f"dataset: digits\nnetwork: {network}\nrecipe: short\n",
        "attacks/pgd.yaml": ATTACK,
        "defenses/guo.yaml": "kind: energy\n",
    }
    session = open_session(
        "tiny",
        store=tmp_path / "store",
        configs=[write_configs(tmp_path / "cfg", files)],
        only=["cell=mixed/pgd/guo", "cell=mixed/pgd/counter"],
        overrides=Overrides(images=4),
    )
    session.store.prepare()
    recorder = Recorder()
    finished = session.run(
        Observers([recorder]), inline=True, address=None, workers=None, forced=set()
    )
    found = [line for done in recorder.done("craft") for line in done.done.how.get("said", [])]
    assert set(found) == set(said)
    assert len(finished.missing) == (2 if reason else 0)
    assert all(reason in str(line) for line in finished.missing.values())
