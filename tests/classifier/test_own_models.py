"""Models of somebody else's as YAML alone: a factory, a timm network, a file of torch.export."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from artifacts import unsealed
from click.testing import CliRunner
from strange_networks import make, with_statistics
from tiny import Recorder, write_configs
from torch import Tensor, nn

from pipeline.commands.cli import main
from pipeline.commands.session import Session, open_session
from pipeline.execution.events import Observers, RunFinished
from pipeline.execution.work.inputs import forget
from pipeline.grid.builder import Overrides
from pipeline.grid.graph import Node
from pipeline.grid.workloads import workload
from pipeline.problems import BadInput
from tasks.classifier import exported
from tasks.classifier.checkpoint import BadCheckpoint
from tasks.classifier.problems import BadNetwork
from tasks.networks.exported import Exported
from tasks.networks.factory import Factory
from tasks.networks.timm import Timm

NET = """
from torch import nn


def make(width, classes=10):
    return nn.Sequential(
        nn.Conv2d(1, width, 3, stride=2), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Dropout(0.5), nn.Flatten(), nn.Linear(9 * width, classes),
    )


def nothing():
    return 7


def broken():
    return nn.Linear("3", 4)
"""
FACTORY = "kind: factory, factory: '../../net.py:make', arguments: {{width: {width}}}"


class Zoo:
    """The tiny grid whose model is somebody else's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "net.py").write_text(NET, encoding="utf-8")

    def session(
        self,
        network: str,
        weights: object = None,
        *,
        only: str = "attack=clean",
        more: str = "",
        images: int = 40,
    ) -> Session:
        """weights: a state dict, the bytes of a file, or None for a network that is trained.

        more: further lines of the model's YAML.
        """
        how = "recipe: short" if weights is None else "checkpoint: {file: ../../weights}"
        model = f"dataset: digits\nnetwork: {{{network}}}\n{how}\n{more}"
        configs = write_configs(self.folder / "cfg", {"models/mixed.yaml": model})
        if isinstance(weights, bytes):
            (self.folder / "weights").write_bytes(weights)
        elif weights is not None:
            torch.save(weights, self.folder / "weights")
        return open_session(
            "tiny",
            store=self.folder / "store",
            configs=[configs],
            only=[only, "defense=none"],
            overrides=Overrides(images=images),
        )

    def run(self, session: Session, *, fresh: bool = True) -> RunFinished:
        """fresh: with nothing kept of what this process did before."""
        if fresh:
            forget()
        session.store.prepare()
        return session.run(
            Observers([Recorder()]), inline=True, address=None, workers=None, forced=set()
        )

    def model(self, session: Session) -> Node:
        return session.scores["mixed/clean/none"].parent("shard0").parent("model")


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Zoo:
    monkeypatch.chdir(tmp_path)
    return Zoo(tmp_path)


def own_network(width: int = 4) -> nn.Module:
    """What `net.py:make` gives, with statistics that a wrong mode would not forgive."""
    space: dict[str, object] = {}
    exec(NET, space)  # noqa: S102
    torch.manual_seed(0)
    module = space["make"](width)  # type: ignore[operator]
    assert isinstance(module, nn.Module)
    with torch.no_grad():
        for _ in range(3):
            module(torch.rand(8, 1, 8, 8))
    return module.eval()


def accuracy(module: nn.Module, mean: float = 0.0, std: float = 1.0) -> float:
    """Percent right on the 40 images of the grid."""
    from tasks.data.arrays import as_float
    from tasks.data.splits import digits

    test = digits().test[:40]
    with torch.no_grad():
        answers = module((as_float(test.pixels) - mean) / std).argmax(dim=1)
    return 100 * (answers == test.labels).float().mean().item()


