"""A user LM as an OpenAI-compatible endpoint: `vllm serve` with what a user LM needs.

That is the checkpoint's own chat template, which opens a *user* turn, both stop ids whatever its
configs say, the processor that filters first tokens, and adapters beside it. What was started is
checked by asking it before its SPEC is given out.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from userlm_synth.backends.reaper import Reaper
from userlm_synth.backends.vllm_settings import (
    ENVIRONMENT,
    adapter_rank,
    arguments_of,
    model_arguments,
    prepare,
)
from userlm_synth.errors import UserError
from userlm_synth.progress import say
from userlm_synth.serving.check import check, reachable
from userlm_synth.user_lm import ChatFormat, load_tokenizer
from userlm_synth.user_lm.adapters import find_adapter, model_fingerprint
from userlm_synth.user_lm.loading import find_file, split_revision

PATIENCE = 20.0  # seconds that a server has to stop by itself
#: What a client that says nothing gets: the sampling of UserLM-8b's card.
SAMPLING = {"do_sample": True, "temperature": 1.0, "top_p": 0.8}


@dataclass(frozen=True)
class Endpoint:
    """What is served, and where; `adapters` are folders by the name that a client asks for."""

    model: str
    name: str
    form: ChatFormat
    host: str
    port: int
    adapters: Mapping[str, Path] = field(default_factory=dict)
    extra: Sequence[str] = ()  # more arguments of `vllm serve`; they win over ours

    @property
    def url(self) -> str:
        """Where this machine finds it."""
        anywhere = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}
        return f"http://{anywhere.get(self.host, self.host)}:{self.port}/v1"

    @property
    def names(self) -> list[str]:
        """Of the model and its adapters."""
        return [self.name, *self.adapters]

    @property
    def key(self) -> str | None:
        """The key that the server asks for, where its arguments or the environment name one."""
        for place, argument in enumerate(self.extra):
            if argument == "--api-key" and place + 1 < len(self.extra):
                return self.extra[place + 1]
            if argument.startswith("--api-key="):
                return argument.partition("=")[2]
        return os.environ.get("VLLM_API_KEY") or None

    def command(self, config: Path) -> list[str]:
        """`vllm serve` with all of it; `config` is a folder with a generation_config.json."""
        ranks = [adapter_rank(folder) for folder in self.adapters.values()]
        modules = [f"{name}={folder.resolve()}" for name, folder in self.adapters.items()]
        return [
            sys.executable, "-m", "vllm.entrypoints.cli.main", "serve",
            *model_arguments(self.model, ranks),
            "--generation-config", str(config),
            "--host", self.host, "--port", str(self.port), "--served-model-name", self.name,
            "--chat-template-content-format", "string", "--uvicorn-log-level", "warning",
            *(["--lora-modules", *modules] if modules else []),
            *arguments_of("user"), *self.extra,
        ]  # fmt: skip


def endpoint(
    model: str,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    name: str | None = None,
    adapters: Sequence[Path] = (),
    extra: Sequence[str] = (),
) -> Endpoint:
    """What is to be served, looked at before anything starts.

    Raises `UserError` for a model that is no user LM, for adapters that are not its own, and for a
    port that is taken.
    """
    prepare(f"serve {model}")
    own = find_adapter(model)
    base = own.base if own else model
    found = _adapters([own.folder, *adapters] if own else adapters, base)
    form = ChatFormat.probe(load_tokenizer(base), "user")
    if form.end_id is None:
        raise UserError(f"{model}: has no end token, so it never leaves; it is not a user LM")
    refuse_taken_port(host, port)
    path = split_revision(base)[0]
    folder = Path(path).expanduser()
    served = name or (folder.resolve().name if folder.is_dir() else path)
    if served in found:
        raise UserError(f"{served}: names the model and an adapter; give the model a --name")
    return Endpoint(base, served, form, host, port, found, extra)


def _adapters(places: Sequence[Path], base: str) -> dict[str, Path]:
    """Adapters by name: folders of one, or of many (RUN/personas)."""
    found: dict[str, Path] = {}
    whole = model_fingerprint(base).rpartition("#")[2]
    for place in places:
        one = [place] if (place / "adapter_config.json").is_file() else []
        for folder in one or sorted(path.parent for path in place.glob("*/adapter_config.json")):
            adapter = find_adapter(str(folder))
            if adapter and adapter.fingerprint.split("+")[0].rpartition("#")[2] != whole:
                raise UserError(f"{folder}: is an adapter of {adapter.base}, not of {base}")
            found[folder.resolve().name] = folder
        if not found:
            raise UserError(f"{place}: holds no adapter (a folder with an adapter_config.json)")
    return found


def refuse_taken_port(host: str, port: int) -> None:
    """`UserError` where something listens already, or the address is not ours."""
    try:
        place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(place[0], place[1]) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(place[4])
    except OSError as error:
        why = "is in use" if "in use" in str(error) else f"cannot be used: {error.strerror}"
        raise UserError(f"{host}:{port}: {why}; name another --port") from None


def serve(what: Endpoint, ready: Callable[[], None] = lambda: None) -> None:
    """Serve until Ctrl-C (or a SIGTERM), which stops the server and all its processes.

    `ready` is called once the endpoint has passed its check. Raises `UserError` where the server
    does not start, ends, or fails the check.
    """
    with tempfile.TemporaryDirectory(prefix="userlm-synth-") as config:
        write_generation_config(what, Path(config))
        with _stopped_by_sigterm(), _running(what.command(Path(config))) as server:
            try:
                _wait(what, server)
                check(what)
                ready()
                raise UserError(f"{what.url}: the server ended with status {server.wait()}")
            except KeyboardInterrupt:
                say("\nstopping the server")


def write_generation_config(what: Endpoint, folder: Path) -> None:
    """The checkpoint's own defaults, but with the stop ids of its template: config.json and
    generation_config.json of UserLM-8b name different ones."""
    file = find_file(what.model, "generation_config.json")
    config = json.loads(file.read_bytes()) if file else dict(SAMPLING)
    config["eos_token_id"] = what.form.stop_ids
    (folder / "generation_config.json").write_text(json.dumps(config))


@contextmanager
def _running(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A server in a process group of its own, so that it and its children end together."""
    server = subprocess.Popen(command, env=ENVIRONMENT | os.environ, start_new_session=True)
    reaper = Reaper([-server.pid])
    try:
        yield server
    finally:
        if server.poll() is None:
            server.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                server.wait(PATIENCE)
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        reaper.dismiss()


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    former = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


def _wait(what: Endpoint, server: subprocess.Popen[bytes]) -> None:
    """Until the server answers, however long it loads."""
    say(f"  starting vLLM on {what.model} ...")
    while not reachable(what.url, what.key):
        if server.poll() is not None:
            raise UserError(
                f"{what.model}: vLLM did not start (status {server.returncode}); "
                "its messages are above"
            )
        time.sleep(0.3)
