"""Speed and endurance of `userlm-synth generate`, beside datatrove and SDialog.

    python benchmarks/generation.py --envs DIR                   # all but vLLM
    python benchmarks/generation.py --envs DIR --vllm ENV        # and a real vLLM, on CPU
    python benchmarks/generation.py --only memory                # one part

Everything is one run on one machine: a mock server in a process of its own, the peers (PyPI) in
environments of their own below DIR, which are made where they are not there yet. Dialogues have
eight turns. A part's ways take turns; figures are medians, with the least and greatest of repeats.

late      a server that takes 50 ms; 16, 64, 256 dialogues in flight. Ours keeps every turn on the
          disk; datatrove runs without its checkpoints, SDialog keeps nothing until a dialogue ends.
light     a server that answers at once, 256 in flight, on the same cores: what the client can do.
          `aiohttp` there and above is that HTTP client alone, without dialogues to keep.
memory    the client's most memory at 1,000, 10,000 and 100,000 dialogues.
faults    see generation_faults.py.
vllm      see generation_vllm.py.

Turns a second are counted by the server, from the first request to the last answer.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import venv
from argparse import Namespace
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from generation_faults import Ordeal, endure
from generation_runs import (
    HERE,
    TURNS,
    MockServer,
    check_dialogues,
    generate_command,
    run,
    spread,
    surroundings,
    table,
    verdict,
    write_intents,
)

LATENCY = 0.05  # seconds
OURS, BARE = "userlm-synth generate", "aiohttp"
# What each peer is installed with, one pip call after the other (torch first: a CPU build will do).
PEERS = {
    "datatrove": [["datatrove[io]==0.10.*", "httpx", "aiosqlite", "aiofiles"]],
    "sdialog": [["torch==2.13.0"], ["sdialog==0.5.*"]],
}
# How many times faster ours is to be at 64 in flight.
GOALS = {"datatrove": 1.25, "sdialog": 6.0}
SHARE, LIGHT, MIB = 0.9, 3500, 500  # of the ideal; turns/s; of memory
MEMORY = (1_000, 10_000, 100_000)  # dialogues


@dataclass
class Way:
    """One row: a program, so many in flight, so many dialogues, and what its repeats took."""

    name: str
    in_flight: int
    num: int
    server: tuple[object, ...]
    rates: list[float] = field(default_factory=list)  # turns a second
    cpu_ms: list[float] = field(default_factory=list)  # of the client, a turn, start and all
    seconds: list[float] = field(default_factory=list)  # of the whole command
    at_once: int = 0  # most requests that the server had at once
    peak_mib: float = 0.0

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)


def measure(way: Way, options: Namespace) -> None:
    """One repeat, against a server of its own."""
    with tempfile.TemporaryDirectory() as name, MockServer(*way.server) as server:
        folder = Path(name)
        intents = write_intents(folder / "intents.jsonl", way.num)
        out = folder / "out"
        if way.name == OURS:
            command = generate_command(server.url, intents, out, way.num, way.in_flight)
        else:
            python = sys.executable if way.name == BARE else options.envs / way.name / "bin/python"
            command = [
                str(python), str(HERE / "generation_peers.py"),
                way.name, server.url, str(intents), str(out), str(way.num), str(way.in_flight),
                str(TURNS),
            ]  # fmt: skip
        ran = run(command, folder)
        if way.name == OURS:
            check_dialogues(out, way.num)
        elif way.name != BARE:
            options.versions[way.name] = ran.out.split()[-1]
        stats = server.stats()
    turns = way.num * TURNS
    if stats["answered"] != turns:
        sys.exit(f"{way.name}: {stats['answered']} answers for {turns} turns")
    way.rates.append(turns / (stats["last"] - stats["first"]))
    way.cpu_ms.append(1000 * ran.cpu_seconds / turns)
    way.seconds.append(ran.seconds)
    way.at_once = max(way.at_once, stats["most_at_once"])
    way.peak_mib = max(way.peak_mib, ran.peak_mib)
    print(
        f"{way.name}, {way.in_flight} in flight: {way.rates[-1]:,.0f}", file=sys.stderr, flush=True
    )


def repeated(ways: list[Way], options: Namespace) -> list[Way]:
    """All repeats; the ways take turns."""
    for _ in range(options.repeats):
        for way in ways:
            measure(way, options)
    return ways


def late(options: Namespace) -> list[Way]:
    """50 ms: ours and the peers that are there."""
    ways = []
    for in_flight in (16, 64):
        waves = max(1, round(options.scale * 20 / (TURNS * LATENCY)))  # 20 s at the ideal rate
        for name in (OURS, *options.peers, BARE):
            # SDialog is several times slower: a quarter of the dialogues
            num = in_flight * max(1, waves // 4 if name == "sdialog" else waves)
            ways.append(Way(name, in_flight, num, ("--latency", LATENCY)))
    # by hand: the kindest server to datatrove, which connects for every request
    for in_flight, num in ((64, 64 * waves), (256, 64 * waves)):
        for name in (OURS, *(one for one in options.peers if one != "sdialog"), BARE):
            server = ("--light", "--latency", LATENCY)
            ways.append(Way(name, in_flight, num, server))
    repeated(ways, options)
    rows = []
    for way in ways:
        ideal = way.in_flight / LATENCY
        rows.append((
            way.name, "by hand" if "--light" in way.server else "aiohttp", way.in_flight,
            spread(way.rates), f"{100 * way.rate / ideal:.1f} %", spread(way.cpu_ms, 2),
            spread(way.seconds, 1), way.at_once,
        ))  # fmt: skip
    head = ("50 ms", "server", "in flight", "turns/s", "of the ideal", "CPU ms a turn",
            "whole command, s", "most at once")  # fmt: skip
    print(table(head, rows) + "\n")
    typical = {(way.name, way.in_flight): way.rate for way in ways if "--light" not in way.server}
    for in_flight in (16, 64):
        share = typical[OURS, in_flight] * LATENCY / in_flight
        print(
            f"{verdict(share >= SHARE)}: {100 * share:.1f} % of the ideal at {in_flight} in flight "
            f"(at least {100 * SHARE:.0f})"
        )
    for name, least in GOALS.items():
        if name in options.peers:
            times = typical[OURS, 64] / typical[name, 64]
            print(f"{verdict(times >= least)}: {times:.2f} x {name} at 64 (at least {least})")
    print()
    return ways


def light(options: Namespace) -> list[Way]:
    """A server that answers at once."""
    num = max(256, round(8_000 * options.scale))
    server = ("--light", "--latency", 0)
    ways = [Way(name, in_flight, num, server) for in_flight in (256, 1024) for name in (OURS, BARE)]
    repeated(ways, options)
    rows = [
        (way.name, way.in_flight, spread(way.rates), spread(way.cpu_ms, 3), spread(way.seconds, 1))
        for way in ways
    ]
    head = ("light server", "in flight", "turns/s", "CPU ms a turn", "whole command, s")
    print(table(head, rows) + "\n")
    best, alone = (max(way.rate for way in ways if way.name == name) for name in (OURS, BARE))
    print(
        f"{verdict(best >= LIGHT)}: {best:,.0f} turns/s (at least {LIGHT:,}), "
        f"{100 * best / alone:.0f} % of what aiohttp alone does here\n"
    )
    return ways


def memory(options: Namespace) -> list[Way]:
    """The client's most memory by number of dialogues, an intent each; once each."""
    ways = []
    for count in MEMORY:
        num = max(64, round(count * options.scale))
        ways.append(Way(OURS, 256, num, ("--light", "--latency", 0)))
        measure(ways[-1], options)
    rows = [
        (f"{way.num:,}", f"{way.peak_mib:,.0f}", f"{way.rate:,.0f}", spread(way.seconds, 1))
        for way in ways
    ]
    print(table(("dialogues", "peak MiB", "turns/s", "whole command, s"), rows) + "\n")
    first, last = ways[-2:]  # the few before still fill what every run has
    slope = (last.peak_mib - first.peak_mib) * 2**20 / (last.num - first.num)
    million = last.peak_mib + slope * (1_000_000 - last.num) / 2**20
    print(
        f"{verdict(last.peak_mib <= MIB)}: {last.peak_mib:,.0f} MiB at {last.num:,} dialogues (at "
        f"most {MIB}); {slope:,.0f} bytes a dialogue more, {million:,.0f} MiB at 1,000,000\n"
    )
    return ways


