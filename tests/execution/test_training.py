"""What the record of a training says about it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import Tiny, write_configs

from pipeline.store.records import Record

RECIPE = "method: mixup\ncrop_padding_px: 1\nflip: false\n"


def trained(tiny: Tiny) -> Record:
    _, finished = tiny.run(only=["cell=mixed/clean/none"], images=40)
    assert not finished.missing
    session = tiny.session(only=["cell=mixed/clean/none"], images=40)
    record = session.record(session.scores["mixed/clean/none"].parent("shard0").parent("model"))
    assert record is not None
    return record


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        (
            "epochs: 2\n",
            "the learning rate stays at 0.01, since the first milestone (100) is not before",
        ),
        ("epochs: 2\nmilestones: [1]\n", None),
        ("epochs: 2\nmilestones: []\n", None),
    ],
)
def test_a_schedule_that_never_lowers_the_rate_is_noted(
    tmp_path: Path, schedule: str, said: str | None
) -> None:
    configs = write_configs(tmp_path / "configs", {"recipes/short.yaml": RECIPE + schedule})
    notes = trained(Tiny(configs, tmp_path / "store")).how.get("said", [])
    assert len(notes) == (said is not None)
    assert said is None or said in notes[0]
