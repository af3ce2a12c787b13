"""Model-written Python, run where it can read, write, reach and use up next to nothing.

bubblewrap gives it namespaces of its own: no network, no processes but its own, no files but the
interpreter's, a small private /tmp. `seccomp` keeps it to one process, and limits set inside keep
time, memory, files and output in bounds. Without protection (`UNPROTECTED`) the limits alone hold.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any, Literal, cast

from userlm_synth.benchmark import bubblewrap, seccomp
from userlm_synth.errors import UserError

MIB = 1 << 20
BLOCK = 1 << 16
START = 60.0  # seconds for a sandbox to start: a busy machine is not a program's fault
GRACE = 5.0  # seconds for killed processes to be gone
READY = b"ready\n"  # what `inside` reports before anything untrusted runs
ENVIRONMENT = {"PYTHONHASHSEED": "0", "HOME": "/tmp", "LANG": "C.UTF-8"}
MISSING = (
    "code tasks run model-written programs and need bubblewrap, which is not there (or does not "
    "work here: {reason}): install it (Debian, Ubuntu: apt install bubblewrap; Fedora: dnf install "
    "bubblewrap; it is for Linux), leave code tasks out (benchmark.domain=math), or set "
    "benchmark.sandbox=none to run them without protection"
)


@dataclass(frozen=True)
class Limits:
    """What a program may use; sizes in bytes. One process: `threads` counts within it."""

    seconds: float = 10.0  # by the clock
    cpu_seconds: int = 10
    memory: int = 512 * MIB  # address space
    disk: int = 16 * MIB  # of the private /tmp, and of a file
    output: int = MIB  # printed
    files: int = 64  # open at once
    threads: int = 64  # where the caller is root, memory alone limits them


@dataclass(frozen=True)
class Sandbox:
    """How programs are kept apart: by `bubblewrap`, or (the user said so) not at all."""

    kind: Literal["bubblewrap", "none"]
    program: str = ""  # path of bwrap


@dataclass(frozen=True)
class Outcome:
    """How a program ended. `stopped` says why it was not let go on; a signal is 128 + its number.

    Nothing of this is a verdict: a program can print, and exit with, whatever it likes.
    """

    status: int
    stdout: str
    stderr: str
    seconds: float
    stopped: str = ""


UNPROTECTED = Sandbox("none")


def find_sandbox() -> Sandbox | None:
    """bubblewrap, where it is installed and a trial in it shows that it works."""
    return _probe()[0]


def require_sandbox() -> Sandbox:
    """bubblewrap, or a `UserError` that says what to do."""
    found, reason = _probe()
    if found is None:
        raise UserError(MISSING.format(reason=reason))
    return found


@functools.cache
def _probe() -> tuple[Sandbox | None, str]:
    """The sandbox, or why there is none; the trial also sees that a second process is refused."""
    if not sys.platform.startswith("linux"):
        return None, f"this is {platform.system()}"
    program = shutil.which("bwrap")
    if program is None:
        return None, "there is no bwrap on the PATH"
    if not seccomp.is_known():
        return None, f"its system call filter is not written for {platform.machine()}"
    found = Sandbox("bubblewrap", program)
    trial = "import os\ntry: os.fork()\nexcept PermissionError: print('alone')"
    try:
        outcome = run_python(trial, sandbox=found)
    except UserError as error:
        return None, str(error)
    if outcome.stdout != "alone\n":
        return None, f"a trial program printed {outcome.stdout + outcome.stderr!r}"
    return found, ""


def run_python(
    source: str, *, limits: Limits | None = None, sandbox: Sandbox | None = None
) -> Outcome:
    """Run a program to its end or its limits, in bubblewrap unless another `sandbox` is given.

    Blocks: inside asyncio, call it in a thread.
    """
    limits, start = limits or Limits(), time.monotonic()
    with Inside(sandbox or require_sandbox(), limits, "program", {"code": source}) as process:
        stopped = follow([process], limits)
    stopped = stopped or process.broken_limit()
    seconds = time.monotonic() - start
    return Outcome(process.status, process.text("stdout"), process.text("stderr"), seconds, stopped)


class Inside:
    """One process of a sandbox, from its start to the moment when all of it is gone.

    Its `report` is a pipe to us from the trusted start of `inside`, out of the program's reach.
    `pipes` (by the name that `inside` knows them by) are handed on under their own numbers.
    """

    def __init__(
        self,
        sandbox: Sandbox,
        limits: Limits,
        role: Literal["program", "answer", "judge"],
        job: dict[str, Any],
        pipes: dict[str, int] | None = None,
    ) -> None:
        self.limits = limits
        self.status = -1
        self.heard = {"stdout": bytearray(), "stderr": bytearray(), "report": bytearray()}
        self._whole_group = sandbox.kind == "none"
        with ExitStack() as ours, ExitStack() as theirs:
            report, write_report = os.pipe()
            ours.callback(os.close, report)
            theirs.callback(os.close, write_report)
            passed = {"report": write_report, **(pipes or {})}
            job = {"role": role, "limits": asdict(limits), **job, **passed}
            command, numbers, folder = interpreter(), list(passed.values()), "/"
            if sandbox.kind == "bubblewrap":
                rules, write_rules = os.pipe()
                theirs.callback(os.close, rules)
                os.write(write_rules, seccomp.one_process())
                os.close(write_rules)
                numbers.append(rules)
                command = [
                    sandbox.program,
                    *bubblewrap.walls(limits.disk),
                    "--seccomp",
                    f"{rules}",
                    "--",
                    *command,
                ]
            else:
                folder = ours.enter_context(tempfile.TemporaryDirectory(prefix="program-"))
            self.process = start(command, numbers, folder)
            self._ours = ours.pop_all()
        assert self.process.stdin
        assert self.process.stdout
        assert self.process.stderr
        self._job, self._stdin = memoryview(json.dumps(job).encode()), self.process.stdin
        self._numbers = {
            "stdout": self.process.stdout.fileno(),
            "stderr": self.process.stderr.fileno(),
            "report": report,
        }
        for number in (self._stdin.fileno(), *self._numbers.values()):
            os.set_blocking(number, False)

    def __enter__(self) -> Inside:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Kill all of it, and wait until its last process has let go of its output."""
        if self._whole_group:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()  # the rest of a bubblewrap dies with its first process
        code = self.process.wait()
        self.status = code if code >= 0 else 128 - code
        self._hear_the_end()
        for file in (self._stdin, self.process.stdout, self.process.stderr):
            if file:
                file.close()
        self._ours.close()
        if kind is None and not self.ready:
            said = self.text("stderr")[-300:].strip() or f"exit status {self.status}"
            raise UserError(f"the sandbox did not start: {said}; try: bwrap --ro-bind / / true")

    def _hear_the_end(self) -> None:
        """Read until every process has closed its output; only the report is kept."""
        end = time.monotonic() + GRACE
        with selectors.DefaultSelector() as waiting:
            for stream, number in self._numbers.items():
                waiting.register(number, selectors.EVENT_READ, stream)
            while waiting.get_map() and (ready := waiting.select(max(0.0, end - time.monotonic()))):
                for key, _ in ready:
                    block = os.read(key.fd, BLOCK)
                    if key.data == "report":
                        self.heard["report"] += block
                    if not block:
                        waiting.unregister(key.fd)

    @property
    def ready(self) -> bool:
        """Whether the limits were set and the job began; all that comes later is the program's."""
        return self.heard["report"].startswith(READY)

    def text(self, stream: str) -> str:
        """What it printed, up to the limit."""
        return self.heard[stream].decode(errors="replace")

    def streams(self) -> dict[int, str]:
        """The pipes to wait for, by number: the job goes in, the others come out."""
        return {self._stdin.fileno(): "job", **{at: name for name, at in self._numbers.items()}}

    def move(self, stream: str) -> bool:
        """Move some bytes of a pipe that is ready; False when it is done."""
        if stream == "job":
            with suppress(BrokenPipeError):
                self._job = self._job[os.write(self._stdin.fileno(), self._job[:BLOCK]) :]
                if self._job:
                    return True
            self._stdin.close()
            return False
        block = os.read(self._numbers[stream], BLOCK)
        self.heard[stream] += block
        return bool(block)

    def broken_limit(self) -> str:
        """The limit that it ran into, as far as its output and its end tell."""
        limits, printed = self.limits, len(self.heard["stdout"]) + len(self.heard["stderr"])
        if printed > limits.output:
            return f"printed more than {limits.output // 1024} KiB"
        if self.status == 1 and self.text("stderr").rstrip().endswith("MemoryError"):
            return f"used more than {limits.memory // MIB} MiB of memory"
        if self.status == 128 + signal.SIGXCPU:
            return f"used more than {limits.cpu_seconds} s of processor time"
        return ""


