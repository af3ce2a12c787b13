"""Our training against the K+1 samples that everybody trains on: padded, packed, and in TRL.

    python benchmarks/training.py                   # the table; on a GPU where there is one
    python benchmarks/training.py --overhead        # what our own code costs in a step

One run, the same random Llama, the same conversations (lengths in WildChat's shape), the same
tokens as targets, AdamW, fp32 on a CPU and bf16 on a GPU. Each way lives in a process of its own;
the ways take turns, a pass over all conversations each, so that noise falls on all alike. Start,
data preparation and a first step are not timed. The loss has to come out the same in all of them.
TRL (`pip install trl==1.16.*`) is left out where it is not installed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import math
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import training_peers as peers
from training_ours import ours, overhead
from training_peers import Pass, Run

from userlm_synth.user_lm.render import Rendered

TRL = "trl==1.16.*"
LOSS_TOLERANCE = 1e-4  # relative, of the sum over all targets; samples that mix are 1e-3 off


@dataclass(frozen=True)
class Way:
    """A row of the table."""

    name: str
    start: Callable[[Namespace, list[Rendered]], Run]

    @property
    def uses_trl(self) -> bool:
        return "TRL" in self.name


WAYS = {
    "a": Way("K+1 samples, padded, random order", peers.padded_at_random),
    "b": Way("K+1 samples, padded, by length", peers.padded_by_length),
    "c1": Way("K+1 samples, TRL, packed", partial(peers.trl, one_pass=False, packing=True)),
    "c2": Way("K+1 samples, TRL, one at a time", partial(peers.trl, one_pass=False, packing=False)),
    "d1": Way("our one-pass rows, TRL, packed", partial(peers.trl, one_pass=True, packing=True)),
    "d2": Way(
        "our one-pass rows, TRL, one at a time", partial(peers.trl, one_pass=True, packing=False)
    ),
    "e": Way("userlm-synth train", ours),
}
# How many times faster ours is to be than these; of several the fastest counts.
GOALS = (("a", 3.2), ("b", 1.5), ("c1 c2", 1.5), ("d1 d2", 1.0))
COLUMNS = (
    "way", "tokens", "steps", "seconds (all passes)", "CPU s", "target tokens/s", "ours / this",
    "peak MiB", "loss differs by",
)  # fmt: skip


def child(key: str, options: Namespace, pipe: Connection) -> None:
    """A process with one way: says when it is ready, then takes a pass whenever it is asked to."""
    with (Path(options.folder) / f"{key}.txt").open("w") as log:  # trainers talk a lot
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    weight = torch.zeros(1, requires_grad=True)
    weight.sum().backward()
    torch.optim.AdamW([weight]).step()  # imports what it needs before memory is looked at
    run = WAYS[key].start(options, peers.conversations(options))
    before = memory(options, "VmRSS")
    run(1)
    pipe.send("ready")
    while pipe.recv() == "pass":
        done = run(None)
        done.peak_mib = memory(options, "VmHWM") - before
        if options.device == "cuda":
            torch.cuda.empty_cache()  # the others need it
        pipe.send(done)


def memory(options: Namespace, field: str) -> float:
    """MiB of this process: `VmRSS`, used now, from where the peak counts; `VmHWM`, that peak."""
    if options.device == "cuda":
        if field == "VmRSS":
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        if field == "VmRSS":
            Path("/proc/self/clear_refs").write_text("5")
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return math.nan  # not Linux
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def measure(options: Namespace, keys: list[str]) -> dict[str, list[Pass]]:
    """The passes of every way, in turns."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    children = []
    for key in keys:
        pipes[key], theirs = context.Pipe()
        children.append(context.Process(target=child, args=(key, options, theirs), daemon=True))
        children[-1].start()
        theirs.close()
        answer(options, key, pipes[key])
    passes: dict[str, list[Pass]] = {key: [] for key in keys}
    for number in range(options.repeats):
        for key in keys:
            pipes[key].send("pass")
            passes[key].append(answer(options, key, pipes[key]))
            print(f"{number + 1}. {key} {passes[key][-1]}", file=sys.stderr, flush=True)
    for key, process in zip(keys, children, strict=True):
        pipes[key].send("end")
        process.join()
    return passes


def answer(options: Namespace, key: str, pipe: Connection) -> Any:
    try:
        return pipe.recv()
    except EOFError:
        print((Path(options.folder) / f"{key}.txt").read_text()[-3000:], file=sys.stderr)
        sys.exit(f"{key} {WAYS[key].name}: ended early, see above")


