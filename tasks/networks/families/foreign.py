"""Networks of somebody else's: built by their own code, normalised in front of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from tasks.classifier.problems import BadNetwork
from tasks.networks.base import Network
from tasks.specs import Deviation, Mean

if TYPE_CHECKING:
    from torch import Tensor, nn


class ForeignNetwork(Network):
    """A network whose first weights are its own code's, drawn under the seed.

    mean, std: of the pixel range [0, 1]; by default the network takes pixels as they are.

    How many multiplications it takes is not stated here: a plan does not call its code. A run
    counts them, and the record of the model's node says so.
    """

    mean: Annotated[tuple[Mean, ...], Field(strict=False, min_length=1)] = (0.0,)
    std: Annotated[tuple[Deviation, ...], Field(strict=False, min_length=1)] = (1.0,)

    def build(self, channels: int, side: int, classes: int, *, seed: int = 0) -> nn.Module:
        """See `Network.build`; BadNetwork where the code fails or gives no module."""
        import torch
        from torch import nn

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                module: object = self.module(channels, side, classes)
            except BadNetwork:
                raise
            except Exception as error:
                said = " ".join(str(error).split())
                raise BadNetwork(
                    f"network {self.title()}: {type(error).__name__}: {said}"
                ) from error
        if not isinstance(module, nn.Module):
            raise BadNetwork(f"network {self.title()}: gave {type(module).__name__}, not a module")
        return self.normalising(module, channels)

    def title(self) -> str:
        """What a person calls it."""
        return self.kind

    def normalising(self, module: nn.Module, channels: int) -> nn.Module:
        """The module with its input normalised before each call; its weights keep their names."""
        from torch import nn

        if len(self.mean) not in {1, channels}:
            raise BadNetwork(
                f"network {self.title()}: mean and std have {len(self.mean)} entries "
                f"for images of {channels} channels"
            )
        # on what torch.compile wrapped, whose hooks are part of it; before hooks of its own
        inner = module
        while isinstance(wrapped := getattr(inner, "_orig_mod", None), nn.Module):
            inner = wrapped
        inner.register_forward_pre_hook(NormaliseFirst(self.mean, self.std), prepend=True)
        return module

    def check(self, module: nn.Module, channels: int, side: int, classes: int) -> None:
        """BadNetwork unless the module, in eval mode, takes batches of any size, and classifies."""
        import torch

        module.eval()
        for count in (1, 3):
            try:
                with torch.no_grad():
                    logits: object = module(torch.zeros(count, channels, side, side))
            except Exception as error:
                said = " ".join(str(error).split())
                raise BadNetwork(
                    f"network {self.title()}: does not take {count} images of "
                    f"{channels}x{side}x{side}: {type(error).__name__}: {said}"
                ) from error
            shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else None
            if shape != (count, classes):
                raise BadNetwork(
                    f"network {self.title()}: gave {shape or type(logits).__name__} "
                    f"for {count} images, not {(count, classes)}"
                )


class NormaliseFirst:
    """What runs before a module: (pixels - mean) / std, one number or one for each channel."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.mean, self.std = mean, std

    def __call__(self, _: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments of the module's call, normalised."""
        pixels: Tensor = arguments[0]
        mean, std = (pixels.new_tensor(v).reshape(1, -1, 1, 1) for v in (self.mean, self.std))
        return ((pixels - mean) / std, *arguments[1:])


def counted_multiplications(module: nn.Module, channels: int, side: int) -> int | None:
    """Of a module's forward pass of one image, counted in one; None where that fails."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    training = module.training
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            module.eval()(torch.zeros(1, channels, side, side))
    except Exception:  # noqa: BLE001  somebody else's code; only an estimate is lost
        return None
    finally:
        module.train(training)
    return int(counter.get_total_flops()) // 2
