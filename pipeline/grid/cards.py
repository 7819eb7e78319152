"""Which integrity cards a grid gets, and how large: one for each bare and each defended model.

How large a card is depends on the adaptive cell that it belongs to and on nothing else of the
grid, so that one more cell makes no card stale. It costs a quarter of that cell's own nodes at
most, and so all cards together a quarter of the grid. Of a cascade the candidates up to the end
of its cheapest climbs count: how many images outlast those is not known before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from pipeline.grid.cells import Cell
from pipeline.grid.graph import Graph, Node
from pipeline.grid.kinds import CardSize
from pipeline.grid.nodes import CellNodes
from pipeline.grid.workloads import stated, workload
from tasks.attacks.base import CompoundAttack
from tasks.defenses.none import NoDefense
from tasks.evaluation.specs import CardSpec, CraftSpec

SHARE = 0.25
"""Of the work of an adaptive cell, what its card may cost unless it is asked for in full."""

_LEAST = {"queries": 0, "steps": (10,), "converges": False, "climb_steps": 10}
SMALLER: tuple[Mapping[str, object], ...] = (
    {"queries": 0},
    {"queries": 0, "steps": (10, 50)},
    {"queries": 0, "steps": (10, 50), "converges": False},
    {"queries": 0, "steps": (10,), "converges": False},
    _LEAST,
    *({**_LEAST, "images": images, "corners": 5} for images in (70, 50, 35, 25, 15)),
)
"""What a card does without, step by step, until it is small enough."""


def card_nodes(nodes: CellNodes, cells: Sequence[Cell], size: CardSize) -> dict[str, Node]:
    """The card of each cell by its name: an adaptive cell's own, else that of its bare model.

    Cells of models that nothing adaptive is made on have none, nor has a cell that is too small
    for the smallest card.
    """
    if size == "none":
        return {}
    cards: dict[str, Node] = {}
    bare: dict[tuple[str, int], Node] = {}
    for cell in cells:
        if not isinstance(cell.attack_spec, CompoundAttack):
            continue
        own = _card(nodes, cell, size)
        if own is not None:
            cards[cell.name] = own
        key = (cell.model, cell.seed)
        if key not in bare:
            undefended = replace(cell, defense="none", defense_spec=NoDefense(), redraws=1)
            of_bare = _card(nodes, undefended, size)
            if of_bare is not None:
                bare[key] = of_bare
    for cell in cells:
        inherited = bare.get((cell.model, cell.seed))
        if not cell.attack_spec.compound and inherited is not None:
            cards[cell.name] = inherited
    return cards


def _card(nodes: CellNodes, cell: Cell, size: CardSize) -> Node | None:
    """The largest card of an adaptive cell that is not too large; none of a ball of one point."""
    attack = cell.attack_spec
    assert isinstance(attack, CompoundAttack)
    if not attack.epsilon:
        return None
    steps, draws = attack.longest()
    full = CardSpec(
        against=cell.defense_spec,
        images=min(100, cell.images),
        norm=attack.norm,
        epsilon=attack.epsilon,
        draws=draws,
        climb_steps=steps,
        seed=cell.seed,
        precision=cell.precision,
    )
    if size == "full":
        return nodes.card(cell, full)
    own = _sure(nodes.score(cell), cell)
    most = SHARE * sum(workload(node, {}, _cost).amount for node in own)
    for changes in ({}, *SMALLER):
        images = min(full.images, int(str(changes.get("images", full.images))))
        climb = min(full.climb_steps, int(str(changes.get("climb_steps", full.climb_steps))))
        smaller = full.model_copy(update={**changes, "images": images, "climb_steps": climb})
        made = nodes.card(cell, smaller)
        if workload(made, {}, _cost).amount <= most:
            return made
    return None


def _cost(model: Node) -> int:
    """One, for a network whose cost only a run can tell: a card is compared with its own cell."""
    try:
        return stated(model)
    except NotImplementedError:
        return 1


def _sure(score: Node, cell: Cell) -> Iterator[Node]:
    """Those of a cell's own nodes that are there for the first climbs of its cascade, or before."""
    attack = cell.attack_spec
    assert isinstance(attack, CompoundAttack)
    last = attack.first_tries(cell.defense_spec) - (0 if attack.transfers() else 1)
    return (node for node in _own(score, cell) if _selections_before(node) <= last)


def _selections_before(node: Node) -> int:
    count = 0
    roles = dict(node.parents)
    at = roles.get("standing") or roles.get("before")
    while at is not None:
        count += 1
        at = dict(at.parents).get("before")
    return count


def _own(score: Node, cell: Cell) -> Iterator[Node]:
    """The nodes that ask or attack a cell's own model: of a defended one, not the bare one's."""
    bare = isinstance(cell.defense_spec, NoDefense)
    for node in Graph([score]):
        transferred = isinstance(node.spec, CraftSpec) and node.spec.against is None
        if node.info.batched and (bare or not transferred):
            yield node
