"""What runs inside the sandbox: a program, a function that answers calls, or the tests that call.

`sandbox` hands the source of this file to a bare interpreter, so it needs the standard library
alone. Tests and function are two sandboxes that share two pipes and nothing else: values go over
them as plain data, so that the function can answer wrongly but cannot reach the verdict.
"""

from __future__ import annotations

import builtins
import json
import math
import os
import sys
import types
from collections import deque
from itertools import islice

TYPE_CHECKING = False  # typing itself would double the time to start
if TYPE_CHECKING:
    from typing import IO, Any

ANSWER_BYTES = 16 << 20  # of one call or answer
ITEMS = 1_000_000  # of an iterator that a function returns
SHOWN = 100  # characters of a value in a reason
SEQUENCES: dict[str, Any] = {
    "list": list, "tuple": tuple, "set": set, "frozenset": frozenset, "deque": deque
}  # fmt: skip
NUMBERS = {"Decimal": "decimal", "Fraction": "fractions"}  # and their modules


# --- values as JSON ---------------------------------------------------------------------------


def encode(value: Any) -> Any:
    """A Python value as JSON that keeps its type; TypeError where it is not plain data."""
    if value is None or isinstance(value, (bool, float, str)):
        return value
    if isinstance(value, int):  # json reads no more than 4,300 decimal digits
        return value if value.bit_length() < 1000 else ["int", hex(value)]
    if isinstance(value, complex):
        return ["complex", [value.real, value.imag]]
    if isinstance(value, (bytes, bytearray)):
        return ["bytes" if isinstance(value, bytes) else "bytearray", value.hex()]
    if isinstance(value, dict):
        return ["dict", [[encode(key), encode(one)] for key, one in value.items()]]
    for name, kind in SEQUENCES.items():
        if isinstance(value, kind):
            return [name, [encode(one) for one in value]]
    if isinstance(value, range):
        return ["range", [value.start, value.stop, value.step]]
    name = type(value).__name__
    if name in NUMBERS and type(value).__module__ == NUMBERS[name]:
        return [name, str(value)]
    if hasattr(value, "__next__"):
        return ["iterator", [encode(one) for one in islice(value, ITEMS)]]
    raise TypeError(f"{name} objects are not plain data, which alone leaves the sandbox")


def decode(data: Any) -> Any:
    """The value that `encode` was given; nothing in `data` can make it run code."""
    if not isinstance(data, list):
        if isinstance(data, dict):
            raise ValueError("an object where a value should be")
        return data
    name, content = data
    if name in SEQUENCES:
        return SEQUENCES[name](decode(one) for one in content)
    if name == "dict":
        return {decode(key): decode(one) for key, one in content}
    if name == "int":
        return int(content, 16)
    if name == "complex":
        return complex(*content)
    if name in ("bytes", "bytearray"):
        return (bytes if name == "bytes" else bytearray).fromhex(content)
    if name == "range":
        return range(*content)
    if name in NUMBERS:
        return getattr(__import__(NUMBERS[name]), name)(str(content))
    if name == "iterator":
        return iter([decode(one) for one in content])
    raise ValueError(f"{name!r} is no kind of value")


def same(found: Any, wanted: Any) -> bool:
    """Python's ==, but floats within 1e-6 (relative or absolute), NaN is NaN, and a tuple is the
    list of its items, which is all that a file of tasks can say."""
    if isinstance(wanted, float) and isinstance(found, (int, float)):
        if math.isnan(wanted):
            return math.isnan(found)
        try:
            return math.isclose(found, wanted, rel_tol=1e-6, abs_tol=1e-6)
        except OverflowError:  # an int beyond all floats
            return False
    if isinstance(wanted, (list, tuple)) and isinstance(found, (list, tuple)):
        return len(found) == len(wanted) and all(map(same, found, wanted))
    if isinstance(wanted, dict) and isinstance(found, dict):
        return found.keys() == wanted.keys() and all(same(found[at], wanted[at]) for at in wanted)
    return bool(found == wanted)


