"""Networks built by other people's code, with normalisation in front."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from tasks.classifier.problems import BadNetwork
from tasks.networks.base import Network
from tasks.specs import Deviation, Mean

if TYPE_CHECKING:
    from torch import Tensor, nn


class ForeignNetwork(Network):
    """A network whose initial weights are drawn by its own code, under the seed.

    Its number of multiplications is not stated, since planning does not call its code. A run counts
    them, and records that it did.
    """

    mean: Annotated[tuple[Mean, ...], Field(strict=False, min_length=1)] = (0.0,)
    """Mean to subtract, in the pixel range [0, 1]; by default the network takes pixels as they
    are."""
    std: Annotated[tuple[Deviation, ...], Field(strict=False, min_length=1)] = (1.0,)
    """Standard deviation to divide by, in the pixel range [0, 1]; by default the network takes
    pixels as they are."""

    def build(self, channels: int, side: int, classes: int, *, seed: int = 0) -> nn.Module:
        """See `Network.build`.

        Raises:
            BadNetwork: If the code fails or returns no module.
        """
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
        """Return the network's name for messages."""
        return self.kind

    def normalising(self, module: nn.Module, channels: int) -> nn.Module:
        """Return the module with its input normalised before each call; weight names stay."""
        from torch import nn

        if len(self.mean) not in {1, channels}:
            raise BadNetwork(
                f"network {self.title()}: mean and std have {len(self.mean)} entries "
                f"for images of {channels} channels"
            )
        # on the module inside torch.compile, whose hooks are compiled too; before its own hooks
        inner = module
        while isinstance(wrapped := getattr(inner, "_orig_mod", None), nn.Module):
            inner = wrapped
        inner.register_forward_pre_hook(NormaliseFirst(self.mean, self.std), prepend=True)
        return module

    def check(self, module: nn.Module, channels: int, side: int, classes: int) -> None:
        """Check that the module, in eval mode, returns logits for batches of any size.

        Raises:
            BadNetwork: If it does not.
        """
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
    """Forward pre-hook: (pixels - mean) / std, one number or one for each channel."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.mean, self.std = mean, std

    def __call__(self, _: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the arguments of the module's call, normalised."""
        pixels: Tensor = arguments[0]
        mean, std = (pixels.new_tensor(v).reshape(1, -1, 1, 1) for v in (self.mean, self.std))
        return ((pixels - mean) / std, *arguments[1:])


def counted_multiplications(module: nn.Module, channels: int, side: int) -> int | None:
    """Count the multiplications of one image's forward pass by running it; None if that fails."""
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