def as_pt2(module: nn.Module, *, dynamic: bool = True, channels: int = 1, side: int = 8) -> bytes:
    shapes = ({0: torch.export.Dim("batch")},) if dynamic else None
    example = (torch.rand(3, channels, side, side),)
    program = torch.export.export(module, example, dynamic_shapes=shapes)
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def edited(data: bytes, changes: Mapping[str, bytes]) -> bytes:
    """A `.pt2` file with parts replaced, by the ends of their names."""
    source, target = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name in source.namelist():
            found = [new for end, new in changes.items() if name.endswith(end)]
            archive.writestr(name, found[0] if found else source.read(name))
    return target.getvalue()


def scored(zoo: Zoo, session: Session) -> object:
    finished = zoo.run(session)
    assert not finished.missing
    return finished.scored["mixed/clean/none"]["accuracy"]


def test_a_factory_in_a_file_is_a_network_with_its_weights_and_normalisation(zoo: Zoo) -> None:
    module = own_network()
    network = FACTORY.format(width=4)
    plain = zoo.session(network, module.state_dict())
    assert scored(zoo, plain) == pytest.approx(accuracy(module))
    shifted = zoo.session(f"{network}, mean: [0.3], std: [0.4]", module.state_dict())
    assert scored(zoo, shifted) == pytest.approx(accuracy(module, 0.3, 0.4))
    attacked = zoo.run(zoo.session(network, module.state_dict(), only="attack=pgd"))
    assert not attacked.missing


def test_a_factory_is_trained_from_first_weights_of_its_own_under_the_seed(zoo: Zoo) -> None:
    first, again, other = (
        Factory(factory="torch.nn:Linear", arguments={"in_features": 3, "out_features": 2}).build(
            1, 8, 10, seed=seed
        )
        for seed in (0, 0, 1)
    )
    assert torch.equal(first.weight, again.weight)
    assert not torch.equal(first.weight, other.weight)
    session = zoo.session(FACTORY.format(width=4))
    assert isinstance(scored(zoo, session), float)
    # a forward pass: 9 places of 9 products for each of 4 channels, and the last layer
    record = session.record(zoo.model(session))
    assert record is not None
    assert record.facts["multiplications"] == 9 * 9 * 4 + 36 * 10


def test_what_a_plan_knows_of_a_factorys_cost_is_what_a_run_has_counted(zoo: Zoo) -> None:
    def estimated(session: Session) -> tuple[object, ...]:
        forced = {node.digest for node in session.meant}
        return session.estimate(session.plan(forced)).unknown

    network, weights = FACTORY.format(width=4), own_network().state_dict()
    assert "defend" in estimated(zoo.session(network, weights))
    assert workload(zoo.model(zoo.session(network)), {}).amount == 0
    zoo.run(zoo.session(network, weights))
    assert "defend" not in estimated(zoo.session(network, weights))


SPRINGS = """
import pathlib
pathlib.Path("sprung").touch()


def make():
    return None
"""


