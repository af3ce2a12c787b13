"""`doctor`: what is wrong with a model, and how to mend it."""

from __future__ import annotations

import json
import sys
from typing import Literal

import click


@click.command()
@click.argument("spec")
@click.option("--role", type=click.Choice(["user", "assistant"]), default="user",
              show_default=True, help="What it is to play.")  # fmt: skip
@click.option("--tokenizer", help="Folder or Hub id of the model that a server has.")
@click.option("--api-key-env", default="OPENAI_API_KEY", show_default=True,
              help="The environment variable that holds the key.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(
    spec: str,
    role: Literal["user", "assistant"],
    tokenizer: str | None,
    api_key_env: str,
    as_json: bool,
) -> None:
    """Examine a user LM or an assistant before a long run: ten probes, some 40 short requests.

    \b
    userlm-synth doctor runs/quickstart/user_lm
    userlm-synth doctor openai:my-user-lm@http://localhost:8000/v1 --tokenizer runs/mine/user_lm
    userlm-synth doctor openai:gpt-4o-mini@https://api.openai.com/v1 --role assistant

    Each probe says ok, warning (it works, with a loss), broken, or n/a, and how to mend it; the
    last line has the fields to set. Exit status 1 where something is broken.
    """
    from userlm_synth.serving.doctor import examine

    found = examine(spec, role, tokenizer, api_key_env)
    click.echo(json.dumps(found.as_record(), indent=2) if as_json else found.as_text())
    sys.exit(1 if found.broken else 0)
