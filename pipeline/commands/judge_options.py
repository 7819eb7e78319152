"""What `pipeline judge` is asked, and the name of the report's folder that follows from it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import click

from pipeline.catalogue.catalogue import config_folders
from pipeline.commands.options import data_places, judging_options, weights_places
from pipeline.problems import BadInput, shown
from pipeline.problems.sanitize import without_secrets
from pipeline.store.bucket import SCHEMES

LONGEST = 200
"""Maximum length of the name of a report's folder, in bytes; file systems take 255."""


@dataclass(frozen=True, kw_only=True)
class JudgeOptions:
    """What to judge, on which networks, and the time limit. epsilon: in 1/255."""

    defense: str
    models: Sequence[str] = ()
    minutes: float = 10.0
    epsilon: float | None = None
    store: str = "store"
    configs: Sequence[Path] = ()
    data: Mapping[str, Path]
    weights: Mapping[str, Path]
    settings: Path | None = None
    device: str | None = None


def asked_from(options: Mapping[str, Any]) -> JudgeOptions:
    """What is asked by the options of the command line, of which some are about the run."""
    asked = {each.name: options[each.name] for each in fields(JudgeOptions)}
    places = {"data": data_places(asked["data"]), "weights": weights_places(asked["weights"])}
    return JudgeOptions(**{**asked, **places})


def asked_by(words: Sequence[str]) -> JudgeOptions:
    """What a command line asks, without the program and the command; BadInput if it is wrong."""

    @click.command()
    @judging_options
    def judge(**_: Any) -> None:
        """Stand for the command, of which the options are needed."""

    try:
        given = judge.make_context("judge", list(words)).params
    except click.ClickException as error:
        raise BadInput(error.format_message()) from None
    return asked_from(given)


def report_folder(asked: JudgeOptions) -> str:
    """Name of the report's folder, another one for each file, networks, epsilon, paths and store.

    `judge-jpeg@mine,epsilon=8,model=net` is of `mine/jpeg.py`. A name that is too long for a folder
    ends with its digest. Settings and device are not part of it: a report shows the results of the
    store, which are the same for all of them.
    """
    words = [f"judge-{_title(asked, 'defenses', asked.defense)}"]
    if asked.epsilon is not None:
        words.append(f"epsilon={str(asked.epsilon).removesuffix('.0')}")
    models = dict.fromkeys(_title(asked, "models", each) for each in asked.models)
    words += [f"model={each}" for each in models]
    words += [f"configs={_short(_located(each))}" for each in asked.configs]
    for option, places in (("data", asked.data), ("weights", asked.weights)):
        located = sorted((name, _located(place)) for name, place in places.items())
        words += [f"{option}={_short(name)}={_short(place)}" for name, place in located]
    bucket = asked.store.startswith(SCHEMES)
    store = without_secrets(asked.store) if bucket else _located(Path(asked.store))
    if store != JudgeOptions.store:
        words.append(f"store={_short(store)}")
    name = ",".join(words)
    data = name.encode()
    if len(data) <= LONGEST:
        return name
    begins = data[: LONGEST // 2].decode(errors="ignore")
    return f"{begins}-{hashlib.sha256(data).hexdigest()[:16]}"


def _title(asked: JudgeOptions, section: Literal["defenses", "models"], choice: str) -> str:
    """The name of a choice; of a file in another folder but the configs, with `@` and that folder.

    The suffix `.py` is left out.
    """
    file = Path(choice).expanduser()
    configs = [folder / section for folder in config_folders(asked.configs)]
    if file.suffix not in {".py", ".yaml"}:
        return _short(choice)
    if file.resolve().parent in configs:
        return _short(file.stem)
    plain = file.suffix == ".py" and "." not in file.stem
    name = _short(file.stem if plain else file.name)
    folder = _located(file.parent)
    return name if folder == "." else f"{name}@{_short(folder)}"


def _located(path: Path) -> str:
    """A path relative to the current folder if it is inside it, otherwise absolute."""
    return shown(path.expanduser().resolve())


def _short(text: str) -> str:
    """The last part of a path, of letters, digits and `_.+-` only.

    If that is not all of the path, six digits of its SHA-256 tell it from others.
    """
    last = text.rstrip("/").rpartition("/")[2]
    name = re.sub(r"[^\w.+-]+", "-", last)
    return name if name == text else f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"
