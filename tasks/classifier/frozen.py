"""A classifier made ready to be attacked or asked: nothing in it changes any more."""

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
    """A frozen classifier that was put in train mode, unlocked or changed."""


class Identities(Protocol):
    """Which images and draws the rows of a batch are: `tasks.data.seeding.Rows`."""

    def batch_seed(self, purpose: str) -> int:
        """One seed for the batch as a whole."""
        ...


class Frozen:
    """A copy of a network in eval mode, with locked weights and folded batch norms.

    module: float32 [N, C, H, W] in [0, 1] to [N, classes]; it is copied where that is possible.
    precision: what convolutions and matrix products run in; logits are always float32.
    compiled: call it through `torch.compile`, see `tasks.classifier.compiled`. probe: float32
    images on which the copy is compared with the module, see `tasks.classifier.prepared`;
    `left_out` says in a line each what was not done because it would have been another function.
    randomised: the network is declared to draw random numbers, see `logits`.

    `forwards` and `backwards` count images that went through the network, and images whose
    gradient came back through it, whoever ran the backward pass.
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
        """What a defense has worked out of it once, by a key of the defense's own."""
        self.examined: dict[bool, tuple[str, ...]] = {}
        """What a person should know of its second derivative, without and with `relu_width`, once
        it was asked for one."""
        self._digest = _weights_digest(self.module)

    @property
    def passes(self) -> Passes:
        """The images that went forward and that came back since it was made; it only grows."""
        return Passes(self.forwards, self.backwards)

    @property
    def compiled(self) -> bool:
        """Whether it runs compiled; what was asked for may not work on this machine."""
        return isinstance(self.network, Compiled) and self.network.works

    def logits(self, pixels: Tensor, rows: Identities | None = None) -> Tensor:
        """float32 [N, C, H, W] in [0, 1] to float32 [N, classes], differentiable in the pixels.

        rows: the identities of the images and draws, which decide what a randomised network
        draws: equal batches of equal rows are answered equally, others independently. Without
        them it draws from torch's generator as that stands.
        """
        return self._drawn(self.network, pixels, rows)

    def member_logits(self, pixels: Tensor, rows: Identities | None = None) -> Tensor:
        """As `logits`, of each member of an ensemble: float32 [N, members, classes].

        Never compiled. Any other network is its own and only member.
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
        """What is asked inside is not counted: it is no part of what is measured."""
        before = self.forwards, self.backwards
        try:
            yield
        finally:
            self.forwards, self.backwards = before

    def answers(self, pixels: Tensor, *, relu_width: float | None = None) -> Tensor:
        """As `logits`, never compiled: for a gradient that is differentiated once more.

        relu_width: of the second derivative of a ReLU, see `tasks.classifier.relu.bumps`.
        BadNetwork, with the network's name, where an operator has no second derivative.
        """
        with self._twice(pixels, relu_width):
            return self._asked(self.module, pixels)

    def features(
        self, pixels: Tensor, *, again: bool = False, relu_width: float | None = None
    ) -> Tensor:
        """float32 [N, C, H, W] in [0, 1] to float32 [N, D], differentiable in the pixels.

        What the last linear layer takes; BadNetwork, with the network's name, without one.
        again: for a gradient that is differentiated once more; relu_width: see `answers`.
        """
        return self.features_and_logits(pixels, again=again, relu_width=relu_width)[0]

    def features_and_logits(
        self, pixels: Tensor, *, again: bool = False, relu_width: float | None = None
    ) -> tuple[Tensor, Tensor]:
        """As `features`, with the logits, float32 [N, classes], of the same forward pass."""
        again = again or relu_width is not None
        with self._twice(pixels, relu_width) if again else nullcontext():
            features, logits = features_and_logits(
                self.module, pixels, self.precision, self.layout, self.classes
            )
        self.forwards += len(pixels)
        if features.requires_grad:
            # not on the logits: their gradient passes here as well
            features.register_hook(self._going_back)  # type: ignore[no-untyped-call]
        return features, logits

    def probabilities(self, pixels: Tensor) -> Tensor:
        """float32 [N, C, H, W] in [0, 1] to float32 [N, classes], without a graph."""
        with torch.inference_mode():
            probabilities = self.logits(pixels).softmax(dim=1)
        # A copy made outside inference mode may take part in later autograd.
        return probabilities.clone()

    def gradient(self, pixels: Tensor, objective: Callable[[Tensor], Tensor]) -> Tensor:
        """The gradient of each image's objective in its own pixels, of the pixels' shape.

        objective: float32 logits [N, classes] to [N], each from its own row.
        """
        return self.value_and_gradient(pixels, objective)[1]

    def value_and_gradient(
        self, pixels: Tensor, objective: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """As `gradient`, with the objective's values [N] before it."""
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
        """The gradients of cross-entropy to several labels, all from one forward pass.

        pixels: float32 [N, C, H, W] in [0, 1]; choose: float32 logits [N, classes] of that pass
        to the labels, int64 [N, L]; differentiable: the result can be differentiated in the
        pixels once more; relu_width: see `answers`. Returns float32 [N, L, C, H, W].
        """
        with torch.enable_grad():
            if differentiable:
                leaf = pixels if pixels.requires_grad else pixels.detach().requires_grad_()
            else:
                leaf = pixels.detach().requires_grad_()
            # what is compiled has no second derivative
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
        """Raise NotFrozen unless eval mode, locks and weights are those of the beginning."""
        for name, child in self.module.named_modules():
            if child.training:
                raise NotFrozen(f"module {name or 'network'!r} of the classifier is in train mode")
        for name, weight in self.module.named_parameters():
            if weight.requires_grad:
                raise NotFrozen(f"weight {name!r} of the classifier requires a gradient")
        if _weights_digest(self.module) != self._digest:
            raise NotFrozen("the classifier's weights have changed since it was frozen")

    def _twice(self, pixels: Tensor, relu_width: float | None) -> AbstractContextManager[None]:
        """What the network is asked in for a gradient that is differentiated once more."""
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
