"""Makes `before.tar.xz`: configs, images, a defense, and the store of a run by this program.

    python tests/upgrade/make.py tests/upgrade/before.tar.xz

`before.tar.xz` was made at the commit before `docs/upgrade.md` and is never made again: it stands
for the files of someone who upgrades. Images are 4x4 pixels; a network of two channels has
random weights, since nobody asks for its accuracy.
"""

from __future__ import annotations

import io
import json
import os
import platform
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

CLASSES = {"letters": ("a", "b", "c"), "numbers": ("1", "2", "10")}
BRIGHTEN = '''"""A defense of one's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.defenses.base import Defense

if TYPE_CHECKING:
    from torch import Tensor


class Brighten(Defense):
    by: float = 0.1

    def deterministic(self, classes: int) -> bool:
        return True

    def transform(self, pixels: Tensor, context, rows) -> Tensor:
        return (pixels + self.by).clamp(0, 1)
'''
MODEL = (
    "dataset: {data}\nnetwork: {{kind: small, width: 2}}\n"
    "checkpoint: {{file: ../../{weights}.pt}}\n"
)
DATA = "kind: {kind}\nclasses: 3\nchannels: 3\nside_px: 4\nfolder: ../../{folder}\n"
CONFIGS = {
    "datasets/letters.yaml": DATA.format(kind="folder", folder="letters"),
    "datasets/numbers.yaml": DATA.format(kind="folder", folder="numbers"),
    "datasets/arrays.yaml": DATA.format(kind="npz", folder="arrays"),
    "datasets/tables.yaml": DATA.format(kind="parquet", folder="tables"),
    "datasets/masks.yaml": DATA.format(kind="parquet", folder="masks"),
    **{
        f"models/of-{data}.yaml": MODEL.format(data=data, weights="weights")
        for data in ("letters", "numbers", "arrays", "tables", "masks")
    },
    "models/averaged.yaml": MODEL.format(data="letters", weights="averaged"),
    "attacks/clean.yaml": "kind: clean\n",
    "attacks/pgd.yaml": "kind: pgd\nsteps: 1\n",
    "defenses/none.yaml": "kind: none\n",
    "defenses/brighten.py": BRIGHTEN,
    "grids/mine.yaml": (
        "epsilon: 8\ntables:\n  - name: main\n"
        "    models: [of-letters, of-numbers, of-arrays, of-tables, averaged]\n"
        "    attacks: [clean]\n    defenses: [none]\n"
        "  - name: attacked\n    models: [of-letters]\n    attacks: [clean, pgd]\n"
        "    defenses: [none, brighten]\n"
    ),
    "grids/masks.yaml": (
        "epsilon: 8\ntables:\n  - name: main\n"
        "    models: [of-masks]\n    attacks: [clean]\n    defenses: [none]\n"
    ),
    "settings.yaml": "device: cpu\n",
}


def image(row: int) -> np.ndarray:
    """uint8 [4, 4, 3], of its own for each row."""
    return np.random.default_rng(row).integers(0, 256, (4, 4, 3), dtype=np.uint8)


def png(row: int) -> bytes:
    """An encoded image."""
    buffer = io.BytesIO()
    Image.fromarray(image(row)).save(buffer, "PNG")
    return buffer.getvalue()


def write_inputs(folder: Path) -> None:
    """Configs, images in folders, arrays and tables, and weights."""
    for name, text in CONFIGS.items():
        (folder / "configs" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "configs" / name).write_text(text, encoding="utf-8")
    for split, start in (("train", 0), ("test", 3)):
        for name, classes in CLASSES.items():
            for label, each in enumerate(classes):
                place = folder / name / split / each
                place.mkdir(parents=True)
                (place / "0.png").write_bytes(png(start + label))
        (folder / "arrays").mkdir(exist_ok=True)
        images = np.stack([image(start + row) for row in range(3)])
        np.savez_compressed(folder / "arrays" / f"{split}.npz", images=images, labels=np.arange(3))
        for name, columns in (("tables", ("image",)), ("masks", ("mask", "image"))):
            (folder / name).mkdir(exist_ok=True)
            kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
            rows = [{"bytes": png(start + row), "path": None} for row in range(3)]
            table = {column: pa.array(rows, kind) for column in columns}
            table["label"] = pa.array(range(3), pa.int64())
            pq.write_table(pa.table(table), folder / name / f"{split}-00000-of-00001.parquet")
    from tasks.networks.small import Small

    own, averaged = (Small(width=2).build(3, 4, 3, seed=seed).state_dict() for seed in (0, 1))
    torch.save(own, folder / "weights.pt")
    torch.save({"state_dict": own, "state_dict_ema": averaged}, folder / "averaged.pt")


def run(folder: Path) -> dict[str, object]:
    """The facts of the cells that a run of both grids scores, in a store beside the configs."""
    from pipeline import load_grid
    from pipeline import run as compute

    found: dict[str, object] = {}
    os.environ.update(XDG_CACHE_HOME=str(folder.parent / "cache"), LOGNAME="someone")
    platform.node = lambda: "somewhere"
    sys.argv = ["pipeline"]
    for name in ("mine", "masks"):
        grid = load_grid(name, store=folder / "store", configs=[folder / "configs"])
        finished = compute(grid, inline=True, progress=False)
        assert not finished.missing, finished.missing
        scores = {cell: node.digest for cell, node in grid.scores.items()}
        found[name] = {"facts": finished.scored, "scores": scores}
    return found


def main(target: Path) -> None:
    """Write the archive."""
    torch.set_num_threads(1)
    with TemporaryDirectory() as scratch:
        folder = Path(scratch) / "home"
        write_inputs(folder)
        (folder / "scored.json").write_text(json.dumps(run(folder), indent=1), encoding="utf-8")
        with tarfile.open(target, "w:xz", preset=9) as archive:
            archive.add(folder, ".")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
