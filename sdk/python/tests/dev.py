"""A fleet of `robeing dev`, with real processes."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).parent.parent.parent.parent
# How long the fleet may take to start or end, seconds.
WITHIN = 120.0


def program() -> Path | None:
    """Returns the program `robeing`: that of ROBEING_BIN, or that of a build of this repository if there is one.

    Raises:
        FileNotFoundError: ROBEING_BIN names a program that is missing.
    """
    named = os.environ.get("ROBEING_BIN")
    found = Path(named) if named else REPOSITORY / "target" / "debug" / "robeing"
    if found.is_file():
        return found
    if named:
        raise FileNotFoundError(f"ROBEING_BIN is {named}, where there is no program; build it")
    return None


# For tests with a real fleet. tools/check sets ROBEING_BIN, so it skips none of them.
needs_program = pytest.mark.skipif(program() is None, reason="there is no robeing to run: build it, or set ROBEING_BIN")


class Dev:
    """A fleet that runs."""

    def __init__(self, folder: Path, manifest: Path, *options: str) -> None:
        robeing = program()
        assert robeing is not None, "there is no robeing to run; set ROBEING_BIN"
        self._folder = folder
        self._log = folder / "dev.log"
        self.environment = {**os.environ, "XDG_RUNTIME_DIR": str(folder), "TMPDIR": str(folder)}
        command = [str(robeing), "dev", "-f", str(manifest), "--name", "python", *options]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        self._programs: list[subprocess.Popen[bytes]] = []

    def said(self) -> str:
        """Returns what the fleet has printed."""
        return self._log.read_text()

    def wait_ready(self) -> None:
        """Waits until it is ready: its agents take no tasks before programs attach to them."""
        ends = time.monotonic() + WITHIN
        while "ready" not in self.said():
            assert self._process.poll() is None, f"robeing dev has ended:\n{self.said()}"
            assert time.monotonic() < ends, f"robeing dev does not become ready:\n{self.said()}"
            time.sleep(0.05)

    def attach_addresses(self) -> str:
        """Returns where programs attach, as the environment variable has it."""
        (line,) = [line for line in self.said().splitlines() if line.startswith("attach:")]
        return ",".join(re.findall(r"127\.0\.0\.1:\d+", line))

    def start(self, file: Path, **environment: str) -> subprocess.Popen[bytes]:
        """Starts a Python program that finds the fleet by itself."""
        log = self._folder / f"program-{len(self._programs)}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, file],
                env={**self.environment, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self._programs.append(process)
        return process

    def program_said(self) -> str:
        """Returns what programs have printed."""
        return "\n".join(log.read_text() for log in sorted(self._folder.glob("program-*.log")))

    def close(self) -> None:
        """Ends the fleet, and all programs."""
        for process in self._programs:
            if process.poll() is None:
                process.kill()
            process.wait()
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(WITHIN)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextlib.contextmanager
def running(manifest: Path, *options: str) -> Iterator[Dev]:
    """Runs a fleet."""
    # A path of few characters, for the sockets below it.
    folder = Path(tempfile.mkdtemp(prefix="py-", dir="/tmp"))
    dev = Dev(folder, manifest, *options)
    try:
        dev.wait_ready()
        yield dev
    finally:
        dev.close()
        shutil.rmtree(folder, ignore_errors=True)
