"""Solutions in an assistant's replies: the code or the number, found and checked.

Numbers are read as GSM8K writes and graders read them (arXiv 2110.14168): `#### 18`, a boxed
number, "the answer is 18", else the last number of the reply. Code is read from fenced blocks.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

from userlm_synth.benchmark.sandbox import Limits, Sandbox, require_sandbox
from userlm_synth.benchmark.unit_tests import Verdict, check_function
from userlm_synth.errors import UserError

NOTHING = "no solution in the reply"
PARSED = 50_000  # characters of a reply that are read as code where it has no fence
TRIALS = 8  # cuts at a line that is not code
CLOSE = Fraction(1, 10**6)  # relative difference of equal numbers

OPENING = re.compile(r"(?:[-*+]\s+|\d+[.)]\s+)?(`{3,}|~{3,})\s*([\w+#.-]*)[^`]*")
PYTHON = ("", "py", "py3", "python", "python3", "pycon", "ipython")
STATEMENT = re.compile(r"(?:@\w|(?:async def|def|class|import|from)\s+\w)")

# Every repetition is bounded: a model may write digits without end.
NUMBER = re.compile(
    r"(?P<sign>(?:(?<![\w.)\]])-)?(?:\$\s?-?)?)"
    r"(?:(?P<mixed>\d{1,9})\s+(?=\d{1,9}\s?/\s?\d))?"
    r"(?P<whole>(?:\d{1,3}(?:,\d{3}){1,20}(?!,?\d)|\d{1,60})(?:\.\d{1,60})?|\.\d{1,60})"
    r"(?:[eE](?P<power>[+-]?\d{1,2})(?!\w)|\s?/\s?(?P<under>\d{1,60})(?!\.?\d))?"
)
MARKED = re.compile(r"^[ \t]*####[ \t]*([^\nA-Za-z]*)$", re.MULTILINE)  # not a heading
ANSWER = re.compile(r"(?i)\banswer\b[^\n.:=]{0,60}?(?:\bis\b|\bwas\b|:|=)[\s:*]{0,9}")
CLAIM_ENDS = re.compile(r"\n|\.\s|\s\(")
MARKS = (
    (re.compile(r"\\[()\[\]!,;: ]"), ""),
    (re.compile(r"(?<=\d)\\[dt]?frac\{([^{}]{1,99})\}\{([^{}]{1,99})\}"), r" \1/\2"),
    (re.compile(r"\\[dt]?frac\{([^{}]{1,99})\}\{([^{}]{1,99})\}"), r"\1/\2"),
    (re.compile(r"\\(?:text|mathrm|mathbf)\{([^{}]{0,99})\}"), r" \1 "),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\([$%])"), r"\1"),
    (re.compile(r"[*_`]{1,3}"), " "),
    (re.compile("[\u2212\u2012\u2013](?=[$\\d.])"), "-"),
)


# --- numbers ----------------------------------------------------------------------------------


def extract_number(reply: str) -> Fraction | None:
    """The number that a reply gives as its answer, exactly; None where it has none.

    Of several marks of the strongest kind the last one counts, as people correct themselves.
    """
    for place in places(reply):
        numbers = list(read_numbers(place))
        if numbers:
            return numbers[-1]
    return None


def places(reply: str) -> Iterator[str]:
    """Where to look for the answer, the surest place first; the number is the last one there."""
    if marked := MARKED.findall(reply):
        yield first_number(marked[-1])
    if box := boxed(reply):
        yield box
    if said := list(ANSWER.finditer(reply)):
        claim = CLAIM_ENDS.split(plainly(reply[said[-1].end() :]), maxsplit=1)[0]
        yield first_number(claim.rpartition("=")[2])  # 3 + 15 = 18
    yield reply


def first_number(text: str) -> str:
    """The text up to the end of its first number: `18 eggs in 7 days` says 18."""
    plain = plainly(text)
    found = NUMBER.search(plain)
    return plain[: found.end()] if found else ""


def boxed(reply: str) -> str:
    r"""What the last \boxed{...} holds, braces within it included."""
    _, mark, inside = reply.rpartition(r"\boxed{")
    if not mark:
        return ""
    depth = 1
    for at, letter in enumerate(inside):
        depth += (letter == "{") - (letter == "}")
        if depth == 0:
            return inside[:at]
    return inside


def plainly(text: str) -> str:
    """The text without the marks of LaTeX and Markdown that stand around or in numbers."""
    for pattern, plain in MARKS:
        text = pattern.sub(plain, text)
    return text


def read_numbers(text: str) -> Iterator[Fraction]:
    """Every number of a text: 1,200  $-3.50  25%  3/4  2 1/2  1e6  -7."""
    for found in NUMBER.finditer(plainly(text)):
        value = Fraction(found["whole"].replace(",", ""))
        if found["power"]:
            value *= Fraction(10) ** int(found["power"])
        under = int(found["under"] or 1)
        if under:
            value = value / under + int(found["mixed"] or 0)
            yield -value if "-" in found["sign"] else value


def same_number(found: Fraction | None, wanted: str | int | float | Fraction) -> bool:
    """Whether a number is the wanted one, but for rounding in the seventh place."""
    goal = wanted if isinstance(wanted, Fraction) else extract_number(str(wanted))
    if goal is None:
        raise ValueError(f"{wanted!r} holds no number")
    return found is not None and abs(found - goal) <= CLOSE * abs(goal)


# --- code -------------------------------------------------------------------------------------


def extract_code(reply: str) -> list[str]:
    """The programs that a reply may mean: its fenced blocks, all together first, then each alone.

    Without a fence it is the reply itself, from its first statement on, where that is Python and
    defines something.
    """
    blocks = [block for block in fenced(reply) if block.strip()]
    if not blocks:
        return [code] if (code := bare_code(reply)) else []
    blocks = list(dict.fromkeys(blocks))
    return ["\n\n".join(blocks), *blocks] if len(blocks) > 1 else blocks


def fenced(reply: str) -> Iterator[str]:
    """The text of each fenced block that may be Python; the last fence may be left open."""
    lines = iter(reply.splitlines())
    for line in lines:
        opening = OPENING.fullmatch(line.strip())
        if not opening:
            continue
        mark, language = opening[1], opening[2].lower()
        block = []
        for inner in lines:
            if inner.strip().startswith(mark) and not inner.strip().strip(mark[0]):
                break
            block.append(inner)
        if language in PYTHON:
            yield without_prompts(textwrap.dedent("\n".join(block)))


def without_prompts(code: str) -> str:
    """A session of the interpreter as a program: what was typed, not what it printed."""
    lines = code.splitlines()
    if not any(line.startswith(">>> ") for line in lines):
        return code
    return "\n".join(line[4:] for line in lines if line.startswith((">>> ", "... ")))


def bare_code(reply: str) -> str:
    """Python without a fence: from the first line that starts a statement to where prose begins."""
    lines = reply[:PARSED].splitlines()
    start = next((at for at, line in enumerate(lines) if STATEMENT.match(line)), len(lines))
    lines = lines[start:]
    for _ in range(TRIALS):
        bad = first_bad_line("\n".join(lines))
        if bad is None:
            break
        lines = lines[: bad - 1]
    else:
        return ""
    code = "\n".join(lines).strip("\n")
    return code if re.search(r"^(?:async def|def|class)\s", code, re.MULTILINE) else ""


def first_bad_line(code: str) -> int | None:
    """The line where Python stops to understand; None where it does not stop. Nothing is run."""
    # an escape that Python does not know would warn on standard error
    plain = re.sub(r"\\.", "xx", code)
    try:
        ast.parse(plain)
    except SyntaxError as error:
        return max(1, error.lineno or 1)
    except (ValueError, RecursionError, MemoryError):  # a NUL, a nest too deep
        return 1
    return None


# --- checks -----------------------------------------------------------------------------------


class Checker:
    """Checks replies against tasks; the same code for the same task is run once.

    Without a `sandbox` the first code task asks for bubblewrap. Threads may share a checker.
    """

    def __init__(self, limits: Limits | None = None, sandbox: Sandbox | None = None) -> None:
        self.limits = limits or Limits()
        self.sandbox = sandbox
        self._known: dict[tuple[str, str], Verdict] = {}

    def check(self, task: Mapping[str, Any], reply: str) -> Verdict:
        """Whether a solution in the reply passes the task's check."""
        check = task["check"]
        if task["domain"] == "math":
            found = extract_number(reply)
            return number_verdict(found, check["answer"])
        programs = extract_code(reply)
        if not programs:
            return Verdict(False, NOTHING, attempted=False)
        return self._first_passing(task, programs)

    def check_code(self, task: Mapping[str, Any], code: str) -> Verdict:
        """Whether a program passes the tests of a code task."""
        key = (str(task["id"]), code)
        if key not in self._known:
            check = task["check"]
            self._known[key] = check_function(
                code,
                check["entry_point"],
                check.get("cases"),
                test=check.get("test"),
                setup=check.get("setup", ""),
                limits=self.limits,
                sandbox=self.sandbox or require_sandbox(),
            )
        return self._known[key]

    def _first_passing(self, task: Mapping[str, Any], programs: list[str]) -> Verdict:
        """The verdict of the first program that passes, else of the first that is likely."""
        name = task["check"]["entry_point"].split(".")[0]
        likely = [code for code in programs if re.search(rf"\b{re.escape(name)}\b", code)]
        likely = likely or [code for code in programs if re.search(r"^def ", code, re.MULTILINE)]
        if not likely:
            return Verdict(
                False, f"no function named {task['check']['entry_point']}, nor any other"
            )
        first: Verdict | None = None
        for code in likely:
            verdict = self.check_code(task, code)
            if verdict.passed:
                return verdict
            first = first or verdict
        assert first is not None
        return first


def number_verdict(found: Fraction | None, wanted: str | int | float) -> Verdict:
    """The verdict on the number of a math answer."""
    if found is None:
        return Verdict(False, NOTHING, attempted=False)
    if same_number(found, wanted):
        return Verdict(True)
    return Verdict(False, f"expected {wanted}, got {shown(found)}")


def shown(number: Fraction) -> str:
    """A number as people write it."""
    if number.denominator == 1:
        return str(number.numerator)
    return f"{float(number):.10g}"


def check_reference(task: Mapping[str, Any], checker: Checker) -> None:
    """A task whose own solution fails its tests is no task: a `UserError` says so. One that has no
    solution is taken as it is."""
    solution = task["check"].get("solution")
    if solution is None:
        return
    if task["domain"] == "math":
        verdict = number_verdict(extract_number(str(solution)), task["check"]["answer"])
    else:
        verdict = checker.check_code(task, str(solution))
    if not verdict.passed:
        raise UserError(
            f"{task['id']}: the reference solution fails its own tests: {verdict.reason}"
        )
