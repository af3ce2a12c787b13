"""The figures of Table 3 ("Flipping the Dialogue", App. D.3), each a small function.

What is true of one dialogue is averaged over all dialogues; what takes several runs of a task is
worked out for each task and averaged over tasks. Intervals are 95 % bootstrap percentiles over
tasks, since the runs of a task are alike.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from userlm_synth.metrics import ratio_bootstrap, unigram_difference
from userlm_synth.records import Record

SAMPLES = 1000  # of the bootstrap

#: Figures of one dialogue, in percent, that need to know which shards a turn reveals.
BY_SHARDS = ("intent_coverage", "repeat_required", "skip_non_required", "add_demands")
#: Figures of the runs of one task.
BY_RUNS = ("turn_variance", "turn_min", "turn_max", "unigram_difference")
FIGURES = (*BY_SHARDS, *BY_RUNS, "assistant_score")

ALL_REQUIRED = "all shards of these tasks are required"
UNMARKED = "these tasks do not say which shards are required"
NO_JUDGE = "is seen by a judge alone; name one with --judge"
ONE_RUN = "takes two dialogues or more of a task"
NO_DIALOGUE = "no dialogue came to its end"
NOTHING_JUDGED = "no dialogue was judged"


@dataclass(frozen=True)
class Held:
    """A dialogue as the figures see it.

    `revealed`: for each user turn the places of the shards in it, None where the judge gave no
    answer; `added`: what it asks for beyond the shards, None where nobody looked.
    """

    task: str
    turns: Sequence[str]  # the user's
    exchanges: int  # user turns that were answered
    solved: bool
    revealed: Sequence[AbstractSet[int]] | None
    added: Sequence[Sequence[str]] | None


# ---- of one dialogue -------------------------------------------------------------------------


def intent_coverage(revealed: Sequence[AbstractSet[int]], shards: int) -> float:
    """100 x different shards revealed / shards."""
    return 100 * len(frozenset().union(*revealed)) / shards


def repeat_required(revealed: Sequence[AbstractSet[int]], required: Iterable[int]) -> float:
    """100 where a required shard is revealed in two turns or more, else 0."""
    return 100.0 * any(sum(shard in turn for turn in revealed) >= 2 for shard in required)


def skip_non_required(
    revealed: Sequence[AbstractSet[int]], others: AbstractSet[int]
) -> float | None:
    """100 where a shard that is not required is never revealed, else 0; None without any."""
    return 100.0 * bool(others - frozenset().union(*revealed)) if others else None


def add_demands(added: Sequence[Sequence[str]]) -> float:
    """100 where a user turn brings what is in no shard, else 0."""
    return 100.0 * any(added)


# ---- of the runs of one task -----------------------------------------------------------------


def turn_variance(counts: Sequence[int]) -> float | None:
    """The sample variance (divided by n - 1) of the numbers of exchanges; None for one run."""
    return float(statistics.variance(counts)) if len(counts) > 1 else None


# ---- of a table ------------------------------------------------------------------------------


def required_places(task: Record, required: bool) -> frozenset[int]:
    """The places of the shards that are required (no mark counts as required), or are not."""
    return frozenset(
        place
        for place, shard in enumerate(task["shards"])
        if (shard.get("required") is not False) == required
    )


def of_dialogue(held: Held, task: Record) -> dict[str, float | None]:
    """The figures of one dialogue; None for what cannot be said of it."""
    found: dict[str, float | None] = {"assistant_score": 100.0 * held.solved}
    if held.revealed is not None:
        found |= {
            "intent_coverage": intent_coverage(held.revealed, len(task["shards"])),
            "repeat_required": repeat_required(held.revealed, required_places(task, True)),
            "skip_non_required": skip_non_required(held.revealed, required_places(task, False)),
            "add_demands": None if held.added is None else add_demands(held.added),
        }
    return found


def of_runs(runs: Sequence[Held]) -> dict[str, float | None]:
    """The figures of the runs of one task; of a single run nothing can be said."""
    counts = [one.exchanges for one in runs]
    said = ["\n".join(one.turns) for one in runs]
    several = len(runs) > 1
    return {
        "turn_variance": turn_variance(counts),
        "turn_min": float(min(counts)) if several else None,
        "turn_max": float(max(counts)) if several else None,
        "unigram_difference": unigram_difference(said) if several else None,
    }


Values = dict[str, dict[str, list[float]]]  # by figure, by task: one a dialogue, or one in all


def values_of(tasks: Mapping[str, Record], dialogues: Iterable[Held]) -> Values:
    """Every value of every figure."""
    runs: defaultdict[str, list[Held]] = defaultdict(list)
    for held in dialogues:
        runs[held.task].append(held)
    values: Values = {name: {} for name in FIGURES}
    for task, some in runs.items():
        for found in (*(of_dialogue(held, tasks[task]) for held in some), of_runs(some)):
            for name, value in found.items():
                if value is not None:
                    values[name].setdefault(task, []).append(value)
    return values


def estimate(by_task: Mapping[str, Sequence[float]], seed: int) -> Record:
    """The mean of all values and its interval over tasks; of a single task there is none."""
    sums = [sum(some) for some in by_task.values()]
    counts = [len(some) for some in by_task.values()]
    low_high = None
    if len(sums) > 1:
        low_high = list(ratio_bootstrap(sums, counts, samples=SAMPLES, seed=seed))
    return {
        "value": sum(sums) / sum(counts), "interval": low_high,
        "n": sum(counts), "tasks": len(sums),
    }  # fmt: skip


def reasons(dialogues: Sequence[Held], tasks: Mapping[str, Record]) -> dict[str, str]:
    """Why a figure that is not there is not there."""
    judged = [one for one in dialogues if one.revealed is not None]
    if not dialogues:
        return dict.fromkeys(FIGURES, NO_DIALOGUE)
    found = dict.fromkeys(BY_RUNS, ONE_RUN)
    if not judged:
        return found | dict.fromkeys(BY_SHARDS, NOTHING_JUDGED)
    if all(one.added is None for one in judged):
        found["add_demands"] = NO_JUDGE
    marks = [shard.get("required") for one in judged for shard in tasks[one.task]["shards"]]
    if False not in marks:
        found["skip_non_required"] = ALL_REQUIRED if True in marks else UNMARKED
    return found


def table_figures(tasks: Mapping[str, Record], dialogues: Sequence[Held], seed: int) -> Record:
    """Each figure with its interval or null, and in `not_measured` why it is null."""
    values, why = values_of(tasks, dialogues), reasons(dialogues, tasks)
    figures = {
        name: estimate(by_task, seed) if by_task else None for name, by_task in values.items()
    }
    lacking = {name: why[name] for name, one in figures.items() if one is None}
    return {"figures": figures, "not_measured": lacking}


def domain_rows(tasks: Mapping[str, Record], dialogues: Sequence[Held], seed: int) -> list[Record]:
    """The figures of all dialogues and, where there is more than one, of each domain."""

    def row(name: str, kinds: Sequence[str]) -> Record:
        some = [held for held in dialogues if tasks[held.task]["domain"] in kinds]
        there = {held.task for held in some}
        about = {"domain": name, "tasks": len(there), "dialogues": len(some)}
        return {**about, **table_figures(tasks, some, seed)}

    domains = [one for one in ("math", "code") if any(t["domain"] == one for t in tasks.values())]
    each = [row(name, [name]) for name in domains] if len(domains) > 1 else []
    return [row("all", domains), *each]


def task_rows(tasks: Mapping[str, Record], dialogues: Iterable[Held]) -> list[Record]:
    """The figures of each task that has dialogues, without intervals; null where there is none."""
    values = values_of(tasks, dialogues)
    rows = []
    for name, task in tasks.items():
        scores = values["assistant_score"].get(name)
        if scores is None:
            continue
        figures = {
            figure: statistics.fmean(by_task[name]) if name in by_task else None
            for figure, by_task in values.items()
        }
        rows.append(
            {"id": name, "domain": task["domain"], "dialogues": len(scores), "figures": figures}
        )
    return rows
