"""Compares a no-op handler by the SDK with one over the raw stubs, in one run, alternating.

    python -m bench.compare                  # against an agent that does nothing else, so that the handler counts
    python -m bench.compare --dev DIR        # through a fleet of `robeing dev`, whose programs are in DIR

The first measures the processor time that each handler takes for a task, and the rate. The second measures the rate of
tasks that a client submits and awaits; all processes share this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, NamedTuple

from robeing import Fleet

SDK = Path(__file__).parent.parent
HANDLERS = ("raw", "sdk")
MANIFEST = """
apiVersion: robeing.io/v1alpha1
kind: RobeingCluster
metadata: {{name: bench}}
spec:
  coordinators: {{replicas: {coordinators}}}
  pools:
  - {{name: own, replicas: {agents}, slots: {slots}, executor: {{worker: {{}}}}}}
"""


class Measured(NamedTuple):
    """One measurement."""

    rate: float
    # Seconds of processor time of the handlers, for a task.
    cost: float


def handler(name: str, address: str) -> subprocess.Popen[str]:
    """Starts a process that attaches to an agent."""
    environment = {**os.environ, "ROBEING_WORKER_ADDRESS": address}
    command = [sys.executable, "-m", f"bench.{name}"]
    return subprocess.Popen(command, cwd=SDK, env=environment, stdout=subprocess.PIPE, text=True)


def cost_of(processes: list[subprocess.Popen[str]]) -> float:
    """Ends handlers, and returns the seconds of processor time that they took."""
    for process in processes:
        process.send_signal(signal.SIGTERM)
    return sum(float(process.communicate(timeout=30)[0] or "nan") for process in processes)


def line_of(output: IO[str] | None) -> str:
    """Reads a line of a process."""
    return output.readline().strip() if output is not None else ""


def alone(name: str, tasks: int, slots: int) -> Measured:
    """Measures one handler against an agent that does nothing else."""
    command = [sys.executable, "-m", "bench.agent", str(tasks), str(slots)]
    agent = subprocess.Popen(command, cwd=SDK, stdout=subprocess.PIPE, text=True)
    process = handler(name, line_of(agent.stdout))
    seconds = float(line_of(agent.stdout))
    cost = cost_of([process])
    agent.wait(timeout=30)
    return Measured(tasks / seconds, cost / tasks)


async def through(fleet: Fleet, addresses: list[str], name: str, tasks: int) -> Measured:
    """Measures handlers that run tasks of a fleet."""
    processes = [handler(name, address) for address in addresses]
    try:
        # Once each has run some, all are attached.
        async for result in fleet.map("noop", ([1, 2, 3] for _ in range(tasks // 10)), max_attempts=100):
            _ = result.value
        began = time.perf_counter()
        async for result in fleet.map("noop", ([1, 2, 3] for _ in range(tasks)), max_attempts=100):
            _ = result.value
        seconds = time.perf_counter() - began
    finally:
        cost = cost_of(processes)
    return Measured(tasks / seconds, cost / (tasks + tasks // 10))


def report(rounds: list[dict[str, Measured]]) -> None:
    """Prints what was measured."""
    print("| round | raw, tasks/s | sdk, tasks/s | ratio | raw, µs of CPU a task | sdk, µs of CPU a task |")
    print("|---|---|---|---|---|---|")
    for number, measured in enumerate(rounds, 1):
        raw, sdk = measured["raw"], measured["sdk"]
        print(
            f"| {number} | {raw.rate:.0f} | {sdk.rate:.0f} | {sdk.rate / raw.rate:.2f} "
            f"| {raw.cost * 1e6:.0f} | {sdk.cost * 1e6:.0f} |"
        )
    rate = statistics.median(measured["sdk"].rate / measured["raw"].rate for measured in rounds)
    cost = statistics.median(measured["raw"].cost / measured["sdk"].cost for measured in rounds)
    print(f"median of sdk / raw: rate {rate:.2f}, tasks for the same processor time {cost:.2f}")


async def with_dev(programs: Path, options: argparse.Namespace) -> list[dict[str, Measured]]:
    """Measures through a fleet that is started for that."""
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder) / "fleet.yaml"
        manifest.write_text(
            MANIFEST.format(coordinators=options.coordinators, agents=options.processes, slots=options.slots)
        )
        log = (Path(folder) / "dev.log").open("w+")
        command = [str(programs / "robeing"), "dev", "-f", str(manifest), "--name", "bench"]
        # Started before anything else runs in the event loop.
        dev = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)  # noqa: ASYNC220
        try:
            addresses = _attach_addresses(Path(log.name), options.processes)
            async with Fleet.connect(dev="bench") as fleet:
                return [
                    {name: await through(fleet, addresses, name, options.tasks) for name in _alternating(number)}
                    for number in range(options.rounds)
                ]
        finally:
            dev.terminate()
            dev.wait(timeout=60)
            log.close()


def _attach_addresses(log: Path, count: int) -> list[str]:
    """Waits until the fleet has started, and returns where its agents listen for processes."""
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        text = log.read_text()
        for line in text.splitlines():
            if line.strip().startswith("attach:") and "ready" in text:
                words = line.split("ROBEING_WORKER_ADDRESS=", 1)[1].split(", ")
                addresses = [word.split(" ")[0] for word in words]
                if len(addresses) == count:
                    return addresses
        time.sleep(0.1)
    raise SystemExit(f"the fleet has not started:\n{log.read_text()}")


def _alternating(number: int) -> tuple[str, ...]:
    return HANDLERS if number % 2 == 0 else HANDLERS[::-1]


def main() -> None:
    """Measures, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dev", type=Path, metavar="DIR", help="the folder of the programs robeing and robeing-agent")
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--processes", type=int, default=4, help="with --dev: agents, with a process each")
    parser.add_argument("--coordinators", type=int, default=1, help="with --dev")
    options = parser.parse_args()
    if options.dev is not None:
        report(asyncio.run(with_dev(options.dev, options)))
        return
    rounds = [
        {name: alone(name, options.tasks, options.slots) for name in _alternating(number)}
        for number in range(options.rounds)
    ]
    report(rounds)


if __name__ == "__main__":
    main()
