"""Estimates: work counted in advance, and the seconds that it takes on a device."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from our_kinds import our_kinds
from tiny import Tiny, write_configs
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from pipeline.catalogue.devices import Device, Speed, cpu_name, device_named, read_devices
from pipeline.grid.graph import Graph, Node
from pipeline.grid.workloads import speed_class, workload
from pipeline.plan.estimate import TOUCH, Estimate, estimate
from pipeline.plan.timings import SCANNED, TRIES
from pipeline.plan.words import roughly
from pipeline.problems import BadInput
from pipeline.store.store import Store
from tasks.attacks.apgd_t import APGDT
from tasks.attacks.base import Attack
from tasks.attacks.pgd import PGD
from tasks.classifier.frozen import Frozen
from tasks.data.arrays import Crafted, Images
from tasks.data.seeding import Rows
from tasks.data.spec import DatasetSpec
from tasks.defenses.base import Context, Defense
from tasks.defenses.chain import Chain
from tasks.defenses.counter import Counter
from tasks.defenses.crossmax import CrossMax
from tasks.defenses.gaussian import Gaussian
from tasks.defenses.guo import Guo
from tasks.defenses.mi_ol import MixupInference
from tasks.defenses.none import NoDefense
from tasks.defenses.tv import TV
from tasks.defenses.xie import Xie
from tasks.evaluation.costs import craft_passes, prediction_passes, query_passes
from tasks.evaluation.craft import craft
from tasks.evaluation.defend import defend
from tasks.evaluation.specs import CraftSpec, DefendSpec, ScoreSpec
from tasks.networks.families.multiplications import convolution
from tasks.networks.small import Small
from tasks.progress import silent
from tasks.registry import kind_class, kinds
from tasks.specs import Precision, Problem, Shard
from tasks.training.augment import training_batch
from tasks.training.recipe import InnerAttack, Recipe, TrainSpec

PROBLEM = Problem(epsilon=8, classes=10, side=8, pool=40)
COUNT = 6


class CountedTouches(TorchDispatchMode):
    """Counts the numbers of all tensors that operations take and give, other than their views."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            leaves = tree_leaves((args, kwargs, result))
            self.total += sum(each.numel() for each in leaves if isinstance(each, torch.Tensor))
        return result


