"""What the record of a training says about it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny import Tiny, write_configs

from pipeline.catalogue.devices import cpu_name
from pipeline.execution.events import Observers
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


def test_a_training_that_was_resumed_on_another_device_names_both(tmp_path: Path) -> None:
    tiny = Tiny(write_configs(tmp_path / "configs"), tmp_path / "store")
    session = tiny.session(only=["cell=mixed/clean/none"], images=40)
    session.store.prepare()
    session.run(Observers([]), inline=True, address=None, workers=None, forced=set(), until=0.0)
    (state,) = tiny.store.glob("partial/*/facts.json")
    facts = json.loads(state.read_text())
    assert facts["devices"] == [cpu_name()]
    state.write_text(json.dumps(facts | {"devices": ["NVIDIA H200"]}))
    assert trained(tiny).how["device"] == f"NVIDIA H200, then {cpu_name()}"