def short(value: Any) -> str:
    """A value as a reader wants to see it in one line."""
    try:
        text = repr(value)
    except Exception:  # an int of too many digits, a nest too deep
        text = f"<{type(value).__name__}>"
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def send(pipe: IO[bytes], message: Any) -> None:
    """Write one message: its length in four bytes, and its JSON."""
    body = json.dumps(message).encode()
    pipe.write(len(body).to_bytes(4, "big") + body)
    pipe.flush()


def receive(pipe: IO[bytes]) -> Any:
    """Read one message; EOFError at the end of the pipe, ValueError where it is none."""
    head = pipe.read(4)
    size = int.from_bytes(head, "big")
    if size > ANSWER_BYTES:
        raise ValueError(f"answered with more than {ANSWER_BYTES >> 20} MiB")
    body = pipe.read(size)
    if len(head) < 4 or len(body) < size:
        raise EOFError
    return json.loads(body)


# --- the side of the function, which is not trusted ------------------------------------------


def answer(job: dict[str, Any]) -> None:
    """Load the function, say how that went, and answer calls until nobody asks any more."""
    calls, answers = open(job["calls"], "rb"), open(job["answers"], "wb")  # noqa: SIM115, PTH123
    loaded: list[Any] = []

    def load() -> None:
        loaded.append(load_function(job["setup"], job["code"], job["entry_point"]))

    send(answers, outcome(load, [], {}))
    while loaded:
        try:
            args, kwargs = receive(calls)
        except EOFError:
            return
        send(answers, outcome(loaded[0], args, kwargs))


def load_function(setup: str, code: str, entry_point: str) -> Any:
    """The function of that name; of `Class.method`, the method of a new object of the class.

    Where a program has no such name, its last function is taken: users often never say what a
    function is to be called, and its name is not what is tested (as in Lost in Conversation).
    """
    module = types.ModuleType("solution")
    sys.modules["solution"] = module  # dataclasses look their module up
    exec(compile(setup, "<setup>", "exec", dont_inherit=True), module.__dict__)
    first, *rest = entry_point.split(".")
    module.__dict__.pop(first, None)  # a stub with the signature is not a solution
    exec(compile(code, "<solution>", "exec", dont_inherit=True), module.__dict__)
    if first not in module.__dict__:
        return last_function(code, module, entry_point)
    found = module.__dict__[first]
    for name in rest:
        found = getattr(found() if isinstance(found, type) else found, name, None)
    if not callable(found):
        raise LookupError(f"no function named {entry_point}")
    return found


def last_function(code: str, module: types.ModuleType, entry_point: str) -> Any:
    """The function that a program defines last, at its top level."""
    import ast  # seldom needed, and every start counts

    names = [one.name for one in ast.parse(code).body if isinstance(one, ast.FunctionDef)]
    found = module.__dict__.get(names[-1]) if names else None
    if not callable(found):
        raise LookupError(f"no function named {entry_point}, nor any other")
    return found


