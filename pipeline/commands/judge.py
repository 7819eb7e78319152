"""`pipeline judge`: the quickest way to a verdict on a defense.

The contract is checked first. Then a grid is built in memory and run like any other. It compares
the defense with no defense and with flips and crops of equal cost: on clean images, under replayed
examples, under a direct attack, and under an adaptive attack with the largest budget that the time
limit allows.

The networks without the defense are attacked first, with the smallest budget. Where too little
accuracy is left for a verdict, the defense is evaluated on clean images and replayed examples only.
"""

from __future__ import annotations

import glob
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from pipeline.catalogue.catalogue import Catalogue, config_folders
from pipeline.commands.judge_options import JudgeOptions, report_folder
from pipeline.commands.judged import BUDGETS, DIRECT, LEAST, REPLAYED, JudgedGrid, judged_grid
from pipeline.commands.options import UNEXPECTED, RunOptions
from pipeline.commands.output import say
from pipeline.commands.report import check_folder, known_scores
from pipeline.commands.run import run_grid
from pipeline.commands.session import Session, open_session
from pipeline.execution.events import RunFinished
from pipeline.execution.signals import STOPPED
from pipeline.execution.work.calibration import calibrate
from pipeline.grid.builder import Overrides
from pipeline.grid.choices import BARE
from pipeline.plan.speeds import remember_speed
from pipeline.plan.words import roughly, roughly_between
from pipeline.report.views.verdicts import Conclusion, conclusion, verdict_rows
from pipeline.report.words.verdicts import judged_sentence, plain
from pipeline.store.store import Store
from tasks.evaluation.verdicts import FALLEN

AROUND_S = 45.0
"""Time in addition to the estimate, for starting workers and writing the report."""
MARGIN = 2.0
"""Safety factor of the estimated time while only the networks have been timed, not the defense."""
MEASURED = 1.5
"""The same once the defense has been timed on these networks."""
ADVISED = (1, 2, 3, 5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 240, 360, 480, 720, 1440)
"""Numbers of minutes that are advised, since estimates of the same work differ."""
NO_NETWORK = (
    f"without the defense, no network keeps more than {FALLEN:g} % accuracy, so none can tell; "
    "name an adversarially trained network with --model, or a smaller --epsilon"
)
EXIT: Mapping[Conclusion, int] = {"holds": 0, "does not hold": 1, "cannot tell": 3}


def judge(asked: JudgeOptions, options: RunOptions, command: Sequence[str]) -> int:
    """Judge a defense.

    Args:
        command: The words of the command line that repeats it.

    Returns:
        The exit code: 0 it holds, 1 it does not hold, 3 cannot tell; 2 if MLflow cannot be reached,
        4 if the reader of stdout is gone, and 130 if it was stopped.

    Raises:
        BadInput: If the defense breaks the contract, or the report cannot be written.
    """
    began = time.time()
    check_folder(options.reports / report_folder(asked))
    grid = judged_grid(Catalogue(config_folders(asked.configs)), asked)
    if adopted := Store(asked.store).prepare():
        say(adopted, err=True)
    grid.check()
    name = grid.name
    judging = _Judging(grid, command, here=options.address is None)

    def left() -> float:
        return asked.minutes - (time.time() - began) / 60

    def followed(finished: RunFinished) -> bool:
        ended.append(finished)
        following = None if finished.interrupted else judging.next(steps[-1], finished, left())
        if following is not None:
            steps.append(following)
        return following is not None

    steps, ended, code = [judging.first()], list[RunFinished](), 0
    while len(ended) < len(steps):
        session = steps[-1].session
        say(f"judge   {steps[-1].said}", err=True)
        limited = replace(options, stop_after=max(left(), 0.01))
        code = run_grid(session, limited, only=(), judged=name, followed=followed)
    signalled = code == STOPPED and left() > 0
    if ended[-1].interrupted and not signalled:
        say(judging.rest(steps[-1], ended[-1]), err=True)
    rows = [row for row in verdict_rows(session.grid, known_scores(session)) if row.defense == name]
    answer = conclusion(rows)
    if all(row.verdict.fallen for row in rows):
        say(f"judge   {NO_NETWORK}", err=True)
    # printed last, after the output of the run
    say(plain(judged_sentence(rows, answer)), err=options.as_json)
    # 2: MLflow was not reached, and everything is in the store; 4: the reader of stdout is gone
    return code if code in {2, UNEXPECTED} or signalled else EXIT[answer]