def summary(options: Namespace, passes: dict[str, list[Pass]]) -> dict[str, dict[str, Any]]:
    """The figures of each way: medians, the highest peak, the loss against the first way's."""
    targets = sum(one.targets for one in peers.conversations(options))
    right = passes["a"][0].loss
    mine = statistics.median(one.seconds for one in passes["e"])
    my_cpu = statistics.median(one.cpu_seconds for one in passes["e"])
    found = {}
    for key, done in passes.items():
        seconds = statistics.median(one.seconds for one in done)
        cpu = statistics.median(one.cpu_seconds for one in done)
        difference = max(abs(one.loss / right - 1) for one in done)
        found[key] = {
            "way": WAYS[key].name,
            "tokens": done[0].tokens,
            "steps": done[0].steps,
            "seconds": seconds,
            "cpu_seconds": cpu,
            "target_tokens_per_second": targets / seconds,
            "ratio": seconds / mine,
            "cpu_ratio": cpu / my_cpu,
            "peak_mib": max(one.peak_mib for one in done),
            "loss_difference": difference,
            "exact": difference <= LOSS_TOLERANCE,
            "passes": [asdict(one) for one in done],
        }
    return found


def table(found: dict[str, dict[str, Any]]) -> str:
    lines = [COLUMNS, ("---",) * len(COLUMNS)]
    for key, way in WAYS.items():
        name = f"{key}. {way.name}"
        if (row := found.get(key)) is None:
            lines.append((name, f"not installed: pip install {TRL}", *[""] * (len(COLUMNS) - 2)))
            continue
        times = [one["seconds"] for one in row["passes"]]
        wrong = "" if row["exact"] else " **wrong: samples see each other**"
        lines.append(
            (
                name,
                f"{row['tokens']:,}",
                f"{row['steps']}",
                f"{row['seconds']:.2f} ({min(times):.2f} to {max(times):.2f})",
                f"{row['cpu_seconds']:.2f}",
                f"{row['target_tokens_per_second']:,.0f}",
                f"{row['ratio']:.2f}",
                f"{row['peak_mib']:,.0f}",
                f"{row['loss_difference']:.0e}{wrong}",
            )
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def goals(found: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Ours against the fastest of each goal's peers whose loss is right."""
    reached = []
    for keys, least in GOALS:
        known = [found[key] for key in keys.split() if key in found and found[key]["exact"]]
        line: dict[str, Any] = {"against": keys, "least": least, "passed": None}
        if known:
            line |= {name: min(one[name] for one in known) for name in ("ratio", "cpu_ratio")}
            line["passed"] = line["ratio"] >= least and found["e"]["exact"]
        reached.append(line)
    return reached


def verdict(passed: bool | None) -> str:
    return {True: "pass", False: "FAIL", None: "not run"}[passed]


def surroundings(options: Namespace) -> dict[str, str]:
    """What the figures depend on, beside the options."""
    known = []
    for name in ("torch", "transformers", "trl", "accelerate"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            known.append(f"{name} {importlib.metadata.version(name)}")
    gpu = f"{torch.cuda.get_device_name()}, " if options.device == "cuda" else ""
    cores = f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    return {
        "command": " ".join(["python benchmarks/training.py", *sys.argv[1:]]),
        "machine": gpu + cores,
        "precision": options.precision,
        "trl": f"TRL attends with {peers.trl_attention(options)}",
        "versions": ", ".join(known),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--conversations", type=int, default=40)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=8000)
    parser.add_argument("--batch", type=int, default=8, help="samples in a padded batch")
    parser.add_argument("--step-conversations", type=int, default=16, help="in an optimizer step")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--overhead", action="store_true", help="only that, at 110M parameters")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all figures")
    options = parser.parse_args()
    options.device = "cuda" if torch.cuda.is_available() else "cpu"
    options.precision = "bf16" if options.device == "cuda" else "fp32"
    about = surroundings(options)
    result: dict[str, Any] = {**about, "options": {**vars(options), "json": None}}
    with tempfile.TemporaryDirectory() as options.folder:
        if options.overhead:
            result["overhead"] = cost = overhead(options)
            print(
                f"{verdict(cost['share'] < 0.03)}: own code takes {100 * cost['share']:.2f} % "
                f"(under 3): {1000 * cost['own_seconds_a_step']:.1f} ms of a step of "
                f"{cost['seconds_a_step']:.3f} s; {cost['parameters'] / 1e6:.0f}M parameters"
            )
        else:
            has_trl = importlib.util.find_spec("trl") is not None
            keys = [key for key, way in WAYS.items() if has_trl or not way.uses_trl]
            result["ways"] = summary(options, measure(options, keys))
            result["goals"] = goals(result["ways"])
            print(table(result["ways"]) + "\n")
            for goal in result["goals"]:
                line = f"{verdict(goal['passed'])}: ours / {goal['against'].replace(' ', ', ')}"
                if goal["passed"] is not None:
                    line += f" {goal['ratio']:.2f}, by CPU time {goal['cpu_ratio']:.2f}"
                print(f"{line} (at least {goal['least']})")
    print("\n" + "; ".join(about.values()))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
