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
    gains = dict(known.select("defense", "gain").rows())
    assert gains["none"] is None  # it is compared with nothing
    assert known["all_attacks"].to_list() == [None, None]  # nothing attacked it
    assert pipeline.run(session, inline=True, progress=False).computed == {}
    assert pipeline.run(session, inline=True, progress=False, force=True).computed["defend"] == 2


def test_a_notebook_sees_what_others_computed_or_removed_since_its_own_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_configs(tmp_path / "configs")
    one, other = (
        pipeline.load_grid("tiny", only=[f"cell=mixed/clean/{name}"], images=20)
        for name in ("none", "guo")
    )

    def known() -> set[str]:
        frame = pipeline.results(one)
        return set(frame.filter(frame["missing"].is_null())["defense"])

    pipeline.run(one, inline=True, progress=False)
    assert known() == {"none"}
    pipeline.run(other, inline=True, progress=False)
    assert known() == {"none", "guo"}
    one.store.set_aside("score", one.scores["mixed/clean/none"].digest)
    assert known() == {"guo"}


def test_a_notebook_shows_its_functions_and_a_grid_in_five_lines(tmp_path: Path) -> None:
    assert dir(pipeline) == ["__version__", "load_grid", "results", "run"]
    write_configs(tmp_path)
    session = pipeline.load_grid(
        "tiny", configs=[tmp_path], store=tmp_path / "store", only=["defense=none"]
    )
    assert repr(session).splitlines() == [
        "grid tiny",
        "2 of 10 cells: 1 model, 2 attacks, 1 defense on digits",
        "tables: main",
        f"store: {tmp_path / 'store'}",
        "pipeline.run(session) computes what is missing, pipeline.results(session) has it",
    ]
    for package in ("pipeline", "tasks"):
        assert (Path(pipeline.__file__).parents[1] / package / "py.typed").is_file()


def test_results_have_swept_parameters_gains_and_what_all_attacks_leave_as_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    grid = (
        "epsilon: 40\nimages: 40\nredraws: 1\ntables:\n  - name: main\n    models: [mixed]\n"
        "    attacks: [clean, pgd]\n    defenses: [none, guo]\n    gains_over: none\n"
        "    sweep: {guo.draws: [1, 3]}\n"
    )
    write_configs(tmp_path / "configs", {"grids/tiny.yaml": grid})
    session = pipeline.load_grid("tiny")
    pipeline.run(session, inline=True, progress=False)
    frame = pipeline.results(session)
    rows = {(row["attack"], row["defense"]): row for row in frame.to_dicts()}
    swept = {key: row["guo.draws"] for key, row in rows.items() if key[0] == "pgd"}
    assert swept == {
        ("pgd", "none"): None, ("pgd", "guo[draws=1]"): 1, ("pgd", "guo[draws=3]"): 3
    }  # fmt: skip
    one = rows["pgd", "guo[draws=1]"]
    assert one["gain"] == pytest.approx(one["accuracy"] - rows["pgd", "none"]["accuracy"])
    # image by image, so no more than the least of both columns
    for defense in ("none", "guo[draws=1]", "guo[draws=3]"):
        both = [rows[attack, defense]["accuracy"] for attack in ("clean", "pgd")]
        assert rows["clean", defense]["all_attacks"] == rows["pgd", defense]["all_attacks"]
        assert rows["pgd", defense]["all_attacks"] <= min(both) + 1e-9


def test_what_does_not_fit_is_one_line_here_too(tmp_path: Path) -> None:
    write_configs(tmp_path)
    with pytest.raises(BadInput, match="no grid named 'tinny'; did you mean 'tiny'"):
        pipeline.load_grid("tinny", configs=[tmp_path])
    with pytest.raises(BadInput, match="--add guo: expected KEY=NAME"):
        pipeline.load_grid("tiny", configs=[tmp_path], add=["guo"])
    with pytest.raises(BadInput, match=r"only='attack=clean': expected a list, such as \['attack"):
        pipeline.load_grid("tiny", configs=[tmp_path], only="attack=clean")
    with pytest.raises(BadInput, match="no key 'defence'; did you mean 'defense'"):
        pipeline.load_grid("tiny", configs=[tmp_path], add=["defence=x.py"])
    with pytest.raises(AttributeError, match="no attribute 'rum'"):
        pipeline.rum  # noqa: B018
