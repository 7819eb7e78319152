"""As given beside as judged: networks that people really have, through the whole pipeline."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import strange_networks
import torch
from strange_networks import VARIANTS, make, trained
from test_own_models import Zoo
from torch import Tensor

from pipeline.problems import BadInput
from tasks.data.arrays import as_float
from tasks.data.splits import digits

IMAGES = 60
MEAN, STD = 0.3, 0.4
REFUSED = {
    "half": r"does not take 1 images of 1x8x8: RuntimeError: .*(Half|type)",
    "Tuple": r"gave tuple for 1 images, not \(1, 10\)",
    "Mapped": r"gave dict for 1 images, not \(1, 10\)",
    "Squeezed": r"gave \(10,\) for 1 images, not \(1, 10\)",
    "norm_without_statistics": "answers an image in a batch of 8 differently than alone",
    "NormInTrainMode": "answers the same 8 images differently|in a batch of 8 differently",
    "BatchCentred": "answers an image in a batch of 8 differently than alone",
    "FirstImageForAll": "answers an image in a batch of 8 differently than alone",
    "DropoutThatStaysOn": "answers the same 8 images differently each time",
    "MonteCarlo": "answers the same 8 images differently each time",
    "Noisy": "answers the same 8 images differently each time",
    "Counting": "answers the same 8 images differently each time",
    "Remembering": "answers the same 8 images differently each time",
}
"""What is refused, and in which words; all others are judged."""


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train = digits().train
    found = trained((as_float(train.pixels) - MEAN) / STD, train.labels)
    torch.set_num_threads(threads)
    return found


def truth(name: str, weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], float]:
    """A network's own weights, and its accuracy in plain torch, in percent."""
    module = make(name, weights).eval()
    state = {key: value.clone() for key, value in module.state_dict().items()}
    test = digits().test[:IMAGES]
    pixels = (as_float(test.pixels) - MEAN) / STD
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        answers = module(pixels).argmax(dim=1)
    return state, 100 * (answers == test.labels).float().mean().item()


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Zoo:
    monkeypatch.chdir(tmp_path)
    code = Path(strange_networks.__file__).read_text(encoding="utf-8")
    found = Zoo(tmp_path)
    (tmp_path / "net.py").write_text(code, encoding="utf-8")
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:.*spectral_norm.*")
def test_every_network_is_judged_as_it_was_given_or_refused_in_one_line(
    zoo: Zoo, weights: dict[str, Tensor]
) -> None:
    table: dict[str, tuple[object, object]] = {}
    for name in VARIANTS:
        network = (
            f"kind: factory, factory: '../../net.py:make', arguments: {{name: {name}}}, "
            f"mean: [{MEAN}], std: [{STD}]"
        )
        given: object = REFUSED.get(name)
        if given is None:
            state, given = truth(name, weights)
        else:
            state = dict(make(name, weights).state_dict())
        try:
            finished = zoo.run(zoo.session(network, state, images=IMAGES), fresh=False)
            judged: object = finished.scored["mixed/clean/none"]["accuracy"]
        except BadInput as refused:
            judged = str(refused)
        table[name] = given, judged
    assert len(table) >= 40
    for name, (given, judged) in table.items():
        if isinstance(given, str):
            line = rf"^checkpoint mixed: network net\.py:make: .*({given})"
            assert isinstance(judged, str), f"{name}: judged {judged}, not refused"
            assert re.match(line, judged), f"{name}: {judged}"
            assert "\n" not in judged
        else:
            assert judged == pytest.approx(given), name
    accuracies = {given for given, _ in table.values() if isinstance(given, float)}
    # a table of one number would prove little
    assert len(accuracies) >= 8
