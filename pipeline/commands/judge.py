"""`pipeline judge`: the quickest way to a verdict on a defense.

The contract is checked first. Then a grid is built in memory and run like any other. It compares
the defense with no defense and with flips and crops of equal cost: on clean images, under replayed
examples, under a direct attack, and under an adaptive attack with the largest budget that the time
limit allows.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from pipeline.catalogue.catalogue import Catalogue, config_folders
from pipeline.catalogue.entries import GridEntry, TableEntry
from pipeline.commands.options import RunOptions, say
from pipeline.commands.report import known_scores
from pipeline.commands.run import run_grid
from pipeline.commands.session import Session, open_session
from pipeline.execution.events import RunFinished
from pipeline.execution.signals import STOPPED
from pipeline.execution.work.calibration import calibrate
from pipeline.execution.work.contract import contract_verdict
from pipeline.grid.builder import Overrides
from pipeline.grid.lookup import Ingredients
from pipeline.plan.speeds import remember_speed
from pipeline.plan.words import roughly
from pipeline.problems import BadInput, shown
from pipeline.problems.sanitize import without_secrets
from pipeline.report.views.verdicts import BARE, Conclusion, conclusion, verdict_rows
from pipeline.report.words.verdicts import judged_sentence, plain
from pipeline.store.bucket import SCHEMES
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
MEASURED = 1.5
"""The same once the defense has been timed on these networks."""
ADVISED = (1, 2, 3, 5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 240, 360, 480, 720, 1440)
"""Numbers of minutes that are advised, since estimates of the same work differ."""
LONGEST = 200
"""Maximum length of the name of a report's folder, in bytes; file systems take 255."""
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

    def left() -> float:
        return asked.minutes - (time.time() - began) / 60

    def followed(finished: RunFinished) -> bool:
        ended.append(finished)
        complete = not finished.interrupted and not finished.missing
        larger = grid.next(steps[-1], left()) if complete else None
        if larger is not None:
            steps.append(larger)
        return larger is not None

    steps, ended, code = [grid.first()], list[RunFinished](), 0
    while len(ended) < len(steps):
        session = steps[-1].session
        say(f"judge   {name} on {', '.join(grid.models)}: {steps[-1].said}", err=True)
        limited = replace(options, stop_after=max(left(), 0.01))
        code = run_grid(session, limited, only=(), followed=followed)
    if code == STOPPED and left() > 0:
        return code
    if ended[-1].interrupted:
        say(grid.rest(steps[-1], ended[-1]), err=True)
    rows = [row for row in verdict_rows(session.grid, known_scores(session)) if row.defense == name]
    answer = conclusion(rows)
    # printed last, after the output of the run
    say(plain(judged_sentence(rows, answer)), err=options.as_json)
    # 2: MLflow was not reached, and everything is in the store
    return code if code == 2 else EXIT[answer]