class CountedFlop(TorchDispatchMode):
    """Counts as FlopCounterMode does, but also under `autograd.grad`, which that refuses."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if formula := flop_registry.get(func._overloadpacket):
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        return result


@pytest.fixture
def images() -> Images:
    pixels = torch.randint(
        0, 256, (40, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    return Images(pixels, torch.arange(40) % 10, torch.arange(40), 10)


@pytest.fixture
def frozen() -> Frozen:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    return Frozen(network, classes=10)


@pytest.mark.parametrize("kind", our_kinds("networks"))
@pytest.mark.parametrize(("channels", "side", "classes"), [(1, 9, 10), (3, 16, 7)])
def test_multiplications_are_those_that_torch_counts(
    kind: str, channels: int, side: int, classes: int
) -> None:
    network = kind_class("networks", kind)(mean=(0.5,), std=(0.5,))
    module = network.build(channels, side, classes).eval()
    with CountedFlop() as counter, torch.no_grad():
        module(torch.zeros(2, channels, side, side))
    assert counter.total == 2 * 2 * network.multiplications(channels, side, classes)


@pytest.mark.parametrize(
    "attack",
    [*(kind_class("attacks", kind)() for kind in our_kinds("attacks")
       if not kind_class("attacks", kind).compound and kind != "apgd-t"),
     PGD(steps=3, label="predicted"), PGD(steps=3, targeted=True), APGDT(ranks=(2,), steps=3)],
    ids=repr,
)  # fmt: skip
def test_attacks_declare_the_passes_that_they_take(
    attack: Attack, images: Images, frozen: Frozen
) -> None:
    attack = attack.resolved(PROBLEM)
    shard = Shard(start=0, stop=COUNT)
    spec = CraftSpec(attack=attack, shard=shard, seed=0, precision="float32")
    craft(images[:COUNT], Context(frozen), spec, batch_size=4)
    passes = attack.forwards_and_backwards() * COUNT
    assert (passes.forwards, passes.backwards) == (frozen.forwards, frozen.backwards)


def test_an_attack_on_those_that_still_stand_takes_no_more_than_it_declares(
    images: Images, frozen: Frozen
) -> None:
    attack = APGDT(steps=3).resolved(PROBLEM)
    spec = CraftSpec(attack=attack, shard=Shard(start=0, stop=COUNT), seed=0, precision="float32")
    craft(images[:COUNT], Context(frozen), spec, batch_size=COUNT)
    passes = attack.forwards_and_backwards() * COUNT
    assert frozen.forwards <= passes.forwards
    assert frozen.backwards <= passes.backwards


DEFENSES = (
    *(kind_class("defenses", kind)() for kind in kinds("defenses") if kind != "chain"),
    Counter(label_count=3, label_pool="all"),
    Counter(labels=(1, 4)),
    Chain(parts=(Counter(), Xie(draws=5))),
    Chain(parts=(Counter(), MixupInference(draws=5))),
    Chain(parts=(Counter(), NoDefense())),
    Chain(parts=(MixupInference(), Guo(draws=5))),
    Chain(parts=(Gaussian(), MixupInference(draws=5))),
    Chain(parts=(Gaussian(), Counter(label_count=2), Gaussian(draws=5))),
)


@pytest.mark.parametrize("defense", DEFENSES, ids=repr)
def test_defenses_declare_the_passes_that_they_take(
    defense: Defense, images: Images, frozen: Frozen
) -> None:
    defense = defense.resolved(PROBLEM)
    shard = Shard(start=0, stop=COUNT)
    spec = DefendSpec(defense=defense, shard=shard, seed=0, redraws=2)
    crafted = Crafted(
        images.pixels[:COUNT] / 255,
        images.labels[:COUNT],
        images.ids[:COUNT],
        torch.full((COUNT,), -1),
    )
    # one batch, since an image whose draws lie in two is asked about twice
    defend(crafted, Context(frozen, images), spec, batch_size=10_000, tell=silent)

    passes = prediction_passes(defense, 10) * (COUNT * spec.redraws)
    assert (passes.forwards, passes.backwards) == (frozen.forwards, frozen.backwards)


@pytest.mark.parametrize(("channels", "side"), [(3, 32), (1, 8)])
@pytest.mark.parametrize("iterations", [25, 50])
def test_tv_declares_what_its_solver_reads_and_writes_to_within_a_tenth(
    frozen: Frozen, channels: int, side: int, iterations: int
) -> None:
    defense, ids = TV(iterations=iterations), torch.arange(COUNT)
    with CountedTouches() as counter, torch.no_grad():
        pixels = torch.full((COUNT, channels, side, side), 0.5)
        defense.transform(pixels, Rows(0, ids, torch.zeros_like(ids)), Context(frozen))
    declared = defense.touched() * COUNT * channels * side**2
    assert 0.9 * counter.total <= declared <= 1.1 * counter.total


def test_what_a_defense_touches_is_told_of_every_row_that_it_transforms() -> None:
    each = TV().touched()
    assert prediction_passes(TV(), 10).touched == 10 * each
    assert prediction_passes(Chain(parts=(Counter(), TV(draws=3))), 10).touched == 3 * each
    assert prediction_passes(Chain(parts=(TV(), Guo(draws=5))), 10).touched == 5 * each
    assert prediction_passes(CrossMax(inner=TV(), members=4), 10).touched == 4 * each
    assert query_passes(TV(), 10, 6).touched == 6 * each
    attack, shard = PGD(steps=7).resolved(PROBLEM), Shard(start=0, stop=COUNT)
    spec = CraftSpec(attack=attack, shard=shard, seed=0, precision="float32", against=TV(), draws=6)
    questions = attack.forwards_and_backwards().forwards
    assert craft_passes(spec, 10).touched == (questions + attack.judgements()) * 6 * each


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(),
        Recipe(method="iat", inner=InnerAttack(steps=3)),
        Recipe(method="iat", inner=InnerAttack(steps=2, label="predicted")),
    ],
    ids=["mixup", "iat", "predicted"],
)
def test_recipes_declare_the_passes_that_a_training_step_takes(
    recipe: Recipe, images: Images
) -> None:
    recipe, network = recipe.resolved(PROBLEM), Small(width=2)
    module = network.build(1, 8, 10).train()
    batch = images[:COUNT]
    with CountedFlop() as counter:
        rows = Rows(0, batch.ids, torch.zeros_like(batch.ids))
        pixels, targets = training_batch(module, batch, rows, recipe)
        nn.functional.cross_entropy(module(pixels), targets).backward()
    passes = recipe.forwards_and_backwards() * COUNT
    # the last backward pass stops at the first layer's weights, short of the pixels
    unneeded = convolution(1, 2, kernel=3, side=8) * len(pixels)
    expected = passes.equivalents * network.multiplications(1, 8, 10) - unneeded
    assert counter.total == 2 * expected


DATASET = DatasetSpec(kind="digits", classes=10, channels=1, side=8)
TRAIN_IMAGES = {DATASET: 100}
EACH = Small().multiplications(1, 8, 10)
"""Multiplications of one forward pass."""
DEVICES = {
    "NVIDIA H100": Device(
        float32=Speed(peak_teraflop_per_s=50, share=0.5, basis="assumed"),
        bfloat16=Speed(peak_teraflop_per_s=500, share=0.2, basis="measured"),
    ),
    "CPU": Device(float32=Speed(peak_teraflop_per_s=0.1, share=0.1, basis="assumed")),
}
DATA = Node("dataset", DATASET)


def model(recipe: Recipe | None = None) -> Node:
    recipe = (recipe or Recipe(epochs=3, batch_size=30)).resolved(PROBLEM)
    return Node("train", TrainSpec(network=Small(), recipe=recipe), (("dataset", DATA),))


def crafting(
    steps: int, *, images: int = 20, seed: int = 0, precision: Precision = "float32"
) -> Node:
    spec = CraftSpec(
        attack=PGD(steps=steps).resolved(PROBLEM),
        shard=Shard(start=0, stop=images),
        seed=seed,
        precision=precision,
    )
    return Node("craft", spec, (("dataset", DATA), ("model", model())))


def defending(
    examples: Node, defense: Defense, *, redraws: int = 1, precision: Precision = "float32"
) -> Node:
    spec = DefendSpec(
        defense=defense.resolved(PROBLEM),
        shard=examples.spec.shard,
        seed=0,
        redraws=redraws,
        precision=precision,
    )
    return Node("defend", spec, (("model", examples.parent("model")), ("examples", examples)))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def record(
    store: Store,
    node: Node,
    seconds: float,
    *,
    passes: tuple[int, int] = (0, 0),
    device: str = "x86_64 CPU",
    facts: Mapping[str, object] | None = None,
) -> None:
    """A record of a node as work writes it, with its parents' where they are not there yet."""
    for _, parent in node.parents:
        if store.record(parent.kind, parent.digest) is None:
            record(store, parent, 0.0)
    how = {"seconds": seconds, "device": device, "forwards": passes[0], "backwards": passes[1]}
    store.put(node.identity, {}, lineage={}, facts=facts or {}, how=how)


