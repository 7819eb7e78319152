"""An attack straight from the image, with nothing else to choose from."""

from tasks.attacks.adaptive import Adaptive
from tasks.attacks.direct import Direct
from tasks.defenses.energy import Energy
from tasks.defenses.none import NoDefense
from tasks.specs import Problem

PROBLEM = Problem(epsilon=8.0, classes=10, side=8, pool=6)


def test_it_has_one_candidate_whatever_rules_a_defense_declares():
    attack = Direct().resolved(PROBLEM)
    for defense in (NoDefense(), Energy().resolved(PROBLEM)):
        (only,) = attack.tries(defense)
        assert (only.start, only.rule, only.smoothing) == ("own", None, None)
    assert attack.transfers() == {}


def test_its_candidate_is_the_first_that_an_adaptive_attack_makes_on_the_defense():
    (only,) = Direct(steps=20, draws=5).resolved(PROBLEM).tries(NoDefense())
    first = Adaptive(steps=20, draws=5).resolved(PROBLEM).tries(NoDefense())[0]
    assert only == first
