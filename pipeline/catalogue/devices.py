"""Peak speeds of named devices, from `devices.yaml` of a `configs` folder, for estimates."""

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
    """Speed of a device: its peak, and the share of it that is reached in practice."""

    peak_teraflop_per_s: Annotated[float, Field(gt=0, le=10**6)]
    """Peak speed, in 10^12 floating-point operations a second."""
    share: Annotated[float, Field(gt=0, le=1)]
    """Share of the peak that is reached."""
    basis: Literal["assumed", "measured"]
    """Whether the share is a guess or was measured."""

    @property
    def flop_per_s(self) -> float:
        """The speed that is reached, in floating-point operations a second."""
        return self.share * self.peak_teraflop_per_s * 1e12

    def __str__(self) -> str:
        if self.share == 1:
            return f"{self.peak_teraflop_per_s:.2g} TFLOP/s, {self.basis}"
        article = "an" if self.basis == "assumed" else "a"
        share = f"{100 * self.share:g} % of {self.peak_teraflop_per_s:g} TFLOP/s"
        return f"{article} {self.basis} {share}"


class Device(ConfigEntry):
    """Speeds of a device by precision; a precision without one is as fast as float32."""

    float32: Speed
    """Speed in float32, see below."""
    tf32: Speed | None = None
    """Speed in tf32; that of float32 by default."""
    bfloat16: Speed | None = None
    """Speed in bfloat16; that of float32 by default."""

    def speed(self, precision: Precision) -> Speed:
        """The speed in a given precision."""
        own = {"tf32": self.tf32, "bfloat16": self.bfloat16}.get(precision)
        return own or self.float32


def read_devices(path: Path) -> dict[str, Device]:
    """Read a `devices.yaml`, by device name; BadInput if it is invalid."""
    document = read_yaml(path)
    return {
        name: validated(Device, document, (name,), entry) for name, entry in document.value.items()
    }


def device_named(name: str, devices: Mapping[str, Device]) -> str | None:
    """Find the entry for a device's full name (`NVIDIA H100 80GB HBM3`) or a part of one.

    Returns:
        The longest entry whose name is contained in `name`; otherwise the only entry that contains
            it; None if there is none or if it is ambiguous.
    """
    asked = name.casefold()
    inside = [known for known in devices if known.casefold() in asked]
    if inside:
        return max(inside, key=len)
    around = [known for known in devices if asked in known.casefold()]
    return around[0] if len(around) == 1 else None


def cpu_name() -> str:
    """The name of this machine's CPU in records."""
    return f"{platform.machine()} CPU"
