"""Figures: what they show, that equal data give equal bytes, and what a table's key may say."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import torch
from made_up import make_facts, make_grid
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from tiny import Tiny, write_configs

from pipeline.catalogue.catalogue import Catalogue
from pipeline.catalogue.grid_entries import FigureEntry
from pipeline.catalogue.paper import Published
from pipeline.execution.settings import KindSettings
from pipeline.execution.work.inputs import NodeInputs
from pipeline.grid.builder import load_grid
from pipeline.grid.cells import Grid
from pipeline.problems import BadInput
from pipeline.report.formats.figures.pictures import draw_pictures
from pipeline.report.formats.figures.sweeps import draw_sweep
from pipeline.report.paper import Reference, references
from pipeline.report.scores import Scores
from pipeline.report.views.pictures import Artifacts, NoPicture, Picture, pictures
from pipeline.report.views.sweeps import Curve, Point, Sweep, sweep
from pipeline.report.views.table_rows import views
from pipeline.report.writer import write_report
from tasks.data.arrays import Outcomes

NINE = tuple(map(float, range(1, 10)))
LONG = (*NINE, 12.0, 15.0, 20.0, 30.0, 50.0, 99.0)

GRID = """
epsilon: 40
images: 520
redraws: 1
tables:
  - name: picture
    models: [mixed]
    attacks: [pgd]
    figure: {probabilities: true}
    defenses:
      - none
      - {label: '+Pertb(0)', use: counter, set: {labels: [0]}}
      - {label: '+Pertb(7)', use: counter, set: {labels: [7]}}
  - name: unattacked
    models: [mixed]
    attacks: [clean]
    defenses: [none]
  - name: by/size
    title: By step size
    models: [mixed]
    attacks: [pgd]
    figure: {x: step_size}
    defenses:
      - {label: 'counter[10]', use: counter, set: {step_size: 10}}
      - counter
      - none
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A grid with both kinds of figure, computed once."""
    folder = tmp_path_factory.mktemp("figures")
    configs = write_configs(folder / "configs", {"grids/tiny.yaml": GRID})
    tiny = Tiny(configs, folder / "store")
    _, finished = tiny.run()
    assert not finished.missing
    return tiny


def swept_grid() -> tuple[Grid, Scores]:
    """Step sizes 2, 4 (under its plain name) and 6, of which 4 is published."""
    base = make_grid(("clean",), models=("demo-iat",))
    cells = {cell.defense: cell for cell in base.cells}
    sizes = {"c[6]": 6.0, "counter": 4.0, "c[2]": 2.0}
    swept = tuple(
        dataclasses.replace(
            cells["counter"],
            defense=label,
            defense_spec=cells["counter"].defense_spec.model_copy(update={"step_size": size}),
        )
        for label, size in sizes.items()
    )
    table = dataclasses.replace(
        base.tables[0], defenses=(*sizes, "none"), figure=FigureEntry(x="step_size")
    )
    grid = Grid("demo", "The demo", (*swept, cells["none"]), (table,))
    facts = {cell.name: make_facts(50 + place) for place, cell in enumerate(grid.cells)}
    numbers = {("demo-iat", "clean", "counter"): Published(70.0, False, ("table4",))}
    return grid, Scores(facts, published=references(grid.cells, numbers, grid.cells))


def make_sweep(*, published: bool = True, panels: int = 1) -> Sweep:
    _, scores = swept_grid()
    one: Reference = scores.published["demo-iat/clean/counter"]
    curves = [
        Curve(
            f"cifar{panel}",
            f"model{panel}-{model}",
            attack,
            tuple(
                Point(
                    x,
                    10 + 30 * panel + 10 * model + (attack == "targeted"),
                    (5 + 30 * panel, 15 + 30 * panel),
                    one if published and x == 9 else None,
                )
                for x in (LONG if panel else NINE)
            ),
        )
        for panel in range(panels)
        for model in range(2)
        for attack in ("untargeted", "targeted")
    ]
    return Sweep("Accuracy by labels", "class labels, N", tuple(curves))


def make_picture(channels: int = 3) -> Picture:
    clean = np.full((8, 8, channels), 0.5, dtype=np.float32)
    change = np.float32(8 / 255) * np.where(np.arange(8) % 2, 1, -1).astype(np.float32)
    attacked = clean + change[None, :, None]
    answers = np.eye(10, dtype=np.float32)
    return Picture("model", "pgd", 3, 2, clean, attacked, answers[2], {"none": answers[5]})


def test_a_sweep_has_its_points_by_the_parameter_and_the_published_one_marked():
    grid, scores = swept_grid()
    (view,) = views(grid, scores)
    found = sweep(view, grid)
    assert found is not None
    assert found.quantity == "step size, α (1/255 of the pixel range)"
    (curve,) = found.curves
    assert [(point.x, point.accuracy) for point in curve.points] == [(2, 52), (4, 51), (6, 50)]
    assert [point.x for point in curve.points if point.reference] == [4]
    assert curve.points[0].interval == (47.0, 57.25)


def test_a_table_without_the_key_and_one_without_scores_have_no_curves():
    grid, scores = swept_grid()
    bare = dataclasses.replace(grid.tables[0], figure=None)
    (view,) = views(dataclasses.replace(grid, tables=(bare,)), scores)
    assert sweep(view, grid) is None
    (view,) = views(grid, Scores({}))
    assert sweep(view, grid) is None


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_equal_data_are_drawn_as_equal_bytes(tmp_path: Path, kind: str):
    for place in ("one", "two"):
        draw_sweep(make_sweep(), tmp_path / f"{place}-sweep", kind)
        draw_pictures([make_picture()], tmp_path / f"{place}-picture", kind)
    for what in ("sweep", "picture"):
        one = (tmp_path / f"one-{what}").read_bytes()
        assert one == (tmp_path / f"two-{what}").read_bytes()
        assert b"<dc:date>" not in one


def test_each_curve_has_a_colour_and_mark_of_its_own_and_no_other_points(
    tmp_path: Path, drawn: list[Figure]
):
    draw_sweep(make_sweep(), tmp_path / "sweep.svg", "svg")
    (axes,) = drawn[0].axes
    lines = [line for line in axes.get_lines() if line.get_linestyle() != "None"]
    manners = {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in lines}
    assert len(manners) == len(lines) == 4
    marks = [line for line in axes.get_lines() if line.get_linestyle() == "None"]
    assert [tuple(np.ravel(line.get_xydata())) for line in marks] == [(9.0, 70.0)] * 4
    assert {(line.get_color(), line.get_marker()) for line in marks} == {
        (line.get_color(), line.get_marker()) for line in lines
    }
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[-1] == "published (Table 4), in its curve's colour and shape"
    assert len(axes.collections) == 4  # a band a curve
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("class labels, N", "accuracy (% of images)")


def curve_of(model: str, defense: str) -> Curve:
    return Curve("cifar10", model, "quick", (Point(1, 50, None), Point(2, 60, None)), defense)


@pytest.mark.parametrize(
    ("curves", "heading", "labels"),
    [
        ([("net", "counter"), ("net", "xie")], "cifar10: net, quick", ["counter", "xie"]),
        ([("net", "xie"), ("other", "xie")], "cifar10: quick, xie", ["net", "other"]),
        ([("net", "xie")], "cifar10", ["net, quick, xie"]),
    ],
)
def test_what_all_curves_share_is_told_once(
    tmp_path: Path,
    drawn: list[Figure],
    curves: list[tuple[str, str]],
    heading: str,
    labels: list[str],
):
    shown = Sweep("Accuracy", "draws", tuple(curve_of(*each) for each in curves))
    draw_sweep(shown, tmp_path / "sweep.svg", "svg")
    (axes,) = drawn[0].axes
    assert axes.get_title() == heading
    assert [text.get_text() for text in axes.get_legend().get_texts()] == labels


def test_a_defense_has_one_colour_in_all_figures_of_a_report_and_curves_differ_in_it(
    tmp_path: Path, drawn: list[Figure]
):
    order = tuple("abcdefgh")  # the eighth has the colour of the first

    def colours(*curves: Curve) -> list[object]:
        draw_sweep(Sweep("Accuracy", "draws", curves, order), tmp_path / "sweep.svg", "svg")
        return [line.get_color() for line in drawn[-1].axes[0].get_lines()]

    first, second = colours(curve_of("net", "b"), curve_of("net", "c"))
    assert colours(curve_of("net", "a"), curve_of("net", "c"))[1] == second
    assert colours(curve_of("net", "c"), curve_of("net", "b")) == [second, first]
    for curves in (("net", "a"), ("net", "h")), (("net", "b"), ("other", "b")):
        assert len(set(colours(*(curve_of(*each) for each in curves)))) == 2


def test_nothing_is_said_of_published_points_where_there_are_none(
    tmp_path: Path, drawn: list[Figure]
):
    draw_sweep(make_sweep(published=False), tmp_path / "sweep.png", "png")
    labels = [text.get_text() for text in drawn[0].axes[0].get_legend().get_texts()]
    assert not [label for label in labels if "published" in label]


def test_panels_share_an_axis_that_shows_all_of_both(tmp_path: Path, drawn: list[Figure]):
    draw_sweep(make_sweep(panels=2), tmp_path / "sweep.png", "png")
    first, second = drawn[0].axes
    low, high = second.get_ylim()
    assert first.get_ylim() == (low, high)
    assert low < 5
    assert high > 70
    assert second.get_xscale() == "log"
    ticks = second.get_xticks()
    assert {1.0, 9.0, 99.0} <= set(ticks)


def test_nothing_of_a_figure_overlaps_or_is_cut(tmp_path: Path, drawn: list[Figure]):
    draw_sweep(make_sweep(panels=2), tmp_path / "sweep.png", "png")
    (figure,) = drawn
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    boxes = []
    for axes in figure.axes:
        texts = [axes.xaxis.label, axes.title, *axes.get_legend().get_texts()]
        texts += [tick for tick in axes.get_xticklabels() if tick.get_text()]
        boxes += [text.get_window_extent(renderer) for text in texts]
    for place, box in enumerate(boxes):
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1
        assert not any(box.overlaps(other) for other in boxes[:place])


def test_several_pictures_stand_below_each_other_with_their_headings_whole(
    tmp_path: Path, drawn: list[Figure]
):
    draw_pictures([make_picture(), make_picture(1)], tmp_path / "picture.png", "png")
    (figure,) = drawn
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    shown = [axes.get_window_extent() for axes in figure.axes]
    headings = [axes.title.get_window_extent(canvas.get_renderer()) for axes in figure.axes]
    assert len(shown) == 6
    for heading in headings:
        assert heading.y1 <= figure.bbox.y1
        assert not any(heading.overlaps(image) for image in shown)


def test_a_perturbation_is_magnified_to_half_the_range_around_grey(
    tmp_path: Path, drawn: list[Figure]
):
    picture = make_picture()
    assert picture.perturbation.times == 15
    draw_pictures([picture], tmp_path / "picture.png", "png")
    shown = drawn[0].axes[2].images[0].get_array()
    assert shown.min() == pytest.approx(0.5 - 15 * 8 / 255, abs=1e-4)
    assert shown.max() == pytest.approx(0.5 + 15 * 8 / 255, abs=1e-4)
    headings = [axes.get_title() for axes in drawn[0].axes]
    assert headings[0] == "clean\nseen as class 2 (1.00)"
    assert headings[1] == "pgd\nseen as class 5 (1.00)"
    assert "15 times" in headings[2]


def test_grey_images_are_drawn_grey(tmp_path: Path):
    draw_pictures([make_picture(1)], tmp_path / "picture.png", "png")
    pixels = np.asarray(Image.open(tmp_path / "picture.png").convert("RGB")).astype(int)
    assert (pixels.max(axis=2) - pixels.min(axis=2)).max() == 0


def test_the_picture_is_the_first_image_that_the_attack_turns(done: Tiny):
    session = done.session()
    artifacts = Artifacts(session.store, session.scores)
    view = views(session.grid, Scores(session.facts()))[0]
    (picture,) = pictures(view, session.grid, artifacts)

    def outcomes(name: str) -> Outcomes:
        node = session.scores[name].parent("shard0")
        inputs = NodeInputs(
            node, session.store, KindSettings(), torch.device("cpu"), lambda _: None
        )
        return inputs.outcomes(node)

    clean, attacked = outcomes("mixed/clean/none"), outcomes("mixed/pgd/none")
    turned = clean.correct[:, 0] & ~attacked.correct[:, 0]
    assert picture.place == int(turned.nonzero()[0])
    assert picture.label == int(attacked.labels[picture.place])
    assert list(picture.answers) == ["none", "+Pertb(0)", "+Pertb(7)"]
    assert picture.clean_answer is not None
    assert picture.clean_answer.argmax() == picture.label != picture.answers["none"].argmax()
    assert picture.clean.shape == picture.adversarial.shape == (8, 8, 1)
    assert 0 < picture.largest_change <= 40 / 255 + 1e-6


def test_a_report_embeds_its_figures_and_tells_the_rule(done: Tiny, tmp_path: Path):
    session = done.session()
    artifacts = Artifacts(session.store, session.scores)
    page = write_report(session.grid, Scores(session.facts()), tmp_path, {}, artifacts)
    text = page.with_name("README.md").read_text("utf-8")
    for name in ("picture", "by-size"):
        assert f"]({name}.png)" in text
        assert f"]({name}.svg)" in text
        with Image.open(page.parent / f"{name}.png") as image:
            assert image.size[0] > 600
        ET.parse(page.parent / f"{name}.svg")  # noqa: S314  made above
    assert "gets right when clean and wrong under the attack: image" in text
    assert "| class | clean | adversarial | +Pertb(0) | +Pertb(7) |" in text
    (true,) = [line for line in text.splitlines() if "(true)" in line]
    assert "**" in true.split("|")[2]
    lines = (page.parent / "picture-probabilities.csv").read_text("utf-8").splitlines()
    assert len(lines) == 1 + 4 * 10
    assert lines[0] == "model,attack,image,seen,class,is_true_class,probability"


def test_a_picture_without_its_tensors_is_told_of_and_the_report_is_written(
    done: Tiny, tmp_path: Path
):
    session = done.session()
    scores = Scores(session.facts())
    empty = Artifacts(type(session.store)(tmp_path / "empty"), session.scores)
    with pytest.raises(NoPicture, match=r"defend [0-9a-f]{12}: is not in this store"):
        pictures(views(session.grid, scores)[0], session.grid, empty)
    page = write_report(session.grid, scores, tmp_path / "reports", {}, empty)
    assert "The figure is not drawn: defend" in page.read_text("utf-8")
    assert not (page.parent / "picture.png").exists()
    assert (page.parent / "by-size.png").exists()


@pytest.mark.parametrize(
    ("figure", "said"),
    [
        ("{x: stepsize}", "x: counter has no 'stepsize'; did you mean 'step_size'?"),
        ("{x: draws, of: gou}", "of: no kind of defense 'gou'; did you mean 'guo'?"),
        ("{}", "give either x, a parameter to draw against, or probabilities: true"),
        ("{x: draws, probabilities: true}", "give either x"),
    ],
)
def test_a_figure_that_cannot_be_drawn_is_refused_where_it_stands(
    tmp_path: Path, figure: str, said: str
):
    text = GRID.replace("{x: step_size}", figure)
    folder = write_configs(tmp_path, {"grids/tiny.yaml": text})
    with pytest.raises(BadInput) as caught:
        load_grid(Catalogue([folder]), "tiny")
    assert said in str(caught.value)
    assert "tiny.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_swept_parameter_of_a_chain_is_that_of_its_part():
    grid, _ = swept_grid()
    base = make_grid(("clean",), models=("demo-iat",))
    chain = next(cell for cell in base.cells if cell.defense == "counter+guo")
    table = dataclasses.replace(grid.tables[0], defenses=("counter+guo",))
    alone = Grid("demo", "", (chain,), (table,))
    (view,) = views(alone, Scores({chain.name: make_facts(40.0)}))
    found = sweep(view, alone)
    assert found is not None
    assert [point.x for point in found.curves[0].points] == [4.0]