def faults(options: Namespace) -> dict[str, Any]:
    """20 kills in 10,000 dialogues with a faulty server."""
    num = max(100, round(10_000 * options.scale))
    ordeal = Ordeal(num, in_flight=512, kills=20, seed=options.seed)
    with tempfile.TemporaryDirectory() as folder:
        came = endure(ordeal, Path(folder), say=True)
    met = ", ".join(f"{count:,} {name}" for name, count in came.faults.items())
    bound = len(came.kills) * ordeal.in_flight
    after_kills = came.paid_twice - came.timed_out - came.without_a_kill
    rows = [
        ("dialogues, distinct and whole", f"{num:,} of {num:,}"),
        ("`userlm-synth validate`", came.valid),
        ("the same as without faults and kills", f"{came.same_as_calm:,} of {num:,}"),
        ("kill -9 of the client", len(came.kills)),
        ("requests, each try", f"{came.requests:,}"),
        ("faults met", met),
        ("stored turns lost", came.lost),
        ("requests sent again that were answered and stored", came.stored_asked_again),
        ("requests answered again after a kill", f"{after_kills:,} (at most {bound:,})"),
        ("requests answered again after the client's timeout", came.timed_out),
        ("requests answered again without either", came.without_a_kill),
        ("seconds in all", f"{came.seconds:,.0f}"),
    ]
    print(table(("faults and kills", ""), rows) + "\n")
    good = came.passed and came.same_as_calm == num and after_kills <= bound
    print(f"{verdict(good)}: nothing lost, doubled, or asked again that was stored\n")
    return asdict(came)


