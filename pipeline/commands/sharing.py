"""Configs and user code in a bundle, as text, beside the results.

None of it is executed or used for looking up names until a command is given its folder.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from pipeline.catalogue.code.known import modules_of
from pipeline.catalogue.documents import Document
from pipeline.commands.session import Session
from pipeline.grid.digests import parts_of
from pipeline.problems import BadInput, reason_of, shown, writing_to
from pipeline.store.bundle import CONFIG, Bundle
from pipeline.store.files import replace_bytes
from tasks.networks.factory import Factory
from tasks.training.recipe import CheckpointSpec, ClassifierSpec


def configs_of(session: Session) -> tuple[dict[str, bytes], list[str]]:
    """The files that a session's grid was loaded from, by `section/file`, and those left out.

    The YAML of a checkpoint or of a data set refers to its files by SHA-256 only, since these are
    not included.

    Raises:
        BadInput: If two different files have one name: the recipient's grid would use one for both.
    """
    found: dict[str, bytes] = {}
    left: list[str] = []
    for name, (path, *others) in session.catalogue.read.items():
        if not re.fullmatch(CONFIG, name):
            left += map(shown, (path, *others))
            continue
        data = path.read_bytes()
        for other in others:
            if other.read_bytes() != data:
                raise BadInput(
                    f"export: {shown(path)} and {shown(other)} are different files of one name, so "
                    "they cannot both go along; rename one of them"
                )
        if name.startswith("models/") and path.suffix == ".yaml":
            data = _without_file(session, session.catalogue.document("models", path.stem)) or data
        if name.startswith("datasets/") and path.suffix == ".yaml":
            data = _with_files(session, session.catalogue.document("datasets", path.stem)) or data
        found[name] = data
    return found, left


def modules_left_out(session: Session) -> list[str]:
    """The user's modules that the code of a session's grid consists of or imports, but no files.

    Sorted. They are installed, or lie in a folder of PYTHONPATH.
    """
    found: set[str] = set()
    for cell in session.grid.cells:
        models = (own.model_spec for own in cell.models())
        for spec in (cell.defense_spec, cell.attack_spec, *models):
            for part in parts_of(spec):
                code = part.source if isinstance(part, Factory) else type(part).source_digest
                found.update(modules_of(code or ""))
    files = {name for name in found if name.endswith(".py")}
    ours = {name for name in found if name.partition(".")[0] in {"tasks", "pipeline"}}
    return sorted(found - files - ours)


def _without_file(session: Session, document: Document) -> bytes | None:
    """The YAML of a model with a local checkpoint, without its path; None for other models."""
    checkpoint = document.value.get("checkpoint")
    if not isinstance(checkpoint, dict) or "url" in checkpoint:
        return None
    name = document.path.stem
    for member, spec in _models(session):
        if member == name and isinstance(spec, CheckpointSpec):
            rest = {key: value for key, value in checkpoint.items() if key != "file"}
            known = {**rest, "url": f"file:///{name}", "sha256": spec.sha256}
            text = yaml.safe_dump({**document.value, "checkpoint": known}, sort_keys=False)
            return text.encode()
    return None


def _with_files(session: Session, document: Document) -> bytes | None:
    """The YAML of a data set with the identity of its files; None for the digits."""
    cell = next(cell for cell in session.grid.cells if cell.dataset == document.path.stem)
    spec = cell.dataset_spec
    if spec.kind == "digits":
        return None
    files: dict[str, object] = {
        "kind": spec.kind,
        "sha256": dict(spec.sources),
        "train": cell.train_images,
        "test": cell.test_images,
    }
    if spec.class_names is not None:
        files["class_names"] = list(spec.class_names)
    rest = {key: value for key, value in document.value.items() if key != "folder"}
    return yaml.safe_dump({**rest, "files": files}, sort_keys=False).encode()


def _models(session: Session) -> Iterator[tuple[str, ClassifierSpec]]:
    """Models of a session's cells, members of ensembles included, by the name of their file."""
    for cell in session.grid.cells:
        for own in cell.models():
            yield own.model.partition("[")[0], own.model_spec


def unpack(bundle: Bundle, folder: Path, store: Sequence[str] = ()) -> list[str]:
    """Write the configs of a bundle into a folder; returns lines on their contents and use.

    store: command-line options that name the store.

    Raises:
        BadInput: If the folder holds a different file of the same name.
    """
    texts = bundle.configs()
    if not texts:
        return []
    for name, data in texts.items():
        place = folder / name
        try:
            other = place.exists() and place.read_bytes() != data
        except OSError as error:
            raise BadInput(f"{shown(place)}: cannot be read: {reason_of(error)}") from None
        if other:
            raise BadInput(f"{shown(place)} is there already and is another; --configs-to FOLDER")
    try:
        with writing_to(str(folder)):
            for name, data in texts.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                replace_bytes(folder / name, data)
    except OSError as error:
        raise BadInput(f"{shown(folder)}: cannot be written to: {reason_of(error)}") from None
    manifest = bundle.manifest
    options = ["--configs", str(folder), *store, *manifest.options]
    words = ["pipeline", "report", manifest.grid, *options]
    lines = [f"grid    {manifest.grid}: {shlex.join(words)}"]
    code = [str(folder / name) for name in texts if name.endswith(".py")]
    if code:
        lines.append(f"code    read it before you run that, it was not run: {', '.join(code)}")
    return lines