def of(
    nodes: list[Node], store: Store, *, device: str | None = "x86_64 CPU", workers: int = 1
) -> Estimate:
    """The estimate of some nodes without their ancestors."""
    return estimate(
        Graph(nodes),
        {node.digest for node in nodes},
        store,
        devices=DEVICES,
        train_images=TRAIN_IMAGES,
        device=device,
        workers=workers,
    )


def test_work_is_images_times_passes_times_multiplications() -> None:
    def amount(node: Node) -> float:
        return workload(node, TRAIN_IMAGES).amount

    examples = crafting(7)
    # three whole batches of 30 in each of 3 epochs: a forward pass and a backward one of two
    assert amount(model()) == 3 * 90 * 3 * EACH
    assert amount(model(Recipe(epochs=1, batch_size=200))) == 100 * 3 * EACH
    assert amount(examples) == 20 * 14 * EACH
    assert amount(defending(examples, Guo(draws=5), redraws=3)) == 20 * 5 * 3 * EACH
    two = tuple((f"shard{i}", defending(examples, NoDefense(), redraws=i)) for i in (1, 2))
    assert amount(Node("score", ScoreSpec(), two)) == 20 + 40


def test_recorded_seconds_are_scaled_by_the_work(store: Store) -> None:
    record(store, crafting(2), 4.0, passes=(20 * 2, 20 * 2))
    found = of([crafting(10, images=40)], store)
    assert found.seconds == {"craft": pytest.approx(4.0 * 5 * 2)}
    assert found.basis == ("craft from 1 recorded timing on x86_64 CPU",)


