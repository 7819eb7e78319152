"""A network that draws: refused unless it is declared, and then redrawn as a defense is."""

from __future__ import annotations

from pathlib import Path

import pytest
import strange_networks
import torch
from strange_networks import make
from test_own_models import Zoo

from pipeline.commands.session import Session, open_session
from pipeline.grid.builder import Overrides
from pipeline.grid.graph import Node
from pipeline.problems import BadInput
from pipeline.report.scores import deterministic
from pipeline.store.store import folder_of
from tasks.classifier.frozen import Frozen
from tasks.data.seeding import Rows
from tasks.defenses.base import Context
from tasks.defenses.none import NoDefense
from tasks.evaluation.defend import predict
from tasks.evaluation.victim import defended

NOISY = "kind: factory, factory: '../../net.py:make', arguments: {name: Noisy}"
DECLARED = "randomised: true\n"


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Zoo:
    monkeypatch.chdir(tmp_path)
    found = Zoo(tmp_path)
    code = Path(strange_networks.__file__).read_text(encoding="utf-8")
    (tmp_path / "net.py").write_text(code, encoding="utf-8")
    return found


def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    module = make("Noisy").train()
    module(torch.rand(64, 1, 8, 8))
    return dict(module.state_dict())


def rows(count: int, draw: int = 0) -> Rows:
    ids = torch.arange(count)
    return Rows(0, ids, torch.full_like(ids, draw))


def score_node(session: Session, cell: str = "mixed/clean/none") -> Node:
    return session.scores[cell]


def test_undeclared_it_is_refused_before_it_is_used_and_before_it_is_trained(zoo: Zoo) -> None:
    line = r"network net\.py:make: answers the same 8 images differently each time, by up to "
    with pytest.raises(BadInput, match=f"^checkpoint mixed: {line}"):
        zoo.run(zoo.session(NOISY, weights()))
    finished = zoo.run(zoo.session(NOISY))
    assert line.replace("\\", "") in finished.missing["mixed/clean/none"]
    assert "train" not in finished.computed


@pytest.mark.parametrize("name", ["BatchCentred", "FirstImageForAll"])
def test_a_network_that_depends_on_its_batch_is_refused_before_it_is_trained(
    zoo: Zoo, name: str
) -> None:
    finished = zoo.run(zoo.session(NOISY.replace("Noisy", name), more=DECLARED))
    assert "in a batch of 8 differently than alone" in finished.missing["mixed/clean/none"]
    assert "train" not in finished.computed


def test_declared_it_is_redrawn_and_has_no_star(zoo: Zoo) -> None:
    session = zoo.session(NOISY, weights(), more=DECLARED)
    (cell,) = session.cells
    assert not deterministic(cell)
    assert cell.redraws == 2
    facts = zoo.run(session).scored[cell.name]
    assert facts["redraws"] == 2
    assert facts["spread"] is not None
    plain = zoo.session(NOISY.replace("Noisy", "plain"), weights())
    assert deterministic(plain.cells[0])
    assert plain.cells[0].redraws == 1


def test_its_scores_depend_on_nothing_that_the_process_did_before(zoo: Zoo) -> None:
    session = zoo.session(NOISY, weights(), more=DECLARED)
    zoo.run(session)
    node = score_node(session)
    first = session.store.record("score", node.digest)
    for kind, digest in list(session.store.each()):
        if kind in {"score", "defend"}:
            assert session.store.set_aside(kind, digest)
    assert not (session.store.root / folder_of("score", node.digest)).exists()
    torch.manual_seed(77)
    torch.rand(1000)
    zoo.run(zoo.session(NOISY, weights(), more=DECLARED))
    again = session.store.record("score", node.digest)
    assert first is not None
    assert again is not None
    assert again.content == first.content


def test_it_can_be_attacked_obliviously(zoo: Zoo) -> None:
    finished = zoo.run(zoo.session(NOISY, weights(), more=DECLARED, only="attack=pgd"))
    assert not finished.missing


def test_it_can_be_attacked_adaptively(zoo: Zoo) -> None:
    zoo.session(NOISY, weights(), more=DECLARED)  # writes the configs
    session = open_session(
        "tiny",
        store=zoo.folder / "store",
        configs=[zoo.folder / "cfg"],
        only=["attack=adaptive-quick", "defense=none"],
        overrides=Overrides(images=20, adaptive="quick"),
    )
    finished = zoo.run(session)
    assert not finished.missing
    assert not finished.failed_leaves
    assert finished.scored["mixed/adaptive-quick/none"]["redraws"] > 1


def test_declaring_changes_the_digest_of_who_declares_and_of_nobody_else(zoo: Zoo) -> None:
    given = weights()
    plain = zoo.model(zoo.session(NOISY, given))
    declared = zoo.model(zoo.session(NOISY, given, more=DECLARED))
    undeclared = zoo.model(zoo.session(NOISY, given, more="randomised: false\n"))
    assert plain.digest == undeclared.digest != declared.digest


def test_equal_rows_draw_equally_and_others_do_not() -> None:
    frozen = Frozen(make("Noisy"), classes=10, randomised=True)
    pixels = torch.rand(5, 1, 8, 8)
    first = frozen.logits(pixels, rows(5))
    torch.rand(3)
    assert torch.equal(frozen.logits(pixels, rows(5)), first)
    assert not torch.allclose(frozen.logits(pixels, rows(5, draw=1)), first)
    assert not torch.allclose(frozen.logits(pixels, rows(5).at(2)), first)
    context = Context(classifier=frozen)
    redraws = [predict(NoDefense(), context, pixels, rows(5, draw), 8) for draw in range(2)]
    assert not torch.allclose(*redraws)


def test_an_attacker_averages_over_its_draws_and_judges_by_the_same() -> None:
    frozen = Frozen(make("Noisy"), classes=10, randomised=True)
    victim = defended(NoDefense(), Context(classifier=frozen), rows(4), draws=3)
    pixels = torch.rand(4, 1, 8, 8)
    before = frozen.forwards
    first = victim.logits(pixels, 0)
    assert frozen.forwards - before == 12
    assert not torch.allclose(victim.logits(pixels, 1), first)
    assert victim.judged is not None
    assert torch.equal(victim.judged(pixels, 0), victim.judged(pixels, 0))
    still = Frozen(make("plain"), classes=10)
    alone = defended(NoDefense(), Context(classifier=still), rows(4), draws=3)
    alone.logits(pixels, 0)
    assert still.forwards == 4
    assert alone.judged is None
