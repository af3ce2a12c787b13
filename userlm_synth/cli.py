"""The command line: each command parses, calls one function, and prints what came of it.

Click lives here alone, and torch, transformers and the stages are imported inside the commands, so
that `--help` is instant. A `UserError` becomes plain lines and exit status 1, here and only here.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import click

from userlm_synth import __version__
from userlm_synth.errors import UserError, is_disk_full
from userlm_synth.progress import speaks

FILE = click.Path(path_type=Path)


class Program(click.Group):
    """The command group that turns errors into what a person can act on."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Commands in the order of the flow, as they stand in this file."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; a mendable error is one line (or a line each), a bug a short notice."""
        if not speaks():
            sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 (until this process ends)
        # Of how many sizes of matrix product torch keeps its kernels on a CPU. Conversations have
        # many sizes, and the default (1,024) came to a GiB where 128 took no longer.
        os.environ.setdefault("LRU_CACHE_CAPACITY", "128")
        try:
            return super().invoke(ctx)
        except UserError as error:
            _fail(str(error), error, ctx)
        except KeyboardInterrupt:
            click.echo("\ninterrupted; run the same command again to continue", err=True)
            sys.exit(130)
        except BrokenPipeError:  # the reader of our output went away, as in `| head`
            raise
        except OSError as error:
            if is_disk_full(error):
                _fail(
                    "the disk is full; free some space and run the same command again", error, ctx
                )
            named = f"{error.filename}: " if error.filename else ""
            _fail(f"{named}{error.strerror or error}", error, ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            what = f"{type(error).__name__}: {error}".splitlines()[0]
            _fail(
                f"internal error, please report it: {what} (userlm-synth -v shows more)", error, ctx
            )


def _fail(text: str, error: BaseException, ctx: click.Context) -> None:
    if not speaks():
        _fail_beside(text)
    if ctx.params.get("verbose"):
        import traceback

        traceback.print_exception(error)
    for line in text.splitlines():
        click.echo(f"error: {line}", err=True)
    sys.exit(1)


def _fail_beside(text: str) -> None:
    """A process other than the first (`torchrun`) says what went wrong in it alone. What all find
    before they meet, the first says; its exit ends the others, so they leave that time."""
    distributed = sys.modules.get("torch.distributed")
    if distributed and distributed.is_initialized():
        click.echo(f"error: process {os.environ['RANK']}: {text}", err=True)
    else:
        time.sleep(5)
    sys.exit(1)


def _recipe_and_overrides(command: str, items: tuple[str, ...]) -> tuple[str | None, list[str]]:
    """Arguments with a `=` are overrides; at most one other names a recipe."""
    recipes = [item for item in items if "=" not in item]
    if len(recipes) > 1:
        raise UserError(f"{command}: one recipe, not {len(recipes)}: {', '.join(recipes)}")
    return recipes[0] if recipes else None, [item for item in items if "=" in item]


def _as_overrides(flags: dict[str, Any]) -> list[str]:
    """Options that were given, quoted so that YAML takes a file's name as it is."""
    return [
        f"{key}={json.dumps(value, ensure_ascii=False)}"
        for key, value in flags.items()
        if value is not None
    ]


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-v", "--verbose", is_flag=True, help="Show the traceback of an error.")
@click.version_option(__version__, prog_name="userlm-synth")
def main(verbose: bool) -> None:
    """Train user language models, let them talk with an assistant, publish the dialogues.

    Start with:  userlm-synth run quickstart --out runs/quickstart
    """


@main.command()
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


