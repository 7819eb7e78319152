"""Expands the tables of a grid: their sweeps, and their baselines of equal cost."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.catalogue.documents import Document, Place
from pipeline.catalogue.grid_entries import TableEntry, VariantEntry, label_of
from pipeline.grid.cells import Section, SweptChoice, Table, plain
from pipeline.grid.choices import Choices
from pipeline.grid.sweeps import Ingredient, Sweep
from pipeline.grid.variants import Chosen
from pipeline.problems import suggestion
from tasks.defenses.chain import Chain
from tasks.evaluation.costs import prediction_passes


def chosen_of(
    table: TableEntry, section: Section, document: Document, place: Place
) -> list[Chosen]:
    """The entries of a section of a table that is at `place` in a document."""
    return [
        Chosen(choice, document, (*place, section, number))
        for number, choice in enumerate(getattr(table, section))
    ]


def swept(
    table: TableEntry, choices: Choices, epsilon: float, document: Document, place: Place
) -> tuple[Sweep, TableEntry]:
    """Expand a table's sweep; returns the sweep and the table with its variants.

    Args:
        epsilon: Default size of perturbations of the grid, in 1/255.

    Raises:
        BadInput: If an entry of the table or its sweep is invalid.
    """
    sweep = Sweep(table, document, (*place, "sweep"))
    if not table.sweep:
        return sweep, table
    models = [(each, choices.model(each)) for each in chosen_of(table, "models", document, place)]
    problems = [choices.problem(parts, epsilon) for _, parts in models]
    found = [
        Ingredient("models", each.choice, [(each.name, parts.spec)], [problem])
        for (each, parts), problem in zip(models, problems, strict=True)
    ]
    found += [
        Ingredient("attacks", each.choice, [(each.name, choices.attack(each))], problems)
        for each in chosen_of(table, "attacks", document, place)
    ]
    for each in chosen_of(table, "defenses", document, place):
        defense = choices.defense(each)
        names = each.name.split("+")
        parts = defense.parts if isinstance(defense, Chain) and len(names) > 1 else (defense,)
        pairs = list(zip(names, parts, strict=True))
        found.append(Ingredient("defenses", each.choice, pairs, problems))
    made: dict[Section, list[str | VariantEntry]] = {"models": [], "attacks": [], "defenses": []}
    for ingredient in found:
        made[ingredient.section] += sweep.made_of(ingredient)
    expanded = table.model_copy(update={key: tuple(variants) for key, variants in made.items()})
    sweep.check(expanded)
    return sweep, expanded


def with_equal_cost(
    table: TableEntry, choices: Choices, document: Document, place: Place
) -> TableEntry:
    """Add the baselines of equal cost to a table that has `equal_cost`.

    Raises:
        BadInput: If there is no such baseline, or an entry of the table is invalid.
    """
    if table.equal_cost is None:
        return table
    at: Place = (*place, "equal_cost")
    choices.single_defense(table.equal_cost, document, at)
    models = [choices.model(Chosen(choice, document, at)) for choice in table.models]
    classes = {choices.dataset(model.dataset)[0].classes for model in models}
    defenses = [choices.defense(each) for each in chosen_of(table, "defenses", document, place)]
    costs = {prediction_passes(spec, count).equivalents for spec in defenses for count in classes}
    baselines = [
        VariantEntry(
            label=f"{table.equal_cost}[draws={draws}]",
            use=table.equal_cost,
            set={"draws": draws},
        )
        for draws in sorted(costs - {1})
    ]
    return table.model_copy(update={"defenses": (*table.defenses, *baselines)})


def arranged(
    entry: TableEntry, variants: Sequence[SweptChoice], document: Document, place: Place
) -> Table:
    """The table of a grid that an expanded entry describes.

    Args:
        variants: The variants that its sweep made.

    Raises:
        BadInput: If its gains are over nothing that it has.
    """
    labels, models = tuple(map(label_of, entry.defenses)), tuple(map(label_of, entry.models))
    if entry.gains_of is not None and entry.gains_over is not None:
        raise document.problem((*place, "gains_over"), "give either gains_of or gains_over")
    attacks = tuple(map(label_of, entry.attacks))
    bases = {
        "gains_of": ("defense", {plain(label.partition("+")[0]) for label in labels}),
        "gains_over": ("defense, model or attack", {*labels, *models, *attacks}),
    }
    for key, (what, known) in bases.items():
        base = getattr(entry, key)
        if base is not None and base not in known:
            message = f"no such {what} in this table: '{base}'{suggestion(base, known)}"
            raise document.problem((*place, key), message)
    return Table(
        name=entry.name,
        title=entry.title,
        models=models,
        attacks=attacks,
        defenses=labels,
        gains_of=entry.gains_of,
        gains_over=entry.gains_over,
        figure=entry.figure,
        swept=tuple(variants),
    )
