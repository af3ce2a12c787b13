"""Facts about the sandbox: what a hostile program tries, and does not get. Every attack is run."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from userlm_synth.benchmark import bubblewrap, sandbox, seccomp
from userlm_synth.benchmark.inside import decode, encode, same
from userlm_synth.benchmark.sandbox import (
    MIB,
    UNPROTECTED,
    Limits,
    Sandbox,
    find_sandbox,
    require_sandbox,
    run_python,
)
from userlm_synth.benchmark.unit_tests import check_function
from userlm_synth.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
needs_bubblewrap = pytest.mark.skipif(
    find_sandbox() is None, reason="bubblewrap (bwrap) is not installed or does not work here"
)
needs_linux = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="reads the /proc of Linux"
)


def descendants(pid: int) -> set[int]:
    """The processes below a process, from the host's /proc."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if fields[0] != "Z":
                parents[int(stat.parent.name)] = int(fields[1])
    found, new = set(), {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new} - found
        found |= new
    return found


def alive(pids: set[int]) -> set[int]:
    """Those of the processes that still run."""
    left = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                left.add(pid)
    return left


# --- what a program cannot read, reach or write ---------------------------------------------


@needs_bubblewrap
def test_a_program_runs_and_its_output_and_status_come_back() -> None:
    source = "import sys\nprint(6 * 7)\nprint('oh', file=sys.stderr)\nsys.exit(3)"
    outcome = run_python(source)
    assert (outcome.stdout, outcome.stderr, outcome.status) == ("42\n", "oh\n", 3)
    assert outcome.stopped == ""


@needs_bubblewrap
def test_a_program_can_be_larger_than_a_pipe_and_hold_any_text() -> None:
    source = f"# {'long ' * 100_000}\nprint(len('żółw \N{TURTLE}'))"
    assert run_python(source).stdout == "6\n"


@needs_bubblewrap
def test_the_standard_library_is_there() -> None:
    source = (
        "import asyncio, bz2, ctypes, decimal, hashlib, lzma, sqlite3, ssl\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(2) as pool: print(list(pool.map(abs, [-1, -2])))"
    )
    assert run_python(source).stdout == "[1, 2]\n"


@needs_bubblewrap
def test_nothing_of_the_host_can_be_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("top secret")
    places = [
        "/etc/passwd", "/etc/shadow", "/etc/hostname", "/proc/1/environ", "/proc/self/environ",
        "/proc/mounts", "/sys", "/var", "/run", "/usr/bin", "/root", "/home", str(secret),
        str(Path.home() / ".bashrc"), str(Path.cwd()), str(ROOT / "setup.cfg"), __file__,
    ]  # fmt: skip
    source = f"""
import os
for place in {places!r}:
    try:
        print(place, os.listdir(place) if os.path.isdir(place) else open(place).read())
    except OSError:
        pass
"""
    outcome = run_python(source)
    kept = [line for line in outcome.stdout.splitlines() if not is_on_the_way(line)]
    assert kept == []
    assert outcome.status == 0


def is_on_the_way(line: str) -> bool:
    """A folder that is there for the interpreter's sake, and shows nothing else."""
    place, _, listing = line.partition(" ")
    python = str(bubblewrap.python())
    return python.startswith(place) and listing.count("'") == 2


@needs_bubblewrap
def test_no_setting_of_the_caller_reaches_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    source = "import os, sys\nprint(*sorted(os.environ))\nprint(sys.argv, os.uname().nodename)"
    names, rest = run_python(source).stdout.splitlines()
    allowed = {"HOME", "LANG", "LC_CTYPE", "LD_LIBRARY_PATH", "PWD", "PYTHONHASHSEED"}
    assert set(names.split()) <= allowed
    assert rest == "['-c'] sandbox"