@dataclass(frozen=True)
class _Step:
    """A budget that is computed in one run.

    Attributes:
        largest: The budget up to which the report goes, if larger.
        minutes: Estimated time, including the safety factor.
        said: The budget and its estimate in words.
    """

    budget: str
    largest: str | None
    session: Session
    minutes: float
    said: str

    def fits(self, minutes: float) -> bool:
        """Whether it is estimated to take no more than this time."""
        return self.minutes <= minutes


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
        if self.name == BARE:
            raise BadInput(f"judge {BARE}: it is what a defense is compared with; name a defense")
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

    def first(self) -> _Step:
        """The largest budget that is estimated to fit the time limit.

        Its words also say how many minutes the next larger budget needs.
        """
        more, largest = "", None
        for budget in BUDGETS:
            step = self._step(budget, largest)
            if step.fits(self.asked.minutes) or budget == BUDGETS[-1]:
                break
            if _has_scores(step.session, self.name, f"adaptive-{budget}"):
                largest = largest or budget  # its report keeps these scores
            more = f"; roughly --minutes {advised(step.minutes)} for budget {budget}"
        return replace(step, said=f"{step.said} of {self.asked.minutes:g} min{more}")

    def next(self, step: _Step, left: float) -> _Step | None:
        """The next larger budget, if it fits into the minutes left by what was timed so far."""
        larger = BUDGETS[: BUDGETS.index(step.budget)]
        if not larger or left <= 0:
            return None
        found = self._step(larger[-1], step.largest)
        said = f"{found.said}, {left:.1f} of {self.asked.minutes:g} min are left"
        return replace(found, said=said) if found.fits(left) else None

    def rest(self, step: _Step, ended: RunFinished) -> str:
        """What the time limit left undone, and how many minutes it needs."""
        rest = self._step(step.budget, step.largest)
        cells = len(ended.scored) + len(ended.missing)
        return (
            f"judge   stopped by --minutes {self.asked.minutes:g}: {len(ended.scored)} of {cells} "
            f"cells of budget {step.budget} are scored; the same command with roughly --minutes "
            f"{advised(rest.minutes)} computes the rest"
        )

    def _step(self, budget: str, largest: str | None) -> _Step:
        """A budget with its estimate.

        largest: the budget up to which the report goes, if that is larger.
        """
        workers = os.cpu_count() or 1
        session = self._session(budget, min(budget, largest or budget, key=BUDGETS.index))
        session.check_code()
        plan = session.plan()
        found = session.estimate(plan, workers=workers)
        if found.assumed:
            for precision in found.assumed:
                remember_speed(precision, calibrate(precision))
            found = session.estimate(plan, workers=workers)
        timed = _has_scores(session, self.name, "adaptive-*")
        margin = MEASURED if timed else MARGIN
        minutes = (margin * found.wall_s + AROUND_S) / 60 if plan.todo else 0.0
        said = f"budget {budget}, about {roughly(found.wall_s)}"
        return _Step(budget, largest, session, minutes, said)

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

    def _session(self, budget: str, largest: str) -> Session:
        """The session that computes a budget, of a grid that goes up to the `largest` one."""
        # a budget begins with the candidates of the smaller ones, so these are listed first and
        # give an answer while the larger is unfinished
        budgets = [f"adaptive-{each}" for each in reversed(BUDGETS[BUDGETS.index(largest) :])]
        chosen = ["clean", REPLAYED, DIRECT, *budgets[: budgets.index(f"adaptive-{budget}") + 1]]
        attack = self.catalogue.attack(f"adaptive-{largest}")
        assert isinstance(attack, Adaptive)
        dataset = self._dataset
        available = self._ingredients.dataset(dataset)[1].test
        table = TableEntry(
            name=f"judge-{self.name}",
            title=f"{self.name} beside no defense and flips and crops of equal cost",
            models=tuple(self.models),
            attacks=("clean", REPLAYED, DIRECT, *budgets),
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
        grid = report_folder(self.asked)
        self.catalogue.add_grid(grid, entry)
        return open_session(
            grid,
            only=[f"attack={each}" for each in chosen],
            store=self.asked.store,
            configs=self.asked.configs,
            overrides=Overrides(data=self.asked.data, weights=self.asked.weights),
            settings=self.asked.settings,
            device=self.asked.device,
            catalogue=self.catalogue,
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


def report_folder(asked: JudgeOptions) -> str:
    """Name of the report's folder, another one for each file, networks, epsilon, paths and store.

    `judge-jpeg@mine,epsilon=8,model=net` is of `mine/jpeg.py`. A name that is too long for a folder
    ends with its digest. Settings and device are not part of it: a report shows the results of the
    store, which are the same for all of them.
    """
    words = [f"judge-{_title(asked, 'defenses', asked.defense)}"]
    if asked.epsilon is not None:
        words.append(f"epsilon={str(asked.epsilon).removesuffix('.0')}")
    models = dict.fromkeys(_title(asked, "models", each) for each in asked.models)
    words += [f"model={each}" for each in models]
    words += [f"configs={_quoted(shown(each.expanduser()))}" for each in asked.configs]
    for option, places in (("data", asked.data), ("weights", asked.weights)):
        shown_places = sorted((name, shown(place.expanduser())) for name, place in places.items())
        words += [f"{option}={_quoted(name)}={_quoted(place)}" for name, place in shown_places]
    bucket = asked.store.startswith(SCHEMES)
    store = without_secrets(asked.store) if bucket else shown(Path(asked.store).expanduser())
    if store != JudgeOptions.store:
        words.append(f"store={_quoted(store)}")
    name = ",".join(words)
    data = name.encode()
    if len(data) <= LONGEST:
        return name
    begins = data[: LONGEST // 2].decode(errors="ignore")
    return f"{begins}-{hashlib.sha256(data).hexdigest()[:16]}"


def _title(asked: JudgeOptions, section: Literal["defenses", "models"], choice: str) -> str:
    """The name of a choice; of a file outside the configs, with `@` and its folder.

    The suffix `.py` is left out. Characters other than letters, digits and `_.+-` are written as in
    URLs, such as `%20`.
    """
    file = Path(choice).expanduser()
    configs = [folder / section for folder in config_folders(asked.configs)]
    if file.suffix not in {".py", ".yaml"}:
        names = [choice]
    elif file.resolve().parent in configs:
        names = [file.stem]
    else:
        file = Path(shown(file))
        plain = file.suffix == ".py" and "." not in file.stem
        folder = file.parent.as_posix()
        names = [file.stem if plain else file.name, *folder.split("/")]
        names = names[:1] if folder == "." else names
    return "@".join(map(_quoted, names))


def _quoted(text: str) -> str:
    return re.sub(r"[^\w.+-]", lambda found: quote(found[0], safe=""), text)


def _models(entry: GridEntry) -> list[str]:
    """Names of the models in a grid's first table."""
    return [each if isinstance(each, str) else each.use for each in entry.tables[0].models]
