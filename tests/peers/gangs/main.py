"""Gangs of Robeing's resource pool beside Ray's placement groups: how many per second can be created and removed again, and
how long that takes. A gang is a processor of each of several agents or nodes, all or nothing.

Both have as many logical processors, many more than the gangs at once need: Ray learns only after a while that those of a
removed group are free. Both are called from this process, by threads that each create and remove one gang after the other.
Robeing runs without TLS, as Ray does, with as many agents as Ray has nodes. Each request and release is in the log of a
majority of Robeing's coordinators, on the disk, before it is answered; Ray keeps placement groups in memory, and returns
from a removal when it is noted. A Ray of a single node, which needs no agreement between nodes, and a Robeing of a single
coordinator are measured, too. The peers are measured in turn within each round, every other time in the opposite order; the
medians of the rounds are reported. The last line is JSON.
"""

import argparse
import json
import os
import pathlib
import statistics
import sys
import threading
import time

import machine
import ray_cluster
import robeing_fleet

ROOT = pathlib.Path(__file__).resolve().parents[3]


def arguments():
    parser = argparse.ArgumentParser(
        prog="tests/peers/gangs/run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    number = lambda text: [int(part) for part in text.split(",")]
    add = parser.add_argument
    add("--size", type=int, default=4, metavar="N", help="members of a gang (4)")
    add("--agents", type=int, default=8, metavar="N", help="agents, and nodes of Ray (8)")
    add("--cpus", type=int, default=500, metavar="N", help="logical processors of each (500)")
    add("--in-flight", type=number, default=[1, 8], metavar="N,…", help="gangs at once (1,8)")
    add("--rounds", type=int, default=5, metavar="N", help="rounds for each number of gangs at once (5)")
    add("--millis", type=int, default=3_000, metavar="N", help="how long each is measured in a round, after a tenth of that")
    add("--data", type=pathlib.Path, default=ROOT / "target/bench", metavar="DIR", help="a directory on the disk to measure")
    default = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/robeing"
    add("--robeing", type=pathlib.Path, default=default, metavar="FILE", help="the program (target/release/robeing)")
    args = parser.parse_args()
    if min(args.size, args.cpus, args.rounds, args.millis, *args.in_flight) < 1 or args.agents < args.size:
        parser.error("all numbers must be at least 1, and there must be as many agents as a gang has members")
    if max(args.in_flight) * args.size > args.agents * args.cpus // 2:
        parser.error("the gangs at once may need half of the processors, so that none has to wait for room")
    if max(args.in_flight) > 16 or args.size > 16:
        parser.error("one client has room for 16 gangs at once, of at most 16 members")
    if not args.robeing.is_file():
        parser.error(f"{args.robeing} is missing: run `make build`, or give --robeing")
    return args


def run(peer, in_flight, seconds):
    """Keeps gangs in flight for some time. Returns how many there were per second, and the medians of the times until one
    was created, and until it was removed again, in milliseconds."""
    created, removed, failures = [], [], []
    end = time.perf_counter() + seconds

    def call():
        try:
            begun = time.perf_counter()
            while begun < end:
                gang = peer.create()
                created.append(time.perf_counter() - begun)
                peer.remove(gang)
                now = time.perf_counter()
                removed.append(now - begun)
                begun = now
        except Exception as error:
            failures.append(error)

    begun = time.perf_counter()
    threads = [threading.Thread(target=call) for _ in range(in_flight)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    took = time.perf_counter() - begun
    return {
        "gangs_per_s": len(removed) / took,
        "p50_create_ms": statistics.median(created) * 1e3,
        "p50_ms": statistics.median(removed) * 1e3,
    }


def measure(peers, args):
    rows = []
    for in_flight in args.in_flight:
        rounds = []
        for number in range(args.rounds):
            samples = [None] * len(peers)
            order = range(len(peers))
            for of in reversed(order) if number % 2 else order:
                peer = peers[of]
                peer.begin()
                try:
                    run(peer, in_flight, args.millis / 10_000)
                    samples[of] = run(peer, in_flight, args.millis / 1_000)
                finally:
                    peer.end()
            rates = ", ".join(f"{peer.name}: {sample['gangs_per_s']:.0f}" for peer, sample in zip(peers, samples))
            print(f"{in_flight} in flight, round {number + 1}, gangs/s: {rates}", file=sys.stderr)
            rounds.append(samples)
        for of, peer in enumerate(peers):
            over = lambda value: statistics.median(value(samples) for samples in rounds)
            row = {"in_flight": in_flight, "peer": peer.name}
            row |= {name: over(lambda samples: samples[of][name]) for name in rounds[0][of]}
            # Of the rounds' own ratios: those of the first peer by those of this one.
            row["robeing_by_its"] = over(lambda samples: samples[0]["gangs_per_s"] / samples[of]["gangs_per_s"])
            row["p50_robeing_by_its"] = over(lambda samples: samples[0]["p50_ms"] / samples[of]["p50_ms"])
            rows.append(row)
    return rows


def show(report):
    print(f"{report['processors']} processors; the disk takes {report['sync_us']:.0f} us for a sync")
    print(
        f"Gangs of {report['size']} on {report['agents']} agents or nodes with {report['cpus']} logical processors each, "
        f"created and removed; medians of {report['rounds']} rounds\nRobeing's are on the disk, Ray's in memory; ratios "
        "are those of the first peer by those of each\n"
    )
    print(f"{'in flight':>9} {'peer':<24} {'gangs/s':>8} {'p50 create ms':>13} {'p50 ms':>8} {'x gangs':>8} {'x p50':>7}")
    for row in report["rows"]:
        print(
            f"{row['in_flight']:>9} {row['peer']:<24} {row['gangs_per_s']:>8.0f} {row['p50_create_ms']:>13.2f} "
            f"{row['p50_ms']:>8.2f} {row['robeing_by_its']:>8.2f} {row['p50_robeing_by_its']:>7.2f}"
        )
    print(f"\n{json.dumps(report)}")


def measure_in(folder, short, args):
    """Starts the peers in these folders, and measures them. Ray's sockets are in the second one: their paths must be short."""
    (folder / "api").mkdir()
    api = robeing_fleet.generate(ROOT, folder / "api")
    peers = []
    try:
        # Ray comes first, since it gives up early if its processes start slowly.
        for nodes, cpus in ((args.agents, args.cpus), (1, args.agents * args.cpus)):
            peers.append(ray_cluster.Ray(short / f"ray-{nodes}", nodes, cpus, args.size))
        for coordinators in (1, 3):
            fleet = (args.robeing, api, folder, coordinators, args.agents, args.cpus, args.size)
            peers.insert(0, robeing_fleet.Robeing(*fleet))
        report = {"bench": "gangs", "processors": os.cpu_count(), "sync_us": machine.sync_us(folder)}
        report |= {name: getattr(args, name) for name in ("size", "agents", "cpus", "rounds", "millis")}
        report["ray"] = ray_cluster.ray.__version__
        report["rows"] = measure(peers, args)
        return report
    finally:
        for peer in reversed(peers):
            peer.stop()


def main():
    args = arguments()
    with machine.folders("gangs", args.data) as (folder, short):
        report = measure_in(folder, short, args)
    show(report)


if __name__ == "__main__":
    main()