@needs_bubblewrap
def test_installed_packages_are_out_of_reach() -> None:
    here = str(Path(pytest.__file__).parent.parent)
    source = f"""
import sys, os
others = {[here, "/usr/lib/python3/dist-packages"]!r}
for path in [*others, *(os.path.join(folder, "site-packages") for folder in sys.path)]:
    sys.path.append(path)
    print(os.listdir(path) if os.path.isdir(path) else [])
try:
    import pytest
except ImportError:
    print("no pytest")
"""
    assert set(run_python(source).stdout.splitlines()) == {"[]", "no pytest"}


@needs_bubblewrap
def test_there_is_no_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        source = f"""
import socket
for call in (
    lambda: socket.create_connection(("127.0.0.1", {port}), 1),
    lambda: socket.create_connection(("1.1.1.1", 53), 1),
    lambda: socket.getaddrinfo("example.com", 80),
):
    try:
        print("reached", call())
    except OSError as error:
        print("refused")
"""
        assert run_python(source).stdout == "refused\n" * 3
        with pytest.raises(TimeoutError):
            server.accept()


@needs_bubblewrap
def test_nothing_can_be_written_outside_the_private_folder(tmp_path: Path) -> None:
    outside = [str(Path.cwd()), "/", "/dev", "/usr/lib", sys.base_prefix, "/etc"]
    places = [
        place for place in outside if not place.startswith("/tmp")
    ]  # it has a /tmp of its own
    source = f"""
import os
os.makedirs({str(tmp_path)!r}, exist_ok=True)
open({str(tmp_path / "x")!r}, "w").write("x")  # a /tmp of its own
for place in {places!r}:
    try:
        os.makedirs(place, exist_ok=True)
        open(os.path.join(place, "x"), "w").write("x")
        print("wrote", place)
    except OSError:
        pass
open("mine", "w").write("x")
print(os.getcwd(), "mine" in os.listdir())
"""
    assert run_python(source).stdout == "/tmp True\n"
    assert run_python("import os; print('mine' in os.listdir())").stdout == "False\n"
    assert list(tmp_path.iterdir()) == []
    assert not any((Path(place) / "x").exists() for place in outside)


@needs_bubblewrap
def test_a_full_disk_is_the_program_s_own() -> None:
    source = """
written = 0
try:
    for number in range(100):
        with open(str(number), "wb") as file:
            written += file.write(bytes(1 << 20))
except OSError as error:
    print(written >> 20, error.strerror)
try:
    open("0", "r+b").truncate(1 << 40)
except OSError as error:
    print(error.strerror)
"""
    outcome = run_python(source, limits=Limits(disk=4 * MIB))
    assert outcome.stdout == "4 No space left on device\nFile too large\n"


@needs_bubblewrap
def test_a_program_is_nobody_and_stays_nobody() -> None:
    source = """
import os
print(os.getuid(), os.getgid(), os.getgroups() in ([], [65534]))
for call in (os.setuid, os.setgid, os.seteuid):
    try:
        call(0)
        print("became root")
    except OSError:
        pass
try:
    os.chroot("/tmp")
    print("changed the root")
except OSError:
    pass
"""
    first, *rest = run_python(source).stdout.splitlines()
    assert first.startswith("65534 65534")
    assert rest == []


@needs_bubblewrap
def test_kernel_doors_are_shut() -> None:
    machine = seccomp.MACHINES[os.uname().machine]
    numbers = [*machine[2], *seccomp.REFUSED_EVERYWHERE]
    source = f"""
import ctypes
call = ctypes.CDLL(None, use_errno=True).syscall
for number in {numbers}:
    print(call(number, 0, 0, 0, 0, 0, 0), ctypes.get_errno())
print(call({machine[1]}, 17, 0, 0, 0, 0), ctypes.get_errno())
"""
    assert run_python(source).stdout == "-1 1\n" * (len(numbers) + 1)  # 1: not permitted


def test_the_filter_is_whole_for_both_kinds_of_machine() -> None:
    for machine in ("x86_64", "aarch64"):
        rules = seccomp.one_process(machine)
        assert len(rules) % 8 == 0
        assert len(rules) // 8 < 256
    assert not seccomp.is_known("riscv64")


