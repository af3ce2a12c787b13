"""Whether generated dialogues are worth training on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from userlm_synth.cli.program import FILE
from userlm_synth.errors import UserError

if TYPE_CHECKING:
    from userlm_synth.recipe import Training
    from userlm_synth.records import Record


@click.command()
@click.argument("overrides", nargs=-1, metavar="[train.KEY=VALUE]...")
@click.option("--base", required=True, help="The checkpoint that every arm starts from.")
@click.option("--real", type=FILE, required=True, help="Real conversations to train on (JSONL).")
@click.option(
    "--generated",
    type=FILE,
    required=True,
    help="Dialogues of a run (its folder), or a JSONL file.",
)
@click.option("--test", type=FILE, required=True, help="Held-out real conversations (JSONL).")
@click.option("--out", type=FILE, required=True, help="Folder for utility.json, table.md, models.")
@click.option("--seeds", default="0,1,2", show_default=True, help="Of the order of the data.")
@click.option(
    "--drop-leaks",
    is_flag=True,
    help="Leave test conversations that are trained on out of the test.",
)
def utility(
    overrides: tuple[str, ...],
    base: str,
    real: Path,
    generated: Path,
    test: Path,
    out: Path,
    seeds: str,
    drop_leaks: bool,
) -> None:
    """Does the corpus help? Train a small assistant on it, and test that on real conversations.

    Four arms: the base as it is, and the base trained on the real dialogues, on the generated
    ones, and on both, all for as many steps as train.epochs of the real ones take. Each is scored
    on the assistant's words of the test. Run again, it continues.

    \b
    userlm-synth utility --base runs/my/base --real real.jsonl --generated runs/my/dialogues \\
        --test held_out.jsonl --out runs/utility train.epochs=2 train.learning_rate=1e-3
    """
    from userlm_synth.records import read_records
    from userlm_synth.utility import Dialogues, run_utility, utility_table

    sets = Dialogues(
        read_records(real, "conversation"),
        _dialogues(generated),
        read_records(test, "conversation"),
    )
    result = run_utility(
        base, sets, _training(overrides), out, seeds=_numbers(seeds), drop_leaks=drop_leaks
    )
    click.echo(utility_table(result), nl=False)
    click.echo(f"{out / 'utility.json'}")


def _dialogues(path: Path) -> list[Record]:
    """The accepted dialogues of a run's folder, or a file of dialogues or of conversations."""
    from userlm_synth.pipeline import read_dialogues
    from userlm_synth.records import guess_schema, read_lines, read_records

    if path.is_dir():
        return read_dialogues(path)[0]
    _, first = next(read_lines(path), (0, {}))
    return read_records(path, "dialogue" if guess_schema(first) == "dialogue" else "conversation")


def _training(overrides: tuple[str, ...]) -> Training:
    """The training settings; checked as those of a recipe are."""
    from userlm_synth.recipe import build_recipe

    for item in overrides:
        if not item.startswith("train."):
            raise UserError(f"{item}: is no training setting, such as train.epochs=2")
    stages = {"conversations": {"source": "quickstart"}, "base": {"model": "any"}}
    settings = build_recipe({"name": "utility", **stages, "train": {}}, overrides).train
    assert settings
    return settings


def _numbers(seeds: str) -> list[int]:
    try:
        return [int(one) for one in seeds.split(",")]
    except ValueError:
        raise UserError(f"--seeds: {seeds!r} is no list of whole numbers such as 0,1,2") from None
