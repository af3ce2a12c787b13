"""The command line: each command parses, calls one function, and prints what came of it.

Click lives here alone, and torch, transformers and the stages are imported inside the commands, so
that `--help` is instant.
"""

from __future__ import annotations

import click

from userlm_synth import __version__
from userlm_synth.cli.benchmark import benchmark
from userlm_synth.cli.chat import chat
from userlm_synth.cli.conversations import intents, prepare
from userlm_synth.cli.dialogues import generate, run
from userlm_synth.cli.doctor import doctor
from userlm_synth.cli.models import evaluate, flip, merge, train
from userlm_synth.cli.program import Program
from userlm_synth.cli.published import push, report, validate
from userlm_synth.cli.recipes import recipes
from userlm_synth.cli.serving import serve
from userlm_synth.cli.utility import utility

__all__ = ["main"]

SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(cls=Program, context_settings=SETTINGS)
@click.option("-v", "--verbose", is_flag=True, help="Show the traceback of an error.")
@click.version_option(__version__, prog_name="userlm-synth")
def main(verbose: bool) -> None:
    """Train user language models, let them talk with an assistant, publish the dialogues.

    Start with:  userlm-synth run quickstart --out runs/quickstart
    """


# in the order of the flow, as `--help` lists them
for command in (
    run, prepare, intents, flip, train, merge, evaluate, benchmark, generate, utility, serve, chat,
    validate, report, push, doctor, recipes,
):  # fmt: skip
    main.add_command(command)