def start(command: list[str], numbers: Sequence[int], folder: str) -> subprocess.Popen[bytes]:
    """Start a command that gets three standard pipes, the pipes of these numbers, and no more."""
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            pass_fds=numbers,
            env=environment(),
            cwd=folder,
            start_new_session=True,  # Ctrl-C is not for it
        )
    except OSError as error:
        raise UserError(f"{command[0]}: does not start ({error.strerror})") from None


def environment() -> dict[str, str]:
    """All that a program sees of ours: nothing, but where the interpreter's own library is."""
    library = {"LD_LIBRARY_PATH": f"{sys.base_prefix}/lib"}
    return {**ENVIRONMENT, **(library if "LD_LIBRARY_PATH" in os.environ else {})}


def follow(processes: Sequence[Inside], limits: Limits) -> str:
    """Feed and hear processes until the last one has ended; else why they cannot go on."""
    running, end = False, time.monotonic() + START
    with selectors.DefaultSelector() as waiting:
        for process in processes:
            for number, name in process.streams().items():
                way = selectors.EVENT_WRITE if name == "job" else selectors.EVENT_READ
                waiting.register(number, way, (process, name))
        while any(key.data[0] is processes[-1] for key in waiting.get_map().values()):
            ready = waiting.select(max(0.0, end - time.monotonic()))
            if not ready:
                return f"timed out after {limits.seconds:g} s"
            for key, _ in ready:
                process, name = cast("tuple[Inside, str]", key.data)
                if not process.move(name):
                    waiting.unregister(key.fd)
                if reason := process.broken_limit():
                    return reason
            if not running and all(process.ready for process in processes):
                running, end = True, time.monotonic() + limits.seconds
    try:
        processes[-1].process.wait(max(0.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        return f"timed out after {limits.seconds:g} s"
    return ""


@functools.cache
def interpreter() -> list[str]:
    """A bare interpreter that runs `inside`: no site packages, no folders of the user's."""
    source = files(__package__).joinpath("inside.py").read_text(encoding="utf-8")
    return [str(bubblewrap.python()), "-u", "-s", "-S", "-B", "-X", "utf8", "-c", source]