@dataclass(frozen=True, kw_only=True)
class _Step:
    """What is computed in one run: the networks without the defense, or a budget.

    Attributes:
        budget: The budget; None for the networks without the defense.
        fallen: The networks on which no verdict is possible.
        largest: The budget up to which the report goes, if larger.
        todo: Whether anything is missing.
        minutes: Estimated time, including the safety factor.
        said: What is computed where, and the estimate, in words.
    """

    session: Session
    todo: bool
    minutes: float
    said: str
    budget: str | None = None
    fallen: Sequence[str] = ()
    largest: str | None = None

    def fits(self, minutes: float) -> bool:
        """Whether it is estimated to take no more than this time."""
        return self.minutes <= minutes


@dataclass(frozen=True)
class _Judging:
    """Chooses what is computed next, a budget at a time.

    Attributes:
        grid: The grid of the defense.
        command: The words of the command line that repeats it.
        here: Whether nodes are computed on this machine.
    """

    grid: JudgedGrid
    command: Sequence[str]
    here: bool

    def first(self) -> _Step:
        """The networks without the defense; if these are stored, the largest budget that fits."""
        bare = self._step(None)
        if bare.todo:
            return bare
        return self._largest(self._fallen(bare.session), self.grid.asked.minutes)

    def next(self, step: _Step, ended: RunFinished, left: float) -> _Step | None:
        """What follows a step, by what was found and timed so far; None if nothing fits."""
        if left <= 0:
            return None
        if step.budget is None:
            return self._largest(self._fallen(step.session), left)
        larger = BUDGETS[: BUDGETS.index(step.budget)]
        if ended.missing or not larger or len(step.fallen) == len(self.grid.models):
            return None
        found = self._step(larger[-1], step.fallen, step.largest)
        return self._with_time(found, left) if found.fits(left) else None

    def rest(self, step: _Step, ended: RunFinished) -> str:
        """What the time limit left undone, and how many minutes it needs."""
        rest = self._step(step.budget or BUDGETS[-1], step.fallen, step.largest)
        cells, minutes = len(ended.scored) + len(ended.missing), self.grid.asked.minutes
        of = f"budget {step.budget}" if step.budget else f"the networks without {self.grid.name}"
        return (
            f"judge   stopped by --minutes {minutes:g}: {len(ended.scored)} of {cells} "
            f"cells of {of} are scored; the same command with roughly --minutes "
            f"{advised(rest.minutes)} computes the rest"
        )

    def _fallen(self, session: Session) -> list[str]:
        """The networks with too little accuracy for a verdict, by what is stored."""
        rows = verdict_rows(session.grid, known_scores(session))
        return [row.model for row in rows if row.defense == BARE and row.verdict.fallen]

    def _largest(self, fallen: Sequence[str], left: float) -> _Step:
        """The largest budget that is estimated to fit into the minutes left.

        Its words also say how many minutes the next larger budget needs.
        """
        more, largest = "", None
        budgets = BUDGETS if len(fallen) < len(self.grid.models) else BUDGETS[-1:]
        for budget in budgets:
            step = self._step(budget, fallen, largest)
            if step.fits(left) or budget == BUDGETS[-1]:
                break
            if _has_scores(step.session, self.grid.name, f"adaptive-{budget}"):
                largest = largest or budget  # its report keeps these scores
            more = f"; roughly --minutes {advised(step.minutes)} for budget {budget}"
        return self._with_time(step, left, more)

    def _with_time(self, step: _Step, left: float, more: str = "") -> _Step:
        said = f"{step.said}, {left:.1f} of {self.grid.asked.minutes:g} min are left{more}"
        return replace(step, said=said)

    def _step(
        self, budget: str | None, fallen: Sequence[str] = (), largest: str | None = None
    ) -> _Step:
        """A budget, or the networks without the defense, with an estimate.

        largest: the budget up to which the report goes, if that is larger.
        """
        workers = os.cpu_count() or 1
        session = self._session(budget, fallen, largest)
        session.check_code()
        session.check_needs(set(), here=self.here)
        plan = session.plan()
        found = session.estimate(plan, workers=workers)
        if found.assumed:
            for precision in found.assumed:
                remember_speed(precision, calibrate(precision))
            found = session.estimate(plan, workers=workers)
        timed = _has_scores(session, self.grid.name, "adaptive-*")
        margin = MEASURED if timed else MARGIN
        minutes = (margin * found.wall_s + AROUND_S) / 60 if plan.todo else 0.0
        if budget is None:
            # no network has been timed, and small ones are slower than their operations tell
            about = f"at least about {roughly(found.least_wall_s)}"
        else:
            about = f"about {roughly_between(found.least_wall_s, found.wall_s)}"
            about += "" if timed else " or longer"
        return _Step(
            session=session,
            todo=bool(plan.todo),
            minutes=minutes,
            said=f"{self._what(budget, fallen)}, {about}",
            budget=budget,
            fallen=fallen,
            largest=largest,
        )

    def _what(self, budget: str | None, fallen: Sequence[str]) -> str:
        """What a step computes on which networks, in words."""
        name = self.grid.name
        if budget is None:
            return f"without {name} on {', '.join(self.grid.models)}: budget {BUDGETS[-1]}"
        rest = f"{name} on {', '.join(fallen)}: no verdict possible, clean and replayed only"
        able = self.grid.able(fallen)
        if not able:
            return rest
        found = f"{name} on {', '.join(able)}: budget {budget}"
        return f"{rest}; {found}" if fallen else found

    def _session(self, budget: str | None, fallen: Sequence[str], largest: str | None) -> Session:
        """The session that computes a step, of a grid that goes up to the `largest` budget."""
        last = budget or BUDGETS[-1]
        largest = min(last, largest or last, key=BUDGETS.index)
        chosen = ["clean", REPLAYED, DIRECT, *self.grid.budgets(last)]
        able = self.grid.able(fallen)
        wanted: list[tuple[Sequence[str], Sequence[str], str]] = [
            (able, chosen, "*"),
            (fallen, ("clean", REPLAYED), "*"),
            (fallen, (LEAST,), BARE),
        ]
        if budget is None:
            wanted = [(able, ("clean", REPLAYED, LEAST), BARE)]
        name, asked = report_folder(self.grid.asked), self.grid.asked
        self.grid.catalogue.add_grid(name, self.grid.entry(largest, fallen))
        return open_session(
            name,
            only=[
                f"cell={glob.escape(model)}/{attack}/{defense}"
                for models, attacks, defense in wanted
                for model in models
                for attack in attacks
            ],
            store=asked.store,
            configs=asked.configs,
            overrides=Overrides(data=asked.data, weights=asked.weights),
            settings=asked.settings,
            device=asked.device,
            catalogue=self.grid.catalogue,
            command=self.command,
        )


def _has_scores(session: Session, defense: str, attacks: str) -> bool:
    """Whether the store has a score of the defense under attacks of this pattern."""
    cells = (each for each in session.cells if each.defense == defense)
    chosen = (each for each in cells if fnmatchcase(each.attack, attacks))
    return any(session.record(session.scores[each.name]) for each in chosen)


def advised(minutes: float) -> int:
    """Minutes to advise for work that is estimated to take so long: rounded up, in coarse steps."""
    whole = math.ceil(minutes)
    return next((each for each in ADVISED if each >= whole), -(-whole // 1440) * 1440)
