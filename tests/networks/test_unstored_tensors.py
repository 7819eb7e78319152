"""Random tensors that are not in a state dict: those of the training also in its evaluation."""

from __future__ import annotations

from pathlib import Path

import torch
from tiny import Tiny, write_configs
from torch import nn

from pipeline.execution.work.artifacts import Artifacts
from pipeline.execution.work.networks import trained

NET = """
import torch
from torch import nn


class Fixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("buffer", torch.randn(64, 8), persistent=False)
        self.attribute = torch.randn(8)
        self.head = nn.Linear(8, 10)

    def forward(self, pixels):
        return self.head(pixels.flatten(1) @ self.buffer + self.attribute)
"""
MODEL = "dataset: digits\nnetwork: {kind: factory, factory: 'net.py:Fixed'}\nrecipe: short\n"
FILES = {
    "models/net.py": NET,
    "models/mixed.yaml": f"{MODEL}seed: 1\n",
    "models/second.yaml": f"{MODEL}seed: 7\n",
    "models/both.yaml": "dataset: digits\nmembers: [mixed, second]\n",
    "grids/tiny.yaml": (
        "epsilon: 40\nimages: 60\ntables:\n"
        "  - {name: main, models: [mixed, second, both], attacks: [clean], defenses: [none]}\n"
    ),
}


def test_a_network_is_evaluated_with_the_random_tensors_that_it_was_trained_with(
    tmp_path: Path,
) -> None:
    tiny = Tiny(write_configs(tmp_path / "configs", FILES), tmp_path / "store")
    _, finished = tiny.run()
    assert not finished.missing
    session = tiny.session()

    def network(model: str) -> nn.Module:
        node = session.scores[f"{model}/clean/none"].parent("shard0").parent("model")
        return trained(Artifacts(node, session.store), node)

    alone = [network("mixed"), network("second")]
    for module, seed in zip(alone, (1, 7), strict=True):
        torch.manual_seed(seed)
        assert torch.equal(module.buffer, torch.randn(64, 8))
        assert torch.equal(module.attribute, torch.randn(8))
    pixels = torch.rand(4, 1, 8, 8)
    together = network("both").each(pixels).unbind(1)
    for module, logits in zip(alone, together, strict=True):
        torch.testing.assert_close(module(pixels), logits)
