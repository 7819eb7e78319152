"""A model of several others: its node, its answers, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import Tiny, write_configs
from torch import nn

from pipeline.catalogue.catalogue import Catalogue
from pipeline.commands.sharing import configs_of
from pipeline.commands.weights import export_weights
from pipeline.grid.builder import Overrides, load_grid
from pipeline.grid.names import node_name
from pipeline.problems import BadInput
from pipeline.report.views.pictures import Artifacts
from pipeline.report.views.training import trainings
from pipeline.store import arrow
from pipeline.store.verify import verify
from tasks.classifier.checkpoint import load_weights, weights_from_bytes
from tasks.data.arrays import as_float
from tasks.data.splits import digits
from tasks.networks.small import Small

GRID = (
    "epsilon: 40\nimages: 60\nredraws: 2\ntables:\n"
    "  - name: main\n    models: [both, mixed]\n    attacks: [clean, pgd, adaptive]\n"
    "    defenses: [none]\n"
    "  - name: crossmax\n    models: [both]\n    attacks: [clean, pgd, adaptive]\n"
    "    defenses: [crossmax-models, counter+crossmax-models]\n"
)
FILES = {
    "models/wide.yaml": "dataset: digits\nnetwork: {kind: small, width: 8}\nrecipe: short\n",
    "models/both.yaml": "dataset: digits\nmembers: [mixed, wide]\n",
    "attacks/adaptive.yaml": "kind: adaptive\nlosses: [margin]\nsteps: 2\ndraws: 1\nimages: 20\n",
    "defenses/crossmax-models.yaml": "kind: crossmax-models\n",
    "grids/tiny.yaml": GRID,
}
SECOND = {"models/wide.yaml": "extends: mixed\nseed: 7\n"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    folder = tmp_path_factory.mktemp("ensemble")
    made = Tiny(write_configs(folder / "configs", FILES), folder / "store")
    recorder, finished = made.run()
    assert not recorder.failed()
    assert not finished.missing
    return made


def members(tiny: Tiny) -> list[nn.Module]:
    """The members as networks of their own, with the weights that the ensemble's node has."""
    session = tiny.session()
    model = session.scores["both/clean/none"].parents[0][1].parent("model")
    record = session.record(model)
    assert record is not None
    whole = weights_from_bytes(session.store.path(record, "weights.safetensors").read_bytes())
    made = []
    for number, width in enumerate((4, 8)):
        sign = f"members.{number}."
        own = {key.removeprefix(sign): each for key, each in whole.items() if key.startswith(sign)}
        module = Small(width=width).build(1, 8, 10).eval()
        load_weights(module, own)
        made.append(module)
    return made


def test_an_ensemble_answers_the_mean_probability_of_its_members(tiny):
    test = digits().test[:60]
    pixels, labels = as_float(test.pixels), test.labels
    with torch.no_grad():
        answers = torch.stack([module(pixels).double() for module in members(tiny)])
    right = answers.softmax(dim=2).mean(dim=0).argmax(dim=1) == labels
    levels = answers - answers.amax(dim=2, keepdim=True)
    levels = levels - levels.amax(dim=0)
    crossed = levels.amin(dim=0).argmax(dim=1) == labels  # of two, the lower
    assert not torch.equal(right, crossed)
    session = tiny.session()
    for cell, expected in (
        ("both/clean/none", right),
        ("both/clean/crossmax-models", crossed),
    ):
        record = session.record(session.scores[cell])
        assert record is not None
        found = arrow.read_arrays(session.store.path(record, "per_image.arrow"))["correct"]
        assert np.array_equal(found[:, 0], expected.numpy())


def test_the_first_member_is_the_model_itself(tiny, tmp_path):
    export_weights(tiny.session(), "mixed", tmp_path / "mixed.safetensors", half=False)
    own = weights_from_bytes((tmp_path / "mixed.safetensors").read_bytes())
    first = members(tiny)[0].state_dict()
    assert own.keys() == first.keys()
    assert all(torch.equal(first[name], weight) for name, weight in own.items())


def test_a_member_is_trained_once_for_the_ensemble_and_for_itself(tiny):
    session = tiny.session()
    nodes = [node for node in session.graph if node.kind in {"train", "ensemble"}]
    names = sorted(node_name(node, session.grid) for node in nodes)
    assert names == ["ensemble both", "train mixed", "train wide"]
    alone = session.scores["mixed/clean/none"].parents[0][1].parent("model")
    ensemble = session.scores["both/clean/none"].parents[0][1].parent("model")
    assert alone in dict(ensemble.parents).values()


