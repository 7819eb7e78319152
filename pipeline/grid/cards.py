"""Selects integrity cards and their size: one card for each bare and each defended model.

The size of a card depends only on its own adaptive cell, so adding cells to a grid does not
invalidate cards. A card costs at most a quarter of the work of the cell's own nodes, so all cards
together cost at most a quarter of the grid. Of a cascade of candidates only those up to the last of
the cheapest climbs are counted, since it is not known in advance how many images will need the
later ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from pipeline.grid.cells import Ball, Cell
from pipeline.grid.graph import Graph, Node
from pipeline.grid.kinds import CardSize
from pipeline.grid.nodes import CellNodes
from pipeline.grid.workloads import stated, workload
from tasks.attacks.base import CompoundAttack
from tasks.defenses.none import NoDefense
from tasks.evaluation.specs import CardSpec, CraftSpec

SHARE = 0.25
"""Maximum cost of a card, as a share of the work of its adaptive cell, for size `quarter`."""

_LEAST = {"queries": 0, "steps": (10,), "converges": False, "climb_steps": 10}
SMALLER: tuple[Mapping[str, object], ...] = (
    {"queries": 0},
    {"queries": 0, "steps": (10, 50)},
    {"queries": 0, "steps": (10, 50), "converges": False},
    {"queries": 0, "steps": (10,), "converges": False},
    _LEAST,
    *({**_LEAST, "images": images, "corners": 5} for images in (70, 50, 35, 25, 15)),
)
"""Successive reductions of a card, until its cost is within the limit."""


def card_nodes(nodes: CellNodes, cells: Sequence[Cell], size: CardSize) -> dict[str, Node]:
    """The card node of each cell, by cell name.

    An adaptive cell has a card of its own; other cells have that of their bare model, in the ball
    of their attack or else the first. Cells of models without an adaptive attack have none, nor do
    cells that are too small for the smallest card.
    """
    if size == "none":
        return {}
    cards: dict[str, Node] = {}
    bare: dict[tuple[str, int, Ball | None], Node] = {}
    for cell in cells:
        if not isinstance(cell.attack_spec, CompoundAttack):
            continue
        own = _card(nodes, cell, size)
        if own is not None:
            cards[cell.name] = own
        key = (cell.model, cell.seed, cell.ball)
        if key not in bare:
            undefended = replace(cell, defense="none", defense_spec=NoDefense(), redraws=1)
            of_bare = _card(nodes, undefended, size)
            if of_bare is not None:
                bare[key] = of_bare
                bare.setdefault((cell.model, cell.seed, None), of_bare)
    for cell in cells:
        first = bare.get((cell.model, cell.seed, None))
        inherited = bare.get((cell.model, cell.seed, cell.ball), first)
        if not cell.attack_spec.compound and inherited is not None:
            cards[cell.name] = inherited
    return cards


def _card(nodes: CellNodes, cell: Cell, size: CardSize) -> Node | None:
    """The largest card of an adaptive cell within the cost limit.

    None if even the smallest card is too large, or if epsilon is 0.
    """
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
    """Multiplications of a forward pass, or 1 if only a run can count them.

    The value cancels out, since a card is only compared with a cell of the same model.
    """
    try:
        return stated(model)
    except NotImplementedError:
        return 1


def _sure(score: Node, cell: Cell) -> Iterator[Node]:
    """Own nodes of a cell that precede or belong to the first climbs of its cascade."""
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
    """The nodes that query or attack the cell's own model, which is defended or bare."""
    bare = isinstance(cell.defense_spec, NoDefense)
    for node in Graph([score]):
        transferred = isinstance(node.spec, CraftSpec) and node.spec.against is None
        if node.info.batched and (bare or not transferred):
            yield node
