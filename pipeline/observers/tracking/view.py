"""The list of a grid's cells on MLflow's web pages: a saved view, and addresses that open it.

By default MLflow's list of runs shows no metrics, and its charts show one for each. A view that is
saved with the experiment selects columns and charts; it also appears in the menu *Views*.
"""

from __future__ import annotations

import json

NAME = "Cells"
TAG = "mlflow.sharedViewState.cells"
"""Tag of the experiment that holds the view; the part after the last dot is its name in URLs."""
ASKED = "workflowType=machine_learning"
"""Makes the page show trainings; without it the address opens as the traces of an agent."""
SAVED_MS = 1
"""Creation time of the view; a later time means that a user has changed it."""
FIRST_PX = {"attributes.`Run Name`": 125, "runDateAndNestInfo": 105}
"""Widths of the columns that MLflow always shows."""
COLUMNS_PX = {
    "metrics.`accuracy`": 78,
    "metrics.`all_attacks`": 92,
    "params.`model`": 92,
    "params.`attack`": 112,
    "params.`defense`": 106,
}
CHARTS = ("accuracy", "all_attacks")
FOLDED = ("Model metrics", "redraw", "epsilon", "epoch", "all_attacks", "System metrics")
"""Sections of charts for other metrics, which are collapsed at first."""
CHART_PX = 640


def saved_view() -> str:
    """The value of the view's tag: cells sorted by name, and charts of the accuracies first."""
    state = {
        "searchFilter": "tags.cell != ''",
        # in any order but by time MLflow lists the cells as rows instead of below their parents
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
    """Whether a saved view is unchanged since a version of this program wrote it."""
    try:
        found = json.loads(value)
    except ValueError:
        return True
    return not isinstance(found, dict) or found.get("updatedAt") == SAVED_MS


def cells_page(server: str, experiment: str, *, saved: bool) -> str:
    """Address of the list of an experiment's cells; saved: whether the view exists."""
    view = f"&viewStateShareKey={TAG.rpartition('.')[2]}" if saved else ""
    return f"{server}/#/experiments/{experiment}/runs?{ASKED}{view}"


def run_page(server: str, experiment: str, run: str) -> str:
    """Address of a run's page."""
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
