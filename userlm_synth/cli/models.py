"""Models: what they are trained on, training, and how good they are."""

from __future__ import annotations

from pathlib import Path

import click

from userlm_synth.cli.program import FILE, as_overrides, recipe_models_and_overrides
from userlm_synth.errors import UserError


@click.command()
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


@click.command()
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


@click.command()
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


@click.command()
@click.argument("items", nargs=-1, metavar="[RECIPE] [MODEL]... [KEY=VALUE]...")
@click.option("--conversations", "files", type=FILE, multiple=True,
    help="A file of held-out conversations; may be given several times.",
)  # fmt: skip
@click.option("--out", type=FILE, help="Folder of the evaluation.")
@click.option("--judge", help="SPEC of the model that judges intent adherence.")
@click.option("--max-conversations", type=int, help="Score the first N of each file only.")
@click.option("--seed", type=int, help="Of samples and intervals (default: the recipe's, or 0).")
@click.option(
    "--compare", type=FILE, nargs=2, metavar="A B",
    help="Instead: which differences of two evaluations (folder or file) are significant.",
)  # fmt: skip
def evaluate(
    items: tuple[str, ...],
    files: tuple[Path, ...],
    out: Path | None,
    judge: str | None,
    max_conversations: int | None,
    seed: int | None,
    compare: tuple[Path, Path] | None,
) -> None:
    """User simulators beside people, as the paper's Tables 1, 2 and 4; run again, it continues.

    A MODEL is any SPEC: a user LM, a base, prompted:SPEC (an assistant that plays the user). RECIPE
    (compare, or a .yaml file) names several. Perplexity needs models in process (hf:). Some figures
    need more, as settings:

    \b
    evaluate.multiple_choice=FILE       role adherence (CommonsenseQA's form)
    evaluate.questions=FILE             intent adherence, with --judge SPEC
    evaluate.naturalness.contrast=FILE  texts that people did not write

    \b
    userlm-synth evaluate runs/mine/user_lm prompted:openai:MODEL@http://localhost:8000/v1 \\
        --conversations runs/mine/conversations/test.jsonl --out evaluation
    """
    from userlm_synth.evaluation import compare as compare_evaluations
    from userlm_synth.evaluation import comparison_table, evaluate_named
    from userlm_synth.summary import evaluation_table

    if compare:
        click.echo(comparison_table(compare_evaluations(*compare, seed=seed or 0)))
        return
    if not files or out is None:
        raise UserError("evaluate: name --conversations FILE and --out DIR")
    recipe, models, overrides = recipe_models_and_overrides(items)
    flags = {
        "evaluate.judge.model": judge,
        "evaluate.max_conversations": max_conversations,
        "seed": seed,
    }
    result = evaluate_named(recipe, models, [*overrides, *as_overrides(flags)], files, out)
    click.echo(evaluation_table(result))
    click.echo(f"{out / 'index.html'}")
