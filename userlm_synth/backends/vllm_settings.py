"""What vLLM is started with: its environment, its arguments, the adapters' size."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from userlm_synth.backends.first_token import PROCESSOR
from userlm_synth.errors import UserError
from userlm_synth.user_lm.loading import split_revision

ARGUMENTS = "USERLM_SYNTH_VLLM_ARGS"
#: Quiet, on standard error (standard output is data), and nothing sent to anybody.
ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # we have threads, which a fork does not copy
}
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM has kernels for


def prepare(spec: str) -> None:
    """Set vLLM's environment before it is imported; `UserError` where it is not installed."""
    if importlib.util.find_spec("vllm") is None:
        raise UserError(f"{spec}: vLLM is not installed: pip install 'userlm-synth[vllm]'")
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def arguments_of(speaker: str) -> list[str]:
    """Arguments from the environment: for all engines, then those of this side alone."""
    found: list[str] = []
    for name in (ARGUMENTS, f"{ARGUMENTS}_{'USER' if speaker == 'user' else 'ASSISTANT'}"):
        try:
            found += shlex.split(os.environ.get(name, ""))
        except ValueError as error:
            raise UserError(f"{name}: {error}") from None
    return found


def model_arguments(base: str, ranks: Sequence[int]) -> list[str]:
    """A model and what it needs in every case, as arguments of `vllm serve`: no sampling defaults
    of the checkpoint, safetensors only, our processor, room for adapters of these ranks."""
    path, revision = split_revision(base)
    folder = Path(path).expanduser()
    arguments = ["--model", str(folder) if folder.is_dir() else path]
    arguments += ["--revision", revision] if revision else []
    arguments += ["--generation-config", "vllm", "--load-format", "safetensors"]
    arguments += ["--enable-prefix-caching", "--logits-processors", PROCESSOR]
    if ranks:
        largest = next((one for one in RANKS if one >= max(ranks)), max(ranks))
        arguments += ["--enable-lora", "--max-lora-rank", str(largest)]
        arguments += ["--max-loras", str(len(ranks))]
    return arguments


def engine_options(base: str, given: Sequence[str], ranks: Sequence[int], share: float) -> Any:
    """An engine's arguments as vLLM reads them; those given come last and win.

    `share` is of the device's memory. Raises `UserError` for an argument that it does not know.
    """
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    class Parser(FlexibleArgumentParser):  # type: ignore[misc]
        def error(self, message: str) -> None:
            raise UserError(f"{ARGUMENTS}: {message}")

    parser = AsyncEngineArgs.add_cli_args(Parser(add_help=False))
    arguments = model_arguments(base, ranks)
    arguments += ["--gpu-memory-utilization", f"{share:.3f}", "--disable-log-stats"]
    arguments += ["--no-use-tqdm-on-load"]
    return AsyncEngineArgs.from_cli_args(parser.parse_args([*arguments, *given]))


def adapter_rank(folder: Path) -> int:
    """The rank of a LoRA adapter."""
    rank: int = json.loads((folder / "adapter_config.json").read_bytes())["r"]
    return rank
