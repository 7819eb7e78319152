"""Models of somebody else's: weights named on the command line, loaded or refused in one line."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from shared_files import CIFAR10, RESNET20
from tiny import write_configs

from pipeline.commands.cli import main

MODEL = "dataset: digits\nnetwork: {kind: resnet50-mi}\ncheckpoint: {key_prefix: ''}\n"

Weights = dict[str, torch.Tensor]


def released(classes: int = 10, channels: int = 1) -> Weights:
    """Weights by the names and shapes of Mixup Inference's released checkpoints."""
    generator = torch.Generator().manual_seed(0)
    weights: Weights = {}

    def add(name: str, *shape: int) -> None:
        weights[name] = 0.05 * torch.randn(shape, generator=generator)

    def add_norm(name: str, width: int) -> None:
        for part in ("weight", "bias", "running_mean"):
            add(f"{name}.{part}", width)
        weights[f"{name}.running_var"] = torch.ones(width)
        weights[f"{name}.num_batches_tracked"] = torch.tensor(7)

    add("conv1.weight", 64, channels, 5, 5)
    add_norm("bn1", 64)
    before = 64
    for stage, width in ((1, 64), (2, 128), (3, 256)):
        for block in range(5):
            name = f"layer{stage}.{block}"
            taken = before if block == 0 else width
            for place, (inputs, side) in enumerate(((taken, 1), (width, 3), (width, 1)), 1):
                add(f"{name}.conv{place}.weight", width, inputs, side, side)
                add_norm(f"{name}.bn{place}", width)
        if before != width:
            add(f"layer{stage}.0.downsample.0.weight", width, before, 1, 1)
            add_norm(f"layer{stage}.0.downsample.1", width)
        before = width
    add("fc_dense.weight", classes, 256)
    add("fc_dense.bias", classes)
    return weights


