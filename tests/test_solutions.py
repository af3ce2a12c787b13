"""Facts about solutions: how they are found in replies, and how they are checked."""

from __future__ import annotations

import gzip
import json
import os
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from userlm_synth.benchmark import solutions
from userlm_synth.benchmark.sandbox import UNPROTECTED, Limits, find_sandbox
from userlm_synth.benchmark.solutions import (
    Checker,
    check_reference,
    extract_code,
    extract_number,
    same_number,
)
from userlm_synth.benchmark.unit_tests import check_function
from userlm_synth.errors import UserError

needs_bubblewrap = pytest.mark.skipif(
    find_sandbox() is None, reason="bubblewrap (bwrap) is not installed or does not work here"
)


# --- numbers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "number"),
    [
        ("She sells 9 eggs.\nShe makes 9 * 2 = $<<9*2=18>>18 a day.\n#### 18", 18),
        ("#### 1,200\nThat was 3 times 400.", 1200),
        ("#### Step 2: sum up\nTogether they have 7 eggs.", 7),
        ("#### -5", -5),
        (r"So \boxed{18} eggs, in 7 days.", 18),
        (r"First \boxed{3}, no: \boxed{4}.", 4),
        (r"\boxed{\text{18 eggs}}", 18),
        (r"\boxed{\frac{3}{4}}", Fraction(3, 4)),
        (r"\boxed{-\dfrac{3}{4}}", Fraction(-3, 4)),
        (r"\boxed{2\frac{1}{2}}", Fraction(5, 2)),
        (r"\boxed{\$1{,}080}", 1080),
        (r"\[ x = 18 \]", 18),
        (r"The answer is \(18\) for 7 days.", 18),
        ("The answer is 18 because there are 7 days.", 18),
        ("**Answer:** $18.50 (for 3 people)", Fraction(37, 2)),
        ("The final answer is 3 * 6 = 18.", 18),
        ("The answer is:\n\n42", 42),
        ("The answer is 5. Wait, no. The answer is 6.", 6),
        ("The answer is not clear to me, but there are 12 eggs.", 12),
        ("They drive 60 miles in 2 hours, so 30 miles per hour", 30),
        ("It costs $1,234,567.89.", Fraction(123456789, 100)),
        ("That is 25%.", 25),
        ("It is -$3.50", Fraction(-7, 2)),
        ("It is $-3.50", Fraction(-7, 2)),
        ("\u22127 degrees", -7),
        ("between 5-10", 10),
        ("- 18 apples", 18),
        ("3/4 of a cup", Fraction(3, 4)),
        ("2 1/2 cups", Fraction(5, 2)),
        ("1.5e3 m", 1500),
        (".5", Fraction(1, 2)),
        ("**18**", 18),
        ("`18`", 18),
        ("18 / 0 is not a number", None),
        ("How many eggs does she have?", None),
        ("", None),
    ],
)
def test_the_number_of_an_answer_is_found(reply: str, number: int | Fraction | None) -> None:
    assert extract_number(reply) == number


@given(st.integers(-(10**12), 10**12), st.sampled_from(["{}", "{:,}", "${:,}.", "**{}** eggs"]))
def test_a_whole_number_is_read_however_it_is_written(number: int, form: str) -> None:
    written = form.format(number)
    assert extract_number(written) == number
    assert extract_number(f"1 + 2 = 3. The answer is {written} in 7 days") == number


@pytest.mark.parametrize(
    ("found", "wanted", "same"),
    [
        ("18.0", "18", True), ("18", 18, True), ("1,200", "1200", True), ("0.75", "3/4", True),
        ("33.33333333", "100/3", True), ("33.3", "100/3", False), ("-18", "18", False),
        ("0", "0", True), ("0.0000001", "0", False), ("none", "18", False), ("$5", 5.0, True),
    ],
)  # fmt: skip
def test_numbers_are_the_same_but_for_rounding(
    found: str, wanted: str | int | float, same: bool
) -> None:
    assert same_number(extract_number(found), wanted) is same