def outcome(function: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """What a call with encoded arguments came to, as a message.

    Its value and the arguments that it changed in place, by their position; or its error.
    """
    try:
        given = [decode(one) for one in args]
        value = encode(function(*given, **{name: decode(one) for name, one in kwargs.items()}))
        after = [(at, encode(one)) for at, one in enumerate(given) if is_mutable(one)]
        return ["value", value, [[at, one] for at, one in after if one != args[at]]]
    except BaseException as error:
        return ["raise", [kind.__name__ for kind in type(error).__mro__], str(error)]


def is_mutable(value: Any) -> bool:
    """Whether a call may change the value in place."""
    return isinstance(value, (list, dict, set, bytearray, deque))


# --- the side of the tests, which has the verdict ---------------------------------------------


class Ended(BaseException):
    """The function cannot be asked any more; no test may take this for an error of its own."""


class Candidate:
    """The function, as the tests see it: each call goes over to its sandbox and comes back."""

    def __init__(self, job: dict[str, Any], known: dict[str, Any]) -> None:
        self.name = job["entry_point"]
        self.too_much = f"used more than {job['limits']['memory'] >> 20} MiB of memory"
        self.known = known  # names of the tests, for exceptions that they define
        self.calls = 0
        self.last = ""  # what the last call came to
        self.ended = ""  # why there are no more answers
        self._to = open(job["calls"], "wb")  # noqa: SIM115, PTH123
        self._from = open(job["answers"], "rb")  # noqa: SIM115, PTH123

    def load(self) -> str:
        """Why the function could not be loaded, or nothing."""
        state, *rest = self._receive()
        if state == "value":
            return ""
        kinds, text = rest
        if kinds[0] == "LookupError":
            return str(text)
        if kinds[0] == "MemoryError":
            return self.too_much
        return f"the code does not run: {kinds[0]}: {text}"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        request = [[encode(one) for one in args], {k: encode(v) for k, v in kwargs.items()}]
        try:
            send(self._to, request)
        except BrokenPipeError:  # what it said before it ended is still in the other pipe
            self.ended = "ended"
        state, *rest = self._receive()
        shown = [*map(short, args), *(f"{name}={short(one)}" for name, one in kwargs.items())]
        call = f"{self.name}({', '.join(shown)})"
        if state == "raise":
            raise self._error(call, *rest)
        try:
            value = decode(rest[0])
            for at, changed in rest[1]:
                replace(args[at], decode(changed))
        except (ArithmeticError, LookupError, TypeError, ValueError, RecursionError) as error:
            raise self._end(f"answered with something that is not data: {error}") from None
        self.last = f"{call} gave {short(value)}"
        return value

    def _receive(self) -> Any:
        try:
            message = receive(self._from)
            if message[0] not in ("value", "raise") or len(message) != 3:
                raise ValueError("answered with something that is not data")
            return message
        except EOFError:
            raise self._end("") from None
        except (LookupError, TypeError, ValueError, RecursionError) as error:
            raise self._end(str(error)) from None

    def _end(self, reason: str) -> Ended:
        early = f"before it answered call {self.calls}" if self.calls else "while it was loaded"
        self.ended = reason or f"ended {early}"
        return Ended(self.ended)

    def _error(self, call: str, kinds: Any, text: Any) -> Exception:
        """The nearest exception that the tests know; StopIteration, not: it ends loops quietly."""
        self.last = f"{call} raised {kinds[0]}: {text}"
        for name in kinds:
            kind = self.known.get(name) or getattr(builtins, str(name), None)
            if (
                isinstance(kind, type)
                and issubclass(kind, Exception)
                and not issubclass(kind, (StopIteration, StopAsyncIteration))
            ):
                try:
                    return kind(text)
                except TypeError:
                    continue
        return RuntimeError(f"{kinds[0]}: {text}")


def replace(old: Any, new: Any) -> None:
    """Give a list, dict, set, deque or bytearray the content that a call left in it."""
    if type(old) is not type(new) or not is_mutable(old):
        raise ValueError("a changed argument of another type")
    old.clear()
    (old.update if isinstance(old, (dict, set)) else old.extend)(new)


def judge(job: dict[str, Any]) -> None:
    """Run the tests and write the verdict where only this process can."""
    names: dict[str, Any] = {"__name__": "tests"}
    candidate = Candidate(job, names)
    try:
        reason = candidate.load() or tried(job, candidate, names)
    except Ended:
        reason = candidate.ended
    if not reason:
        reason = candidate.ended or (
            "" if candidate.calls else f"the tests never call {candidate.name}"
        )
    with open(job["report"], "wb") as report:  # noqa: PTH123
        verdict = {"passed": not reason, "reason": reason, "ended": bool(candidate.ended)}
        report.write(json.dumps(verdict).encode())


def tried(job: dict[str, Any], candidate: Candidate, names: dict[str, Any]) -> str:
    """The first test that fails, in a line; nothing where all pass."""
    try:
        if job["cases"] is not None:
            return first_wrong_case(job["cases"], candidate)
        exec(compile(job["setup"], "<setup>", "exec", dont_inherit=True), names)
        names[candidate.name] = names["candidate"] = candidate
        exec(compile(job["test"], "<tests>", "exec", dont_inherit=True), names)
        if callable(check := names.get("check")):
            check(candidate)
        return ""
    except Exception as error:
        return explain(error, job["test"] or "", candidate)
    except (SystemExit, KeyboardInterrupt) as error:
        return f"the tests ended themselves ({type(error).__name__})"


def first_wrong_case(cases: list[Any], candidate: Candidate) -> str:
    """The first case with another value than expected, or with an error."""
    for number, case in enumerate(cases, 1):
        args, kwargs, wanted = (decode(case[part]) for part in ("args", "kwargs", "expected"))
        try:
            found = candidate(*args, **kwargs)
        except MemoryError:
            raise
        except Exception:
            return f"case {number}: {candidate.last}"
        if not same(found, wanted):
            return f"case {number}: expected {short(wanted)}, got {short(found)}"
    return ""


def explain(error: Exception, test: str, candidate: Candidate) -> str:
    """Where the tests failed, and what the last call had come to."""
    if isinstance(error, MemoryError):
        return candidate.too_much
    line, trace = getattr(error, "lineno", 0) or 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<tests>":
            line = trace.tb_lineno
        trace = trace.tb_next
    lines = test.splitlines()
    text = lines[line - 1].strip()[:SHOWN] if 0 < line <= len(lines) else ""
    kind = "" if isinstance(error, AssertionError) else f" ({type(error).__name__}: {error})"
    last = f"; {candidate.last}" if candidate.last else ""
    return f"test line {line}: {text}{kind}{last}"


# --- the start of every sandbox ----------------------------------------------------------------


def set_limits(limits: dict[str, int]) -> None:
    """Lower what the system allows this process, for good; macOS has no such limit on memory."""
    import resource

    wanted = {
        resource.RLIMIT_CPU: (limits["cpu_seconds"], limits["cpu_seconds"] + 1),
        resource.RLIMIT_NOFILE: (limits["files"],) * 2,
        resource.RLIMIT_FSIZE: (limits["disk"],) * 2,
        resource.RLIMIT_CORE: (0, 0),
    }
    if sys.platform != "darwin":
        wanted[resource.RLIMIT_AS] = (limits["memory"],) * 2
        wanted[resource.RLIMIT_NPROC] = (limits["threads"],) * 2
    for name, pair in wanted.items():
        ceiling = resource.getrlimit(name)[1]
        if ceiling != resource.RLIM_INFINITY:
            pair = (min(pair[0], ceiling), min(pair[1], ceiling))
        resource.setrlimit(name, pair)


def program(job: dict[str, Any]) -> None:
    """Run a program as `python program.py` would."""
    code = compile(job["code"], "<program>", "exec", dont_inherit=True)
    exec(code, {"__name__": "__main__", "__builtins__": builtins})


def main() -> None:
    """Read the job from standard input, lower the limits, and do it."""
    with open(0, "rb") as file:
        job = json.loads(file.read())
    os.open(os.devnull, os.O_RDONLY)  # the lowest free number: standard input again
    sys.stdin = open(0)  # noqa: SIM115
    sys.path[:] = [path for path in sys.path if path]
    set_limits(job["limits"])
    os.write(job["report"], b"ready\n")
    if job["role"] == "judge":
        judge(job)
        return
    os.close(job["report"])  # before anything untrusted runs
    {"program": program, "answer": answer}[job["role"]](job)


if __name__ == "__main__":
    main()
