"""Whether cost grows with the number of images alone: time an image, and a worker's memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from harness import Comparison

from pipeline.execution.work.memory import keep_freed_memory
from tasks.attacks.pgd import PGD
from tasks.classifier.frozen import Frozen
from tasks.data.arrays import Crafted, Images, as_float
from tasks.defenses.base import Context
from tasks.defenses.guo import Guo
from tasks.evaluation.craft import craft
from tasks.evaluation.defend import defend
from tasks.evaluation.specs import CraftSpec, DefendSpec
from tasks.networks.small import Small
from tasks.progress import silent
from tasks.specs import Problem, Shard

FEW, MANY = 250, 4_000
BATCH = 250
PROBLEM = Problem(epsilon=8.0, classes=10, side=32, pool=1000)
MEGA = 2**20


def comparisons(device: str) -> Iterator[Comparison]:
    """The same images as shards of 250 and as one shard of 4,000."""
    context = Context(classifier=_classifier(device))
    for name, work in (("craft", _craft), ("defend", _defend)):
        calls: dict[str, Callable[[], object]] = {
            f"{MANY // FEW} shards of {FEW}": partial(_shards, work, context, FEW),
            f"one shard of {MANY:,}": partial(_shards, work, context, MANY),
        }
        yield Comparison(
            name=f"linear-{name}",
            what=f"{name}, a small network, {MANY:,} images of 32 × 32",
            amount=MANY,
            unit="images",
            contenders=calls,
            ours=(f"one shard of {MANY:,}",),
            beside=f"{MANY // FEW} shards of {FEW}",
            told=[_memory(name, device)],
        )


def _shards(
    work: Callable[[Images, Context], object], context: Context, size: int, count: int = MANY
) -> None:
    images = _images()
    for start in range(0, count, size):
        work(images[start : start + size], context)


def _craft(images: Images, context: Context) -> None:
    spec = CraftSpec(
        attack=PGD(epsilon=8.0, step_size=2.0, steps=3),
        seed=0,
        precision="float32",
        shard=_shard(images),
    )
    craft(images, context, spec, batch_size=BATCH)


def _defend(images: Images, context: Context) -> None:
    none = torch.full_like(images.labels, -1)
    examples = Crafted(as_float(images.pixels), images.labels, images.ids, none)
    spec = DefendSpec(
        defense=Guo(draws=5).resolved(PROBLEM),
        seed=0,
        redraws=1,
        precision="float32",
        shard=_shard(images),
    )
    defend(examples, context, spec, batch_size=BATCH, tell=silent)


def _shard(images: Images) -> Shard:
    return Shard(start=int(images.ids[0]), stop=int(images.ids[-1]) + 1)


def _classifier(device: str) -> Frozen:
    module = Small().build(3, 32, 10, seed=0)
    return Frozen(module, classes=10, device=device)


def _images() -> Images:
    drawn = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (MANY, 3, 32, 32), generator=drawn, dtype=torch.uint8)
    return Images(pixels, torch.arange(MANY) % 10, torch.arange(MANY), 10)


def _memory(name: str, device: str) -> str:
    """The peaks of processes of their own, as workers are: one shard, many shards, a large one."""
    done = {
        f"a shard of {FEW}": (FEW, FEW),
        f"{MANY // FEW} shards of {FEW}, one after the other": (MANY, FEW),
        f"one shard of {MANY:,}": (MANY, MANY),
    }
    peaks = [
        f"{_peak(name, count, size, device):,.0f} MiB for {what}"
        for what, (count, size) in done.items()
    ]
    own = MANY * 3 * 32 * 32 * 4 / MEGA
    return (
        f"peak memory of a process: {', '.join(peaks)} "
        f"({MANY:,} images are {own:,.0f} MiB as float32)"
    )


def _peak(name: str, count: int, size: int, device: str) -> float:
    """MiB."""
    command = [sys.executable, str(Path(__file__)), name, str(count), str(size), device]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout) / MEGA


def _in_this_process(name: str, count: int, size: int, device: str) -> int:
    """The peak in bytes, once so many images went through in shards of a size."""
    keep_freed_memory()
    work = {"craft": _craft, "defend": _defend}[name]
    _shards(work, Context(classifier=_classifier(device)), size, count)
    # not getrusage, which counts what the parent held when it started this process
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(peak) * 1024


if __name__ == "__main__":
    peak = _in_this_process(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
    sys.stdout.write(str(peak))