def test_a_reply_without_a_number_made_no_attempt() -> None:
    task = {"id": "m", "domain": "math", "check": {"answer": "18"}}
    verdict = Checker().check(task, "How many eggs does she have?")
    assert (verdict.passed, verdict.attempted) == (False, False)
    assert verdict.reason == "no solution in the reply"
    assert Checker().check(task, "So it is 18.").passed
    wrong = Checker().check(task, "So it is 18.5.")
    assert (wrong.passed, wrong.attempted) == (False, True)
    assert wrong.reason == "expected 18, got 18.5"


def test_the_gold_answers_of_gsm8k_are_read() -> None:
    folder = os.environ.get("USERLM_SYNTH_DATA")
    if not folder:
        pytest.skip("USERLM_SYNTH_DATA names no folder with gsm8k_test.jsonl.gz")
    with gzip.open(Path(folder) / "gsm8k_test.jsonl.gz", "rt", encoding="utf-8") as lines:
        answers = [json.loads(line)["answer"] for line in lines]
    gold = [Fraction(answer.split("#### ")[1].replace(",", "")) for answer in answers]
    assert [extract_number(answer) for answer in answers] == gold
    without = [answer.split("#### ")[0] for answer in answers]
    read = [extract_number(text) for text in without]
    right = sum(map(same_number, read, gold))
    assert right > 0.97 * len(gold)  # the last number of the worked solution


# --- code -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "programs"),
    [
        ("Sure:\n```python\ndef f(): pass\n```\nDone.", ["def f(): pass"]),
        ("```\ndef f(): pass", ["def f(): pass"]),
        ("~~~py\ndef f(): pass\n~~~", ["def f(): pass"]),
        ("````python\nx = '''\n```\n'''\n````", ["x = '''\n```\n'''"]),
        ("1. So:\n   ```python\n   def f():\n       return 1\n   ```", ["def f():\n    return 1"]),
        ("- ```python\n  def f(): pass\n  ```", ["def f(): pass"]),
        ("```bash\npip install x\n```\n```python\na = 1\n```", ["a = 1"]),
        ("```py\na = 1\n```\nand\n```py\nb = 2\n```", ["a = 1\n\nb = 2", "a = 1", "b = 2"]),
        ("```py\na = 1\n```\nagain\n```py\na = 1\n```", ["a = 1"]),
        ("```python\n>>> a = [\n...     1]\n>>> a\n[1]\n```", ["a = [\n    1]\na"]),
        ("def f(x):\n    return x", ["def f(x):\n    return x"]),
        ("Here:\n\ndef f(x):\n    return x\n\nIt's simple.", ["def f(x):\n    return x"]),
        ("import re\ndef f(x): return re.sub('\\d', '', x)", None),
        ("from what I see, the class is full", []),
        ("Which name should the function have?", []),
        ("```\n\n```", []),
        ("x = 1", []),
        ("", []),
    ],
)  # fmt: skip
def test_the_programs_of_a_reply_are_found(reply: str, programs: list[str] | None) -> None:
    assert extract_code(reply) == ([reply] if programs is None else programs)


def test_reading_code_warns_of_nothing_and_runs_nothing(
    recwarn: pytest.WarningsRecorder, tmp_path: Path
) -> None:
    path = tmp_path / "written"
    code = f"def f(x='\\d'): return '\\q' if x is 'a' else 1\nopen({str(path)!r}, 'w')"
    assert extract_code(code) == [code]
    assert not path.exists()
    assert [str(one.message) for one in recwarn if "escape" in str(one.message)] == []


HOSTILE = [
    "1,111" * 20_000, "1" * 100_000, r"\frac{" * 20_000, "answer is " * 10_000, " " * 100_000,
    "`" * 100_000, "1/" * 50_000, "{" * 100_000, r"\boxed{" * 20_000, "####" * 30_000,
    "1e999 " * 10_000, "def f(): " + "(" * 50_000, "def f(): x" + ".y" * 20_000, "def f(): \0",
    "def f(): return " + "-" * 40_000 + "1", "def f(): '\ud800'", "```\n" * 30_000,
]  # fmt: skip


@pytest.mark.parametrize("reply", HOSTILE, ids=range(len(HOSTILE)))
def test_no_reply_takes_long_to_read(reply: str) -> None:
    start = time.process_time()
    extract_number(reply)
    extract_code(reply)
    assert time.process_time() - start < 3


# --- checks -----------------------------------------------------------------------------------

