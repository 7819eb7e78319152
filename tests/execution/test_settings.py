"""Settings: how nodes run, read strictly, and never part of a digest."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.execution.settings import KindSettings, Settings, read_settings
from pipeline.grid.kinds import NODE_KINDS
from pipeline.problems import BadInput
from tasks.specs import Spec

SHIPPED = Path(__file__).parents[2] / "configs" / "settings.yaml"


def test_the_shipped_settings_are_read() -> None:
    settings = read_settings(SHIPPED)
    assert settings.device == "auto"
    assert settings.kinds.keys() <= set(NODE_KINDS)


def test_a_kind_that_is_not_named_has_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("kinds:\n  craft: {threads: 2, batch_size: 7}\n")
    settings = read_settings(path)
    assert settings.of("craft") == KindSettings(threads=2, batch_size=7)
    assert settings.of("defend") == KindSettings()


def test_settings_are_no_specs_so_no_digest_can_hold_them() -> None:
    assert not issubclass(Settings, Spec)
    assert not issubclass(KindSettings, Spec)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("device: gpu\n", "1: device: input should be 'auto', 'cpu' or 'cuda', got 'gpu'"),
        ("attempts: 0\n", "1: attempts: input should be greater than or equal to 1, got 0"),
        ("atempts: 3\n", "1: atempts: unknown key; did you mean 'attempts'?"),
        ("kinds:\n  crft: {}\n", "2: kinds.crft: unknown kind of node; did you mean 'craft'?"),
        (
            "kinds:\n  craft:\n    thread: 1\n",
            "3: kinds.craft.thread: unknown key; did you mean 'threads'?",
        ),
        (
            "kinds:\n  craft: {gpus: -0.5}\n",
            "2: kinds.craft.gpus: input should be greater than or equal to 0, got -0.5",
        ),
        ("kinds:\n  craft: 3\n", "2: kinds.craft: input should be a valid dictionary"),
        ("kinds: ~\n", "1: kinds: input should be a valid dictionary, got None"),
    ],
)
def test_what_does_not_fit_is_told_with_line_place_and_suggestion(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(BadInput) as raised:
        read_settings(path)
    assert str(raised.value).startswith(f"{path}:{message}")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such file"):
        read_settings(tmp_path / "none.yaml")