class Shell:
    """Runs the cell mixed/clean/none with a checkpoint model in the place of the trained one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *words: str, command: str = "run", **files: str) -> Result:
        named = {name.replace("__", "/") + ".yaml": text for name, text in files.items()}
        write_configs(self.folder / "configs", {"models/mixed.yaml": MODEL, **named})
        more = ["--inline", "--images", "20"] if command == "run" else []
        only = ["--only", "attack=clean", "--only", "defense=none"]
        return CliRunner().invoke(
            main, [command, "--grid", "tiny", *more, *only, *words], catch_exceptions=False
        )

    def save(self, content: Mapping[str, object], name: str = "weights.pt") -> str:
        torch.save(content, self.folder / name)
        return f"mixed={self.folder / name}"


@pytest.fixture
def shell(working_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.setenv("XDG_CACHE_HOME", str(working_folder / "cache"))
    return Shell(working_folder)


def refused(result: Result) -> str:
    """The one line of an input that was refused."""
    assert result.exit_code == 2, result.output
    [line] = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    return line.removeprefix("error: ")


def test_a_checkpoint_with_the_released_names_goes_through_the_whole_pipeline(
    shell: Shell,
) -> None:
    weights = released()
    assert sum(weight.numel() for name, weight in weights.items() if "running" not in name) > 4e6
    result = shell("--weights", shell.save({"state_dict": weights}))
    assert result.exit_code == 0, result.output
    again = shell("--weights", shell.save({"state_dict": weights}))
    assert "nothing to compute" in again.stderr


def test_a_released_checkpoint_with_a_missing_and_a_foreign_key_is_refused_by_their_names(
    shell: Shell,
) -> None:
    weights = released()
    weights["fc.weight"] = weights.pop("fc_dense.weight")
    del weights["layer2.0.downsample.0.weight"]
    message = refused(shell("--weights", shell.save(weights)))
    assert message.startswith("checkpoint mixed: weights do not fit the network: ")
    for said in (
        "2 missing (layer2.0.downsample.0.weight, fc_dense.weight)",
        "1 foreign (fc.weight)",
    ):
        assert said in message


def test_a_checkpoint_for_another_number_of_classes_is_refused_by_both_numbers(
    shell: Shell,
) -> None:
    message = refused(shell("--weights", shell.save(released(classes=100))))
    assert "of another shape (fc_dense.weight 100x256 for 10x256" in message
    assert message.endswith("the file has 100 classes and the data set 10")


def test_without_its_file_a_model_says_which_one_and_where_it_is_published(shell: Shell) -> None:
    model = MODEL.replace("key_prefix: ''", f"sha256: {'a' * 64}, published: x.th of Y's")
    message = (
        "configs/models/mixed.yaml:3: checkpoint.file: name the file: --weights mixed=FILE, "
        f"SHA-256 {'a' * 64}, published as x.th of Y's"
    )
    assert refused(shell(models__mixed=model)) == message
    planned = shell(command="plan", models__mixed=model)
    assert planned.exit_code == 0, planned.output
    assert f"a run needs one more option: {message}" in planned.stdout.splitlines()
    assert refused(shell(command="plan")).endswith("name the file: --weights mixed=FILE")


def test_the_file_of_a_model_is_needed_only_to_load_it(shell: Shell) -> None:
    """Not for other models of the grid, nor once the scores are stored."""
    given = shell.save(released())
    sha256 = hashlib.sha256(Path(given.partition("=")[2]).read_bytes()).hexdigest()
    model = MODEL.replace("key_prefix: ''", f"sha256: {sha256}")
    other = ["--add", "model=other", "--only", "model=other"]
    weights = given.replace("mixed=", "other=")
    absent = MODEL.replace("key_prefix: ''", f"sha256: {'a' * 64}")
    beside = shell(*other, "--weights", weights, models__mixed=absent, models__other=MODEL)
    assert beside.exit_code == 0, beside.output
    first = shell("--weights", given, models__mixed=model)
    assert first.exit_code == 0, first.output
    again = shell(models__mixed=model)
    assert "nothing to compute" in again.stderr
    forced = shell("--force", "--from", "defend", models__mixed=model)
    assert forced.exit_code == 0, forced.output


def test_another_file_than_the_published_one_is_refused(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"other")
    model = MODEL.replace("key_prefix: ''", f"sha256: {'a' * 64}")
    message = refused(shell("--weights", "mixed=x", command="plan", models__mixed=model))
    found = hashlib.sha256(b"other").hexdigest()
    assert message == (
        f"configs/models/mixed.yaml:3: checkpoint.sha256: x has the SHA-256 {found}, not this one"
    )


def test_weights_that_cannot_be_meant_are_refused(shell: Shell) -> None:
    for words, message in [
        ("mixed", "--weights mixed: expected NAME=FILE, such as cifar10-resnet20=resnet20.th"),
        ("mixed=none", "--weights mixed: there is no file none"),
    ]:
        assert refused(shell("--weights", words, command="plan")) == message
    trained = "dataset: digits\nnetwork: {kind: small, width: 4}\nrecipe: short\n"
    for words, message in [
        ("mixde=x", "--weights mixde: no such model in grid 'tiny'; did you mean 'mixed'?"),
        ("mixed=x", "--weights mixed: the model is trained, not loaded from a file"),
    ]:
        result = shell("--weights", words, command="plan", models__mixed=trained)
        assert refused(result) == message


def test_a_file_named_on_the_command_line_comes_before_the_models_own(shell: Shell) -> None:
    shell.save(released())
    model = MODEL.replace("key_prefix: ''", "file: ../../none.pt")
    result = shell("--weights", "mixed=weights.pt", command="plan", models__mixed=model)
    assert result.exit_code == 0, result.output


def test_weights_come_from_an_address_once_and_only_with_their_checksum(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shell.save(released())
    source = tmp_path / "weights.pt"
    sha256 = hashlib.sha256(source.read_bytes()).hexdigest()
    model = MODEL.replace("key_prefix: ''", f"url: '{source.as_uri()}', sha256: '{sha256}'")
    assert shell(command="plan", models__mixed=model).exit_code == 0
    assert not (tmp_path / "cache" / "test-time-defense-bench" / "weights").exists()
    assert shell(models__mixed=model).exit_code == 0
    source.unlink()
    assert shell("--force", models__mixed=model).exit_code == 0
    # another file at the address
    other = model.replace(sha256, "0" * 64)
    assert "cannot be downloaded" in refused(shell(models__mixed=other))
    source.write_bytes(b"something else")
    assert "cannot be downloaded" in refused(shell(models__mixed=other))
    assert "needs the file's sha256" in refused(
        shell(models__mixed=MODEL.replace("key_prefix: ''", "url: 'https://example.org/weights'"))
    )


@pytest.mark.parametrize(
    ("labels", "side", "message"),
    [
        ([0, 1, 12], 8, "dataset digits: train labels: expected 0 to 9, got 0 to 12"),
        ([0, 1, 2], 9, "dataset digits: train images are 1x9x9; its config says"),
    ],
)
def test_a_data_set_that_is_not_as_declared_ends_a_run_with_one_line(
    shell: Shell, tmp_path: Path, labels: list[int], side: int, message: str
) -> None:
    for split in ("train", "test"):
        images = np.zeros((30, side, side), dtype=np.uint8)
        np.savez(tmp_path / f"{split}.npz", images=images, labels=np.array(labels * 10))
    data = "kind: npz\nclasses: 10\nchannels: 1\nside_px: 8\nfolder: ../..\n"
    result = shell("--weights", shell.save(released()), datasets__digits=data)
    assert refused(result).startswith(message)


@pytest.mark.slow
def test_a_public_resnet20_has_its_published_accuracy_on_all_test_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: Callable[[str], Path]
) -> None:
    monkeypatch.chdir(tmp_path)
    from pipeline.commands.session import open_session
    from pipeline.execution.events import Observers
    from pipeline.grid.builder import Overrides

    session = open_session(
        "checkpoint",
        store=tmp_path / "store",
        only=["attack=clean", "defense=none"],
        overrides=Overrides(
            images=9975,
            data={"cifar10": shared(CIFAR10)},
            weights={"cifar10-resnet20": shared(RESNET20)},
        ),
        device="cpu",
    )
    session.store.prepare()
    finished = session.run(Observers([]), inline=True, address=None, workers=None, forced=set())
    facts = finished.scored["cifar10-resnet20/clean/none"]
    assert facts["images"] == 9975
    assert facts["accuracy"] == pytest.approx(91.73, abs=0.05)
