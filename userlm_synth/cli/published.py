"""What is said of dialogues, whether a dataset is well-formed, and releases."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from userlm_synth.cli.program import FILE
from userlm_synth.errors import UserError


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--schema", help="The schema's name (default: recognised from the file).")
def validate(files: tuple[str, ...], schema: str | None) -> None:
    """Check record files or datasets; a line for each problem, exit status 1 if there is any.

    A FILE is JSONL, JSON or YAML; or a dataset: hf://datasets/ORG/NAME[@REVISION], a folder,
    Parquet. Of a dataset it also says which form of conversations it has.
    """
    from userlm_synth.conversations.checking import check_dataset, is_dataset
    from userlm_synth.records import file_problems, load_schema

    if schema:
        load_schema(schema)
    total, problems = 0, 0
    for file in files:
        if is_dataset(file):
            summary = check_dataset(file, schema)
            count, found = summary.rows, summary.problems
            click.echo("\n".join(summary.lines()))
            problems += summary.count - len(found)
        else:
            count, found = file_problems(Path(file), schema)
        for problem in found:
            click.echo(problem)
        total += count
        problems += len(found)
    if problems:
        click.echo(f"{problems:,} problem(s) in {total:,} records", err=True)
        sys.exit(1)
    click.echo(f"{total:,} records, all valid")


@click.command()
@click.argument("dialogues")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--reference", help="Held-out conversations of people, to compare with.")
@click.option("--training", help="What the user LM was trained on: is any of it repeated?")
@click.option("--intents", type=FILE, help="The intents file: which were not used?")
@click.option("--compare", help="Other dialogues, side by side.")
@click.option("--out", type=FILE, required=True, help="Folder for report.json and index.html.")
@click.option("--title", help="The page's title.")
@click.option("--seed", default=0, show_default=True, help="Of what is sampled.")
def report(
    dialogues: str,
    overrides: tuple[str, ...],
    reference: str | None,
    training: str | None,
    intents: Path | None,
    compare: str | None,
    out: Path,
    title: str | None,
    seed: int,
) -> None:
    """How diverse, natural and trustworthy DIALOGUES are, beside real people.

    DIALOGUES, --reference, --training and --compare are each a run folder, a dialogues folder, a
    file of conversations of any known form, or hf://datasets/ORG/NAME[@REVISION]. A run folder
    brings its own held-out people and training conversations.

    \b
    report.sample=2000          dialogues a side in the figures, at most
    report.detector=MODEL       a detector of generated text: Hub id, folder, or pangram
    report.embedding=MODEL      a sentence-embedding model, in place of TF-IDF
    report.toxicity=MODEL       a classifier, beside the word list
    """
    from userlm_synth.publishing import report_on

    page = report_on(
        dialogues, overrides, out, title=title, seed=seed,
        reference=reference, training=training, intents=intents, compare=compare,
    )  # fmt: skip
    click.echo(str(page))


@click.command()
@click.argument("folder", type=FILE, metavar="DIR")
@click.argument("items", nargs=-1, metavar="[REPO_ID] [KEY=VALUE]...")
@click.option("--public", is_flag=True, help="Everybody may see it (default: private).")
@click.option("--tag", help="A new tag for this release, as v1.0.")
@click.option("--to", type=FILE, help="Make the release folder here, and send nothing.")
@click.option("--dry-run", is_flag=True, help="Print what would be sent, and send nothing.")
@click.option("--redact", is_flag=True, help="Placeholders for personal data and secrets.")
def push(
    folder: Path,
    items: tuple[str, ...],
    public: bool,
    tag: str | None,
    to: Path | None,
    dry_run: bool,
    redact: bool,
) -> None:
    """One release of a dataset or a user LM on the Hugging Face Hub, whole or not at all.

    DIR is a run folder, a dialogues folder, a user LM's folder, or what --to made. Run again, it
    finishes, and sends only what is missing. What a card has to say and no file does, is given as
    settings:

    \b
    push.license=cc-by-4.0  push.pretty_name="My dialogues"
    push.models="{MODEL: TERMS}"  push.sources="{NAME: LICENCE}"

    \b
    userlm-synth push runs/mine ORG/NAME --tag v1.0
    """
    from userlm_synth.publishing import push_folder

    repos = [item for item in items if "=" not in item]
    if len(repos) > 1:
        raise UserError(f"push: one REPO_ID, not {len(repos)}: {', '.join(repos)}")
    overrides = [item for item in items if "=" in item]
    if redact:
        overrides.append("push.redact=true")
    text = push_folder(
        folder, repos[0] if repos else None, overrides,
        public=public, tag=tag, to=to, dry_run=dry_run,
    )  # fmt: skip
    click.echo(text)
