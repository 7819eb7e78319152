"""A grid that is whole but tiny: seconds of work on real digits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.commands.session import Session, open_session
from pipeline.execution.events import Event, NodeDone, NodeFailed, Observers, RunFinished, SetAside
from pipeline.grid.builder import Overrides

FILES = {
    "datasets/digits.yaml": "kind: digits\nclasses: 10\nchannels: 1\nside_px: 8\n",
    "recipes/short.yaml": (
        "method: mixup\nepochs: 2\nlearning_rate: 0.1\nschedule: one-cycle\n"
        "crop_padding_px: 1\nflip: false\n"
    ),
    "models/mixed.yaml": "dataset: digits\nnetwork: {kind: small, width: 4}\nrecipe: short\n",
    "attacks/clean.yaml": "kind: clean\n",
    "attacks/pgd.yaml": "kind: pgd\nsteps: 2\n",
    "defenses/none.yaml": "kind: none\n",
    "defenses/counter.yaml": "kind: counter\n",
    "defenses/guo.yaml": "kind: guo\ndraws: 2\n",
    "defenses/mi-ol.yaml": "kind: mi-ol\ndraws: 2\n",
    "grids/tiny.yaml": (
        "epsilon: 40\nimages: 520\nredraws: 2\ntables:\n"
        "  - name: main\n    models: [mixed]\n    attacks: [clean, pgd]\n"
        "    defenses: [none, counter, guo, counter+guo, mi-ol]\n    gains_of: counter\n"
    ),
    "settings.yaml": "device: cpu\nkinds:\n  defend: {batch_size: 700}\n",
}


def write_configs(folder: Path, changes: Mapping[str, str] | None = None) -> Path:
    """A folder of configs that holds the grid `tiny`, some of its files replaced."""
    for name, text in {**FILES, **(changes or {})}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def opened_with(text: str) -> Session:
    """The grid with the defense `mine` of this code alone, in the working folder."""
    Path("mine.py").write_text(text, encoding="utf-8")
    return open_session(
        "tiny",
        store="store",
        configs=[write_configs(Path("configs"))],
        only=["defense=mine"],
        overrides=Overrides(add=[("defenses", "mine.py")]),
    )


@dataclass
class Recorder:
    """An observer that keeps everything."""

    events: list[Event] = field(default_factory=list)

    def notify(self, event: Event) -> None:
        self.events.append(event)

    def close(self) -> None:
        pass

    def done(self, kind: str | None = None) -> list[NodeDone]:
        found = [event for event in self.events if isinstance(event, NodeDone)]
        return [event for event in found if kind in {None, event.node.kind}]

    def failed(self) -> list[NodeFailed]:
        return [event for event in self.events if isinstance(event, NodeFailed)]

    def set_aside(self) -> list[SetAside]:
        return [event for event in self.events if isinstance(event, SetAside)]


@dataclass
class Tiny:
    """The tiny grid in a folder of its own, run as often as a test likes."""

    folder: Path
    store: Path

    def session(self, *, only: Sequence[str] = (), images: int | None = None) -> Session:
        return open_session(
            "tiny",
            store=self.store,
            configs=[self.folder],
            only=only,
            overrides=Overrides(images=images),
        )

    def run(
        self,
        *,
        only: Sequence[str] = (),
        images: int | None = None,
        force: bool = False,
        inline: bool = True,
        workers: int | None = None,
        recorder: Recorder | None = None,
    ) -> tuple[Recorder, RunFinished]:
        session = self.session(only=only, images=images)
        session.store.prepare()
        recorder = recorder or Recorder()
        finished = session.run(
            Observers([recorder]),
            inline=inline,
            address=None,
            workers=workers,
            forced=session.forced("defend") if force else set(),
        )
        return recorder, finished


def data_files(store: Path) -> dict[str, bytes]:
    """Every data file of every artifact, by its place in the store."""
    places = [path for path in store.glob("*/??/*/*") if path.name != "meta.json"]
    return {str(path.relative_to(store)): path.read_bytes() for path in places}
