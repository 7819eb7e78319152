"""Small artifacts to put into a store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.grid.graph import Node
from pipeline.store.store import Record, Store, Writer
from tasks.specs import Shard

NODE = Node("defend", Shard(start=0, stop=5))
OTHER = Node("defend", Shard(start=5, stop=9))


def unsealed(record: dict[str, Any], **changes: object) -> str:
    """What a meta.json would say of a changed record, without the checksum of its own."""
    fields = {name: value for name, value in record.items() if name != "seal"}
    return json.dumps({**fields, **changes})


def writing(text: str) -> Writer:
    """A writer of a file that holds this text."""

    def write(path: Path) -> None:
        path.write_text(text)

    return write


def put(store: Store, node: Node = NODE, *, replace: bool = False, **files: str) -> Record:
    """Put an artifact of text files; keywords are their names, without the ending."""
    writers = {f"{name}.txt": writing(text) for name, text in (files or {"a": "A"}).items()}
    how = {"seconds": 2}
    return store.put(
        node.identity, writers, lineage={}, facts={"score": 1}, how=how, replace=replace
    )
