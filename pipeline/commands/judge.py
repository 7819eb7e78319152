"""`pipeline judge`: the shortest way to a verdict on one's own defense.

The contract is checked first, then a grid is made in memory and run like any other: the defense
beside none and beside flips and crops of equal cost, clean, under replayed examples, straight
from the image, and under an adaptive attack of the budget that the time allows.
"""

from __future__ import annotations

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
"""The grid whose networks, and on their data whose epsilon, are taken where none is named."""
REPLAYED = "untargeted-pgd50"
DIRECT = "direct"
CONTROL = "flip-crop"
BUDGETS = ("full", "standard", "quick")
"""From the largest; the last is taken where none fits."""
AROUND_S = 45.0
"""To start workers and to write the report, beside what is estimated."""
MARGIN = 4.0
"""How many times the estimated seconds have to fit, which small networks take longer than."""
EXIT: Mapping[Conclusion, int] = {"holds": 0, "does not hold": 1, "cannot tell": 3}


@dataclass(frozen=True, kw_only=True)
class JudgeOptions:
    """What is judged, on what, and for how long. epsilon: in 1/255."""

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
    """Judge a defense; returns the exit code: 0 it holds, 1 it does not, 3 that cannot be told.

    command: the words that repeat it. BadInput where the defense does not keep the contract.
    """
    began = time.time()
    catalogue = Catalogue(config_folders(asked.configs))
    name = catalogue.add("defenses", asked.defense)
    models = [catalogue.add("models", each) for each in asked.models]
    grid = _Judged(catalogue, asked, name, models, command)
    grid.check()
    budget, session = grid.affordable()
    left = asked.minutes - (time.time() - began) / 60
    say(f"judge   {name} on {', '.join(grid.models)}: {budget}", err=True)
    code = run_grid(session, replace(options, stop_after=max(left, 0.01)), only=())
    stopped = code == STOPPED and time.time() - began < 60 * asked.minutes
    if stopped or code == 2:
        return code
    rows = [row for row in verdict_rows(session.grid, known_scores(session)) if row.defense == name]
    answer = conclusion(rows)
    # the sentences about each network end what the run has printed
    say(plain(judged_sentence(rows, answer)), err=options.as_json)
    return EXIT[answer]


@dataclass(frozen=True)
class _Judged:
    """The grid of one defense on some networks, whatever the budget."""

    catalogue: Catalogue
    asked: JudgeOptions
    name: str
    named: Sequence[str]
    command: Sequence[str]

    @property
    def models(self) -> Sequence[str]:
        """The networks: those that were named, else the demo's."""
        return self.named or _models(self._demo)

    def check(self) -> None:
        """BadInput, with file and line, where a part of the defense does not keep the contract."""
        dataset = self._dataset
        spec, _ = self._ingredients.dataset(dataset)
        for part in self.name.split("+"):
            defense = self.catalogue.defense(part)
            if defense.asks_members() and not self.named:
                raise BadInput(f"{part} is for ensembles; name a model with `members`: --model")
            found = contract_verdict(defense, channels=spec.channels, side=spec.side)
            if found.line:
                raise BadInput(found.line)

    def affordable(self) -> tuple[str, Session]:
        """The largest budget that is estimated to fit, in words, and its session."""
        workers = os.cpu_count() or 1
        for budget in BUDGETS:
            session = self._session(budget)
            session.check_code()
            plan = session.plan()
            found = session.estimate(plan, workers=workers)
            if found.assumed:
                for precision in found.assumed:
                    remember_speed(precision, calibrate(precision))
                found = session.estimate(plan, workers=workers)
            fits = MARGIN * found.wall_s + AROUND_S <= 60 * self.asked.minutes
            if fits or budget == BUDGETS[-1]:
                break
        about = f"at most about {roughly(found.wall_s)} of {self.asked.minutes:g} min"
        return f"budget {budget}, {about}", session

    @property
    def _demo(self) -> GridEntry:
        return self.catalogue.grid(DEMO)[0]

    @property
    def _ingredients(self) -> Ingredients:
        return Ingredients(self.catalogue, self.asked.data, self.asked.weights)

    @property
    def _dataset(self) -> str:
        """The data set of the networks; BadInput where they have several."""
        datasets = {self.catalogue.model_entry(model)[0].dataset for model in self.models}
        if len(datasets) > 1:
            raise BadInput(
                f"--model: the networks are of {' and '.join(sorted(datasets))}; judge on one "
                "data set at a time"
            )
        return datasets.pop()

    def _session(self, budget: str) -> Session:
        # smaller ones first, with whose candidates it begins: they decide until it is done
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
    """The names of the networks of a grid's first table."""
    return [each if isinstance(each, str) else each.use for each in entry.tables[0].models]
