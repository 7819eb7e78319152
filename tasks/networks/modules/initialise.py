"""Initial weights, a function of a seed and nothing else."""

from __future__ import annotations

import math

import torch
from torch import nn

from tasks.data.seeding import Rows


def initialise(module: nn.Module, seed: int) -> None:
    """Set every weight in place, from a random stream named after the weight.

    Convolutions are normal with variance 2 / fan-out (He et al., ICCV 2015), linear layers normal
    with variance 1 / fan-in. Batch norms have scale 1 and shift 0; biases are 0.
    """
    only = torch.zeros(1, dtype=torch.int64)
    rows = Rows(seed=seed, images=only, draws=only, _scope="weights")
    with torch.no_grad():
        for name, child in module.named_modules():
            if isinstance(child, nn.Conv2d | nn.Linear):
                weight = child.weight
                if isinstance(child, nn.Conv2d):
                    area = weight[0, 0].numel()
                    deviation = math.sqrt(2.0 / (child.out_channels * area))
                else:
                    deviation = math.sqrt(1.0 / child.in_features)
                normal = rows.normal(name, weight.numel()).reshape(weight.shape)
                weight.copy_(deviation * normal)
                if child.bias is not None:
                    child.bias.zero_()
            elif isinstance(child, nn.BatchNorm2d):
                child.reset_parameters()
