"""`pipeline judge`: the quickest way to a verdict on a defense.

The contract is checked first. Then a grid is built in memory and run like any other. It compares
the defense with no defense and with flips and crops of equal cost: on clean images, under replayed
examples, under a direct attack, and under an adaptive attack with the largest budget that the time
limit allows.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.catalogue.catalogue import Catalogue, config_folders
from pipeline.catalogue.entries import GridEntry, TableEntry
from pipeline.commands.options import RunOptions, say
from pipeline.commands.report import known_scores
from pipeline.commands.run import run_grid
from pipeline.commands.session import Session, open_session
from pipeline.execution.signals import STOPPED
from pipeline.execution.work.calibration import calibrate
from pipeline.execution.work.contract import contract_verdict
from pipeline.grid.builder import Overrides
from pipeline.grid.lookup import Ingredients
from pipeline.plan.speeds import remember_speed
from pipeline.plan.words import roughly
from pipeline.problems import BadInput
from pipeline.report.views.verdicts import BARE, Conclusion, conclusion, verdict_rows
from pipeline.report.words.verdicts import judged_sentence, plain
from tasks.attacks.adaptive import Adaptive

DEMO = "demo"
"""Grid that provides the default networks, and epsilon for their data set."""
REPLAYED = "untargeted-pgd50"
DIRECT = "direct"
CONTROL = "flip-crop"
BUDGETS = ("full", "standard", "quick")
"""Attack budgets, largest first; the last one is used if none fits."""
AROUND_S = 45.0
"""Time in addition to the estimate, for starting workers and writing the report."""
MARGIN = 4.0
"""Safety factor of the estimated time; small networks take longer than estimated."""
EXIT: Mapping[Conclusion, int] = {"holds": 0, "does not hold": 1, "cannot tell": 3}


@dataclass(frozen=True, kw_only=True)
class JudgeOptions:
    """What to judge, on which networks, and the time limit. epsilon: in 1/255."""

    defense: str
    models: Sequence[str] = ()
    minutes: float = 10.0
    epsilon: float | None = None
    store: str = "store"
    configs: Sequence[Path] = ()
    data: Mapping[str, Path]
    weights: Mapping[str, Path]
    settings: Path | None = None
    device: str | None = None


def judge(asked: JudgeOptions, options: RunOptions, command: Sequence[str]) -> int:
    """Judge a defense.

    Args:
        command: The words of the command line that repeats it.

    Returns:
        The exit code: 0 it holds, 1 it does not hold, 3 cannot tell; 2 if MLflow cannot be reached,
        and 130 if it was stopped.

    Raises:
        BadInput: If the defense breaks the contract.
    """
    began = time.time()
    catalogue = Catalogue(config_folders(asked.configs))
    name = catalogue.add("defenses", asked.defense)
    models = list(dict.fromkeys(catalogue.add("models", each) for each in asked.models))
    grid = _Judged(catalogue, asked, name, models, command)
    grid.check()
    budget, session = grid.affordable()
    left = asked.minutes - (time.time() - began) / 60
    say(f"judge   {name} on {', '.join(grid.models)}: {budget}", err=True)
    code = run_grid(session, replace(options, stop_after=max(left, 0.01)), only=())
    stopped = code == STOPPED and time.time() - began < 60 * asked.minutes
    if stopped:
        return code
    rows = [row for row in verdict_rows(session.grid, known_scores(session)) if row.defense == name]
    answer = conclusion(rows)
    # printed last, after the output of the run
    say(plain(judged_sentence(rows, answer)), err=options.as_json)
    # 2: MLflow was not reached, and everything is in the store
    return code if code == 2 else EXIT[answer]


@dataclass(frozen=True)
class _Judged:
    """Builds the grid that judges one defense on some networks, for a given budget."""

    catalogue: Catalogue
    asked: JudgeOptions
    name: str
    named: Sequence[str]
    command: Sequence[str]

    @property
    def models(self) -> Sequence[str]:
        """The networks: those that were named, otherwise the demo's."""
        return self.named or _models(self._demo)

    def check(self) -> None:
        """Check that every part of the defense suits the networks and keeps the contract.

        Raises:
            BadInput: If one does not; for the contract with file and line.
        """
        dataset = self._dataset
        spec, _ = self._ingredients.dataset(dataset)
        entries = {model: self.catalogue.model_entry(model)[0] for model in self.models}
        single = [model for model, entry in entries.items() if not entry.members]
        for part in self.name.split("+"):
            defense = self.catalogue.defense(part)
            if defense.asks_members() and single:
                raise BadInput(
                    f"judge {self.name}: {part} needs an ensemble, and {single[0]} is a single "
                    "network; name a model with `members`: --model"
                )
            found = contract_verdict(defense, channels=spec.channels, side=spec.side)
            if found.line:
                raise BadInput(found.line)

    def affordable(self) -> tuple[str, Session]:
        """The largest budget whose estimate fits the time limit, in words, and its session.

        The words also say how many minutes the next larger budget needs.
        """
        workers = os.cpu_count() or 1
        more = ""
        for budget in BUDGETS:
            session = self._session(budget)
            session.check_code()
            plan = session.plan()
            found = session.estimate(plan, workers=workers)
            if found.assumed:
                for precision in found.assumed:
                    remember_speed(precision, calibrate(precision))
                found = session.estimate(plan, workers=workers)
            minutes = (MARGIN * found.wall_s + AROUND_S) / 60
            if minutes <= self.asked.minutes or budget == BUDGETS[-1]:
                break
            more = f"; --minutes {math.ceil(minutes)} for budget {budget}"
        about = f"about {roughly(found.wall_s)} of {self.asked.minutes:g} min"
        return f"budget {budget}, {about}{more}", session

    @property
    def _demo(self) -> GridEntry:
        return self.catalogue.grid(DEMO)[0]

    @property
    def _ingredients(self) -> Ingredients:
        return Ingredients(self.catalogue, self.asked.data, self.asked.weights)

    @property
    def _dataset(self) -> str:
        """The data set of the networks; BadInput if they have different ones."""
        datasets = {self.catalogue.model_entry(model)[0].dataset for model in self.models}
        if len(datasets) > 1:
            raise BadInput(
                f"--model: the networks are of {' and '.join(sorted(datasets))}; judge on one "
                "data set at a time"
            )
        return datasets.pop()

    def _session(self, budget: str) -> Session:
        # a budget begins with the candidates of the smaller ones, so these are listed first and
        # give an answer while the larger is unfinished
        budgets = reversed(BUDGETS[BUDGETS.index(budget) :])
        attack = self.catalogue.attack(f"adaptive-{budget}")
        assert isinstance(attack, Adaptive)
        dataset = self._dataset
        available = self._ingredients.dataset(dataset)[1].test
        table = TableEntry(
            name=f"judge-{self.name}",
            title=f"{self.name} beside no defense and flips and crops of equal cost",
            models=tuple(self.models),
            attacks=("clean", REPLAYED, DIRECT, *(f"adaptive-{name}" for name in budgets)),
            defenses=(BARE, self.name),
            gains_over=BARE,
            equal_cost=CONTROL,
        )
        demos = {self.catalogue.model_entry(model)[0].dataset for model in _models(self._demo)}
        epsilon = self._demo.epsilon if dataset in demos else GridEntry().epsilon
        entry = GridEntry(
            title=f"Does {self.name} hold on {dataset}?",
            epsilon=self.asked.epsilon or epsilon,
            images=min(attack.images or available, available),
            redraws=attack.redraws or GridEntry().redraws,
            tables=(table,),
        )
        grid = table.name
        self.catalogue.add_grid(grid, entry)
        return open_session(
            grid,
            store=self.asked.store,
            configs=self.asked.configs,
            overrides=Overrides(data=self.asked.data, weights=self.asked.weights),
            settings=self.asked.settings,
            device=self.asked.device,
            catalogue=self.catalogue,
            command=self.command,
        )


def _models(entry: GridEntry) -> list[str]:
    """Names of the models in a grid's first table."""
    return [each if isinstance(each, str) else each.use for each in entry.tables[0].models]