@pytest.mark.parametrize(
    "network",
    [
        "kind: factory, factory: 'subprocess:getoutput', arguments: {cmd: touch sprung}",
        "kind: factory, factory: 'shutil:copyfile', arguments: {src: springs.py, dst: sprung}",
        # a file that does something when it is imported, and a module that does
        "kind: factory, factory: '../../springs.py:make'",
        "kind: factory, factory: 'springs:make'",
    ],
)
@pytest.mark.parametrize("command", ["plan", "why", "list"])
def test_a_plan_runs_no_factory_and_a_run_only_takes_a_module_from_it(
    zoo: Zoo, network: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (zoo.folder / "springs.py").write_text(SPRINGS)
    monkeypatch.syspath_prepend(str(zoo.folder))
    weights = own_network().state_dict()
    zoo.session(network, weights)
    words = {"why": ["mixed/clean/none"], "plan": [], "list": ["cells"]}[command]
    options = ["--grid", "tiny", "--configs", str(zoo.folder / "cfg"), "--images", "40"]
    result = CliRunner().invoke(main, [command, *words, *options])
    assert result.exit_code == 0, result.output
    assert not (zoo.folder / "sprung").exists()
    if command == "plan":
        with pytest.raises(BadInput, match=r"network \S+: gave (str|NoneType), not a module"):
            zoo.run(zoo.session(network, weights))
        assert (zoo.folder / "sprung").exists()


def test_a_record_of_somebody_elses_store_calls_no_factory_when_work_is_estimated(
    zoo: Zoo,
) -> None:
    session = zoo.session(FACTORY.format(width=4), own_network().state_dict())
    zoo.run(session)
    for meta in (zoo.folder / "store").glob("checkpoint/??/*/meta.json"):
        record = json.loads(meta.read_text())
        record["spec"]["network"] |= {
            "factory": "subprocess:getoutput",
            "arguments": {"cmd": "touch sprung"},
        }
        record["facts"].pop("multiplications")
        meta.write_text(unsealed(record))
    again = zoo.session(FACTORY.format(width=4), own_network().state_dict())
    again.estimate(again.plan({node.digest for node in again.meant}))
    assert not (zoo.folder / "sprung").exists()


@pytest.mark.parametrize("kind", ["springs:Absent", "springs:make", "springs:"])
def test_a_module_is_not_imported_for_a_class_that_it_does_not_have(
    zoo: Zoo, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (zoo.folder / "springs.py").write_text(SPRINGS)
    monkeypatch.syspath_prepend(str(zoo.folder))
    configs = write_configs(zoo.folder / "cfg", {"defenses/guo.yaml": f"kind: '{kind}'\n"})
    with pytest.raises(BadInput, match="springs"):
        open_session("tiny", store=zoo.folder / "store", configs=[configs])
    assert not (zoo.folder / "sprung").exists()


def test_a_factorys_code_and_arguments_enter_the_digest_and_its_place_does_not(zoo: Zoo) -> None:
    def digest(network: str) -> str:
        return zoo.model(zoo.session(network, b"weights")).digest

    first = digest(FACTORY.format(width=4))
    assert digest(FACTORY.format(width=5)) != first
    (zoo.folder / "elsewhere").mkdir()
    (zoo.folder / "elsewhere" / "net.py").write_text(f"# the same\n{NET}")
    assert digest(FACTORY.format(width=4).replace("net.py", "elsewhere/net.py")) == first
    (zoo.folder / "net.py").write_text(NET.replace("0.5", "0.4"))
    assert digest(FACTORY.format(width=4)) != first


def test_an_installed_factory_goes_by_its_dotted_path_without_being_imported_to_plan(
    zoo: Zoo,
) -> None:
    from torchvision.models import squeezenet1_1

    network = "kind: factory, factory: 'torchvision.models.squeezenet:squeezenet1_1'"
    session = zoo.session(f"{network}, arguments: {{num_classes: 10}}", b"weights")
    spec = zoo.model(session).spec
    assert len(spec.network.source) == 64  # type: ignore[union-attr]
    built = spec.network.build(3, 32, 10)  # type: ignore[union-attr]
    assert built.state_dict().keys() == squeezenet1_1(num_classes=10).state_dict().keys()
    with pytest.raises(BadInput, match=r"no module 'torchvision\.nonesuch' that is a Python file"):
        zoo.session("kind: factory, factory: 'torchvision.nonesuch:net'", b"weights")
    with pytest.raises(BadInput, match="no module 'nonesuch': nonesuch is not installed here"):
        zoo.session("kind: factory, factory: 'nonesuch:net'", b"weights")


@pytest.mark.parametrize(
    ("network", "line"),
    [
        (
            FACTORY.format(width="four").replace("width", "wdth"),
            r"network net\.py:make: TypeError: .*unexpected keyword argument 'wdth'",
        ),
        (
            "kind: factory, factory: '../../net.py:nothing'",
            r"network net\.py:nothing: gave int, not a module",
        ),
        (
            "kind: factory, factory: '../../net.py:broken'",
            r"network net\.py:broken: TypeError: .* \(net\.py:17\)$",
        ),
        (
            "kind: factory, factory: '../../net.py:make', arguments: {width: 4, classes: 7}",
            r"network net\.py:make: gave \(1, 7\) for 1 images, not \(1, 10\)",
        ),
        (
            FACTORY.format(width=4) + ", mean: [0.1, 0.2], std: [1.0, 1.0]",
            r"network net\.py:make: mean and std have 2 entries for images of 1 channels",
        ),
    ],
)
def test_what_is_wrong_with_a_network_is_one_line(zoo: Zoo, network: str, line: str) -> None:
    weights = own_network().state_dict()
    if "classes: 7" in network:
        weights["5.weight"], weights["5.bias"] = weights["5.weight"][:7], weights["5.bias"][:7]
    with pytest.raises(BadInput, match=f"^checkpoint mixed: {line}"):
        zoo.run(zoo.session(network, weights))


@pytest.mark.parametrize(
    ("factory", "line"),
    [
        ("net.py:mak", r"net\.py: no callable 'mak'; did you mean 'make'\?"),
        ("nets.py:make", r"nets\.py: cannot be read: no such file"),
    ],
)
def test_a_factory_that_does_not_exist_is_told_at_its_line_in_the_yaml_file(
    zoo: Zoo, factory: str, line: str
) -> None:
    network = f"kind: factory, factory: '../../{factory}'"
    with pytest.raises(BadInput, match=rf"mixed\.yaml:\d+: network\.factory: (\S*/)?{line}"):
        zoo.session(network, own_network().state_dict())
    # a name that the code may make while it runs is left to it
    (zoo.folder / "net.py").write_text(NET + "globals()['mak'] = make\n", encoding="utf-8")
    if factory == "net.py:mak":
        zoo.session(network, own_network().state_dict())


def test_a_timm_network_with_local_weights(zoo: Zoo) -> None:
    import timm

    torch.manual_seed(0)
    module = timm.create_model("mobilenetv3_small_050", num_classes=10, in_chans=1).eval()
    network = "kind: timm, name: mobilenetv3_small_050, mean: [0.5], std: [0.5]"
    session = zoo.session(network, module.state_dict())
    assert scored(zoo, session) == pytest.approx(accuracy(module, 0.5, 0.5))
    with pytest.raises(BadNetwork, match="network timm nonesuch: RuntimeError: Unknown model"):
        Timm(name="nonesuch").build(1, 8, 10)


@pytest.mark.parametrize("argument", ["checkpoint_path", "pretrained"])
def test_timm_loads_no_weights_that_are_not_in_the_digest(zoo: Zoo, argument: str) -> None:
    network = f"kind: timm, name: resnet18, arguments: {{{argument}: net.pth}}"
    line = rf"mixed\.yaml:2: network\.arguments\.{argument}: weights belong in `checkpoint`"
    with pytest.raises(BadInput, match=line):
        zoo.session(network)


@pytest.mark.parametrize("network", ["conv", "attention"])
def test_a_file_of_torch_export_gives_the_logits_and_gradients_of_its_network(
    network: str,
) -> None:
    if network == "conv":
        module, channels, side = own_network(), 1, 8
    else:
        import timm

        torch.manual_seed(0)
        module = timm.create_model(
            "vit_tiny_patch16_224", img_size=16, patch_size=4, depth=1, num_classes=10
        ).eval()
        channels, side = 3, 16
    weights, program = exported.read(as_pt2(module, channels=channels, side=side))
    program = json.loads(json.dumps(program))
    restored = Exported().restored(program, weights, channels).eval()
    assert restored.state_dict().keys() == module.state_dict().keys()
    for count in (1, 5):
        pixels = torch.rand(count, channels, side, side)
        values = []
        for each in (module, restored):
            leaf = pixels.clone().requires_grad_()
            logits: Tensor = each(leaf)
            (gradient,) = torch.autograd.grad(logits[:, 3].sum(), leaf)
            values.append((logits.detach(), gradient))
        torch.testing.assert_close(values[1], values[0])


def test_a_file_of_torch_export_goes_through_the_whole_pipeline(zoo: Zoo) -> None:
    module = own_network()
    session = zoo.session("kind: exported, mean: [0.3], std: [0.4]", as_pt2(module))
    assert scored(zoo, session) == pytest.approx(accuracy(module, 0.3, 0.4))
    attacked = zoo.session(
        "kind: exported, mean: [0.3], std: [0.4]", as_pt2(module), only="attack=pgd"
    )
    assert not zoo.run(attacked).missing


def test_an_exported_network_with_a_view_after_a_convolution_is_judged_as_it_was(
    zoo: Zoo,
) -> None:
    torch.manual_seed(0)
    module = with_statistics(make("ViewAfterAConvolution"))
    session = zoo.session("kind: exported, mean: [0.3], std: [0.4]", as_pt2(module))
    recorder = Recorder()
    forget()
    session.store.prepare()
    finished = session.run(
        Observers([recorder]), inline=True, address=None, workers=None, forced=set()
    )
    assert finished.scored["mixed/clean/none"]["accuracy"] == pytest.approx(
        accuracy(module, 0.3, 0.4)
    )
    (made,) = recorder.done("defend")
    (line,) = made.done.how["said"]
    assert line.startswith("network exported: it is not laid out channels-last: so laid out, it ")
    assert made.done.how["model"] == zoo.model(session).digest


def test_an_exported_file_that_does_not_fit_is_refused_in_one_line(zoo: Zoo) -> None:
    module = own_network()
    data = as_pt2(module)
    config = json.loads(
        zipfile.ZipFile(io.BytesIO(data)).read("archive/data/weights/model_weights_config.json")
    )
    next(iter(config["config"].values()))["use_pickle"] = True
    for content, line in [
        (b"nothing", "not a file of torch.export: BadZipFile: File is not a zip file"),
        (as_pt2(module.train()), "the program was exported in train mode"),
        (as_pt2(Counted(), dynamic=False), "network exported: does not take 1 images of 1x8x8: "),
        (
            edited(data, {"model_weights_config.json": json.dumps(config).encode()}),
            r"the file holds pickled code \(0\.weight\), which is never run",
        ),
    ]:
        with pytest.raises(BadInput, match=f"^checkpoint mixed: {line}"):
            zoo.run(zoo.session("kind: exported", content))
    with pytest.raises(BadNetwork, match="give a checkpoint, not a recipe"):
        Exported().build(1, 8, 10)


class Counted(nn.Module):
    """Its batch's size is written into a program that was exported without a dynamic one."""

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.reshape(len(pixels), 64)[:, :10]


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return Path.write_text, (Path("sprung"), "was run")  # type: ignore[return-value]


def test_nothing_in_an_exported_file_is_ever_run(zoo: Zoo) -> None:
    data = as_pt2(own_network())
    trap = pickle.dumps(Trap())
    model = zipfile.ZipFile(io.BytesIO(data)).read("archive/models/model.json").decode()
    hidden = edited(data, {"sample_inputs/model.pt": trap})
    exported.read(hidden)
    for target in ("os.system", "torch.ops.aten.__init__.default", "torch.ops.prim.device.default"):
        bad = model.replace("torch.ops.aten.relu.default", target)
        assert bad != model
        with pytest.raises(BadCheckpoint, match="which is not run here"):
            exported.read(edited(data, {"models/model.json": bad.encode()}))
    word = model.replace('"as_float": 0.5', '"as_string": "/etc/passwd"')
    assert word != model
    with pytest.raises(BadCheckpoint, match="has a p that is not read here"):
        exported.read(edited(data, {"models/model.json": word.encode()}))
    assert not (zoo.folder / "sprung").exists()
