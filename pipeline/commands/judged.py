"""The grid that `pipeline judge` builds in memory, and how other commands open it again.

It compares a defense with no defense and with flips and crops of equal cost.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.catalogue.catalogue import Catalogue, config_folders
from pipeline.catalogue.grid_entries import GridEntry, TableEntry
from pipeline.commands.judge_options import JudgeOptions, asked_by
from pipeline.execution.work.contract import contract_verdict
from pipeline.grid.builder import Overrides
from pipeline.grid.choices import BARE
from pipeline.grid.lookup import Ingredients
from pipeline.problems import BadInput
from pipeline.store.ledger import Invocation
from tasks.attacks.adaptive import Adaptive

DEMO = "demo"
"""Grid that provides the default networks, and epsilon for their data set."""
REPLAYED = "untargeted-pgd50"
DIRECT = "direct"
CONTROL = "flip-crop"
BUDGETS = ("full", "standard", "quick")
"""Attack budgets, largest first; the last one is used if none fits."""
LEAST = f"adaptive-{BUDGETS[-1]}"
"""The attack with the smallest budget."""


@dataclass(frozen=True)
class JudgedGrid:
    """The grid that judges the defense `name` on the networks that were named, or the demo's."""

    catalogue: Catalogue
    asked: JudgeOptions
    name: str
    named: Sequence[str]

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
        dataset = self.dataset
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

    @property
    def _demo(self) -> GridEntry:
        return self.catalogue.grid(DEMO)[0]

    @property
    def _ingredients(self) -> Ingredients:
        return Ingredients(self.catalogue, self.asked.data, self.asked.weights)

    @property
    def dataset(self) -> str:
        """The data set of the networks; BadInput if they have different ones."""
        datasets = {self.catalogue.model_entry(model)[0].dataset for model in self.models}
        if len(datasets) > 1:
            raise BadInput(
                f"--model: the networks are of {' and '.join(sorted(datasets))}; judge on one "
                "data set at a time"
            )
        return datasets.pop()

    def able(self, fallen: Sequence[str]) -> list[str]:
        """The networks on which a verdict is possible."""
        return [model for model in self.models if model not in fallen]

    def budgets(self, largest: str) -> list[str]:
        """The adaptive attacks up to a budget, smallest first.

        A budget begins with the candidates of the smaller ones, so these give an answer while the
        larger is unfinished.
        """
        return [f"adaptive-{each}" for each in reversed(BUDGETS[BUDGETS.index(largest) :])]

    def entry(self, largest: str, fallen: Sequence[str]) -> GridEntry:
        """The grid up to a budget; `fallen` are the networks on which no verdict is possible."""
        attack = self.catalogue.attack(f"adaptive-{largest}")
        assert isinstance(attack, Adaptive)
        dataset = self.dataset
        available = self._ingredients.dataset(dataset)[1].test
        demos = {self.catalogue.model_entry(model)[0].dataset for model in _models(self._demo)}
        epsilon = self._demo.epsilon if dataset in demos else GridEntry().epsilon
        return GridEntry(
            title=f"Does {self.name} hold on {dataset}?",
            epsilon=self.asked.epsilon or epsilon,
            images=min(attack.images or available, available),
            redraws=attack.redraws or GridEntry().redraws,
            tables=tuple(self._tables(self.budgets(largest), fallen)),
        )

    def _tables(self, budgets: Sequence[str], fallen: Sequence[str]) -> Iterator[TableEntry]:
        """A table of the networks on which a verdict is possible, and two of the others.

        These two have no cell of the defense under an adaptive attack, which is not computed.
        """
        name, defenses = f"judge-{self.name}", (BARE, self.name)
        if able := self.able(fallen):
            yield TableEntry(
                name=name,
                title=f"{self.name} beside no defense and, of several passes, flips and crops",
                models=tuple(able),
                attacks=("clean", REPLAYED, DIRECT, *budgets),
                defenses=defenses,
                gains_over=BARE,
                equal_cost=CONTROL,
            )
        if fallen:
            yield TableEntry(
                name=f"{name}-without-verdict",
                title=f"{self.name} on networks with too little accuracy left for a verdict",
                models=tuple(fallen),
                attacks=("clean", REPLAYED),
                defenses=defenses,
                gains_over=BARE,
            )
            yield TableEntry(
                name=f"{name}-none",
                title=f"The networks without {self.name}",
                models=tuple(fallen),
                attacks=(LEAST,),
                defenses=(BARE,),
            )


def judged_grid(catalogue: Catalogue, asked: JudgeOptions) -> JudgedGrid:
    """The grid of a question, whose files are added to the catalogue."""
    name = catalogue.add("defenses", asked.defense)
    models = list(dict.fromkeys(catalogue.add("models", each) for each in asked.models))
    return JudgedGrid(catalogue, asked, name, models)


def opened_again(
    run: Invocation, overrides: Overrides, configs: Sequence[Path]
) -> tuple[Catalogue, Overrides]:
    """A catalogue with the grid of a run of `pipeline judge`, and the overrides to load it with.

    The ledger of another's store may name any file, so the user has to name those that are loaded.

    Args:
        overrides: Of which `add` names the files of the defense and of the models.
        configs: Folders of configs that the user named.

    Raises:
        BadInput: If a file of the command line is not named, with the options that name them all.
    """
    asked = asked_by(run.command[2:])
    added = {(section, Path(choice).name): choice for section, choice in overrides.add}
    files: dict[tuple[str, str], str] = {
        (section, Path(choice).name): choice
        for section, choices in (("defenses", [asked.defense]), ("models", asked.models))
        for choice in choices
        if Path(choice).suffix in {".py", ".yaml"}
    }
    lacking = [f"--add {key[0][:-1]}={files[key]}" for key in files if key not in added]
    named = {each.name for each in configs}
    lacking += [f"--configs {each}" for each in asked.configs if each.name not in named]
    if lacking:
        raise BadInput(f"name the files that it was judged from: {' '.join(lacking)}")
    asked = replace(
        asked,
        defense=added.get(("defenses", Path(asked.defense).name), asked.defense),
        models=[added.get(("models", Path(each).name), each) for each in asked.models],
        configs=configs,
    )
    others = [each for each in overrides.add if (each[0], Path(each[1]).name) not in files]
    grid = judged_grid(Catalogue(config_folders(configs)), asked)
    attacks = {cell.split("/")[1] for cell in run.cells}
    largest = next((each for each in BUDGETS if f"adaptive-{each}" in attacks), BUDGETS[-1])

    def has(model: str, attack: str) -> bool:
        return f"{model}/{attack}/{grid.name}" in run.cells

    fallen = [each for each in grid.models if has(each, REPLAYED) and not has(each, DIRECT)]
    grid.catalogue.add_grid(run.grid, grid.entry(largest, fallen))
    data, weights = {**asked.data, **overrides.data}, {**asked.weights, **overrides.weights}
    return grid.catalogue, replace(overrides, add=others, data=data, weights=weights)


def _models(entry: GridEntry) -> list[str]:
    """Names of the models in a grid's first table."""
    return [each if isinstance(each, str) else each.use for each in entry.tables[0].models]
