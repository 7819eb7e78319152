"""A driver that is killed at random moments and started again: a script, since it forks.

killed_driver.py CONFIGS FOLDER KILLS SEED [ray] runs the tiny grid undisturbed into FOLDER/whole,
and then, on Ray if so asked, into FOLDER/1, FOLDER/2 and so on, killing each driver at a random
moment, until so many were killed. FOLDER/NUMBER.computed has a line for each node that was
computed there. Prints how many artifacts there were at each kill.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from tiny import Tiny

import pipeline.commands.session  # noqa: F401  imports are not to be what is killed
from pipeline.execution.events import Event, NodeDone, Observers
from pipeline.execution.work import attempt as work
from tasks.data.splits import digits


def run(configs: Path, store: Path) -> None:
    """The grid, each node's digest written down before anybody can stop the process."""
    perform = work.perform
    log = os.open(f"{store}.computed", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def logged(node, place, *rest, **more):
        done = perform(node, place, *rest, **more)
        if not done.found:
            os.write(log, f"{node.digest}\n".encode())
        return done

    work.perform = logged
    _, finished = Tiny(configs, store).run()
    assert not finished.missing


def run_on_ray(configs: Path, store: Path) -> None:
    """The same on a Ray of its own; written down is what workers computed, as the driver hears."""
    log = os.open(f"{store}.computed", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    class Log:
        def notify(self, event: Event) -> None:
            if isinstance(event, NodeDone) and not event.done.found:
                assert event.node.digest not in stood, "computed although it was there"
                os.write(log, f"{event.node.digest}\n".encode())

        def close(self) -> None:
            pass

    session = Tiny(configs, store).session()
    session.store.prepare()
    stood = {digest for _, digest in session.store.each()}
    finished = session.run(Observers([Log()]), inline=False, address=None, workers=2, forced=set())
    assert not finished.missing


def forked(configs: Path, store: Path, how: Callable[[Path, Path], None] = run) -> int:
    """Start a driver; its process id."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            how(configs, store)
            code = 0
        except Exception:  # noqa: BLE001  it is told, and the exit code says so
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return process


def artifacts(store: Path) -> int:
    """How many there are."""
    return len(list(store.glob("*/??/*/meta.json")))


def main(
    configs: Path, folder: Path, kills: int, seed: int, how: Callable[[Path, Path], None] = run
) -> None:
    """See this module."""
    draw = random.Random(seed)
    digits()
    Tiny(configs, folder / "none").session()
    _, status = os.waitpid(forked(configs, folder / "whole"), 0)
    assert status == 0
    number, killed = 1, 0
    while killed < kills:
        store = folder / str(number)
        process = forked(configs, store, how)
        # so many artifacts later, and then a little: wherever that is, on Ray past its start
        enough = artifacts(store) + draw.randrange(5) + (how is run_on_ray)
        ended = (0, 0)
        while artifacts(store) < enough and ended[0] == 0:
            ended = os.waitpid(process, os.WNOHANG)
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.5))
        ended = ended if ended[0] else os.waitpid(process, os.WNOHANG)
        if ended[0] == 0:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            killed += 1
            sys.stdout.write(f"{artifacts(store)}\n")
        else:
            assert ended[1] == 0
            number += 1
    _, status = os.waitpid(forked(configs, folder / str(number), how), 0)
    assert status == 0


if __name__ == "__main__":
    chosen = run_on_ray if sys.argv[5:] == ["ray"] else run
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), chosen)