FACTORIAL = {
    "id": "factorial",
    "domain": "code",
    "check": {
        "entry_point": "factorial",
        "cases": [{"args": [n], "expected": value} for n, value in enumerate([1, 1, 2, 6, 24])],
        "solution": "import math\nfactorial = math.factorial",
    },
}
MIDDLE = {
    "id": "middle",
    "domain": "code",
    "check": {
        "entry_point": "middle",
        "setup": (
            "from typing import List, Tuple\n\n\ndef halves(numbers: List[float]) -> float:\n"
            '    return numbers[len(numbers) // 2]\n\n\ndef middle(numbers: "List[float]"):\n'
            '    """The middle number, and the mean of all."""\n'
        ),
        "test": (
            "METADATA = {'author': 'nobody'}\n\n\ndef check(candidate):\n"
            "    assert candidate([3.0, 1.0, 2.0]) == (2.0, 2.0)\n"
            "    assert abs(candidate([0.1, 0.2, 0.4])[1] - 0.7 / 3) < 1e-9\n"
            "    assert candidate([5])[0] == halves([5]), 'one number'\n"
            "    try:\n        candidate([])\n        assert False, 'no error'\n"
            "    except ZeroDivisionError:\n        pass\n"
        ),
        "solution": (
            "def middle(numbers: List[float]) -> Tuple[float, float]:\n"
            "    mean = sum(numbers) / len(numbers)\n"
            "    return halves(sorted(numbers)), mean\n"
        ),
    },
}


@needs_bubblewrap
def test_a_right_solution_passes_and_its_reference_too() -> None:
    checker = Checker()
    for task in (FACTORIAL, MIDDLE):
        check_reference(task, checker)
        verdict = checker.check(task, f"Sure!\n```python\n{task['check']['solution']}\n```\n")
        assert (verdict.passed, verdict.reason, verdict.attempted) == (True, "", True)


@needs_bubblewrap
def test_a_wrong_solution_says_what_it_gave() -> None:
    checker = Checker()
    wrong = checker.check(FACTORIAL, "```python\ndef factorial(n): return n\n```")
    assert (wrong.passed, wrong.reason) == (False, "case 1: expected 1, got 0")
    reply = "```python\ndef middle(x): return (x[1], sum(x) / len(x))\n```"
    wrong = checker.check(MIDDLE, reply)
    assert wrong.reason == (
        "test line 5: assert candidate([3.0, 1.0, 2.0]) == (2.0, 2.0); "
        "middle([3.0, 1.0, 2.0]) gave (1.0, 2.0)"
    )


@needs_bubblewrap
def test_one_block_in_several_may_be_the_solution() -> None:
    good = "```python\ndef factorial(n): return 1 if n < 2 else n * factorial(n - 1)\n```"
    bad = "```python\ndef factorial(n): return 0\n```"
    crash = "```python\nprint(factorial(3) + undefined)\n```"
    checker = Checker()
    assert checker.check(FACTORIAL, f"{good}\nUse it:\n{crash}").passed
    assert checker.check(FACTORIAL, f"{good}\nThis would be wrong:\n{bad}").passed
    parts = "```python\nimport math\n```\nthen\n```python\nfactorial = math.factorial\n```"
    assert checker.check(FACTORIAL, parts).passed


def test_a_reply_without_code_or_without_the_function_runs_nothing() -> None:
    checker = Checker(sandbox=UNPROTECTED)
    verdict = checker.check(FACTORIAL, "What should it be called?")
    assert (verdict.passed, verdict.attempted) == (False, False)
    assert verdict.reason == "no solution in the reply"
    verdict = checker.check(FACTORIAL, "```python\nother = 3\n```")
    assert (verdict.passed, verdict.attempted) == (False, True)
    assert verdict.reason == "no function named factorial, nor any other"
    assert checker._known == {}


def test_the_same_code_runs_once_for_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    real = solutions.check_function

    def counted(code: str, *args: Any, **options: Any) -> Any:
        runs.append(code)
        return real(code, *args, **options)

    monkeypatch.setattr(solutions, "check_function", counted)
    checker = Checker(sandbox=UNPROTECTED)
    code = "def factorial(n): return n"
    first = checker.check(FACTORIAL, f"```python\n{code}\n```")
    assert checker.check(FACTORIAL, f"Again:\n```\n{code}\n```") == first
    assert runs == [code]
    checker.check({**FACTORIAL, "id": "another"}, code)
    assert len(runs) == 2