@main.command()
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

    recipe, overrides = _recipe_and_overrides("prepare", items)
    if bool(recipe) == bool(source):
        raise UserError("prepare: name either a recipe or a --source")
    overrides += _as_overrides(
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


@main.group()
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


@main.command()
@click.argument("file", type=FILE)
@click.option("--out", type=FILE, help="The samples, one JSON object a line.")
@click.option(
    "--tokens", "model", help="Print the tokens that MODEL is trained on in colour instead."
)
@click.option("--limit", default=3, show_default=True, help="Conversations to print with --tokens.")
def flip(file: Path, out: Path | None, model: str | None, limit: int) -> None:
    """The K+1 training samples of each conversation of FILE, to look at or to train on elsewhere.

    With --tokens MODEL (a checkpoint with a chat template, such as a run's user_lm): each token in
    the colour of its role; green is trained on, magenta is the end, grey is context.
    """
    from userlm_synth.flip import flip_file
    from userlm_synth.records import read_records

    if model:
        from userlm_synth.user_lm import ChatFormat, load_tokenizer, render, show_targets

        form = ChatFormat.probe(load_tokenizer(model.removeprefix("hf:")))
        for conversation in read_records(file, "conversation")[:limit]:
            for window in render(form, conversation, max_length=2048):
                click.echo(show_targets(form.tokenizer, window), color=True)
                click.echo(f"-- {window.targets} of {len(window.ids)} tokens are trained on\n")
    elif out:
        click.echo(f"{out}: {flip_file(file, out):,} samples")
    else:
        raise UserError("flip: name an --out file, or --tokens MODEL to look at the mask")


@main.command()
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--out", type=FILE, help="The run folder (default: runs/RECIPE).")
def train(recipe: str, overrides: tuple[str, ...], out: Path | None) -> None:
    """Base checkpoint -> user LM (and what else RECIPE trains): its stages up to there.

    Run again, it continues. The same command trains on N GPUs of a machine as
    torchrun --standalone --nproc-per-node N -m userlm_synth train RECIPE ...
    """
    from userlm_synth.pipeline import TRAINING_STAGES, run_recipe, trained_models
    from userlm_synth.recipe import load_recipe

    loaded = load_recipe(recipe, overrides)
    models = trained_models(loaded)
    if not models:
        raise UserError(f"{recipe}: has nothing to train (a train or an assistant.train section)")
    folder = out or Path("runs") / loaded.name
    typed = ["userlm-synth", "train", recipe, *overrides]
    run_recipe(loaded, folder, TRAINING_STAGES, typed)
    for stage, name in models.items():
        click.echo(f"{name}: {folder / stage}")


@main.command()
@click.argument("user_lm")
@click.argument("adapter")
@click.option("--out", type=FILE, required=True, help="The new checkpoint: a folder.")
def merge(user_lm: str, adapter: str, out: Path) -> None:
    """A user LM and an adapter of it (RUN/personas/NAME) -> one ordinary checkpoint.

    Its weights are in USER_LM's dtype. An adapter can be served beside its base as it is, and
    evaluate and generate take it as a MODEL; only what knows no adapters needs this.
    """
    from userlm_synth.user_lm.adapters import merge as merge_adapter

    merge_adapter(user_lm.removeprefix("hf:"), adapter.removeprefix("hf:"), out)
    click.echo(f"user LM: {out}")


@main.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option(
    "--conversations", "files", type=FILE, multiple=True, required=True,
    help="A file of held-out conversations; may be given several times.",
)  # fmt: skip
@click.option("--out", type=FILE, required=True, help="Folder for evaluation.json.")
@click.option("--seed", default=0, show_default=True, help="Of the samples and intervals.")
@click.option("--max-conversations", type=int, help="Score the first N of each file only.")
def evaluate(
    models: tuple[str, ...],
    files: tuple[Path, ...],
    out: Path,
    seed: int,
    max_conversations: int | None,
) -> None:
    """Perplexity on real users, leaving (F1) and first turns of each MODEL."""
    from userlm_synth.evaluation import evaluate as evaluate_models
    from userlm_synth.recipe import Evaluate
    from userlm_synth.summary import evaluation_table

    settings = Evaluate(max_conversations=max_conversations)
    result = evaluate_models(models, files, out, settings, seed=seed)
    click.echo(evaluation_table(result))
    click.echo(f"{out / 'evaluation.json'}")


@main.command()
@click.argument("items", nargs=-1, metavar="[RECIPE] [KEY=VALUE]...")
@click.option("--user", help="SPEC of the user LM.")
@click.option("--assistant", help="SPEC of the assistant: openai:MODEL@URL, hf:PATH.")
@click.option("--intents", "intents_file", type=FILE, help="Intents or conversations (JSONL).")
@click.option("--num", type=int, help="Dialogues in all (default: one an intent).")
@click.option("--out", type=FILE, required=True, help="Folder of the dialogues.")
@click.option("--seed", type=int, help="The run's seed (default: the recipe's, or 0).")
@click.option("--concurrency", type=int, help="Dialogues at once.")
def generate(
    items: tuple[str, ...],
    user: str | None,
    assistant: str | None,
    intents_file: Path | None,
    num: int | None,
    out: Path,
    seed: int | None,
    concurrency: int | None,
) -> None:
    """Dialogues between a user LM and an assistant; run again, it continues.

    Flags win over the recipe; guardrails and sampling are recipe fields, also without a recipe:
    generate.guardrails.max_words=25 assistant.temperature=0.7
    """
    from userlm_synth.pipeline import generate_only

    recipe, overrides = _recipe_and_overrides("generate", items)
    flags = {
        "generate.user": user,
        "assistant.model": assistant,
        "generate.intents": str(intents_file) if intents_file else None,
        "generate.num": num,
        "generate.concurrency": concurrency,
        "seed": seed,
    }
    overrides += _as_overrides(flags)
    counts = generate_only(recipe, overrides, out)
    click.echo(f"{out}: {counts['accepted']:,} accepted; rejected: {counts['rejected'] or 'none'}")


@main.command()
@click.argument("files", nargs=-1, required=True, type=FILE, metavar="FILE...")
@click.option("--schema", help="The schema's name (default: recognised from the file).")
def validate(files: tuple[Path, ...], schema: str | None) -> None:
    """Check record files; one line for each problem, and exit status 1 if there is any."""
    from userlm_synth.records import file_problems, load_schema

    if schema:
        load_schema(schema)
    total, problems = 0, []
    for file in files:
        count, found = file_problems(file, schema)
        total += count
        problems += found
    for problem in problems:
        click.echo(problem)
    if problems:
        click.echo(f"{len(problems)} problem(s) in {total:,} records", err=True)
        sys.exit(1)
    click.echo(f"{total:,} records, all valid")


@main.command()
@click.argument("dialogues", type=FILE)
@click.option("--reference", type=FILE, required=True, help="Held-out human conversations (JSONL).")
@click.option("--out", type=FILE, required=True, help="Folder for report.json and index.html.")
@click.option("--title", help="The page's title.")
@click.option("--seed", default=0, show_default=True, help="Of what is sampled.")
def report(dialogues: Path, reference: Path, out: Path, title: str | None, seed: int) -> None:
    """How diverse and natural DIALOGUES (a folder or file) are, beside real people."""
    from userlm_synth.pipeline import read_dialogues
    from userlm_synth.records import read_records
    from userlm_synth.reporting import write_report

    accepted, rejected = read_dialogues(dialogues)
    people = read_records(reference, "conversation")
    heading = title or f"{dialogues.name} beside {reference.name}"
    write_report(accepted, rejected, people, out, title=heading, seed=seed)
    click.echo(str(out / "index.html"))


@main.group()
def recipes() -> None:
    """The shipped recipes: look at them, copy one, check your own."""


@recipes.command("list")
def recipes_list() -> None:
    """Each shipped recipe with its first line."""
    from userlm_synth.recipe import shipped_recipes

    shipped = shipped_recipes()
    width = max(map(len, shipped))
    for name, path in shipped.items():
        first = path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        click.echo(f"{name:{width}} {first}")


@recipes.command("show")
@click.argument("name")
def recipes_show(name: str) -> None:
    """Print a recipe."""
    from userlm_synth.recipe import find_recipe

    click.echo(find_recipe(name).read_text(encoding="utf-8"), nl=False)


@recipes.command("copy")
@click.argument("name")
@click.argument("dest", type=FILE)
def recipes_copy(name: str, dest: Path) -> None:
    """Copy a recipe to DEST (a file or a folder) to change it."""
    from userlm_synth.recipe import find_recipe

    source = find_recipe(name)
    target = dest / source.name if dest.is_dir() else dest
    if target.exists():
        raise UserError(f"{target}: exists already; name another file")
    shutil.copyfile(source, target)
    click.echo(f"{target}: change it, then userlm-synth run {target}")


@recipes.command("validate")
@click.argument("file")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
def recipes_validate(file: str, overrides: tuple[str, ...]) -> None:
    """Check a recipe; every problem at once, and exit status 1 if there is any."""
    from userlm_synth.recipe import load_recipe

    click.echo(f"{file}: valid (hash {load_recipe(file, overrides).hash})")
