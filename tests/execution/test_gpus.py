"""What Ray is asked for on a machine that it believes to have a GPU."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
from tiny import Recorder, write_configs

from pipeline.commands.session import open_session
from pipeline.execution.events import Observers
from pipeline.grid.builder import Overrides

pytestmark = pytest.mark.slow

SPY = """
import json, os, time
from tasks.defenses.base import Defense


class {name}(Defense):
    def transform(self, pixels, rows, context):
        import ray

        if ray.is_initialized():
            began = time.time()
            time.sleep(1.0)
            assigned = ray.get_runtime_context().get_assigned_resources()
            told = [began, time.time(), assigned, os.environ.get("CUDA_VISIBLE_DEVICES")]
            with open({log!r}, "a") as file:
                file.write(json.dumps(told) + "\\n")
        return pixels
"""


def seen_on_ray(
    folder: Path, monkeypatch: pytest.MonkeyPatch, settings: str
) -> list[tuple[float, float, dict[str, float], str | None]]:
    """Run two defenses that note when they work and what Ray gave them; one GPU, two CPUs.

    The GPU is Ray's belief alone, so what is computed is computed on the CPU.
    """
    import ray

    monkeypatch.setattr(ray, "init", partial(ray.init, num_gpus=1))
    log = folder / "seen"
    names = ("first", "second")
    files = {
        f"defenses/{name}.py": SPY.format(name=name.capitalize(), log=str(log)) for name in names
    }
    configs = write_configs(folder / "configs", {**files, "settings.yaml": settings})
    session = open_session(
        "tiny",
        store=folder / "store",
        configs=[configs],
        only=["attack=clean", *(f"defense={name}" for name in names)],
        overrides=Overrides(images=30, add=[("defenses", name) for name in names]),
    )
    session.store.prepare()
    finished = session.run(
        Observers([Recorder()]), inline=False, address=None, workers=2, forced=set()
    )
    assert not finished.missing
    found = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return sorted(found)


def test_a_node_has_the_whole_gpu_to_itself_where_its_kind_asks_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = "device: auto\nkinds:\n  defend: {threads: 1, gpus: 1.0}\n"
    seen = seen_on_ray(tmp_path, monkeypatch, settings)
    assert len(seen) >= 2
    assert all(assigned["GPU"] == 1.0 for _, _, assigned, _ in seen)
    assert {visible for *_, visible in seen} == {"0"}
    ends = [end for _, end, _, _ in seen]
    begins = [begin for begin, *_ in seen]
    assert all(end <= begin for end, begin in zip(ends, begins[1:], strict=False))


def test_a_share_of_a_gpu_is_asked_for_and_none_for_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = "device: auto\nkinds:\n  defend: {threads: 1, gpus: 0.5}\n"
    seen = seen_on_ray(tmp_path / "half", monkeypatch, half)
    assert all(assigned["GPU"] == 0.5 for _, _, assigned, _ in seen)
    assert {visible for *_, visible in seen} == {"0"}
    monkeypatch.undo()
    none = seen_on_ray(tmp_path / "none", monkeypatch, half.replace("auto", "cpu"))
    assert not any("GPU" in assigned for _, _, assigned, _ in none)
