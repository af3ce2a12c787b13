"""Whole runs, and dialogues."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from userlm_synth.cli.program import FILE, as_overrides, recipe_and_overrides


@click.command()
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--out", type=FILE, help="The run folder (default: runs/RECIPE).")
def run(recipe: str, overrides: tuple[str, ...], out: Path | None) -> None:
    """Every stage that RECIPE names, in order; run again, it continues.

    RECIPE is a shipped name (userlm-synth recipes list) or a .yaml file. Settings can be changed
    by dotted path: userlm-synth run quickstart generate.num=50
    """
    from userlm_synth.pipeline import run_recipe
    from userlm_synth.recipe import load_recipe
    from userlm_synth.summary import print_summary

    loaded = load_recipe(recipe, overrides)
    folder = out or Path("runs") / loaded.name
    run_recipe(loaded, folder, command=["userlm-synth", "run", recipe, *overrides])
    print_summary(loaded, folder)


@click.command()
@click.argument("items", nargs=-1, metavar="[RECIPE] [KEY=VALUE]...")
@click.option("--user", help="SPEC of the user LM.")
@click.option("--assistant", help="SPEC of the assistant: openai:MODEL@URL, hf:PATH.")
@click.option("--intents", "intents_file", type=FILE, help="Intents or conversations (JSONL).")
@click.option("--num", type=int, help="Dialogues in all (default: one an intent).")
@click.option("--out", type=FILE, required=True, help="Folder of the dialogues.")
@click.option("--seed", type=int, help="The run's seed (default: the recipe's, or 0).")
@click.option("--concurrency", type=int, help="Most dialogues at once.")
@click.option("--estimate", type=click.IntRange(1), help="Make N first, price the rest, and ask.")
@click.option(
    "--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True,
    help="This machine, or a Ray cluster.",
)  # fmt: skip
def generate(
    items: tuple[str, ...],
    user: str | None,
    assistant: str | None,
    intents_file: Path | None,
    num: int | None,
    out: Path,
    seed: int | None,
    concurrency: int | None,
    estimate: int | None,
    engine: str,
) -> None:
    """Dialogues between a user LM and an assistant; run again, it continues.

    Flags win over the recipe. Guardrails, budgets, slices and sampling are recipe fields, also
    without a recipe: generate.guardrails.max_words=25 generate.budget=5 assistant.temperature=0.7

    \b
    userlm-synth generate corpus-guarded --user hf:runs/mine/user_lm --intents intents.jsonl \\
        --assistant openai:MODEL@http://localhost:8000/v1 --num 1000 --out dialogues
    """
    from userlm_synth.pipeline import generate_only

    recipe, overrides = recipe_and_overrides("generate", items)
    flags = {
        "generate.user": user,
        "assistant.model": assistant,
        "generate.intents": str(intents_file) if intents_file else None,
        "generate.num": num,
        "generate.concurrency": concurrency,
        "seed": seed,
    }
    overrides += as_overrides(flags)
    counts = generate_only(recipe, overrides, out, engine, estimate, _agreed)
    rejected = ", ".join(f"{count:,} {reason}" for reason, count in counts["rejected"].items())
    click.echo(f"{out}: {counts['accepted']:,} accepted; rejected: {rejected or 'none'}")


def _agreed(forecast: str) -> bool:
    """Whether a person wants the rest; where nobody can be asked, they run the command again."""
    click.echo(forecast, err=True)
    if sys.stdin.isatty():
        return click.confirm("make the rest?", err=True)
    click.echo("run the same command without --estimate to make the rest", err=True)
    return False
