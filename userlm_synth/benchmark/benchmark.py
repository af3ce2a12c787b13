"""`benchmark`: how a user simulator reveals tasks to an assistant (Tables 3 and 5 of the paper).

The order of a run: tasks and their reference solutions, dialogues, shards, figures. In its folder:

    tasks.jsonl       the tasks whose dialogues are there, as they were
    dialogues/        part-*.jsonl, rejected.jsonl, the live store and the bill
    judgements.jsonl  the judge's answers, none of which is asked for twice
    revealed.jsonl    which shards each user turn reveals, by words and by the judge
    benchmark.json    the figures; table.md and table.tex show them
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from userlm_synth.benchmark.dialogues import hold_dialogues, keep_tasks
from userlm_synth.benchmark.results import Parts, Results
from userlm_synth.benchmark.sandbox import UNPROTECTED, Limits, require_sandbox
from userlm_synth.benchmark.shards import judge_dialogues, judge_price
from userlm_synth.benchmark.solutions import Checker
from userlm_synth.benchmark.tasks import own_tasks, read_tasks
from userlm_synth.errors import Problems
from userlm_synth.money import load_prices
from userlm_synth.progress import say
from userlm_synth.records import Record, make_folder, to_line, write_bytes, write_json
from userlm_synth.simulate import Job

if TYPE_CHECKING:
    from userlm_synth.recipe import Benchmark, Generate, Recipe

OWN = "own"
MAY_LEAVE = (
    "  generate.guardrails.forbid_end is off: the user may leave before the task is done, which "
    "the paper's may not"
)
NO_WALLS = "  benchmark.sandbox=none: programs that the assistant writes run as you, on your files"


def run_benchmark(recipe: Recipe, out: Path) -> Record:
    """Hold the dialogues that `out` lacks, judge them and count; writes `benchmark.json`.

    Raises `UserError` for what a person has to mend, as early as it can be seen; run again, it
    goes on.
    """
    parts = _parts(recipe)
    settings = parts.benchmark
    tasks = chosen_tasks(settings)
    checker = _checker(settings, tasks)
    price = None
    if settings.judge.model:
        prices = parts.generate.prices
        price = judge_price(settings.judge, load_prices(Path(prices) if prices else None))
    make_folder(out)
    keep_tasks(tasks, out / "tasks.jsonl", checker)
    by_id = {one["id"]: one for one in tasks}
    held = hold_dialogues(_job(parts, recipe.hash, out), by_id, settings.runs, checker)
    judged = None
    if settings.judge.model:
        answers = out / "judgements.jsonl"
        judged = judge_dialogues(held.accepted, by_id, settings.judge, price, answers)
    results = Results(by_id, held, judged)
    found = results.record(parts)
    write_bytes(out / "revealed.jsonl", (to_line(one).encode() for one in results.lines()))
    write_json(out / "benchmark.json", found, "benchmark")
    return found


def _parts(recipe: Recipe) -> Parts:
    """The sections of a recipe, complete and fit for a benchmark."""
    from userlm_synth.recipe import Assistant, Benchmark, Generate

    parts = Parts(
        recipe.benchmark or Benchmark(), recipe.generate or Generate(),
        recipe.assistant or Assistant(), recipe.seed,
    )  # fmt: skip
    if problems := list(_faults(parts)):
        raise Problems(problems)
    if not parts.generate.guardrails.forbid_end:
        say(MAY_LEAVE)
    return parts


def _faults(parts: Parts) -> Iterator[str]:
    if not parts.generate.user:
        yield "generate.user: is missing; name the user model with --user SPEC"
    if not parts.assistant.model:
        yield "assistant.model: is missing; name the assistant with --assistant SPEC"
    if not parts.benchmark.tasks:
        yield "benchmark.tasks: is missing; name a file with --tasks, or take ours: --tasks own"
    yield from _unfit(parts.generate)


def _unfit(generate: Generate) -> Iterator[str]:
    """Fields that would make other dialogues than the runs of each task."""
    for name in ("slices", "intents", "num", "turns", "turns_like", "personas"):
        if getattr(generate, name) is not None:
            yield (
                f"generate.{name}: does not go with benchmark, where one user meets each task "
                "benchmark.runs times; leave it out"
            )


def chosen_tasks(settings: Benchmark) -> list[Record]:
    """The tasks of the domain that is asked for, at most `limit`."""
    assert settings.tasks
    if settings.tasks == OWN:
        return own_tasks(limit=settings.limit, domain=settings.domain)
    return read_tasks(Path(settings.tasks), limit=settings.limit, domain=settings.domain)


def _checker(settings: Benchmark, tasks: Sequence[Record]) -> Checker:
    """Who checks replies. Code needs a sandbox, which has to be there before anything is asked."""
    seconds = settings.check_seconds
    limits = replace(Limits(), seconds=seconds, cpu_seconds=max(1, math.ceil(seconds)))
    if not any(one["domain"] == "code" for one in tasks):
        return Checker(limits)
    if settings.sandbox == "none":
        say(NO_WALLS)
        return Checker(limits, UNPROTECTED)
    return Checker(limits, require_sandbox())


def _job(parts: Parts, recipe_hash: str, out: Path) -> Job:
    settings, generate, side = parts.benchmark, parts.generate, parts.assistant
    assert generate.user
    assert side.model
    ends = {"solved": True, "check_seconds": settings.check_seconds, "sandbox": settings.sandbox}
    return Job(
        generate, side, user=generate.user, assistant=side.model, intents=out / "tasks.jsonl",
        out=out / "dialogues", seed=parts.seed, recipe_hash=recipe_hash, ends_when=ends,
    )  # fmt: skip
