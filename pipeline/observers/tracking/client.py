"""Client that writes to a tracking server. The only module that imports MLflow."""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
import uuid
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.observers.tracking.database import IDENTITY, alone, database_path, is_empty, make
from pipeline.observers.tracking.runs import PROGRAM, ChildRun, Data, Metric
from pipeline.observers.tracking.server import PATIENCE, QUIET, artifact_folder, follow
from pipeline.observers.tracking.view import TAG, is_ours, saved_view
from pipeline.problems.sanitize import markdown
from pipeline.store.leases import Holder, process_mark
from pipeline.store.ledger import user_name

NOTE = "mlflow.note.content"
"""Tag that MLflow displays as the description of a run, in Markdown."""
KIND = "mlflow.experimentKind"
"""Tag that makes MLflow show the runs of an experiment as trainings, not as an agent's."""
PROCESS = "process"
"""Tag of a parent run: the process that logs it; see `process_mark`."""
BATCH = 100
"""Entries per request; MLflow's limits are 100 parameters and 1,000 metrics."""
LONGEST_NOTE = 7_900
"""Maximum length of a description; MLflow's limit for tags is 8,000 characters."""
ATTEMPTS = 3
"""Attempts to open a database."""
SAMPLING_S = 5.0
"""Interval of system metrics."""


def hide_warnings() -> None:
    """Hide warnings of MLflow, and of urllib3 about proxies, for the rest of the process.

    To be called before another thread computes: a thread that leaves `warnings.catch_warnings`
    drops the filters that other threads have added meanwhile, also those of MLflow's libraries.
    """
    warnings.filterwarnings("ignore", module=r"mlflow\.")
    warnings.filterwarnings("ignore", "SOCKS support in urllib3 requires")


