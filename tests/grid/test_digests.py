"""Digests: canonical forms that differ where values differ, and that stay as they are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.grid.digests import REMEMBERED, canonical, digest, spec_classes
from tasks.attacks.pgd import PGD
from tasks.defenses.chain import Chain
from tasks.defenses.counter import Counter
from tasks.defenses.guo import Guo
from tasks.defenses.xie import Xie
from tasks.evaluation.specs import CraftSpec, DefendSpec
from tasks.networks.small import Small
from tasks.specs import Problem, Shard, Spec
from tasks.training.recipe import InnerAttack, Recipe, TrainSpec

PROBLEM = Problem(epsilon=8.0, classes=10, side=32, pool=50_000)


class Sample(Spec):
    version: ClassVar[int] = 3
    count: int = 1
    size: float = 0.5
    names: tuple[str, ...] = ("a", "b")
    inner: Spec | None = None


def test_the_golden_digests_have_not_changed() -> None:
    assert digest(Sample()) == "700a7e30c35e75dba6237849f821c79b1ef2ae04b5384f5d98a86a04fdd6e4c0"
    assert digest(None) == "44a4e641d96d17a130d1b1eff13a385b346b5bf07c557d37d3fda6b3d93df66c"
    assert (
        digest(Shard(start=0, stop=500))
        == "0f8c34f92330c42f98092dfd53bd9b9e0c66598c6ecaf9ecb7b3ea3e6eaceea0"
    )
    assert (
        digest(PGD().resolved(PROBLEM))
        == "fd85dfd4b8e438e18285306da233861f8fdad94704a54da2405634e0e1fa5be2"
    )
    assert (
        digest({"b": [1, 1.0, True, "1"], "a": ()})
        == "c9cc68fc2335741c49c8c524a226d3f859bba312199a2dbec4a8d452b4f0e033"
    )


def test_equal_specs_of_unlike_values_have_digests_of_their_own() -> None:
    whole, fraction = Sample.model_construct(size=1), Sample(size=1.0)
    assert whole == fraction
    # both kept inside another spec, where forms are remembered
    forms = [canonical(Sample(inner=inner)) for inner in (whole, fraction, whole)]
    assert forms[0] == forms[2] != forms[1]


def test_a_digest_stays_the_same_however_many_specs_were_seen_since() -> None:
    spec = Sample(inner=Sample(count=2))
    before = digest(spec)
    forms = {canonical(Sample(count=count)) for count in range(REMEMBERED + 10)}
    assert len(forms) == REMEMBERED + 10
    assert digest(spec) == before
    assert spec_classes(spec) == {Sample}


class Grown(Sample):
    unset_is_left_out: ClassVar[frozenset[str]] = frozenset({"later"})
    later: int | None = None


def test_a_field_that_came_later_changes_no_digest_until_it_is_set() -> None:
    fields = {"count": 1, "size": 0.5, "names": ("a", "b"), "inner": None}
    assert canonical(Grown()) == f"spec:Grown:3::{canonical(fields)};"
    assert canonical(Grown(later=0)) == f"spec:Grown:3::{canonical({**fields, 'later': 0})};"


def test_a_counter_without_given_labels_has_the_digest_from_before_there_were_any() -> None:
    assert (
        digest(Counter().resolved(PROBLEM))
        == "12769adb59629ec01f3bd67e39ba4d800f2ba1d2348fd2f27af7fb18be370440"
    )
    one, two = (Counter(labels=[label]).resolved(PROBLEM) for label in (1, 2))
    assert len({digest(one), digest(two), digest(Counter(label_count=1).resolved(PROBLEM))}) == 3


def test_xie_has_the_digest_from_before_there_was_an_interpolation_unless_it_is_another() -> None:
    before = "3fed60c5f254149ea659887ee56d565f148030352ab0a6fd07b5a206df3b48a7"
    assert digest(Xie()) == digest(Xie(interpolation="bilinear")) == before
    others = {digest(Xie(interpolation=name)) for name in ("nearest", "antialiased")}
    assert len(others - {before}) == 2


class Default(Sample):
    unset_is_left_out: ClassVar[frozenset[str]] = frozenset({"later"})
    later: float = 0.5


def test_a_field_that_came_later_with_a_default_is_left_out_at_that_default() -> None:
    assert canonical(Default()) == canonical(Default(later=0.5))
    assert "later" not in canonical(Default())
    assert "later" in canonical(Default(later=0.25))


def test_the_canonical_form_of_a_spec_is_written_out() -> None:
    assert canonical(Shard(start=0, stop=5)) == (
        "spec:Shard:1::map:2{str:5:start;int:0;str:4:stop;int:5;};;"
    )


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(alphabet=":;[]{}0123abc", max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(alphabet=":;{}a1", max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


def tagged(value: object) -> object:
    """A value in which Python's equality tells types and signed zeros apart."""
    if isinstance(value, list):
        return ("list", tuple(map(tagged, value)))
    if isinstance(value, dict):
        return ("map", frozenset((key, tagged(inner)) for key, inner in value.items()))
    return (type(value).__name__, repr(value))