# --- what a program cannot use up ------------------------------------------------------------


@needs_bubblewrap
def test_a_fork_bomb_has_no_second_process() -> None:
    source = """
import os, subprocess
for start in (os.fork, lambda: subprocess.run(["true"]), lambda: os.posix_spawn("/x", ["x"], {})):
    try:
        while True:
            start()
    except OSError as error:
        print(type(error).__name__)
"""
    assert run_python(source).stdout == "PermissionError\n" * 3


@needs_bubblewrap
def test_a_thread_bomb_stops_at_a_limit() -> None:
    source = """
import threading, time
threading.stack_size(1 << 15)
count = 0
try:
    while True:
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        count += 1
except (RuntimeError, MemoryError):
    print(count)
"""
    outcome = run_python(source, limits=Limits(memory=128 * MIB))
    # It ends by itself, or for want of memory to say so.
    assert outcome.stdout or outcome.status != 0
    assert int(outcome.stdout or 0) < (4000 if os.getuid() == 0 else 64)


@needs_bubblewrap
def test_ten_gigabytes_of_memory_fail_at_the_limit() -> None:
    outcome = run_python("x = bytearray(10 * 10**9)", limits=Limits(memory=256 * MIB))
    assert outcome.stopped == "used more than 256 MiB of memory"
    assert outcome.status == 1


@needs_bubblewrap
def test_endless_programs_are_timed_out_at_once_and_in_threads() -> None:
    ignore = "import signal\nfor n in range(1, 32):\n  try: signal.signal(n, signal.SIG_IGN)\n"
    sources = [
        f"{ignore}  except (OSError, ValueError): pass\nwhile True: pass",
        "import time; time.sleep(60)",
        "import os, time; os.close(1); os.close(2); time.sleep(60)",
    ]
    limits = Limits(seconds=0.7)
    with ThreadPoolExecutor(3) as pool:
        outcomes = list(pool.map(lambda source: run_python(source, limits=limits), sources))
    assert [outcome.stopped for outcome in outcomes] == ["timed out after 0.7 s"] * 3
    assert all(outcome.seconds < 10 for outcome in outcomes)


@needs_bubblewrap
def test_processor_time_has_a_limit_of_its_own() -> None:
    outcome = run_python("while True: pass", limits=Limits(seconds=30, cpu_seconds=1))
    assert outcome.stopped == "used more than 1 s of processor time"


@needs_bubblewrap
def test_a_gigabyte_of_output_is_cut_at_the_limit() -> None:
    source = "while True: print('x' * 100_000)"
    outcome = run_python(source, limits=Limits(output=100 * 1024))
    assert outcome.stopped == "printed more than 100 KiB"
    assert len(outcome.stdout) < 300 * 1024


# --- whom a program cannot harm, and what it leaves behind ------------------------------------


@needs_bubblewrap
@pytest.mark.parametrize("target", ["os.getppid()", "-1"])
def test_no_signal_of_a_program_leaves_the_sandbox(target: str) -> None:
    source = f"import os\nos.kill({target}, 9)\nprint('killed')"
    outcome = run_python(source)
    assert outcome.status in (0, 1, 137)
    assert run_python("print(1)").stdout == "1\n"


@needs_bubblewrap
@needs_linux
def test_no_process_is_left_when_a_program_is_done_or_stopped() -> None:
    daemon = "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()"
    before = descendants(os.getpid())
    assert run_python(f"{daemon}\nimport os; os._exit(0)").status == 0
    assert run_python(daemon, limits=Limits(seconds=0.3)).stopped
    assert alive(descendants(os.getpid()) - before) == set()


KILLED = """
import threading, time
from userlm_synth.benchmark.sandbox import Inside, Limits, follow, require_sandbox
code = "import time; print(1); time.sleep(60)"
with Inside(require_sandbox(), Limits(seconds=60), "program", {"code": code}) as process:
    threading.Thread(target=follow, args=([process], process.limits), daemon=True).start()
    while not process.heard["stdout"]:
        time.sleep(0.01)
    print("it runs", flush=True)
    time.sleep(60)
"""


