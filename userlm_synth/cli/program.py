"""What all commands share: errors become plain lines and exit status 1, here and only here."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import click

from userlm_synth.errors import UserError, is_disk_full
from userlm_synth.progress import speaks

FILE = click.Path(path_type=Path)


class Program(click.Group):
    """The command group that turns errors into what a person can act on."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Commands in the order in which they were added."""
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


def recipe_and_overrides(command: str, items: tuple[str, ...]) -> tuple[str | None, list[str]]:
    """Arguments with a `=` are overrides; at most one other names a recipe."""
    recipes = [item for item in items if "=" not in item]
    if len(recipes) > 1:
        raise UserError(f"{command}: one recipe, not {len(recipes)}: {', '.join(recipes)}")
    return recipes[0] if recipes else None, [item for item in items if "=" in item]


def recipe_models_and_overrides(
    items: tuple[str, ...],
) -> tuple[str | None, list[str], list[str]]:
    """Arguments of `evaluate`: KEY=VALUE, a shipped recipe or a .yaml file, and model SPECs."""
    from userlm_synth.recipe import shipped_recipes

    settings = [item for item in items if re.match(r"[a-z_][a-z0-9_.-]*=", item)]
    others = [item for item in items if item not in settings]
    shipped = shipped_recipes()
    recipes = [
        item
        for item in others
        if item.endswith((".yaml", ".yml")) or (item in shipped and not Path(item).exists())
    ]
    if len(recipes) > 1:
        raise UserError(f"evaluate: one recipe, not {len(recipes)}: {', '.join(recipes)}")
    return recipes[0] if recipes else None, [x for x in others if x not in recipes], settings


def as_overrides(flags: dict[str, Any]) -> list[str]:
    """Options that were given, quoted so that YAML takes a file's name as it is."""
    return [
        f"{key}={json.dumps(value, ensure_ascii=False)}"
        for key, value in flags.items()
        if value is not None
    ]
