"""What the tests share: the command line in process, a tiny trained pair of models, a small disk.

Nothing here reaches the network, a GPU (unless CUDA_VISIBLE_DEVICES names one) or anybody's cache.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Before torch and the Hub's client are imported; one thread, so that sums have one order.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is slow, and that is no fault of the code.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

TOY = """
name: toy
seed: 3
conversations: {source: quickstart, count: 60, train: 0.7, validation: 0.15, test: 0.15}
base:
  scratch: {vocabulary: 300, hidden: 16, layers: 1, heads: 1}
  train: {epochs: 2, learning_rate: 1e-2, max_length: 256, batch_tokens: 1024,
          micro_batch_tokens: 1024, precision: fp32}
train: {epochs: 4, learning_rate: 1e-2, max_length: 256, batch_tokens: 1024,
        micro_batch_tokens: 1024, precision: fp32}
assistant:
  train: {epochs: 1, learning_rate: 1e-2, max_length: 256, batch_tokens: 1024,
          micro_batch_tokens: 1024, precision: fp32}
  max_tokens: 12
evaluate: {max_conversations: 8, first_turns: 4, bootstrap: 100}
generate: {num: 8, max_turns: 3, max_tokens: 40, guardrails: {attempts: 20}}
report: {}
push: {license: apache-2.0, validation: 0.3}
"""


@dataclass(frozen=True)
class Outcome:
    """What a command did: its exit status and its two streams."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """The error lines of a refused command: exit status 1, last, no traceback, no bug."""
        assert self.code == 1, (self.code, self.out, self.err)
        assert "Traceback" not in self.err
        assert "internal error" not in self.err
        lines = self.err.splitlines()
        found = [line for line in lines if line.startswith("error: ")]
        assert found, self.err
        assert found == lines[-len(found) :], "errors come last"
        return found

    @property
    def error(self) -> str:
        """The one error line of a refused command."""
        assert len(self.errors) == 1, self.err
        return self.errors[0]


def run_cli(*arguments: object) -> Outcome:
    """Run the command line in this process."""
    from click.testing import CliRunner

    from userlm_synth.cli import main

    result = CliRunner().invoke(main, [str(item) for item in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Outcome(result.exit_code, result.stdout, result.stderr)


@pytest.fixture(scope="session")
def cli() -> Callable[..., Outcome]:
    """The command line: `cli("validate", path).out`."""
    return run_cli


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Base models are cached here, never in the cache of whoever runs the tests."""
    folder = tmp_path_factory.mktemp("cache")
    former = os.environ.get("USERLM_SYNTH_CACHE")
    os.environ["USERLM_SYNTH_CACHE"] = str(folder)
    yield folder
    os.environ.pop("USERLM_SYNTH_CACHE")
    if former is not None:
        os.environ["USERLM_SYNTH_CACHE"] = former


@pytest.fixture(scope="session")
def toy_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe with every stage, done in a second or two."""
    path = tmp_path_factory.mktemp("recipe") / "toy.yaml"
    path.write_text(TOY)
    return path


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that the first process of the test run fills; the others wait and look at it."""
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / f"{name}.whole").exists():
            shutil.rmtree(root / name, ignore_errors=True)
            make(root / name)
            (root / f"{name}.whole").touch()
    return root / name


@pytest.fixture(scope="session")
def finished_run(toy_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of the toy recipe; look, do not touch (`shutil.copytree` it to change it)."""

    def make(folder: Path) -> None:
        out = folder / "run"
        done = run_cli("run", toy_recipe, "--out", out)
        assert done.code == 0, done.err
        (out / "stdout.txt").write_text(done.out)
        (out / "stderr.txt").write_text(done.err)

    return made_once(tmp_path_factory, "finished", make) / "run"


@pytest.fixture(scope="session")
def toy_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `base`, `user_lm` and `assistant_lm`: real checkpoints of a few kB, fp32."""

    def make(folder: Path) -> None:
        from userlm_synth.recipe import Scratch, Training
        from userlm_synth.training.base import train_base
        from userlm_synth.training.train import train_on_turns
        from userlm_synth.world import make_conversations

        conversations = make_conversations(60, 0)
        options = Training(
            epochs=3, learning_rate=1e-2, max_length=256, batch_tokens=1024,
            micro_batch_tokens=1024, precision="fp32",
        )  # fmt: skip
        shape = Scratch(vocabulary=300, hidden=16, layers=1, heads=1)
        base = folder / "base"
        train_base(conversations, shape, options, base, 0)
        for speaker in ("user", "assistant"):
            out = folder / f"{speaker}_lm"
            train_on_turns(str(base), conversations, options, out, speaker=speaker, seed=0)

    return made_once(tmp_path_factory, "toy_models", make)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """`small_disk("64k")` mounts a tmpfs of that size, or resizes it; skips where one may not."""
    mount = tmp_path / "disk"
    mounted = False

    def make(size: str) -> Path:
        nonlocal mounted
        mount.mkdir(exist_ok=True)
        options = f"size={size}" + (",remount" if mounted else "")
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(mount)]
        if os.geteuid() != 0 or not shutil.which("mount"):
            pytest.skip("only root can mount a small disk")
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no small disk here: {done.stderr.strip()}")
        mounted = True
        return mount

    yield make
    if mounted:
        subprocess.run(["umount", str(mount)], check=True)


@pytest.fixture(scope="session")
def write_jsonl() -> Callable[[Path, Iterable[Any]], Path]:
    """Write values as JSON lines, unchecked; returns the path."""

    def write(path: Path, values: Iterable[Any]) -> Path:
        text = "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def quick_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real OpenAI client with a key, but with one retry and hardly a wait."""
    from test_openai_backend import KEY, KEY_ENV

    from userlm_synth.asking import asker
    from userlm_synth.backends.openai_api import OpenAIBackend

    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv(KEY_ENV, KEY)
    # The real client with its default of five retries would wait 15 s for a server that is gone.
    defaults: Any = OpenAIBackend.__init__.__kwdefaults__
    monkeypatch.setitem(defaults, "max_retries", 1)
    monkeypatch.setattr(asker, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(asker, "BACKOFF", 0.01)