def test_a_store_with_an_ensemble_verifies_and_its_plan_counts_all_members(tiny):
    session = tiny.session()
    assert not list(verify(session.store).damages)
    small = Small(width=4).multiplications(1, 8, 10) + Small(width=8).multiplications(1, 8, 10)
    spec = session.grid.cell("both/clean/none").model_spec
    assert spec.network.multiplications(1, 8, 10) == small
    found = session.estimate(session.plan(session.forced("craft")), device="A100")
    assert "craft" not in found.unknown


def test_a_bundle_holds_the_files_of_members_that_are_checkpoints(tiny, tmp_path):
    file = tmp_path / "mixed.safetensors"
    export_weights(tiny.session(), "mixed", file, half=False)
    loaded = f"dataset: digits\nnetwork: {{kind: small, width: 4}}\ncheckpoint: {{file: {file}}}\n"
    folder = write_configs(tmp_path / "configs", {**FILES, "models/mixed.yaml": loaded})
    session = Tiny(folder, tmp_path / "store").session(only=["model=both"])
    found, left = configs_of(session)
    assert not left
    assert b"url: file:///mixed" in found["models/mixed.yaml"]
    assert str(file).encode() not in found["models/mixed.yaml"]
    assert {"models/both.yaml", "models/wide.yaml", "recipes/short.yaml"} <= found.keys()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dataset: digits\nmembers: [mixed, nosuch]\n", "members.1: no model named 'nosuch'"),
        ("dataset: digits\nmembers: [mixed, other]\n", "members.1: 'other' is an ensemble itself"),
        ("dataset: digits\nmembers: [mixed, mixed]\n", "'mixed' is given 2 times"),
        ("dataset: digits\nmembers: [mixed]\n", "members: expected a list of at least 2 values"),
        ("dataset: digits\nmembers: [mixed, wide]\nrecipe: short\n", "recipe: an ensemble is its"),
        ("dataset: digits\nmembers: [mixed, again]\n", "'again' is the same network as 'mixed'"),
        ("dataset: digits\n", "network: give one, or the members of an ensemble"),
        ("dataset: digits\nmembers: [mixed, far]\n", "'far' is of letters, not of digits"),
    ],
)
def test_what_is_no_ensemble_is_refused_in_one_line(text, said, tmp_path):
    others = {
        "models/both.yaml": text,
        "models/other.yaml": "dataset: digits\nmembers: [mixed, wide]\n",
        "models/again.yaml": "extends: mixed\n",
        "models/far.yaml": "dataset: letters\nnetwork: {kind: small}\nrecipe: short\n",
    }
    folder = write_configs(tmp_path, {**FILES, **others})
    with pytest.raises(BadInput) as raised:
        load_grid(Catalogue([folder]), "tiny")
    assert said in str(raised.value)
    assert "both.yaml:" in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("wide", "seeds"), [({}, {(0, 0), (1, 1)}), (SECOND, {(0, 7), (2, 9)})], ids=["grid's", "own"]
)
def test_a_seed_trains_each_member_anew_and_the_model_s_own_is_added_to_it(wide, seeds, tmp_path):
    folder = write_configs(tmp_path, {**FILES, **wide})
    grid = load_grid(Catalogue([folder]), "tiny", Overrides(seeds=2))
    cells = [cell for cell in grid.cells if cell.model == "both"]
    assert {tuple(member.seed for member in cell.model_spec.members) for cell in cells} == seeds


def test_ensembles_of_several_seeds_have_no_training_in_common(tmp_path):
    # three trainings of one recipe, whose seeds follow one another, and one of another recipe
    more = {
        "models/second.yaml": "extends: mixed\nseed: 1\n",
        "models/third.yaml": "extends: mixed\nseed: 2\n",
        "models/both.yaml": "dataset: digits\nmembers: [mixed, second, third, wide]\n",
    }
    folder = write_configs(tmp_path, {**FILES, **more})
    grid = load_grid(Catalogue([folder]), "tiny", Overrides(seeds=4))
    specs = {cell.seed: cell.model_spec for cell in grid.cells if cell.model == "both"}
    trained = [member for spec in specs.values() for member in spec.members]
    assert len(trained) == 16
    assert len({member.model_dump_json() for member in trained}) == 16
    assert [member.seed for member in specs[0].members] == [0, 1, 2, 0]