def test_of_several_timings_the_median_pace_counts(store: Store) -> None:
    for seed, seconds in enumerate((1.0, 2.0, 90.0)):
        record(store, crafting(5, seed=seed), seconds, passes=(100, 100))
    assert of([crafting(5, seed=9)], store).work_s == pytest.approx(2.0)


def test_timings_of_the_same_method_go_before_others_of_its_kind(store: Store) -> None:
    examples = crafting(1)
    record(store, defending(examples, Guo(draws=10)), 7.0, passes=(200, 0))
    record(store, defending(examples, NoDefense()), 9.0, passes=(20, 0))
    again = defending(crafting(2), Guo(draws=20))
    assert of([again], store).work_s == pytest.approx(14.0)
    # a method that was never timed takes the median pace of all: 0.035 s and 0.45 s an answer
    assert of([defending(examples, Gaussian(draws=1))], store).work_s == pytest.approx(20 * 0.2425)


@pytest.mark.parametrize(
    ("recorded", "device"),
    [
        (crafting(2), "NVIDIA H100 80GB HBM3"),
        (crafting(2, precision="bfloat16"), "x86_64 CPU"),
    ],
)
def test_timings_of_another_device_or_precision_are_not_taken(
    store: Store, recorded: Node, device: str
) -> None:
    record(store, recorded, 4.0, passes=(40, 40), device=device)
    (basis,) = of([crafting(10)], store).basis
    assert "counted" in basis


def test_a_part_of_a_name_finds_the_timings_of_a_device(store: Store) -> None:
    record(store, crafting(2), 4.0, passes=(40, 40), device="NVIDIA L4")
    found = of([crafting(4)], store, device="nvidia l4")
    assert found.work_s == pytest.approx(8.0)
    assert found.basis == ("craft from 1 recorded timing on NVIDIA L4",)


def test_training_is_timed_by_its_epochs_even_where_it_was_taken_up_again(store: Store) -> None:
    timings = {"seconds": [2.0, 4.0], "images_per_second": [50.0, 25.0]}
    record(store, model(Recipe(epochs=2, batch_size=50)), 4.0, facts={"timings": timings})
    # 200 images took 6 seconds; 3 epochs of 90 images are to come
    assert of([model()], store).seconds == {"train": pytest.approx(6.0 * 270 / 200)}


def test_timings_of_models_outside_the_graph_are_found(store: Store) -> None:
    other = Node("train", TrainSpec(network=Small(), recipe=Recipe(), seed=5), (("dataset", DATA),))
    spec = crafting(2).spec
    record(store, Node("craft", spec, (("dataset", DATA), ("model", other))), 4.0, passes=(40, 40))
    assert of([crafting(4)], store).work_s == pytest.approx(8.0)


def test_a_record_that_tells_nothing_is_passed_over(store: Store) -> None:
    record(store, crafting(1, seed=1), 0.0, passes=(20, 20))
    record(store, crafting(1, seed=2), 5.0, passes=(0, 0))
    record(store, model(Recipe(epochs=9)), 5.0)
    assert all("counted" in basis for basis in of([crafting(1), model()], store).basis)


def test_what_was_never_timed_is_counted_at_the_stated_speed(store: Store) -> None:
    found = of([crafting(10)], store, device="NVIDIA H100")
    flop = 2 * 20 * 20 * EACH
    assert found.seconds == {"craft": pytest.approx(flop / 25e12)}
    words = f"craft counted {flop:.2g} FLOP at an assumed 50 % of 50 TFLOP/s"
    assert found.basis == (f"{words} (NVIDIA H100, float32)",)
    narrow = of([crafting(10, precision="bfloat16")], store, device="H100")
    assert narrow.work_s == pytest.approx(flop / 100e12)
    assert "a measured 20 % of 500 TFLOP/s (NVIDIA H100, bfloat16)" in narrow.basis[0]


