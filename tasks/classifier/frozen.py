"""A classifier prepared for inference and attacks, which must not change any more."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

import torch
from torch import Tensor, nn

from tasks.classifier.compiled import Compiled
from tasks.classifier.ensemble import EnsembleModule
from tasks.classifier.features import features_and_logits
from tasks.classifier.precision import run, set_float32
from tasks.classifier.prepared import prepare
from tasks.classifier.problems import BadNetwork
from tasks.classifier.twice import examine, twice
from tasks.specs import Passes, Precision


class NotFrozen(RuntimeError):
    """A frozen classifier was put in train mode, unlocked or changed."""


class Identities(Protocol):
    """Identities of the rows of a batch; implemented by `tasks.data.seeding.Rows`."""

    def batch_seed(self, purpose: str) -> int:
        """Return one seed for the whole batch."""
        ...


class Frozen:
    """A copy of a network in eval mode, with locked weights and folded batch norms.

    `forwards` and `backwards` count the images of forward passes, and the images of backward
    passes, whoever runs these. `left_out` lists the preparations that would have changed results,
    with reasons.

    Args:
        module: float32 [N, C, H, W] in [0, 1] to [N, classes]; copied if possible.
        classes: Number of classes.
        precision: Arithmetic of convolutions and matrix products; logits are always float32.
        device: Device to run on.
        compiled: Call the network through `torch.compile`; see `tasks.classifier.compiled`.
        probe: float32 images on which the copy is compared with the module; see
            `tasks.classifier.prepared`.
        randomised: The network is declared to draw random numbers; see `logits`.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        classes: int,
        precision: Precision = "float32",
        device: str | torch.device = "cpu",
        compiled: bool = False,
        probe: Tensor | None = None,
        randomised: bool = False,
    ) -> None:
        self.device = torch.device(device)
        prepared = prepare(module, self.device, probe)
        self.module = prepared.module
        self.layout = prepared.manner.layout
        self.left_out = prepared.manner.left_out
        self.classes = classes
        self.precision: Precision = precision
        self.randomised = randomised
        self.network = Compiled(self.module, randomised=randomised) if compiled else self.module
        self.forwards = 0
        self.backwards = 0
        self.remembered: dict[object, float] = {}
        """Values that a defense computes once for a classifier, by keys of its own."""
        self.examined: dict[bool, tuple[str, ...]] = {}
        """Lines on the second derivative for a user, without and with `relu_width`; set at first
        use."""
        self._digest = _weights_digest(self.module)

    @property
    def passes(self) -> Passes:
        """Passes of images so far; they only grow."""
        return Passes(self.forwards, self.backwards)

    @property
    def compiled(self) -> bool:
        """Whether the network runs compiled, which may fail on this machine although requested."""
        return isinstance(self.network, Compiled) and self.network.works

    def logits(self, pixels: Tensor, rows: Identities | None = None) -> Tensor:
        """Return the logits, differentiable in the pixels.

        Args:
            pixels: float32 [N, C, H, W] in [0, 1].
            rows: Identities that seed a randomised network: equal batches with equal rows get equal
                answers, others independent ones. Without them it draws from torch's global
                generator.

        Returns:
            float32 [N, classes].
        """
        return self._drawn(self.network, pixels, rows)

    def member_logits(self, pixels: Tensor, rows: Identities | None = None) -> Tensor:
        """Return the logits of each member of an ensemble, float32 [N, members, classes].

        See `logits`; the network is not compiled for this. Any other network is its own single
        member.
        """
        if isinstance(self.module, EnsembleModule):
            return self._drawn(self.module.each, pixels, rows)
        return self.logits(pixels, rows)[:, None]

    def _drawn(
        self, network: Callable[[Tensor], Tensor], pixels: Tensor, rows: Identities | None
    ) -> Tensor:
        if not self.randomised or rows is None:
            return self._asked(network, pixels)
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(rows.batch_seed("network"))
            return self._asked(network, pixels)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Do not count passes in this context, as they are no part of what is measured."""
        before = self.forwards, self.backwards
        try:
            yield
        finally:
            self.forwards, self.backwards = before

    def answers(self, pixels: Tensor, *, relu_width: float | None = None) -> Tensor:
        """Return the logits for a gradient that is itself differentiated; see `logits`.

        The network is never compiled for this.

        Args:
            pixels: float32 [N, C, H, W] in [0, 1].
            relu_width: Width of the second derivative of ReLUs; see `tasks.classifier.relu.bumps`.

        Raises:
            BadNetwork: If an operator has no second derivative.
        """
        with self._twice(pixels, relu_width):
            return self._asked(self.module, pixels)

    def features(
        self, pixels: Tensor, *, again: bool = False, relu_width: float | None = None
    ) -> Tensor:
        """Return the input of the last linear layer, float32 [N, D], differentiable in the pixels.

        Args:
            pixels: float32 [N, C, H, W] in [0, 1].
            again: Whether a gradient of the result is itself differentiated.
            relu_width: See `answers`.

        Raises:
            BadNetwork: If the network has no such layer.
        """
        return self.features_and_logits(pixels, again=again, relu_width=relu_width)[0]

    def features_and_logits(
        self, pixels: Tensor, *, again: bool = False, relu_width: float | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return `features` and the logits, float32 [N, classes], of one forward pass."""
        again = again or relu_width is not None
        with self._twice(pixels, relu_width) if again else nullcontext():
            features, logits = features_and_logits(
                self.module, pixels, self.precision, self.layout, self.classes
            )
        self.forwards += len(pixels)
        if features.requires_grad:
            # not on the logits as well: their gradient passes through the features
            features.register_hook(self._going_back)  # type: ignore[no-untyped-call]
        return features, logits

    def probabilities(self, pixels: Tensor) -> Tensor:
        """Return the probabilities, float32 [N, classes], without a graph."""
        with torch.inference_mode():
            probabilities = self.logits(pixels).softmax(dim=1)
        # A copy made outside inference mode may take part in later autograd.
        return probabilities.clone()

    def gradient(self, pixels: Tensor, objective: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the gradient of each image's objective in its own pixels, of the pixels' shape.

        Args:
            pixels: float32 [N, C, H, W] in [0, 1].
            objective: Logits, float32 [N, classes], to [N], each from its own row.
        """
        return self.value_and_gradient(pixels, objective)[1]

    def value_and_gradient(
        self, pixels: Tensor, objective: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return the objective's values, [N], and its `gradient`."""
        with torch.enable_grad():
            leaf = pixels.detach().requires_grad_()
            values = objective(self.logits(leaf))
            (gradient,) = torch.autograd.grad(values.sum(), leaf)
        return values.detach(), gradient

    def label_gradients(
        self,
        pixels: Tensor,
        choose: Callable[[Tensor], Tensor],
        *,
        differentiable: bool = False,
        relu_width: float | None = None,
    ) -> Tensor:
        """Return the gradients of the cross-entropy of several labels, from one forward pass.

        Args:
            pixels: float32 [N, C, H, W] in [0, 1].
            choose: Logits of that pass, float32 [N, classes], to labels, int64 [N, L].
            differentiable: Whether the result can be differentiated in the pixels once more.
            relu_width: See `answers`.

        Returns:
            float32 [N, L, C, H, W].
        """
        with torch.enable_grad():
            if differentiable:
                leaf = pixels if pixels.requires_grad else pixels.detach().requires_grad_()
            else:
                leaf = pixels.detach().requires_grad_()
            # a compiled network has no second derivative
            logits = (
                self.answers(leaf, relu_width=relu_width) if differentiable else self.logits(leaf)
            )
            labels = choose(logits.detach())
            known = logits if differentiable else logits.detach()
            # in float64, since p - 1 of a confident prediction is lost in float32
            probabilities = known.double().softmax(dim=1)
            one_hot = nn.functional.one_hot(labels, self.classes).double()
            count = labels.shape[1]
            gradients = [
                torch.autograd.grad(
                    logits,
                    leaf,
                    (probabilities - one_hot[:, index]).float(),
                    retain_graph=differentiable or index + 1 < count,
                    create_graph=differentiable,
                )[0]
                for index in range(count)
            ]
            return torch.stack(gradients, dim=1)

    def check(self) -> None:
        """Check that mode, locks and weights have not changed.

        Raises:
            NotFrozen: If one of them has.
        """
        for name, child in self.module.named_modules():
            if child.training:
                raise NotFrozen(f"module {name or 'network'!r} of the classifier is in train mode")
        for name, weight in self.module.named_parameters():
            if weight.requires_grad:
                raise NotFrozen(f"weight {name!r} of the classifier requires a gradient")
        if _weights_digest(self.module) != self._digest:
            raise NotFrozen("the classifier's weights have changed since it was frozen")

    def _twice(self, pixels: Tensor, relu_width: float | None) -> AbstractContextManager[None]:
        """Return the context in which to call the network for a gradient that is differentiated."""
        if not (torch.is_grad_enabled() and pixels.requires_grad):
            return nullcontext()
        bends = relu_width is not None
        if bends not in self.examined:
            devices = [self.device] if self.device.type == "cuda" else []
            try:
                with self.aside(), torch.random.fork_rng(devices=devices):
                    self.examined[bends] = examine(
                        lambda given: self._asked(self.module, given), pixels[:1], relu_width
                    )
            except BadNetwork as error:
                raise BadNetwork(f"network {type(self.module).__name__} {error}") from error
        return twice(relu_width)

    def _asked(self, network: Callable[[Tensor], Tensor], pixels: Tensor) -> Tensor:
        logits = run(network, pixels, self.precision, self.layout)
        self.forwards += len(pixels)
        if logits.requires_grad:
            logits.register_hook(self._going_back)  # type: ignore[no-untyped-call]
        return logits

    def _going_back(self, gradient: Tensor) -> None:
        set_float32(self.precision)
        self.backwards += len(gradient)


def _weights_digest(module: nn.Module) -> str:
    digest = hashlib.sha256()
    tensors = (*module.named_parameters(), *module.named_buffers())
    for name, tensor in tensors:
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        values = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(values.view(torch.uint8).numpy().data)
    return digest.hexdigest()