def test_what_the_command_line_sets_of_a_model_it_sets_of_a_member(tmp_path):
    folder = write_configs(tmp_path, FILES)

    def epochs(**parameters: object) -> tuple[int, ...]:
        overrides = Overrides(parameters={k.replace("__", "."): v for k, v in parameters.items()})
        spec = load_grid(Catalogue([folder]), "tiny", overrides).cell("both/clean/none").model_spec
        return tuple(member.recipe.epochs for member in spec.members)

    assert epochs() == (2, 2)
    assert epochs(wide__recipe__epochs=3) == (2, 3)
    assert epochs(model__recipe__epochs=4) == (4, 4)
    with pytest.raises(BadInput, match="an ensemble has no parameters but its members'"):
        epochs(both__randomised=True)


def test_a_variant_of_an_ensemble_is_refused(tmp_path):
    variant = "{label: other, use: both, set: {randomised: true}}"
    grid = GRID.replace("models: [both]", f"models: [{variant}]")
    folder = write_configs(tmp_path, {**FILES, "grids/tiny.yaml": grid})
    with pytest.raises(BadInput, match="an ensemble has no parameters of its own"):
        load_grid(Catalogue([folder]), "tiny")


def test_an_ensemble_is_written_as_a_model_and_no_network(tmp_path):
    network = "network: {kind: ensemble, members: [{kind: small}, {kind: small}]}"
    text = f"dataset: digits\n{network}\nrecipe: short\n"
    folder = write_configs(tmp_path, {**FILES, "models/both.yaml": text})
    with pytest.raises(BadInput, match="unknown kind 'ensemble'"):
        load_grid(Catalogue([folder]), "tiny")


def test_the_trainings_of_members_are_told_by_their_own_names(tiny):
    session = tiny.session(only=["model=both"])
    found = trainings(session.grid, Artifacts(session.store, session.scores))
    assert [training.model for training in found] == ["mixed", "wide"]


def test_weights_of_a_member_can_be_exported(tiny, tmp_path):
    export_weights(tiny.session(only=["model=both"]), "wide", tmp_path / "w", half=False)
    own = weights_from_bytes((tmp_path / "w").read_bytes())
    second = members(tiny)[1].state_dict()
    assert all(torch.equal(second[name], weight) for name, weight in own.items())


def test_a_defense_about_members_is_refused_for_one_network(tmp_path):
    said = (
        r"defense 'crossmax-models' needs an ensemble \(a model with `members`\), "
        "and 'mixed' of table 'main' is a single network"
    )
    grid = GRID.replace("defenses: [none]", "defenses: [none, crossmax-models]")
    folder = write_configs(tmp_path / "in_file", {**FILES, "grids/tiny.yaml": grid})
    with pytest.raises(BadInput, match=rf"tiny\.yaml:\d+: tables\.0\.defenses\.1: {said}$"):
        load_grid(Catalogue([folder]), "tiny")
    # the place of one that was added is the option, and no line of the file
    folder = write_configs(tmp_path / "added", FILES)
    added = Overrides(add=[("defenses", "crossmax-models")])
    way = "; choose a grid whose models are all ensembles"
    with pytest.raises(BadInput, match=f"^--add defense=crossmax-models: {said}{way}$"):
        load_grid(Catalogue([folder]), "tiny", added)


def test_weights_of_an_ensemble_are_those_of_its_members(tmp_path):
    folder = write_configs(tmp_path, FILES)
    with pytest.raises(BadInput, match="--weights both: an ensemble has those of mixed, wide"):
        load_grid(Catalogue([folder]), "tiny", Overrides(weights={"both": tmp_path}))


def test_weights_that_do_not_fit_a_member_are_told_by_its_name(tiny, tmp_path):
    file = tmp_path / "mixed.safetensors"
    export_weights(tiny.session(), "mixed", file, half=False)
    wrong = f"dataset: digits\nnetwork: {{kind: small, width: 8}}\ncheckpoint: {{file: {file}}}\n"
    folder = write_configs(tmp_path / "configs", {**FILES, "models/wide.yaml": wrong})
    own = Tiny(folder, tmp_path / "store")
    with pytest.raises(BadInput, match=r"^checkpoint wide: weights do not fit the network: "):
        own.run(only=["model=both"])
