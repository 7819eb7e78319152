"""A program of torch.export, run step by step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from tasks.classifier.exported import DTYPES, Program, operation


class ExportedNetwork(nn.Module):
    """The program of `tasks.classifier.exported.read`; its weights are buffers, names kept."""

    def __init__(self, program: Program, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.program = program
        self._operations = [operation(step["do"]) for step in program["steps"]]
        for name in program["weights"].values():
            *folders, last = name.split(".")
            place: nn.Module = self
            for folder in folders:
                if folder not in dict(place.named_children()):
                    place.add_module(folder, nn.Module())
                place = place.get_submodule(folder)
            place.register_buffer(last, weights[name])

    def forward(self, pixels: Tensor) -> Tensor:
        """float32 [N, C, H, W] to [N, classes]."""
        own = dict(self.named_buffers())
        values: dict[str, Any] = {
            value: own[name] for value, name in self.program["weights"].items()
        }
        values[self.program["pixels"]] = pixels

        def read(argument: Mapping[str, Any]) -> Any:
            [(kind, value)] = argument.items()
            match kind:
                case "of":
                    return values[value]
                case "list":
                    return [read(each) for each in value]
                case "type":
                    return DTYPES[value]
                case "device":
                    return pixels.device
            return value

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
