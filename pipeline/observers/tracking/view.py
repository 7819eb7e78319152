"""The list of a grid's cells in MLflow's pages: a saved view, and the addresses that open it.

MLflow's list of runs shows no number by itself, and its charts one for each metric. A view that is
saved with an experiment says which columns and charts there are; its menu *Views* has it too.
"""

from __future__ import annotations

import json

NAME = "Cells"
TAG = "mlflow.sharedViewState.cells"
"""The experiment's tag that holds the view; what follows its last dot names it in an address."""
ASKED = "workflowType=machine_learning"
"""Tells the pages to show trainings: without it an address opens as the traces of an agent."""
SAVED_MS = 1
"""When the view was saved and changed: later times are those of somebody's own changes."""
FIRST_PX = {"attributes.`Run Name`": 125, "runDateAndNestInfo": 105}
"""Columns that MLflow always shows, by their widths."""
COLUMNS_PX = {
    "metrics.`accuracy`": 78,
    "metrics.`worst_case`": 92,
    "params.`model`": 92,
    "params.`attack`": 112,
    "params.`defense`": 106,
}
CHARTS = ("accuracy", "worst_case")
FOLDED = ("Model metrics", "redraw", "epsilon", "epoch", "worst", "System metrics")
"""Sections of charts that MLflow makes of the other metrics, and that are opened on demand."""
CHART_PX = 640


def saved_view() -> str:
    """The view as the value of its tag: cells by name, and of charts the accuracies first."""
    state = {
        "searchFilter": "tags.cell != ''",
        # by any other order than that of time the cells are rows, and not below their parents
        "orderByKey": "tags.`mlflow.runName`",
        "orderByAsc": True,
        "selectedColumns": list(COLUMNS_PX),
        "columnOrder": [*FIRST_PX, *COLUMNS_PX],
        "columnWidths": FIRST_PX | COLUMNS_PX,
        "runsHiddenMode": "FIRST_20_RUNS",
        "isAccordionReordered": True,
        "compareRunSections": [
            _section("Accuracy", shown=True, columns=2, cardHeight=CHART_PX),
            *(_section(name, shown=False) for name in FOLDED),
        ],
        "compareRunCharts": [
            {
                "uuid": metric,
                "type": "BAR",
                "metricKey": metric,
                "displayName": metric,
                "runsCountToCompare": 20,
                "metricSectionId": "Accuracy",
                "deleted": False,
                "isGenerated": True,
            }
            for metric in CHARTS
        ],
    }
    saved = {"name": NAME, "createdAt": SAVED_MS, "updatedAt": SAVED_MS}
    return json.dumps({**saved, "state": json.dumps(state)})


def is_ours(value: str) -> bool:
    """Whether a saved view is as a version of this program left it."""
    try:
        found = json.loads(value)
    except ValueError:
        return True
    return not isinstance(found, dict) or found.get("updatedAt") == SAVED_MS


def cells_page(server: str, experiment: str, *, saved: bool) -> str:
    """The address of the list of an experiment's cells; saved: whether it has the view."""
    view = f"&viewStateShareKey={TAG.rpartition('.')[2]}" if saved else ""
    return f"{server}/#/experiments/{experiment}/runs?{ASKED}{view}"


def run_page(server: str, experiment: str, run: str) -> str:
    """The address of a run."""
    return f"{server}/#/experiments/{experiment}/runs/{run}?{ASKED}"


def _section(name: str, *, shown: bool, **more: int) -> dict[str, object]:
    return {
        "uuid": name,
        "name": name,
        "display": shown,
        "isReordered": False,
        "deleted": False,
        "isGenerated": not shown,
        **more,
    }
