"""Chats to conversations, and their intents."""

from __future__ import annotations

from pathlib import Path

import click

from userlm_synth.cli.program import FILE, as_overrides, recipe_and_overrides
from userlm_synth.errors import UserError


@click.command()
@click.argument("items", nargs=-1, metavar="[RECIPE] [KEY=VALUE]...")
@click.option(
    "--source",
    help="Instead of a recipe: wildchat, lmsys, prism, oasst, sharegpt, hh-rlhf, quickstart; "
    "hf://datasets/ORG/NAME[@REVISION]; a JSONL, JSON, Parquet or CSV file (.gz, .zst), or a "
    "folder of them.",
)
@click.option("--out", type=FILE, required=True, help="Folder for train/validation/test.jsonl.")
@click.option(
    "--on-error", type=click.Choice(["stop", "reject"]),
    help="A broken line or file: stop with its place (the default), or count it and go on.",
)  # fmt: skip
@click.option(
    "--keep-dropped", is_flag=True, help="What is dropped goes to dropped.jsonl, with its reason."
)
@click.option("--split-by", help="user (the default), conversation or metadata.KEY")
@click.option("--seed", type=int, help="Of the split (and of quickstart); default: 0.")
def prepare(
    items: tuple[str, ...],
    source: str | None,
    out: Path,
    on_error: str | None,
    keep_dropped: bool,
    split_by: str | None,
    seed: int | None,
) -> None:
    """Chats -> clean conversations without copies, split so that no user is in two splits.

    Everything else is a recipe field, with --source too: conversations.clean.languages=[en]
    conversations.dedup.cap=5 conversations.redact=true conversations.columns.messages=turns
    (userlm-synth recipes show userlm-1b). OUT/index.html is the data card: how many went, and why.
    Interrupted, the same command continues.
    """
    from userlm_synth.conversations import prepare as prepare_conversations
    from userlm_synth.recipe import build_recipe, load_recipe

    recipe, overrides = recipe_and_overrides("prepare", items)
    if bool(recipe) == bool(source):
        raise UserError("prepare: name either a recipe or a --source")
    overrides += as_overrides(
        {
            "conversations.source": source,
            "conversations.on_error": on_error,
            "conversations.keep_dropped": keep_dropped or None,
            "conversations.split_by": split_by,
            "seed": seed,
        }
    )
    if recipe:
        loaded = load_recipe(recipe, overrides)
    else:
        loaded = build_recipe({"name": "prepare"}, overrides)
    if loaded.conversations is None:
        raise UserError(f"{recipe}: has no conversations section")
    prepare_conversations(loaded.conversations, out, loaded.seed)
    click.echo(f"data card: {out / 'index.html'}")


@click.group()
def intents() -> None:
    """High-level intents: for conversations that have none, and new ones at scale."""


CACHE_HELP = "Answers so far and what they cost (default: OUT.cache.jsonl)."
BUDGET_HELP = "USD in all, with what the cache has cost before; needs --price."
PRICE_HELP = "USD a million tokens read/written: 0.15/0.60."


@intents.command("make")
@click.argument("file", type=FILE)
@click.option("--out", type=FILE, required=True, help="The conversations with their intents.")
@click.option("--model", help="SPEC of the model that writes them: openai:MODEL@URL, hf:PATH.")
@click.option(
    "--mode", type=click.Choice(["whole", "opening"]), default="whole", show_default=True,
    help="Shown to the model: the whole conversation, or its first turn (no hindsight).",
)  # fmt: skip
@click.option("--cache", type=FILE, help=CACHE_HELP)
@click.option("--budget", type=click.FloatRange(min=0, min_open=True), help=BUDGET_HELP)
@click.option("--price", metavar="IN/OUT", help=PRICE_HELP)
@click.option(
    "--on-error", type=click.Choice(["stop", "reject"]), default="stop", show_default=True,
    help="A conversation that gets no intent: write nothing, or OUT without it.",
)  # fmt: skip
@click.option(
    "--concurrency", type=click.IntRange(min=1), default=8, show_default=True,
    help="Requests at once.",
)  # fmt: skip
@click.option(
    "--api-key-env", default="OPENAI_API_KEY", show_default=True, help="Variable of the key."
)
def intents_make(
    file: Path,
    out: Path,
    model: str | None,
    mode: str,
    cache: Path | None,
    budget: float | None,
    price: str | None,
    on_error: str,
    concurrency: int,
    api_key_env: str,
) -> None:
    """A high-level intent for each conversation of FILE; given ones are kept.

    Run again, it asks only for what is missing: every answer is kept as it comes.
    """
    from userlm_synth.intents import make_intents, parse_price
    from userlm_synth.recipe import Intents

    read, written = parse_price(price) if price else (None, None)
    settings = None
    if model:
        settings = Intents(
            model, mode=mode, on_error=on_error, budget=budget, price_in=read, price_out=written,
            concurrency=concurrency, api_key_env=api_key_env,
        )  # fmt: skip
    counts = make_intents(file, out, settings, cache=cache)
    line = f"{out}: kept {counts['kept']:,}, made {counts['made']:,}"
    for reason, count in counts["rejected"].items():
        line += f", rejected {count:,} ({reason})"
    click.echo(line + (f"; ${counts['spent']:,.4f} in all" if "spent" in counts else ""))


@intents.command("synthesize")
@click.option("--out", type=FILE, required=True, help="The intents; beside it OUT.coverage.json.")
@click.option("--model", required=True, help="SPEC of the model that writes them.")
@click.option("--num", type=click.IntRange(min=1), required=True, help="Intents in all.")
@click.option("--taxonomy", type=FILE, help="YAML, domain -> topics (default: a broad one).")
@click.option("--seeds", type=FILE, help="Instead: intents or conversations to write more like.")
@click.option("--personas", type=FILE, help="JSONL {id, persona}: the people who have the intents.")
@click.option("--seed", default=0, show_default=True, help="Of the order of topics and people.")
@click.option("--cache", type=FILE, help=CACHE_HELP)
@click.option("--budget", type=click.FloatRange(min=0, min_open=True), help=BUDGET_HELP)
@click.option("--price", metavar="IN/OUT", help=PRICE_HELP)
@click.option(
    "--concurrency", type=click.IntRange(min=1), default=8, show_default=True,
    help="Requests at once.",
)  # fmt: skip
def intents_synthesize(
    out: Path,
    model: str,
    num: int,
    taxonomy: Path | None,
    seeds: Path | None,
    personas: Path | None,
    seed: int,
    cache: Path | None,
    budget: float | None,
    price: str | None,
    concurrency: int,
) -> None:
    """NUM new intents, none like another, spread evenly over topics (and people).

    Run again, it asks only for what is missing; a larger NUM extends a smaller one. The key is
    read from OPENAI_API_KEY.
    """
    from userlm_synth.intents import coverage_table, parse_price, synthesize_intents
    from userlm_synth.recipe import Intents

    read, written = parse_price(price) if price else (None, None)
    settings = Intents(
        model, budget=budget, price_in=read, price_out=written, concurrency=concurrency
    )
    coverage = synthesize_intents(
        out, num, settings,
        taxonomy=taxonomy, seeds=seeds, personas=personas, seed=seed, cache=cache,
    )  # fmt: skip
    click.echo(coverage_table(coverage))
    click.echo(f"{out}: {coverage['kept']:,} intents")