def test_a_reference_that_fails_its_own_tests_is_an_error() -> None:
    checker = Checker(Limits(seconds=5), UNPROTECTED)
    wrong = {**FACTORIAL["check"], "solution": "def factorial(n): return n"}  # type: ignore[dict-item]
    with pytest.raises(UserError) as caught:
        check_reference({**FACTORIAL, "check": wrong}, checker)
    assert str(caught.value) == (
        "factorial: the reference solution fails its own tests: case 1: expected 1, got 0"
    )
    math = {"id": "m", "domain": "math", "check": {"answer": "18", "solution": "#### 17"}}
    with pytest.raises(
        UserError, match=r"^m: the reference solution fails its own tests: expected 18"
    ):
        check_reference(math, checker)
    math["check"] = {"answer": "1,200", "solution": 1200}
    check_reference(math, checker)


@pytest.mark.skipif(sys.platform.startswith("linux") and find_sandbox() is not None, reason="works")
def test_without_bubblewrap_a_code_task_is_an_error() -> None:
    with pytest.raises(UserError, match="apt install bubblewrap"):
        Checker().check(FACTORIAL, "```\nfactorial = 1\n```")


@needs_bubblewrap
@settings(max_examples=3, deadline=None)
@given(st.lists(st.integers(), max_size=30))
def test_a_function_that_sorts_is_right_about_any_list(numbers: list[int]) -> None:
    cases = [{"args": [numbers], "expected": sorted(numbers)}]
    task = {"id": "sort", "domain": "code", "check": {"entry_point": "order", "cases": cases}}
    assert Checker().check(task, "```python\norder = sorted\n```").passed


@needs_bubblewrap
def test_canonical_solutions_of_humaneval_pass_and_broken_ones_do_not() -> None:
    folder = os.environ.get("USERLM_SYNTH_DATA")
    if not folder:
        pytest.skip("USERLM_SYNTH_DATA names no folder with humaneval.jsonl.gz")
    with gzip.open(Path(folder) / "humaneval.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    names = {"HumanEval/0", "HumanEval/32", "HumanEval/38", "HumanEval/50", "HumanEval/161"}
    checker = Checker()
    for row in rows:
        if row["task_id"] in names:
            check = {
                "entry_point": row["entry_point"],
                "setup": row["prompt"],
                "test": row["test"],
                "solution": row["prompt"] + row["canonical_solution"],
            }
            task = {"id": row["task_id"], "domain": "code", "check": check}
            check_reference(task, checker)
            broken = f"def {row['entry_point']}(*_): return None"
            assert not checker.check_code(task, broken).passed


def test_a_function_of_another_name_is_taken_where_none_has_the_right_one():
    code = "def one(x): return x\n\ndef twice(xs):\n    return [2 * one(x) for x in xs]\n"
    cases = [{"args": [[1, 2]], "expected": [2, 4]}]
    sandbox = find_sandbox() or UNPROTECTED
    assert check_function(code, "double_all", cases, sandbox=sandbox).passed
    verdict = check_function("x = 1", "double_all", cases, sandbox=sandbox)
    assert (verdict.passed, verdict.reason) == (
        False, "no function named double_all, nor any other",
    )  # fmt: skip
    task = {"id": "t", "domain": "code", "check": {"entry_point": "double_all", "cases": cases}}
    assert Checker(sandbox=sandbox).check(task, f"Sure!\n```python\n{code}```").passed


def test_a_tuple_is_the_list_of_its_items():
    cases = [{"args": [], "expected": [[1, 2], [3]]}]
    sandbox = find_sandbox() or UNPROTECTED
    assert check_function("def f(): return ((1, 2), [3])", "f", cases, sandbox=sandbox).passed
    assert not check_function("def f(): return ((1, 2), [4])", "f", cases, sandbox=sandbox).passed


def test_a_task_without_a_reference_solution_is_taken_as_it_is():
    check_reference({"id": "t", "domain": "math", "check": {"answer": "3"}}, Checker())
