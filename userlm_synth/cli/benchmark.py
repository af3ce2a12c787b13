"""Tasks that a user reveals to an assistant, and the tables of what came of it."""

from __future__ import annotations

from pathlib import Path

import click

from userlm_synth.cli.program import FILE, as_overrides, recipe_and_overrides
from userlm_synth.errors import UserError


@click.command()
@click.argument("items", nargs=-1, metavar="[RECIPE] [KEY=VALUE]...")
@click.option("--user", help="SPEC of the user model.")
@click.option("--assistant", help="SPEC of the assistant.")
@click.option("--tasks", help="A file of tasks, or `own`: the 20 that come with the program.")
@click.option("--runs", type=click.IntRange(1), help="Dialogues of each task (default: 10).")
@click.option("--judge", help="SPEC of the model that sees which shards are revealed.")
@click.option("--out", type=FILE, help="Folder of the dialogues and figures.")
@click.option("--seed", type=int, help="Of the dialogues (default: the recipe's, or 0).")
@click.option(
    "--table",
    is_flag=True,
    help="Hold nothing: put benchmark folders, named instead, side by side.",
)
def benchmark(
    items: tuple[str, ...],
    user: str | None,
    assistant: str | None,
    tasks: str | None,
    runs: int | None,
    judge: str | None,
    out: Path | None,
    seed: int | None,
    table: bool,
) -> None:
    """How a user model reveals tasks to an assistant whose answers are checked.

    Each task is held --runs times, until a solution passes or after generate.max_turns user turns;
    run again, it continues. Without RECIPE the paper's guardrails hold (userlm-synth recipes show
    benchmark). Without --judge, shards are found by their words. Programs that the assistant
    writes run in bubblewrap; benchmark.domain=math leaves code out.

    \b
    userlm-synth benchmark --user hf:runs/mine/user_lm --tasks own --out runs/mine-benchmark \\
        --assistant openai:MODEL@http://localhost:8000/v1 --judge openai:MODEL@URL
    userlm-synth benchmark --table runs/mine-benchmark runs/other-benchmark
    """
    given = {"--user": user, "--assistant": assistant, "--tasks": tasks, "--runs": runs,
             "--judge": judge, "--seed": seed}  # fmt: skip
    if table:
        if refused := [name for name, value in given.items() if value is not None]:
            raise UserError(f"benchmark --table: holds no dialogues; leave out {refused[0]}")
        _show([Path(item) for item in items], out)
        return
    recipe, overrides = recipe_and_overrides("benchmark", items)
    if out is None:
        raise UserError("benchmark: name a folder with --out")
    if recipe is None and not (user and assistant and tasks):
        raise UserError("benchmark: needs --user, --assistant and --tasks (or a recipe)")
    flags = {
        "generate.user": user,
        "assistant.model": assistant,
        "benchmark.tasks": tasks,
        "benchmark.runs": runs,
        "benchmark.judge.model": judge,
        "seed": seed,
    }
    from userlm_synth.benchmark.benchmark import run_benchmark
    from userlm_synth.recipe import load_recipe

    loaded = load_recipe(recipe or "benchmark", overrides + as_overrides(flags))
    run_benchmark(loaded, out)
    _show([out], out)


def _show(folders: list[Path], out: Path | None) -> None:
    """Print the tables of some benchmarks; write them where a folder is named."""
    from userlm_synth.benchmark.tables import (
        latex_tables,
        markdown_tables,
        read_benchmark,
        text_tables,
    )
    from userlm_synth.records import write_bytes

    if not folders:
        raise UserError("benchmark --table: name the folders of one benchmark or more")
    found = [read_benchmark(folder) for folder in folders]
    click.echo(text_tables(found))
    if out:
        write_bytes(out / "table.md", [markdown_tables(found).encode()])
        write_bytes(out / "table.tex", [latex_tables(found).encode()])
        click.echo(f"\n{out / 'table.md'}, {out / 'table.tex'}")