def test_what_a_defense_touches_is_added_to_its_passes(store: Store) -> None:
    """20 images of 64 pixels and 10 draws each, in float32 whatever the precision."""
    equal, tv = (defending(crafting(1), each) for each in (Guo(draws=10), TV(draws=10)))
    passes, touches = 200 * EACH, 200 * 64 * TV().touched()
    assert workload(tv, TRAIN_IMAGES) == replace(
        workload(equal, TRAIN_IMAGES), speed_class=speed_class(tv), touched=touches
    )
    assert of([equal], store).work_s == pytest.approx(2 * passes / 10e9)
    found = of([tv], store)
    assert found.work_s == pytest.approx(2 * (passes + TOUCH * touches) / 10e9)
    assert found.work_s > 1.5 * of([equal], store).work_s
    narrow = of([defending(crafting(1), TV(), precision="bfloat16")], store, device="H100")
    assert narrow.work_s == pytest.approx(2 * passes / 100e12 + 2 * TOUCH * touches / 25e12)
    assert narrow.basis[-1] == (
        f"defend counted {touches:.2g} numbers that defenses read and write, "
        f"each as {TOUCH} multiplications in float32"
    )
    assert narrow.assumed == ("float32",)


def test_what_a_defense_touches_is_in_its_own_timings_and_not_in_those_of_others(
    store: Store,
) -> None:
    examples = crafting(1)
    record(store, defending(examples, NoDefense()), 9.0, passes=(20, 0))
    tv = defending(examples, TV(draws=10))
    touches = 200 * 64 * TV().touched()
    assert of([tv], store).work_s == pytest.approx(90.0 + 2 * TOUCH * touches / 10e9)
    record(store, defending(examples, TV(draws=5)), 70.0, passes=(100, 0))
    assert of([tv], store).work_s == pytest.approx(140.0)


def test_workers_share_the_work_but_not_a_chain_of_nodes(store: Store) -> None:
    chain = [crafting(10), defending(crafting(10), Guo(draws=10))]
    alone = [crafting(10, seed=seed) for seed in range(1, 6)]
    each = 2 * 20 * 20 * EACH / 10e9
    one = of(chain + alone, store)
    assert one.wall_s == pytest.approx(one.work_s) == pytest.approx(6.5 * each)
    assert one.chain_s == pytest.approx(1.5 * each)
    assert of(chain + alone, store, workers=2).wall_s == pytest.approx(3.25 * each)
    assert of(chain + alone, store, workers=64).wall_s == pytest.approx(1.5 * each)


def test_what_nothing_tells_about_is_named(store: Store) -> None:
    found = of([DATA, crafting(10)], store)
    assert found.unknown == ("dataset",)
    assert "dataset left out" in found.basis[-1]
    assert "dataset" not in found.seconds
    record(store, crafting(2), 4.0, passes=(40, 40), device="NVIDIA L4")
    partly = of([model(), crafting(2)], store, device="NVIDIA L4")
    assert partly.unknown == ("train",)
    assert all("at least about" in line for line in list(partly.lines())[:2])


def test_an_estimate_from_counted_operations_alone_is_a_lower_bound(store: Store) -> None:
    """Small networks perform their operations more slowly than large products."""
    first, second, *_ = of([crafting(10)], store).lines()
    assert " at least about " in first
    assert " at least about " in second
    record(store, crafting(10), 4.0, passes=(200, 200))
    timed, *_ = of([crafting(20)], store).lines()
    assert "at least" not in timed


def test_where_nothing_tells_how_fast_it_is_no_time_is_told(store: Store) -> None:
    first, *rest = of([DATA], store).lines()
    assert first.endswith("not known before the first run")
    assert all(line.startswith("basis: ") for line in rest)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (8.4, "8 s"),
        (204, "3 min 20 s"),
        (2937, "49 min"),
        (22_260, "6 h 10 min"),
        (66_060, "18 h"),
        (3 * 86400 + 4 * 3600 + 1900, "3 d 5 h"),
        (599, "10 min"),
    ],
)
def test_what_is_estimated_is_told_in_steps_that_grow_with_it(seconds: float, words: str) -> None:
    assert roughly(seconds) == words