class Server:
    """The experiment of a grid on a tracking server, with the parent run of this invocation."""

    def __init__(self, uri: str, grid: str, title: str) -> None:
        for name, value in {**QUIET, **PATIENCE}.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient
        from mlflow.store.db import utils

        # otherwise a database that cannot be opened is retried for minutes
        utils.MAX_RETRY_COUNT = min(utils.MAX_RETRY_COUNT, ATTEMPTS)
        self._uri = uri
        self._monitor: Any = None
        self._database = database_path(uri)
        if self._database is not None:
            _make_database(self._database, uri)
        with alone(self._database):
            follow(uri)
            # the same server is the model registry, even if the environment names another one
            self._client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            self.identity = self._identified()
            self._experiment = self._opened(grid, title)
            self._client.set_experiment_tag(self._experiment, "made_by", PROGRAM)
            self._save_view()
        ours = self._client.search_experiments(filter_string=f"tags.made_by = '{PROGRAM}'")
        self._searched = [experiment.experiment_id for experiment in ours]
        self._parent = ""

    def _identified(self) -> str | None:
        """Unique id of the database, created if necessary; None if the server cannot store one."""
        from mlflow.exceptions import MlflowException

        try:
            known = self._client.get_experiment("0").tags.get(IDENTITY)
            if known is None:
                known = uuid.uuid4().hex
                self._client.set_experiment_tag("0", IDENTITY, known)
        except MlflowException:
            return None
        return str(known)

    def _opened(self, grid: str, title: str) -> str:
        """Find or create the experiment of a grid."""
        from mlflow.exceptions import MlflowException

        files = artifact_folder(self._uri)
        place = None if files is None else files.as_uri()
        tags = {KIND: "custom_model_development", NOTE: markdown(title)}
        found = self._client.get_experiment_by_name(grid)
        if found is None:
            try:
                return str(self._client.create_experiment(grid, artifact_location=place, tags=tags))
            except MlflowException:
                # another run may have created it at this moment
                found = self._client.get_experiment_by_name(grid)
                if found is None:
                    raise
        if found.lifecycle_stage == "deleted":
            self._client.restore_experiment(found.experiment_id)
        if KIND not in found.tags:
            # created by an earlier version; MLflow would open it as the conversations of an agent
            self._client.set_experiment_tag(found.experiment_id, KIND, tags[KIND])
        return str(found.experiment_id)

    def _save_view(self) -> None:
        """Save the view of cells with the experiment, unless a user has changed it."""
        found = self._client.get_experiment(self._experiment).tags.get(TAG)
        if found != saved_view() and (found is None or is_ours(found)):
            self._client.set_experiment_tag(self._experiment, TAG, saved_view())

    def begin(self, name: str, tags: Mapping[str, str], began: float) -> None:
        """Create the parent run, and end those of killed processes of this machine."""
        self._end_killed()
        own = {PROCESS: process_mark(os.getpid()), "mlflow.source.name": tags["command"]}
        self._parent = self._create(name, {**tags, **own}, began)

    def _end_killed(self) -> None:
        """Set the status of parent runs whose process was killed, and so could not end them."""
        query = f"attributes.status = 'RUNNING' and tags.{PROCESS} LIKE '%:%'"
        for run in self._client.search_runs([self._experiment], query):
            mark = run.data.tags[PROCESS]
            pid = mark.rpartition(" ")[2].partition(":")[0]
            # whether a process of another machine is alive is not known, so it counts as alive
            if pid.isdecimal() and not Holder("", int(pid), mark, until=math.inf).alive:
                self._client.set_terminated(run.info.run_id, "KILLED")

    def watch_machine(self) -> None:
        """Log system metrics (CPU, memory, disk, network) to the parent run until it ends."""
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        self._monitor = SystemMetricsMonitor(  # type: ignore[no-untyped-call]
            self._parent, sampling_interval=SAMPLING_S, tracking_uri=self._uri
        )
        self._monitor.start()

    def child(self, child: ChildRun) -> str:
        """Log a result as a child of the parent run; returns the run's id.

        A run that a crash left incomplete is continued. A result that was already logged, from any
        store, is not logged again.
        """
        with alone(self._database):
            return self._child(child)

    def _child(self, child: ChildRun) -> str:
        found = self._client.search_runs(self._searched, f"tags.key = '{child.key}'", max_results=1)
        if found and found[0].info.status == "FINISHED":
            return str(found[0].info.run_id)
        tags = {
            **child.tags,
            NOTE: markdown(child.note)[:LONGEST_NOTE],
            "mlflow.parentRunId": self._parent,
        }
        run_id = str(found[0].info.run_id) if found else self._create(child.name, tags, child.began)
        self._log(run_id, child.points, child.ended, child.parameters)
        self._log_inputs(run_id, child.data)
        self._client.set_terminated(run_id, "FINISHED", end_time=int(child.ended * 1000))
        return run_id

    def register(
        self, name: str, module: Any, example: Any, *, run_id: str, tags: Mapping[str, str]
    ) -> None:
        """Register a network as a version of a model, under the run that trained it.

        It is saved as a traced graph without pickle, for `mlflow.pytorch.load_model`. Nothing is
        done if a version with the same `content` tag exists.

        Args:
            module: A `torch.nn.Module`.
            example: Example input, float32 [2, C, H, W].
        """
        import mlflow.pytorch
        import torch

        if not self._client.search_registered_models(f"name = '{name}'"):
            self._client.create_registered_model(name, tags={"made_by": PROGRAM})
        known = self._client.search_model_versions(f"name = '{name}'")
        if any(version.tags.get("content") == tags["content"] for version in known):
            return
        with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            folder = Path(scratch) / "model"
            mlflow.pytorch.save_model(
                module,
                str(folder),
                input_example=example,
                serialization_format="pt2",
                pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}"],
            )
            self._client.log_artifacts(run_id, str(folder), "model")
        place = self._client.get_run(run_id).info.artifact_uri
        self._client.create_model_version(name, f"{place}/model", run_id, tags=dict(tags))

    @property
    def experiment(self) -> str:
        """Id of the grid's experiment."""
        return self._experiment

    def experiment_of(self, run_id: str) -> str | None:
        """Id of a run's experiment; None if the run is gone, or is deleted and accepts no data."""
        from mlflow.exceptions import MlflowException

        try:
            info = self._client.get_run(run_id).info
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return str(info.experiment_id) if info.lifecycle_stage == "active" else None

    def tag(self, run_id: str, name: str, value: str) -> None:
        """Set a tag of a run."""
        self._client.set_tag(run_id, name, value)

    def add(self, run_id: str, points: Sequence[Metric]) -> None:
        """Log further metrics of a run."""
        self._log(run_id, points, time.time(), {})

    def end(
        self,
        points: Sequence[Metric],
        report: Path | None,
        status: str,
        note: str,
        parameters: Mapping[str, str],
    ) -> None:
        """Log metrics, files, parameters and description of the parent run, and end it."""
        if self._monitor is not None:
            self._monitor.finish()
        self._log(self._parent, points, time.time(), parameters)
        self._client.set_tag(self._parent, NOTE, markdown(note)[:LONGEST_NOTE])
        if report is not None and report.is_dir():
            self._client.log_artifacts(self._parent, str(report), "report")
        self._client.set_terminated(self._parent, status)

    def _log_inputs(self, run_id: str, data: Sequence[Data]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = [
            DatasetInput(
                Dataset(
                    name=one.name,
                    digest=one.digest,
                    source_type="code",
                    source=json.dumps({"kind": one.kind}),
                    schema=json.dumps(one.schema),
                    profile=json.dumps(one.profile),
                ),
                [InputTag("mlflow.data.context", one.context)],
            )
            for one in data
        ]
        if inputs:
            self._client.log_inputs(run_id, inputs)

    def _create(self, name: str, tags: Mapping[str, str], began: float) -> str:
        run = self._client.create_run(
            self._experiment,
            start_time=int(began * 1000),
            tags={**tags, "mlflow.user": user_name()},
            run_name=name,
        )
        return str(run.info.run_id)

    def _log(
        self, run_id: str, points: Sequence[Metric], when: float, parameters: Mapping[str, str]
    ) -> None:
        from mlflow.entities import Metric, Param

        stamp = int(when * 1000)
        settings = [Param(key, value) for key, value in parameters.items()]
        for start in range(0, len(settings), BATCH):
            self._client.log_batch(run_id, params=settings[start : start + BATCH])
        metrics = [Metric(point.name, point.value, stamp, point.step) for point in points]
        for start in range(0, len(metrics), BATCH):
            self._client.log_batch(run_id, metrics=metrics[start : start + BATCH])


def _make_database(path: Path, uri: str) -> None:
    """Create the database atomically if it does not exist or is empty."""
    from mlflow import MlflowClient
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    def close(address: str, *, forget: bool) -> None:
        engine = SqlAlchemyStore._engine_map.get(address)  # noqa: SLF001  the only way to it
        if engine is not None:
            engine.dispose()
        if forget:
            SqlAlchemyStore._engine_map.pop(address, None)  # noqa: SLF001

    def fill(address: str) -> None:
        MlflowClient(tracking_uri=address, registry_uri=address).search_experiments(max_results=1)
        close(address, forget=True)

    if not path.exists() or is_empty(path):
        make(path, fill)
        # this process may still have the previous file open
        close(uri, forget=False)
