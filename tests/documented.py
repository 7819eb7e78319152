"""What the Markdown files show in blocks of code, and programs that stand in for what is not here.

As a script, `documented.py PROGRAM WORDS...` does what such a program of a block would: commands of
the pipeline run, in one process and on a CPU; those of Ray, make and Slurm are parsed.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[1]
PROGRAMS = ("make", "pipeline", "python", "ray", "scontrol", "sleep", "srun")
"""What a block's shell finds in the place of the real ones."""
COMPUTING = ("judge", "run")
TOO_LARGE = ["run", "--grid", "full"]
"""What is planned and not run."""
ANSWERS = {"judge": (0, 1, 3), "compare": (0, 1)}
"""Exit codes with which commands answer."""


@dataclass(frozen=True)
class Block:
    """A block of code and the line that it begins on; language: "" where it has none."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def place(self) -> str | None:
        """The file that its first line names in a comment, if any."""
        named = re.match(r"# (\S+\.(?:py|yaml))\n", self.text)
        return named[1] if named else None


def pages() -> list[str]:
    """The Markdown files of the repository, by their places in it."""
    found = [*ROOT.glob("*.md")]
    for folder in ("configs", "docs", "pipeline", "reports", "tasks", "tests"):
        found += (ROOT / folder).rglob("*.md")
    return sorted(str(path.relative_to(ROOT)) for path in found)


def blocks(page: str) -> list[Block]:
    """The blocks of a page, fenced or indented; an indented one has no language."""
    found = []
    for token in MarkdownIt().parse((ROOT / page).read_text(encoding="utf-8")):
        if token.type in {"fence", "code_block"}:
            assert token.map is not None
            found.append(Block(page, token.map[0] + 1, token.info.strip(), token.content))
    return found


def commands(text: str) -> Iterator[list[str]]:
    """The simple commands of a shell's text, without comments."""
    text = re.sub(r"(^|\s)#.*", r"\1", text.replace("\\\n", " "))
    lexer = shlex.shlex(text, posix=True, punctuation_chars="|&;\n")
    lexer.whitespace, lexer.commenters, lexer.whitespace_split = " \t", "", True
    words: list[str] = []
    for word in [*lexer, "\n"]:
        if set(word) <= set("|&;\n"):
            if words:
                yield words
            words = []
        else:
            words.append(word)


def of_pipeline(words: Sequence[str]) -> list[str] | None:
    """What a command hands to the pipeline's own command line, also as a job; else None."""
    if "--" in words:
        words = words[words.index("--") + 1 :]
    if list(words[:3]) == ["python", "-m", "pipeline"]:
        return list(words[3:])
    return list(words[1:]) if words[:1] == ["pipeline"] else None


def parsed(command: click.Command, words: Sequence[str]) -> click.Context:
    """What click makes of a command line; click.UsageError where it refuses it."""
    words = list(words)
    while isinstance(command, click.Group) and words and words[0] in command.commands:
        command = command.commands[words.pop(0)]
    if isinstance(command, click.Group):
        raise click.UsageError(f"no such command: {' '.join(words)}")
    return command.make_context(command.name, words)


def without_cluster(words: Sequence[str]) -> list[str]:
    """The words of a command of the pipeline with which it runs here, in one process."""
    kept: list[str] = []
    for word in words:
        if kept and kept[-1] == "--address":
            kept.pop()
        else:
            kept.append("cpu" if kept and kept[-1] == "--device" else word)
    if kept[:3] == TOO_LARGE:
        return ["plan", *kept[1:]]
    inline = kept[0] in COMPUTING and "--inline" not in kept
    return [*kept, "--inline"] if inline else kept


def stand_in(program: str, words: list[str]) -> int:
    """Do what stands in for a program; returns its exit code."""
    own = of_pipeline([program, *words])
    command: list[str] = []
    if own is not None:
        from pipeline.commands.cli import main

        if parsed(main, own).info_name != "ui":
            command = [sys.executable, "-m", "pipeline", *without_cluster(own)]
    elif program == "python":
        command = [sys.executable, *words]
    elif program == "make":
        command = [str(shutil.which("make", path=os.defpath)), "-n", "-C", str(ROOT), *words]
    elif program == "ray":
        from ray.scripts.scripts import cli

        parsed(cli, words)
        command = words[words.index("--") + 1 :] if "--" in words else []
    elif program == "scontrol":
        command = ["printf", "first\\nsecond\\n"]
    elif program == "srun":
        while words and words[0].startswith("-"):
            words = words[2 if words[0] == "-w" else 1 :]
        command = words
    code = subprocess.run(command, check=False).returncode if command else 0
    return 0 if own and code in ANSWERS.get(own[0], ()) else code


if __name__ == "__main__":
    sys.exit(stand_in(sys.argv[1], sys.argv[2:]))