@given(VALUES, VALUES)
def test_two_values_share_a_form_only_if_they_are_the_same(one: object, other: object) -> None:
    assert (canonical(one) == canonical(other)) == (tagged(one) == tagged(other))


@given(VALUES)
def test_a_value_and_the_list_of_it_differ(value: object) -> None:
    assert canonical(value) != canonical([value])


def test_values_that_python_holds_equal_differ() -> None:
    forms = {canonical(value) for value in (1, 1.0, True, "1", [1], {"1": 1}, 0, 0.0, False, None)}
    assert len(forms) == 10


def test_the_order_of_keys_does_not_matter_and_that_of_lists_does() -> None:
    assert canonical({"a": 1, "b": 2}) == canonical({"b": 2, "a": 1})
    assert canonical([1, 2]) != canonical([2, 1])


@pytest.mark.parametrize(
    "value", [{1, 2}, b"bytes", Path("file"), object(), 1j, PGD, {1: "one"}, [frozenset()]]
)
def test_unknown_types_raise(value: object) -> None:
    with pytest.raises(TypeError, match=r"no canonical form|keys must be strings"):
        canonical(value)


def test_defaults_enter_the_digest_whether_written_out_or_not() -> None:
    assert digest(Sample()) == digest(Sample(count=1, size=0.5))
    other = {digest(Sample(count=2)), digest(Sample(size=0.25)), digest(Sample(names=("ab",)))}
    assert len(other | {digest(Sample())}) == 4


def test_an_integer_in_the_place_of_a_float_gives_the_same_spec() -> None:
    assert digest(PGD.model_validate({"epsilon": 4})) == digest(PGD(epsilon=4.0))


def test_the_version_enters_the_digest_also_of_a_spec_inside(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = digest(Sample()), digest(Sample(inner=Shard(start=0, stop=1)))
    monkeypatch.setattr(Shard, "version", 2)
    assert digest(Sample()) == before[0]
    assert digest(Sample(inner=Shard(start=0, stop=1))) != before[1]
    monkeypatch.setattr(Sample, "version", 4)
    assert digest(Sample()) != before[0]


def test_the_class_name_enters_the_digest() -> None:
    twin = type("Twin", (Sample,), {})
    assert digest(twin()) != digest(Sample())


def test_the_source_of_a_users_own_class_enters_the_digest() -> None:
    plugin = type("Sample", (Sample,), {"__module__": __name__})
    assert canonical(plugin()) == canonical(Sample())
    setattr(plugin, "source_digest", "1234")  # noqa: B010
    assert canonical(plugin()) != canonical(Sample())


def test_the_seed_enters_the_digest_of_whatever_draws() -> None:
    shard, network, recipe = Shard(start=0, stop=5), Small(), Recipe()
    for zero, one in [
        [TrainSpec(network=network, recipe=recipe, seed=seed) for seed in (0, 1)],
        [DefendSpec(defense=Guo(), shard=shard, seed=seed) for seed in (0, 1)],
        [CraftSpec(attack=PGD(), shard=shard, seed=seed, precision="float32") for seed in (0, 1)],
    ]:
        assert digest(zero) != digest(one)


def test_the_classes_of_a_spec_reach_into_what_it_holds() -> None:
    chain = Chain(parts=(Counter(), Guo()))
    spec = DefendSpec(defense=chain, shard=Shard(start=0, stop=5), seed=0)
    assert spec_classes(spec) == {DefendSpec, Chain, Counter, Guo, Shard}
    assert spec_classes(Recipe(method="iat", inner=InnerAttack())) == {Recipe, InnerAttack}


def test_another_process_gives_the_same_digest() -> None:
    code = (
        "from pipeline.grid.digests import digest; from tasks.defenses.guo import Guo;"
        "print(digest({'x': Guo(), 'y': 0.1}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == digest({"x": Guo(), "y": 0.1})
