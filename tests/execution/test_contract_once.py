"""A user's own code is tried once, when it is first met, and remembered by its digest."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tiny import opened_with, write_configs

from pipeline.commands.session import open_session
from pipeline.execution.events import Observers
from pipeline.execution.work import contract
from pipeline.problems import BadInput

HEAD = (
    "import torch\nfrom tasks import straight\nfrom tasks.defenses.base import Defense\n\n\n"
    "class Mine(Defense):\n    by: float = 0.0\n\n"
)
FAIR = f"""{HEAD}    def transform(self, pixels, rows, context):
        noise = rows.uniform("noise", pixels[0].numel()).view_as(pixels)
        return straight.clip(pixels + 0.02 * (noise - 0.5))
"""
RANDOM = FAIR.replace(
    'rows.uniform("noise", pixels[0].numel()).view_as(pixels)', "torch.rand_like(pixels)"
)
DARKER = f"{HEAD}    def transform(self, pixels, rows, context):\n        return 0.9 * pixels\n"
FLAT = DARKER.replace("0.9 * pixels", "(15 * pixels).round() / 15")
LAZY = f"""from functools import cache
{HEAD}    def transform(self, pixels, rows, context):
        return straight.clip(pixels - 0.1 * network(pixels.shape[1])(pixels))


@cache
def network(channels):
    layer = torch.nn.Conv2d(channels, channels, 3, padding=1).requires_grad_(False)
    weight, bias = torch.ones(layer.weight.shape) / 9, torch.zeros(channels)
    layer.load_state_dict({{"weight": weight, "bias": bias}})
    return layer
"""


@pytest.fixture(autouse=True)
def forgetful(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is remembered from other tests, and files are named as a user would."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(contract, "_known", {})
    monkeypatch.chdir(tmp_path)


def test_what_gives_something_else_a_second_time_is_refused_with_its_line() -> None:
    with pytest.raises(BadInput) as caught:
        opened_with(RANDOM).check_contracts()
    assert str(caught.value).startswith(
        "mine.py:9: defense mine: draws random numbers of torch, which are no image's own"
    )


def test_a_network_that_is_built_and_loaded_at_the_first_call_draws_nothing_that_counts() -> None:
    assert opened_with(LAZY).check_contracts() == []
    unloaded = "".join(line for line in LAZY.splitlines(keepends=True) if "load_" not in line)
    with pytest.raises(BadInput, match="gives something else after other images"):
        opened_with(unloaded).check_contracts()


def test_a_node_allows_what_the_first_call_draws() -> None:
    session = opened_with(LAZY.replace("0.1", "0.2"))  # a module whose network is not built
    session.store.prepare()
    finished = session.run(Observers([]), inline=True, address=None, workers=None, forced=set())
    assert finished.missing == {}


def test_what_else_is_broken_is_told_and_what_keeps_the_contract_is_not() -> None:
    (line,) = opened_with(FLAT).check_contracts()
    assert line.startswith("contract: mine.py:9: defense mine: the gradient that comes back is zer")
    assert opened_with(FAIR).check_contracts() == []


def test_a_verdict_is_remembered_until_the_code_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    told = opened_with(FLAT).check_contracts()
    tried = []
    monkeypatch.setattr(contract, "_known", {})  # as a new process
    monkeypatch.setattr(
        contract, "_tried", lambda *_, **__: tried.append(1) or contract.Verdict("anew")
    )
    assert opened_with(FLAT).check_contracts() == told
    assert opened_with(f"{FLAT}\n# a comment changes nothing\n").check_contracts() == told
    assert not tried
    assert opened_with(FLAT.replace("15", "7")).check_contracts() == ["contract: anew"]
    assert tried == [1]


def test_what_raises_where_its_contract_is_checked_is_refused_with_its_line() -> None:
    """It would otherwise be computed, with no word about a contract that it may break."""
    with pytest.raises(BadInput) as caught:
        opened_with(DARKER.replace("0.9", "(1 // (len(pixels) < 64))")).check_contracts()
    assert str(caught.value).startswith(
        "mine.py:10: contract of defense mine not checked: ZeroDivisionError: "
    )


def test_an_exception_is_forgotten_since_its_cause_may_be_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A library that was missing is installed; the code of the defense is the same."""
    text = DARKER.replace("        return", "        import lately_installed\n        return")
    for _ in range(2):
        session = opened_with(text)
        (part,) = contract.own_parts(cell.defense_spec for cell in session.cells)
        assert "lately_installed" in contract.contract_verdict(part, channels=1, side=8).line
    monkeypatch.setitem(sys.modules, "lately_installed", sys)
    assert contract.contract_verdict(part, channels=1, side=8) == contract.Verdict()
    monkeypatch.setattr(contract, "_known", {})  # as a new process
    assert contract.contract_verdict(part, channels=1, side=8) == contract.Verdict()


def test_a_verdict_is_found_anew_where_the_checks_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    opened_with(FLAT).check_contracts()
    monkeypatch.setattr(contract, "_known", {})  # as a new process
    monkeypatch.setattr(contract, "_checks", lambda: "of a newer version")
    monkeypatch.setattr(contract, "_tried", lambda *_, **__: contract.Verdict())
    assert opened_with(FLAT).check_contracts() == []


def test_what_the_code_prints_while_it_is_checked_is_not_on_stdout(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Stdout is for results: with --json it is JSON."""
    session = opened_with(DARKER.replace("        return", "        print('told')\n        return"))
    capsys.readouterr()
    session.check_contracts()
    assert capsys.readouterr().out == ""


def test_a_defense_that_leaves_rows_alone_is_deterministic_and_evaluated_once() -> None:
    session = opened_with(DARKER)
    assert {cell.redraws for cell in session.cells} == {1}
    (note,) = session.notes()
    assert note == "mine.py:9: defense mine: draws nothing from `rows`, so it is evaluated once"
    session = opened_with(FAIR)
    assert {cell.redraws for cell in session.cells} == {2}
    assert session.notes() == []


def test_a_member_with_almost_the_name_of_one_of_the_base_class_is_noted() -> None:
    new = "    draw: int = 3\n\n    def forward_and_backwards(self):\n        return 1\n\n"
    meant = [
        (9, "draw", "parameter", "draws"),
        (11, "forward_and_backwards", "member", "forwards_and_backwards"),
    ]
    assert opened_with(FAIR.replace("    def transform", f"{new}    def transform")).notes() == [
        f"mine.py:{line}: defense mine: `{name}` is a new {what}; did you mean `{near}`?"
        for line, name, what, near in meant
    ]


def test_a_member_of_a_network_with_almost_the_name_of_one_of_its_base_class_is_noted() -> None:
    head = "from tasks.networks.resnet20 import ResNet20\n\n\nclass Own(ResNet20):\n"
    Path("net.py").write_text(f"{head}    stds: int = 3\n")
    model = "dataset: digits\nnetwork: {kind: ../../net.py}\nrecipe: short\n"
    configs = write_configs(Path("configs"), {"models/mixed.yaml": model})
    (note,) = open_session("tiny", store="store", configs=[configs]).notes()
    assert note == "net.py:5: network resnet20: `stds` is a new parameter; did you mean `std`?"
