"""What the README shows of a defense of one's own works as it stands there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner

from pipeline.commands.cli import main

README = Path(__file__).parents[2] / "README.md"


def blocks(language: str) -> list[str]:
    """The README's blocks of code in a language, in the section on a defense of one's own."""
    text = README.read_text(encoding="utf-8")
    section = text[text.index("## Judge your own") : text.index("## On a cluster")]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


def test_the_first_table_has_the_numbers_of_the_report_that_it_links_to() -> None:
    text = README.read_text(encoding="utf-8")
    header = text.index("| defense | verdict |")
    *_, report = re.findall(r"\]\((reports/[\w-]+)/README\.md\)", text[:header])
    heading, _, *lines = text[header : text.index("\n\n", header)].splitlines()
    columns = [word.strip() for word in heading.strip("|").split("|")]
    verdicts = pl.read_csv(README.parent / report / "verdicts.csv")
    shown = [
        dict(zip(columns, map(str.strip, line[1:].split("|")), strict=False)) for line in lines
    ]
    assert len(shown) >= 5
    for row in shown:
        model = row.get("network", "cifar10-robust-resnet20")
        defense = row["defense"].strip("`")
        found = verdicts.filter((pl.col("defense") == defense) & (pl.col("model") == model)).row(
            0, named=True
        )
        told, over = [found["verdict"]], found["over_control_low"]
        if found["verdict"] == "holds" and over is not None and over <= 0:
            told.append("no better than flips and crops")
        if found["hides_gradients"]:
            told.append("hides gradients")
        assert row["verdict"].replace("*", "").split(", ") == told
        assert row["clean"].split()[0] == f"{found['clean']:.1f}"
        assert row["replayed"].split()[0] == f"{found['replayed']:.1f}"
        low, high = found["worst_low"], found["worst_high"]
        assert row["worst case"] == f"{found['worst']:.1f} [{low:.0f}, {high:.0f}]"
        gain = [found[name] for name in ("gain", "gain_low", "gain_high")]
        said = [float(word) for word in re.findall(r"[-+]?\d+\.\d", row["gain over bare"])]
        assert said == pytest.approx(gain, abs=0.0501)


@pytest.fixture
def jpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    code = blocks("python")[0]
    (tmp_path / "jpeg.py").write_text(code, encoding="utf-8")
    return code


def test_the_defense_is_six_lines_and_has_its_place_in_every_table(jpeg: str) -> None:
    body = jpeg[jpeg.index("class ") :]
    assert len([line for line in body.splitlines() if line.strip()]) == 6
    judged, command = blocks("bash")
    assert shlex.split(judged) == ["pipeline", "judge", "jpeg.py"]
    words = shlex.split(command)[2:]
    listed = CliRunner().invoke(main, ["list", "cells", *words], catch_exceptions=False)
    cells = set(listed.output.split())
    for defense in ("jpeg", "counter+jpeg"):
        for attack in ("clean", "untargeted-pgd10", "targeted-pgd50", "adaptive-quick"):
            assert f"demo-iat/{attack}/{defense}" in cells


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_readmes_defense_is_judged_obliviously_and_adaptively(
    jpeg: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow_template: Path
) -> None:
    """On 20 images of a model trained for less long; the notebook's lines then read the store."""
    recipe = (README.parent / "configs/recipes/demo-mixup.yaml").read_text(encoding="utf-8")
    (tmp_path / "configs/recipes").mkdir(parents=True)
    shorter = re.sub(r"epochs: \d+", "epochs: 6", recipe)
    (tmp_path / "configs/recipes/demo-mixup.yaml").write_text(shorter, encoding="utf-8")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlflow.db").write_bytes(mlflow_template.read_bytes())
    words = ["run", "--grid", "demo", "--add", "defense=jpeg.py"]
    fewer = ["--inline", "--images", "20", "--only", "model=demo-mixup", "--only", "defense=jpeg"]
    only = ["--only", "attack=untargeted-pgd10", "--only", "attack=adaptive-quick"]
    done = CliRunner().invoke(main, [*words, *fewer, *only], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    example = blocks("python")[1].replace('["attack=untargeted-*"]', '["defense=jpeg"], images=20')
    shown = example.replace("pipeline.run(session)\n", "").replace(
        "frame.select", "shown = frame.select"
    )
    space: dict[str, object] = {}
    exec(shown, space)  # noqa: S102  the README's own lines
    frame = space["shown"]
    assert isinstance(frame, pl.DataFrame)
    known = {
        attack: accuracy
        for model, attack, defense, accuracy, *_ in frame.rows()
        if (model, defense) == ("demo-mixup", "jpeg") and accuracy is not None
    }
    assert known.keys() == {"untargeted-pgd10", "adaptive-quick"}
    assert known["adaptive-quick"] <= known["untargeted-pgd10"]