def install(envs: Path) -> list[str]:
    """Make the peers' environments where they are not there yet."""
    for name, calls in PEERS.items():
        python = envs / name / "bin/python"
        if (envs / name / "done").exists():
            continue
        venv.create(envs / name, with_pip=True, clear=True)
        for packages in calls:
            subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
        (envs / name / "done").touch()
    return list(PEERS)


PARTS = {"late": late, "light": light, "memory": memory, "faults": faults}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=[*PARTS, "vllm"], help="parts (default: all)")
    parser.add_argument(
        "--envs", type=Path, metavar="DIR", help="of the peers; else they are left out"
    )
    parser.add_argument("--vllm", type=Path, metavar="ENV", help="an environment with vLLM for CPU")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="times as many dialogues")
    parser.add_argument("--seed", type=int, default=0, help="of the faults and kills")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all figures")
    options = parser.parse_args()
    options.versions, options.peers = {}, []
    parts = dict(PARTS)
    if options.vllm:
        from generation_vllm import against_vllm

        parts["vllm"] = against_vllm
    chosen = [name for name in parts if name in (options.only or parts)]
    if "late" in chosen and options.envs:
        options.envs = options.envs.resolve()
        options.peers = install(options.envs)
    result: dict[str, Any] = {}
    for name in chosen:
        result[name] = parts[name](options)
    about = surroundings()
    about["versions"] += "".join(f", {name} {one}" for name, one in options.versions.items())
    print("; ".join(about.values()))
    if options.json:
        options.json.write_text(json.dumps({**about, **result}, indent=1, default=asdict))


if __name__ == "__main__":
    main()
