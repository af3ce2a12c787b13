"""The shipped recipes."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from userlm_synth.cli.program import FILE
from userlm_synth.errors import UserError


@click.group()
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
