"""Two networks on one weights file: scores of older versions that may be the other's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from tiny import Recorder, write_configs

from pipeline.commands.cli import main
from pipeline.commands.session import Session, open_session
from pipeline.execution.events import Observers, RunFinished
from pipeline.execution.work.inputs import forget
from pipeline.grid.builder import Overrides
from pipeline.store import suspect
from pipeline.store.store import Store, folder_of
from pipeline.store.suspect import suspects
from tasks.data.arrays import as_float
from tasks.data.splits import digits
from tasks.networks.small import Small

NETWORKS = {"plain": Small(width=4), "shifted": Small(width=4, mean=(0.0,), std=(1.0,))}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Configs with two networks on the weights of one file, and a third on weights of its own."""
    torch.manual_seed(0)
    module = NETWORKS["plain"].build(1, 8, 10, seed=3)
    module.train()(as_float(digits().train.pixels[:200]))
    torch.save(module.state_dict(), tmp_path / "one.pt")
    torch.save(NETWORKS["plain"].build(1, 8, 10, seed=5).state_dict(), tmp_path / "other.pt")
    models = {
        "plain": ("kind: small, width: 4", "one"),
        "shifted": ("kind: small, width: 4, mean: [0.0], std: [1.0]", "one"),
        "alone": ("kind: small, width: 4", "other"),
    }
    changes = {
        f"models/{name}.yaml": (
            f"dataset: digits\nnetwork: {{{network}}}\ncheckpoint: {{file: ../../{file}.pt}}\n"
        )
        for name, (network, file) in models.items()
    }
    changes["grids/tiny.yaml"] = (
        "epsilon: 40\nimages: 60\ntables:\n  - name: main\n"
        "    models: [plain, shifted, alone]\n    attacks: [clean, pgd]\n    defenses: [none]\n"
    )
    return write_configs(tmp_path / "configs", changes)


def opened(folder: Path, *only: str) -> Session:
    return open_session(
        "tiny",
        store=folder.parent / "store",
        configs=[folder],
        only=only,
        overrides=Overrides(images=60),
    )


def run(session: Session) -> RunFinished:
    session.store.prepare()
    return session.run(
        Observers([Recorder()]), inline=True, address=None, workers=None, forced=set()
    )


def truth(name: str, weights: Path) -> float:
    module = NETWORKS[name].build(1, 8, 10)
    module.load_state_dict(torch.load(weights))
    test = digits().test[:60]
    with torch.no_grad():
        answers = module.eval()(as_float(test.pixels)).argmax(dim=1)
    return 100 * (answers == test.labels).float().mean().item()


@pytest.mark.parametrize("first", ["plain", "shifted"])
def test_two_networks_on_one_weights_file_each_get_their_own_number_in_one_process(
    folder: Path, first: str
) -> None:
    forget()
    run(opened(folder, f"model={first}"))
    scored = run(opened(folder)).scored
    numbers = {}
    for name in NETWORKS:
        numbers[name] = truth(name, folder.parent / "one.pt")
        assert scored[f"{name}/clean/none"]["accuracy"] == pytest.approx(numbers[name])
    assert numbers["plain"] != numbers["shifted"]


def aged(session: Session, *, host: dict[str, str] | None = None) -> None:
    """Make a store's records look like those of a version that did not name the model."""
    for kind, digest in list(session.store.each()):
        path = session.store.root / folder_of(kind, digest) / "meta.json"
        record = json.loads(path.read_text())
        record["how"].pop("model", None)
        record.pop("seal", None)
        model = record["parents"].get("model", (None, None))[1]
        if host and model in host:
            record["how"]["host"] = host[model]
        path.write_text(json.dumps(record, indent=1))


def test_suspect_scores_are_listed_with_their_cells_and_set_aside(folder: Path) -> None:
    session = opened(folder)
    run(session)
    assert suspects(session.store) == []
    aged(session)
    command = ["verify", "--store", str(session.store.root), "--suspect"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 1
    told = [line for line in result.stdout.splitlines() if line.startswith("suspect: score")]
    assert sorted(line.split(": ", 2)[2] for line in told) == [
        f"tiny: {model}/{attack}/none"
        for model in ("plain", "shifted")
        for attack in ("clean", "pgd")
    ]
    assert "suspect: 4 score, 2 craft, 4 defend" in result.stdout
    listed = json.loads(CliRunner().invoke(main, [*command, "--json"]).stdout)["suspect"]
    assert len(listed) == 10
    assert CliRunner().invoke(main, [*command, "--set-aside"]).exit_code == 1
    finished = run(opened(folder))
    assert finished.computed == {"craft": 2, "defend": 4, "score": 4}
    again = CliRunner().invoke(main, command)
    assert again.exit_code == 0
    assert again.stdout == "no score is suspect\n"


def test_what_two_hosts_computed_is_not_suspect(folder: Path) -> None:
    session = opened(folder)
    run(session)
    scores = {cell.model: session.scores[cell.name] for cell in session.cells}
    hosts = {
        node.parent("shard0").parent("model").digest: f"host of {model}"
        for model, node in scores.items()
    }
    aged(session, host=hosts)
    assert suspects(session.store) == []


def test_what_is_suspect_at_one_of_two_looks_is_not_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store")
    store.prepare()
    # as where the record of a model could not be read at the first
    looks = iter([{("score", "a" * 64): False}, {}])
    monkeypatch.setattr(suspect, "_found", lambda _: next(looks))
    assert suspects(store, set_aside=True) == []
