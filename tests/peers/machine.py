"""What the programs in Python here share: how fast the disk syncs, and folders that don't outlive the program."""

import contextlib
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

# Syncs of the disk that are measured.
SYNCS = 200


def sync_us(folder: pathlib.Path) -> float:
    """Returns the median time that the disk takes to sync 4 KiB, in microseconds."""
    times = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(SYNCS):
            begun = time.perf_counter()
            os.pwrite(file.fileno(), b"x" * 4_096, 0)
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - begun)
    return statistics.median(times) * 1e6


@contextlib.contextmanager
def folders(name: str, data: pathlib.Path) -> Iterator[list[pathlib.Path]]:
    """Makes a folder below `data`, on the disk that is measured, and one whose path is short enough for sockets.

    Both are removed at the end, and also if a signal ends this program.
    """
    # The script that starts this ends all processes then, and the janitor removes the folders.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    data.mkdir(parents=True, exist_ok=True)
    made = [pathlib.Path(tempfile.mkdtemp(prefix=f"{name}-", dir=parent)) for parent in (data, None)]
    janitor = [sys.executable, *map(str, [pathlib.Path(__file__).with_name("janitor.py"), *made])]
    with subprocess.Popen(janitor, stdin=subprocess.PIPE):
        yield made