@needs_bubblewrap
@needs_linux
def test_a_caller_that_is_killed_leaves_no_process() -> None:
    command = [sys.executable, "-c", KILLED]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as caller:
        assert caller.stdout
        assert caller.stdout.readline() == b"it runs\n"
        below = descendants(caller.pid)
        os.kill(caller.pid, signal.SIGKILL)
    assert len(below) == 3  # bubblewrap, the first process in it, and the program
    end = time.monotonic() + 10
    while alive(below) and time.monotonic() < end:
        time.sleep(0.02)
    assert alive(below) == set()


@needs_bubblewrap
def test_no_open_file_of_the_caller_is_passed_on(tmp_path: Path) -> None:
    path = tmp_path / "open.txt"
    path.write_text("secret")
    with path.open() as file:
        os.set_inheritable(file.fileno(), True)
        source = """
import os
for number in range(3, 256):
    try:
        print(number, os.read(number, 100))
    except OSError:
        pass
"""
        assert run_python(source).stdout == ""


@needs_bubblewrap
def test_a_sandbox_runs_in_a_thread_of_asyncio() -> None:
    async def both() -> list[str]:
        runs = [asyncio.to_thread(run_python, f"print({number})") for number in (1, 2)]
        return [outcome.stdout for outcome in await asyncio.gather(*runs)]

    assert asyncio.run(both()) == ["1\n", "2\n"]


# --- where there is no sandbox -----------------------------------------------------------------


