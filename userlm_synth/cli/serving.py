"""Models as servers."""

from __future__ import annotations

from pathlib import Path

import click

from userlm_synth.cli.program import FILE


@click.command(context_settings={"ignore_unknown_options": False})
@click.argument("model")
@click.argument("extra", nargs=-1, type=click.UNPROCESSED, metavar="[-- VLLM ARGUMENTS...]")
@click.option("--host", default="127.0.0.1", show_default=True, help="0.0.0.0: for others too.")
@click.option("--port", default=8000, show_default=True)
@click.option("--name", help="What clients call the model (default: its folder's name, or its id).")
@click.option(
    "--adapters", type=FILE, multiple=True,
    help="Adapters to serve beside it: a folder of one, or of many (RUN/personas).",
)  # fmt: skip
def serve(
    model: str, extra: tuple[str, ...], host: str, port: int, name: str | None,
    adapters: tuple[Path, ...],
) -> None:  # fmt: skip
    """Serve the user LM MODEL (folder or Hub id) on vLLM, as an OpenAI-compatible endpoint.

    Its template opens a *user* turn, its stop ids are those of the template, and first tokens can
    be filtered. The endpoint is checked before its SPEC is printed. Ctrl-C stops it. What stands
    after -- goes to `vllm serve`, as in: userlm-synth serve runs/my/user_lm -- --max-model-len 4096
    """
    from userlm_synth.serving.serve import endpoint
    from userlm_synth.serving.serve import serve as serve_endpoint

    where = endpoint(
        model.removeprefix("hf:").removeprefix("vllm:"),
        host=host, port=port, name=name, adapters=adapters, extra=extra,
    )  # fmt: skip

    def ready() -> None:
        click.echo(f"ready, and checked; as a SPEC, for --user: openai:{where.name}@{where.url}")
        for adapter in where.adapters:
            click.echo(f"adapter {adapter}: openai:{adapter}@{where.url}")

    serve_endpoint(where, ready)
