"""MLflow's own pages after a run, in a browser: what its users look for is where they look."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from chromium import chromium
from tiny import write_configs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

PIPELINE = Path(sys.executable).with_name("pipeline")
PATIENCE_MS = 120_000


@dataclass
class Pages:
    """The pages of a database in which there are two invocations, and the ids of its runs.

    printed: the addresses that `pipeline ui` printed, by what they are of.
    """

    web: str
    printed: dict[str, str]
    experiment: str
    runs: dict[str, str]
    parents: list[str]
    tab: Any

    def open(self, place: str) -> None:
        self.open_address(f"{self.web}/#/{place}")

    def open_address(self, address: str) -> None:
        self.tab.goto("about:blank")
        self.tab.goto(address)

    def shows(self, text: str) -> None:
        """Wait for a text to be seen; fails where it never is."""
        self.tab.get_by_text(text, exact=False).first.wait_for(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Path:
    """Of two invocations, the second with a cell computed again; it was moved after them."""
    folder = tmp_path_factory.mktemp("pages") / "before"
    folder.mkdir()
    (folder / "mlflow.db").write_bytes(mlflow_template.read_bytes())
    write_configs(folder / "configs")
    command = [str(PIPELINE), "run", "--grid", "tiny", "--inline", "--quiet"]
    again = ["--only", "cell=mixed/clean/none", "--force"]
    for words in ([], again):
        done = subprocess.run(
            [*command, *words], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    return folder.rename(folder.with_name("moved"))


@pytest.fixture(scope="module")
def pages(folder: Path) -> Iterator[Pages]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    assert "/before/" in client.get_experiment_by_name("tiny").artifact_location
    experiment = client.get_experiment_by_name("tiny").experiment_id
    found = client.search_runs([experiment], max_results=1000)
    parents = [run.info.run_id for run in found if "mlflow.parentRunId" not in run.data.tags]
    runs = {run.info.run_name: run.info.run_id for run in found}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(PIPELINE), "ui", "--port", str(port)]
    said = folder / "said"
    with said.open("wb") as file:
        server = subprocess.Popen(command, cwd=folder, stderr=file)
    web = f"http://127.0.0.1:{port}"
    try:
        wait_for(web, server)
        lines = [line.partition("  ") for line in said.read_text("utf-8").splitlines()]
        printed = {name: address.strip() for name, _, address in lines}
        with chromium() as browser:
            tab = browser.new_page(viewport={"width": 1400, "height": 900})
            tab.set_default_timeout(PATIENCE_MS)
            yield Pages(web, printed, experiment, runs, parents, tab)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=60)


def wait_for(web: str, server: subprocess.Popen[bytes]) -> None:
    while True:
        assert server.poll() is None
        try:
            urllib.request.urlopen(web, timeout=5).close()
        except OSError:
            time.sleep(0.5)
        else:
            return


def test_the_grid_is_an_experiment_with_its_title(pages: Pages) -> None:
    pages.open("experiments")
    pages.shows("tiny")
    pages.shows("made_by")


def test_the_address_that_is_printed_lists_the_cells_with_their_numbers(pages: Pages) -> None:
    pages.open_address(pages.printed["cells"])
    pages.tab.locator("a", has_text="mixed/pgd/counter+guo").first.wait_for()
    grid = pages.tab.locator(".ag-root-wrapper").first.bounding_box()
    seen = [grid["x"]]
    metrics = ["metrics.`accuracy`", "metrics.`all_attacks`"]
    columns = [*metrics, "params.`model`", "params.`attack`", "params.`defense`"]
    for column in columns:
        box = pages.tab.locator(f".ag-header-cell[col-id='{column}']").bounding_box()
        assert seen[-1] < box["x"]
        # wholly in sight, though MLflow opens a panel beside the list on a first visit
        assert box["x"] + box["width"] <= grid["x"] + grid["width"]
        seen.append(box["x"])
    row = pages.tab.locator(".ag-center-cols-container [role=row]").first
    told = [row.locator(f"[col-id='{column}']").inner_text() for column in columns]
    assert all(0 <= float(number.rstrip("…")) <= 100 for number in told[:2])
    assert told[2] == "mixed"
    # neither the parents nor the training are among them
    names = pages.tab.locator("a[href*='/runs/']").all_inner_texts()
    assert {name for name in names if name} <= {name for name in pages.runs if "/" in name}
    # and the menu is that for training models, which MLflow does not go by the experiment for
    assert pages.tab.get_by_text("Model registry", exact=True).is_visible()
    assert pages.tab.get_by_text("Judges", exact=True).count() == 0


def test_charts_open_on_the_accuracy_of_cells_and_nothing_else(pages: Pages) -> None:
    pages.open_address(f"{pages.printed['cells']}&compareRunsMode=CHART")
    area = pages.tab.get_by_test_id("experiment-view-compare-runs-chart-area")
    area.locator("svg.main-svg").first.wait_for()
    titles = area.get_by_test_id("experiment-view-compare-runs-card").all_inner_texts()
    shown = [title.strip().partition("\n")[0] for title in titles]
    assert shown == ["accuracy", "all_attacks"]
    area.get_by_text("Model metrics").wait_for()


def test_the_last_run_is_printed_and_opens_among_the_trainings(pages: Pages) -> None:
    pages.open_address(pages.printed["last run"])
    pages.shows("10 of 10 cells scored")
    pages.shows("all_attacks/mixed/none")
    assert pages.tab.get_by_text("Judges", exact=True).count() == 0


def test_an_invocation_is_one_row_and_its_cells_are_below_it(pages: Pages) -> None:
    pages.open(f"experiments/{pages.experiment}/runs")
    pages.shows("matching runs")
    rows = pages.tab.locator("a[href*='/runs/']")
    rows.first.wait_for(timeout=PATIENCE_MS)
    assert {text for text in rows.all_inner_texts() if text} <= {
        name for name, run in pages.runs.items() if run in pages.parents
    }


def test_a_parent_tells_its_story_with_the_table_of_numbers(pages: Pages) -> None:
    pages.open(f"experiments/{pages.experiment}/runs/{pages.parents[-1]}")
    pages.shows("10 of 10 cells scored")
    pages.shows("accuracy/mixed/clean/none")
    pages.tab.get_by_text("Show more").first.click()
    cells = pages.tab.locator("table td").all_inner_texts()
    assert "counter+guo" in cells


def test_a_cell_tells_its_number_and_the_command_that_computes_it_again(pages: Pages) -> None:
    pages.open(f"experiments/{pages.experiment}/runs/{pages.runs['mixed/pgd/counter+guo']}")
    pages.shows("counter+guo on mixed under pgd, 520 images of digits")
    pages.shows("pipeline run --grid tiny --only cell=mixed/pgd/counter+guo --force")
    pages.shows("interval_low")
    pages.shows("digits")


def test_a_training_has_its_curves(pages: Pages) -> None:
    run = pages.runs["train mixed"]
    pages.open(f"experiments/{pages.experiment}/runs/{run}/model-metrics")
    for curve in ("loss", "accuracy", "learning_rate", "images_per_second"):
        pages.shows(curve)
    pages.tab.locator("svg.main-svg").first.wait_for(timeout=PATIENCE_MS)


def test_a_reports_table_opens_among_the_artifacts_of_a_folder_that_was_moved(pages: Pages) -> None:
    pages.open(f"experiments/{pages.experiment}/runs/{pages.parents[-1]}/artifacts")
    pages.tab.get_by_text("report", exact=True).first.click()
    pages.tab.get_by_text("main.md", exact=True).first.click()
    pages.tab.get_by_text("counter+guo").first.wait_for(timeout=PATIENCE_MS)


def test_two_invocations_can_be_compared_cell_by_cell(pages: Pages) -> None:
    runs, experiments = json.dumps(pages.parents), json.dumps([pages.experiment])
    query = urllib.parse.urlencode({"runs": runs, "experiments": experiments})
    pages.open(f"compare-runs?{query}")
    pages.shows("Comparing 2 Runs from 1 Experiment")
    pages.shows("accuracy/mixed/clean/none")
