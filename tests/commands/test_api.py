"""The commands as functions."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import write_configs

import pipeline
from pipeline.problems import BadInput


def test_a_notebook_loads_runs_and_reads_a_grid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_configs(tmp_path / "configs")
    (tmp_path / "dark.py").write_text(
        "from tasks.defenses.base import Defense\n\n\nclass Dark(Defense):\n"
        "    share: float = 0.5\n\n"
        "    def transform(self, pixels, rows, context):\n        return pixels * self.share\n"
    )
    session = pipeline.load_grid(
        "tiny", add=["defense=dark.py"], only=["attack=clean", "defense=[dn]*"], images=40
    )
    before = pipeline.results(session)
    assert before["missing"].to_list() == ["not computed"] * 12
    finished = pipeline.run(session, inline=True, progress=False)
    assert not finished.missing
    assert finished.computed["score"] == 2
    frame = pipeline.results(session)
    known = frame.filter(frame["missing"].is_null())
    assert known.select("attack", "defense", "images").rows() == [
        ("clean", "none", 40),
        ("clean", "dark", 40),
    ]
    assert known["accuracy"].is_between(5, 100).all()
    assert pipeline.run(session, inline=True, progress=False).computed == {}
    assert pipeline.run(session, inline=True, progress=False, force=True).computed["defend"] == 2


def test_what_does_not_fit_is_one_line_here_too(tmp_path: Path) -> None:
    write_configs(tmp_path)
    with pytest.raises(BadInput, match="no grid named 'tinny'; did you mean 'tiny'"):
        pipeline.load_grid("tinny", configs=[tmp_path])
    with pytest.raises(BadInput, match="--add guo: expected KEY=NAME"):
        pipeline.load_grid("tiny", configs=[tmp_path], add=["guo"])
    with pytest.raises(AttributeError, match="no attribute 'rum'"):
        pipeline.rum  # noqa: B018
