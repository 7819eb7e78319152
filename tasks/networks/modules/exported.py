"""A program of `torch.export`, run step by step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tasks.classifier.checkpoint import BadCheckpoint
from tasks.classifier.program import DTYPES, MEMORY_FORMATS, Program, operations


class ExportedNetwork(nn.Module):
    """Module that runs a program of `tasks.classifier.exported.read`.

    The weights are buffers that keep their names.

    Raises:
        BadCheckpoint: If the program is refused, or a weight is missing.
    """

    def __init__(self, program: Program, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._operations = operations(program)
        self.program = program
        for name in program["weights"].values():
            try:
                self._hold(name, weights[name])
            except KeyError:
                raise BadCheckpoint(
                    f"the exported program's weight {name} is absent, or cannot have that name"
                ) from None

    def _hold(self, name: str, weight: Tensor) -> None:
        *folders, last = name.split(".")
        place: nn.Module = self
        for folder in folders:
            if folder not in dict(place.named_children()):
                place.add_module(folder, nn.Module())
            place = place.get_submodule(folder)
        place.register_buffer(last, weight)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map float32 [N, C, H, W] to [N, classes]."""
        own = dict(self.named_buffers())
        values: dict[str, Any] = {
            value: own[name] for value, name in self.program["weights"].items()
        }
        values[self.program["pixels"]] = pixels

        def read(argument: Mapping[str, Any]) -> Any:
            return _read(argument, values, pixels.device)

        for step, run in zip(self.program["steps"], self._operations, strict=True):
            named = {name: read(argument) for name, argument in step["named"].items()}
            result = run(*map(read, step["take"]), **named)
            given = step["give"]
            results = [result] if len(given) == 1 else result
            for names, made in zip(given, results, strict=True):
                if isinstance(names, list):
                    values.update(zip(names, made, strict=True))
                elif names is not None:
                    values[names] = made
        logits: Tensor = values[self.program["logits"]]
        return logits


def _read(argument: Mapping[str, Any], values: Mapping[str, Any], device: torch.device) -> Any:
    """Return the value of an argument of a step."""
    [(kind, value)] = argument.items()
    match kind:
        case "of":
            return values[value]
        case "list":
            return [_read(each, values, device) for each in value]
        case "type":
            return DTYPES[value]
        case "memory":
            return MEMORY_FORMATS[value]
        case "device":
            return device
    return value