def test_a_device_that_nobody_knows_is_refused(store: Store) -> None:
    with pytest.raises(BadInput, match=r"--for-device TPU: .* has NVIDIA H100, CPU"):
        of([crafting(1)], store, device="TPU")


def test_few_records_of_a_big_store_are_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(SCANNED + 30):
        record(store, crafting(1, seed=seed), 1.0, passes=(20, 20))
    known, reads = Store.known, []

    def counting(self: Store, kind: str, digest: str) -> object:
        reads.append(digest)
        return known(self, kind, digest)

    monkeypatch.setattr(Store, "known", counting)
    of([crafting(1, seed=seed) for seed in range(SCANNED + 30)], store)
    assert len(reads) == len(set(reads)) <= TRIES
    reads.clear()
    of([crafting(2, seed=9999)], store)
    assert SCANNED <= len(reads) == len(set(reads)) <= SCANNED + TRIES


def test_nothing_to_do_takes_no_time_and_no_words(store: Store) -> None:
    found = of([], store, device="TPU")
    assert (found.work_s, list(found.lines())) == (0, [])


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("NVIDIA H100 80GB HBM3", "NVIDIA H100"),
        ("nvidia h100", "NVIDIA H100"),
        ("h100", "NVIDIA H100"),
        ("aarch64 CPU", "CPU"),
        ("NVIDIA", None),
        ("AMD MI300X", None),
    ],
)
def test_devices_are_found_by_their_names(name: str, known: str | None) -> None:
    assert device_named(name, {**DEVICES, "NVIDIA A100": DEVICES["CPU"]}) == known


def test_the_table_of_devices_has_this_machine_and_refuses_what_does_not_fit(
    tmp_path: Path,
) -> None:
    path = Path(__file__).parents[2] / "configs" / "devices.yaml"
    devices = read_devices(path)
    assert device_named(cpu_name(), devices) == "CPU"
    assert devices["CPU"].speed("bfloat16") == devices["CPU"].float32
    wrong = tmp_path / "devices.yaml"
    wrong.write_text("X:\n  float32: {peak_teraflop_per_s: 1, share: 30, basis: assumed}\n")
    with pytest.raises(BadInput, match=r"devices.yaml:2: X.float32.share: .* 1"):
        read_devices(wrong)


def test_a_first_run_foretells_what_doing_it_again_takes(tmp_path: Path) -> None:
    tiny = Tiny(write_configs(tmp_path / "configs"), tmp_path / "store")
    fresh = tiny.session(images=20)
    guess = fresh.estimate(fresh.plan())
    assert set(guess.seconds) == {"train", "craft", "defend", "exhibit"}
    recorder, _ = tiny.run(images=20)

    session = tiny.session(images=20)
    assert session.estimate(session.plan()).facts()["node_hours"] == {}
    todo = session.plan({node.digest for node in session.graph})
    again = session.estimate(todo)
    assert again.unknown == ()
    assert set(again.seconds) == {event.node.kind for event in recorder.done()}
    for kind in ("dataset", "train", "craft"):
        # one node of each: its own seconds are foretold, of training without what is around it
        (done,) = recorder.done(kind)
        taken = done.done.how["seconds"]
        if kind == "train":
            taken = sum(done.done.facts["timings"]["seconds"])
        assert again.seconds[kind] == pytest.approx(taken)
    assert json.loads(json.dumps(again.facts()))["basis"] == list(again.basis)


def test_an_estimate_needs_no_torch(tmp_path: Path) -> None:
    configs, store = str(write_configs(tmp_path / "configs")), str(tmp_path / "store")
    program = f"""
from pathlib import Path
from pipeline.commands.session import open_session
session = open_session("tiny", store=Path({store!r}), configs=[Path({configs!r})])
print(*session.estimate(session.plan()).lines())
import sys
assert not {{"torch", "ray", "mlflow", "polars"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert b"estimated work on" in done.stdout