@pytest.fixture
def no_bwrap(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    monkeypatch.setenv("PATH", str(tmp_path))
    sandbox._probe.cache_clear()
    yield tmp_path
    sandbox._probe.cache_clear()


@pytest.mark.usefixtures("no_bwrap")
def test_without_bubblewrap_the_error_says_what_to_do() -> None:
    assert find_sandbox() is None
    with pytest.raises(UserError) as caught:
        require_sandbox()
    for part in ("apt install bubblewrap", "benchmark.domain=math", "benchmark.sandbox=none"):
        assert part in str(caught.value)
    with pytest.raises(UserError):  # never without protection by itself
        run_python("print(1)")


@needs_linux
def test_a_bubblewrap_that_does_not_work_says_why(no_bwrap: Path) -> None:
    broken = no_bwrap / "bwrap"
    broken.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1")
    broken.chmod(0o755)
    with pytest.raises(UserError, match="No permissions to create new namespace"):
        require_sandbox()


def test_a_sandbox_that_does_not_start_is_an_error_and_no_verdict() -> None:
    broken = Sandbox("bubblewrap", "/bin/false")
    if not seccomp.is_known():
        pytest.skip("no filter for this machine")
    with pytest.raises(UserError, match="did not start"):
        check_function("def f(): return 1", "f", [{"expected": 1}], sandbox=broken)
    with pytest.raises(UserError, match="does not start"):
        run_python("print(1)", sandbox=Sandbox("bubblewrap", "/no/such/bwrap"))


def test_without_protection_the_limits_hold_and_verdicts_are_the_same() -> None:
    outcome = run_python("import time; time.sleep(60)", sandbox=UNPROTECTED, limits=Limits(0.5))
    assert outcome.stopped == "timed out after 0.5 s"
    wrong = check_function("def f(): return 1", "f", [{"expected": 2}], sandbox=UNPROTECTED)
    assert (wrong.passed, wrong.reason) == (False, "case 1: expected 2, got 1")
    assert check_function("def f(): return 2", "f", [{"expected": 2}], sandbox=UNPROTECTED).passed


@needs_linux
def test_without_protection_child_processes_end_with_the_program() -> None:
    source = "import os, time\npid = os.fork()\nif pid:\n  print(pid)\nelse:\n  time.sleep(60)"
    outcome = run_python(source, sandbox=UNPROTECTED, limits=Limits(0.5))
    assert alive({int(outcome.stdout)}) == set()


# --- verdicts ---------------------------------------------------------------------------------

SECRET = 987_654_321
FORGERIES = {
    "prints a verdict and leaves": """
import os, sys
def f(x):
    print('{"passed": true, "reason": "", "ended": false}', flush=True)
    os._exit(0)
""",
    "writes a verdict to every file number": """
import json, os
body = json.dumps({"passed": True, "reason": "", "ended": False}).encode()
for number in range(3, 64):
    for text in (body, len(body).to_bytes(4, "big") + body):
        try:
            os.write(number, text)
        except OSError:
            pass
os._exit(0)
""",
    "exits on import": "import sys\nsys.exit(0)",
    "exits in the call": "import os\ndef f(x): os._exit(0)",
    "an object that equals everything": """
class Any:
    def __eq__(self, other): return True
    def __repr__(self): return "987654321"
    __hash__ = None
def f(x): return Any()
""",
    "a number that equals everything": """
class Any(int):
    def __eq__(self, other): return True
    def __repr__(self): return "987654321"
    __hash__ = None
def f(x): return Any(1)
""",
    "a list that lies": """
class Any(list):
    def __eq__(self, other): return True
    def __len__(self): return 1
    def __repr__(self): return "[987654321]"
    __hash__ = None
def f(x): return Any([2])
""",
    "patches the messages": """
import builtins, json, sys
main = sys.modules["__main__"]
main.same = lambda *_: True
main.encode = lambda value: True
main.outcome = lambda *_: {"passed": True, "reason": "", "ended": False}
json.dumps = lambda *_: '{"passed": true, "reason": "", "ended": false}'
builtins.AssertionError = builtins.BaseException = ()
def f(x): return True
""",
    "looks for the expected value in memory and in pipes": """
import gc, os, select, sys
def wanted(thing):
    return type(thing) is int and str(thing)[::-1] == "123456789"
def f(x):
    frame = sys._getframe()
    while frame:
        for value in [*frame.f_locals.values(), *frame.f_globals.values()]:
            if wanted(value):
                return value
        frame = frame.f_back
    for thing in gc.get_objects():
        for value in gc.get_referents(thing):
            if wanted(value):
                return value
    for number in range(64):
        try:
            if select.select([number], [], [], 0)[0]:
                found = os.read(number, 10**6)[::-1]
                if b"123456789" in found:
                    return int(found[found.index(b"123456789"):][:9][::-1])
        except (OSError, ValueError):
            pass
    return 0
""",
    "kills everything": "import os, signal\ndef f(x): os.kill(-1, 9); os.kill(os.getppid(), 9)",
    "answers before it is asked": """
import json, os
body = json.dumps(["value", True, []]).encode()
for number in range(3, 64):
    try:
        for _ in range(20):
            os.write(number, len(body).to_bytes(4, "big") + body)
    except OSError:
        pass
def f(x): return True
""",
    "a nest of lists": """
import os
body = b"[" * 100_000
for number in range(3, 64):
    try:
        os.write(number, len(body).to_bytes(4, "big") + body)
    except OSError:
        pass
def f(x): return x
""",
    "an answer without end": """
import os
for number in range(3, 64):
    try:
        os.write(number, b"\\xff" * 4 + b"x" * 60_000)
    except OSError:
        pass
def f(x): return x
""",
}


@needs_bubblewrap
@pytest.mark.parametrize("forgery", FORGERIES)
def test_no_program_can_forge_its_verdict(forgery: str) -> None:
    cases = [{"args": [number], "expected": SECRET} for number in range(2)]
    verdict = check_function(FORGERIES[forgery], "f", cases, limits=Limits(seconds=10))
    assert not verdict.passed
    assert verdict.reason


@needs_bubblewrap
@pytest.mark.parametrize(
    "forgery", ["an object that equals everything", "patches the messages", "exits on import"]
)
def test_no_program_can_forge_what_asserts_see(forgery: str) -> None:
    test = f"def check(candidate):\n    assert candidate(1) == {SECRET}\n"
    assert not check_function(FORGERIES[forgery], "f", test=test).passed


@needs_bubblewrap
@pytest.mark.parametrize("error", ["StopIteration", "StopAsyncIteration", "SystemExit"])
def test_an_error_that_ends_loops_quietly_does_not_end_the_tests(error: str) -> None:
    code = f"def f(x): raise {error}"
    test = "def check(candidate):\n    assert all(map(lambda n: candidate(n) == 1, [1, 2]))"
    verdict = check_function(code, "f", test=test)
    assert not verdict.passed
    assert error in verdict.reason


@needs_bubblewrap
def test_tests_that_swallow_everything_do_not_swallow_the_end_of_the_program() -> None:
    test = "def check(candidate):\n    try:\n        candidate(1)\n    except:\n        pass\n"
    assert not check_function("import os\ndef f(x): os._exit(0)", "f", test=test).passed
    assert check_function("def f(x): return 1 / 0", "f", test=test).passed  # as they want it


@needs_bubblewrap
def test_tests_that_never_call_the_function_pass_nothing() -> None:
    verdict = check_function("def f(): pass", "f", test="def check(candidate):\n    assert True")
    assert (verdict.passed, verdict.reason) == (False, "the tests never call f")


REASONS = [
    ("def f(x): return x + 1", "case 2: expected 3, got 4"),
    ("g = 3", "no function named f, nor any other"),
    ("f = 3", "no function named f"),
    ("def f(x: return", "the code does not run: SyntaxError: "),
    ("import nothing_like_it", "the code does not run: ModuleNotFoundError: "),
    ("def f(x): return {}[x]", "case 1: f(1) raised KeyError: 1"),
    ("def f(x): return bytearray(10**10)", "used more than 512 MiB of memory"),
    ("x = bytearray(10**10)", "used more than 512 MiB of memory"),
    ("def f(x): return lambda: x", "case 1: f(1) raised TypeError: function objects are not "),
    ("def f(x):\n    while True: print('x' * 9999)", "printed more than 1024 KiB"),
    ("import ctypes\ndef f(x): ctypes.string_at(0)", "ended before it answered call 1 (SIGSEGV)"),
    ("import os; os._exit(7)", "ended while it was loaded (exit status 7)"),
    ("def f(x): return 'x' * (17 << 20)", "answered with more than 16 MiB"),
    ("import time\ndef f(x): time.sleep(60)", "timed out after 0.7 s"),
]


@needs_bubblewrap
@pytest.mark.parametrize(("code", "reason"), REASONS)
def test_a_verdict_says_why(code: str, reason: str) -> None:
    cases = [{"args": [1], "expected": 2}, {"args": [3], "expected": 3}]
    limits = Limits(seconds=0.7 if "sleep" in code else 10)
    verdict = check_function(code, "f", cases, limits=limits)
    assert not verdict.passed
    assert verdict.reason.startswith(reason)


@needs_bubblewrap
def test_a_failed_assert_is_shown_with_what_the_call_gave() -> None:
    test = (
        "def check(candidate):\n    assert candidate(1) == 1\n    assert candidate('ab') == 'ba'\n"
    )
    verdict = check_function("def f(x):\n    print('hi', x)\n    return x", "f", test=test)
    assert verdict.reason == "test line 3: assert candidate('ab') == 'ba'; f('ab') gave 'ab'"
    assert verdict.output == "hi 1\nhi ab\n"


@needs_bubblewrap
@pytest.mark.parametrize(
    ("code", "entry_point", "test"),
    [
        ("def f(x): x.sort()", "f", "a = [2, 1]\nf(a)\nassert a == [1, 2]"),
        ("def f(d, k): del d[k]", "f", "a = {1: 2}\ncandidate(a, k=1)\nassert a == {}"),
        (
            "class Solution:\n    def add(self, a, b): return a + b",
            "Solution.add",
            "def check(candidate):\n    assert candidate(1, 2) == 3",
        ),
        (
            "def f(x): raise Missing(x)",
            "f",
            "try:\n    f('a')\nexcept Missing as error:\n    text = str(error)\nassert text == 'a'",
        ),
        (
            "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: 'int'\n"
            "def f(x):\n    yield P(x).x",
            "f",
            "assert list(f(1)) == [1]",
        ),
        ("def f(x): return helper(x)", "f", "assert f(3) == helper(3) == 6"),
    ],
    ids=[
        "in place",
        "a dict in place",
        "a method",
        "an error of the setup",
        "an iterator",
        "setup",
    ],
)
def test_tests_see_the_function_as_if_it_ran_beside_them(
    code: str, entry_point: str, test: str
) -> None:
    setup = "class Missing(Exception): pass\ndef helper(x): return 2 * x\ndef f(x): ..."
    verdict = check_function(code, entry_point, test=test, setup=setup)
    assert verdict.passed, verdict.reason


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.decimals(allow_nan=False)
    | st.fractions(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.sets(st.integers() | st.text(), max_size=4)
        | st.frozensets(st.tuples(st.integers(), st.booleans()), max_size=3)
        | st.dictionaries(st.integers() | st.text() | st.tuples(st.text()), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(deadline=None, max_examples=100)
@given(PLAIN)
def test_plain_data_keeps_its_value_and_types_as_json(value: Any) -> None:
    there = decode(encode(value))
    assert same(there, value)
    assert repr(there) == repr(value) or isinstance(value, (set, frozenset, dict, list, tuple))


@needs_bubblewrap
@settings(deadline=None, max_examples=5)
@given(st.lists(PLAIN, min_size=1, max_size=30))
def test_what_a_good_solution_returns_comes_back_equal(values: list[Any]) -> None:
    cases = [{"args": [value], "expected": value} for value in values]
    verdict = check_function("def f(x): return x", "f", cases)
    assert verdict.passed, verdict.reason


@pytest.mark.parametrize(
    "value",
    [
        float("inf"), -0.0, 10**5000, -(2**4000), (1, [2, (3,)]), {(1, 2): {3}}, b"\x00\xff",
        bytearray(b"x"), 1 + 2j, range(1, 9, 2), deque([1]), "\ud800", Decimal("1.10"),
        Fraction(1, 3), frozenset({1}), {True: 1, "a": None},
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_each_kind_of_plain_data_keeps_its_type(value: Any) -> None:
    there = decode(encode(value))
    assert (type(there), there) == (type(value), value)


@pytest.mark.parametrize(
    ("found", "wanted", "equal"),
    [
        (0.1 + 0.2, 0.3, True), (0.3001, 0.3, False), (float("nan"), float("nan"), True),
        (10**400, 1.0, False), (float("inf"), float("inf"), True), (3, 3.0, True),
        ([1, 2], (1, 2), True), ([0.1 + 0.2], [0.3], True), ({"a": 0.1 + 0.2}, {"a": 0.3}, True),
        ({"a": 1}, {"b": 1}, False), (True, 1, True), ("1", 1, False), ([1], [1, 2], False),
        (0.0, 1e-9, True),
    ],
)  # fmt: skip
def test_values_are_compared_as_python_does_but_floats_with_a_tolerance(
    found: Any, wanted: Any, equal: bool
) -> None:
    assert same(found, wanted) is equal


@pytest.mark.parametrize(
    "data",
    [["nothing", 1], ["list"], ["int", "zz"], {"a": 1}, ["list", 3], ["Decimal", "x"], [[], 1]],
)
def test_what_is_not_data_is_refused(data: Any) -> None:
    with pytest.raises((ValueError, TypeError, ArithmeticError)):
        decode(data)
