"""The command line, which connects all other packages.

Exit codes: 0 success, 1 a failure or a negative answer, 2 bad input, 3 no answer, 4 an unexpected
error, 130 stopped early. The help of `run`, `compare` and `judge` has the details.
"""

from __future__ import annotations

import atexit
import gc
import io
import sys
import traceback
from typing import Any

import click

from pipeline import __version__
from pipeline.commands.computing import computing_commands
from pipeline.commands.grouped import GroupedCommand
from pipeline.commands.options import UNEXPECTED
from pipeline.commands.output import discard_stdout, say
from pipeline.commands.project import project_commands
from pipeline.commands.showing import showing_commands
from pipeline.commands.store import store_commands
from pipeline.commands.streams import keep_streams
from pipeline.execution.signals import STOPPED
from pipeline.problems import BadInput, Unwritable, reader_gone, suggestion, unreachable

ANSWERING = frozenset({"compare", "doctor", "judge", "verify"})
"""Commands whose exit code 1 is an answer, which a full disk must not imitate."""


class _Commands(click.Group):
    """A group of commands that reports BadInput in one line, with exit code 2."""

    command_class = GroupedCommand

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BadInput as problem:
            say(f"error: {problem}", err=True)
            ctx.exit(2)
        except Unwritable as problem:
            say(f"error: {problem}", err=True)
            ctx.exit(UNEXPECTED if ctx.invoked_subcommand in ANSWERING else 1)
        except (click.exceptions.Exit, click.ClickException, click.Abort):
            raise  # errors of click, not of user code
        except (Exception, SystemExit) as error:
            if reader_gone(error):
                discard_stdout()
                ctx.exit(UNEXPECTED)
            from pipeline.catalogue.code.known import line_of, place_of

            if place_of(error) is not None:
                say(f"error: {line_of(error)}", err=True)
                ctx.exit(2)
            if isinstance(error, SystemExit):
                raise
            if (said := unreachable(error)) is not None:
                say(f"error: {BadInput(said)}", err=True)
                ctx.exit(2)
            traceback.print_exc()
            ctx.exit(UNEXPECTED)
        except KeyboardInterrupt:
            say("stopped; what is finished is kept", err=True)
            ctx.exit(STOPPED)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            raise BadInput(f"no command '{args[0]}'{suggestion(args[0], self.commands)}")
        return super().resolve_command(ctx, args)


def _end_sooner() -> None:
    """Leave out the last collection of garbage: of torch, MLflow and the like it takes seconds."""
    # triton, which is loaded to compile a network, reports all that is not collected
    if "triton" not in sys.modules:
        gc.freeze()


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pipeline")
def main() -> None:
    """Judge test-time defenses against adversarial examples.

    \b
    pipeline run demo                 compute what is missing and print the tables
    pipeline plan demo                show what a run would compute
    pipeline why CELL --grid demo     show why
    pipeline compare                  show what changed since the run before
    """
    keep_streams()
    atexit.register(_end_sooner)
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        # an encoding other than UTF-8 lacks characters of the tables
        sys.stdout.reconfigure(errors="replace")


for command in (*computing_commands, *showing_commands, *project_commands, *store_commands):
    main.add_command(command)
