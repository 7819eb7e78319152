"""What named devices can do: `devices.yaml` of a `configs` folder."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from pipeline.catalogue.documents import read_yaml
from pipeline.catalogue.validation import ConfigEntry, validated
from tasks.specs import Precision


class Speed(ConfigEntry):
    """A peak in 10^12 floating-point operations a second, and the share that is reached."""

    peak_teraflop_per_s: Annotated[float, Field(gt=0, le=10**6)]
    """Peak, in 10^12 floating-point operations a second."""
    share: Annotated[float, Field(gt=0, le=1)]
    """Of the peak that is reached."""
    basis: Literal["assumed", "measured"]
    """Where the share comes from."""

    @property
    def flop_per_s(self) -> float:
        """What is reached."""
        return self.share * self.peak_teraflop_per_s * 1e12

    def __str__(self) -> str:
        if self.share == 1:
            return f"{self.peak_teraflop_per_s:.2g} TFLOP/s, {self.basis}"
        article = "an" if self.basis == "assumed" else "a"
        share = f"{100 * self.share:g} % of {self.peak_teraflop_per_s:g} TFLOP/s"
        return f"{article} {self.basis} {share}"


class Device(ConfigEntry):
    """A device's speeds; a precision that has none of its own is as fast as float32."""

    float32: Speed
    """See below."""
    tf32: Speed | None = None
    """As float32 by default."""
    bfloat16: Speed | None = None
    """As float32 by default."""

    def speed(self, precision: Precision) -> Speed:
        """The speed in a precision."""
        own = {"tf32": self.tf32, "bfloat16": self.bfloat16}.get(precision)
        return own or self.float32


def read_devices(path: Path) -> dict[str, Device]:
    """Devices by name; BadInput, located, where the file does not fit."""
    document = read_yaml(path)
    return {
        name: validated(Device, document, (name,), entry) for name, entry in document.value.items()
    }


def device_named(name: str, devices: Mapping[str, Device]) -> str | None:
    """The entry that fits a device's whole name (`NVIDIA H100 80GB HBM3`) or a part of one."""
    asked = name.casefold()
    inside = [known for known in devices if known.casefold() in asked]
    if inside:
        return max(inside, key=len)
    around = [known for known in devices if asked in known.casefold()]
    return around[0] if len(around) == 1 else None


def cpu_name() -> str:
    """What records call this machine's CPU."""
    return f"{platform.machine()} CPU"
