"""Facts about the benchmark's tasks: the shipped ones are sound, files of all forms are read."""

from __future__ import annotations

import ast
import base64
import gzip
import json
import os
import pickle
import re
import tempfile
import zlib
from collections.abc import Iterator
from copy import deepcopy
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from userlm_synth.benchmark.solutions import extract_number, same_number
from userlm_synth.benchmark.tasks import own_tasks, read_tasks, task_problems
from userlm_synth.errors import UserError
from userlm_synth.records import Record, record_problems, write_records

OWN = {task["id"]: task for task in own_tasks()}
MATH = [name for name, task in OWN.items() if task["domain"] == "math"]
CODE = [name for name, task in OWN.items() if task["domain"] == "code"]

SHARDS = [{"shard_id": 1, "shard": "how many pens?"}, {"shard_id": 2, "shard": "2 boxes of 6"}]
PENS = {
    "task_id": "sharded-pens", "task": "math", "question": "How many pens are in 2 boxes of 6?",
    "answer": "2 x 6 = 12\n#### 12", "shards": SHARDS,
}  # fmt: skip
STUB = 'from typing import List\n\n\ndef twice(ones: List[int]) -> List[int]:\n    """Double."""\n'
HUMANEVAL = {
    "task_id": "sharded-HumanEval/900", "task": "code", "source": "humaneval", "prompt": STUB,
    "canonical_solution": "    return [2 * one for one in ones]\n",
    "metadata": {"func_name": "twice"}, "shards": SHARDS,
    "public_test_cases": json.dumps([{"input": "[1, 2]", "output": "[2, 4]"}]),
}  # fmt: skip
LIVECODEBENCH = {
    "task_id": "sharded-livecodebench/900", "task": "code", "source": "lcb_easy", "shards": SHARDS,
    "question_content": "Count the words of a text.", "metadata": '{"func_name": "words"}',
    "starter_code": "class Solution:\n    def words(self, text: str, least: int) -> int:\n        ",
    "public_test_cases": json.dumps(
        [{"input": '"a b"\n1', "output": "2", "testtype": "functional"}]
    ),
}  # fmt: skip


def put(path: Path, records: list[Any]) -> Path:
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


def packed(value: Any) -> str:
    """Test cases as LiveCodeBench packs them."""
    return base64.b64encode(zlib.compress(pickle.dumps(value))).decode()


# ---- the shipped tasks -----------------------------------------------------------------------


def numbers(text: str) -> set[str]:
    words = "one two three four five six seven eight nine ten twelve twice half third quarter dozen"
    return {
        found
        for found in re.findall(r"\d+(?:\.\d+)?|[a-z]+", text.lower())
        if found[0].isdigit() or found in words.split()
    }


def failing(code: str, task: Record) -> int | None:
    """The place of the first case that a program fails; None where it passes."""
    names: dict[str, Any] = {}
    exec(code, names)
    for place, case in enumerate(task["check"]["cases"]):
        case = deepcopy(case)
        try:
            found = names[task["check"]["entry_point"]](*case["args"], **case.get("kwargs", {}))
        except Exception:
            return place
        if found != case["expected"]:
            return place
    return None


PAIRS = [
    (ast.Lt, ast.LtE), (ast.Gt, ast.GtE), (ast.Eq, ast.NotEq), (ast.In, ast.NotIn),
    (ast.Is, ast.IsNot), (ast.Add, ast.Sub), (ast.Mult, ast.Div), (ast.Mod, ast.FloorDiv),
    (ast.And, ast.Or),
]  # fmt: skip
OTHER = {a: b for pair in PAIRS for a, b in (pair, pair[::-1])}


def mutants(source: str) -> Iterator[str]:
    """The program with one thing changed: an operator to its like, a number by one, a truth."""
    for place in range(sum(1 for _ in ast.walk(ast.parse(source)))):
        tree = ast.parse(source)
        node = list(ast.walk(tree))[place]
        if isinstance(node, ast.Compare):
            node.ops[0] = OTHER[type(node.ops[0])]()
        elif isinstance(node, (ast.BinOp, ast.AugAssign, ast.BoolOp)):
            node.op = OTHER[type(node.op)]()
        elif isinstance(node, ast.Constant) and type(node.value) is bool:
            node.value = not node.value
        elif isinstance(node, ast.Constant) and type(node.value) is int:
            node.value += 1
        else:
            continue
        yield ast.unparse(tree)


def test_ten_tasks_in_math_and_ten_in_code_come_with_the_package() -> None:
    assert (len(MATH), len(CODE)) == (10, 10)
    for task in OWN.values():
        assert task_problems(task) == []
        assert task["metadata"]["origin"] == "written for userlm_synth, 2026, Apache-2.0"
        assert 3 <= len(task["shards"]) <= 8
        assert task["shards"][0]["required"] is True
        assert all(type(shard["required"]) is bool for shard in task["shards"])
    assert all(any(not s["required"] for s in OWN[name]["shards"]) for name in CODE)


def test_a_few_own_tasks_are_of_both_domains_or_of_the_one_asked_for() -> None:
    assert [task["domain"] for task in own_tasks(limit=3)] == ["math", "code", "math"]
    assert [task["id"] for task in own_tasks(domain="code")] == CODE


def test_a_change_to_an_own_task_is_not_seen_by_others() -> None:
    own_tasks()[0]["shards"].clear()
    assert own_tasks()[0] == OWN[MATH[0]]
    assert own_tasks()[0]["shards"]


@pytest.mark.parametrize("name", OWN)
def test_every_number_of_an_instruction_is_in_a_shard(name: str) -> None:
    task = OWN[name]
    said = set[str]().union(*(numbers(shard["text"]) for shard in task["shards"]))
    assert numbers(task["instruction"]) - said == set()


@pytest.mark.parametrize("name", MATH)
def test_the_answer_of_a_math_task_is_what_its_formula_gives(name: str) -> None:
    task = OWN[name]
    worked_out = eval(task["metadata"]["formula"], {"__builtins__": {}})
    assert worked_out == pytest.approx(float(Fraction(task["check"]["answer"])))
    assert same_number(extract_number(task["check"]["solution"]), task["check"]["answer"])


@pytest.mark.parametrize("name", CODE)
def test_a_reference_solution_passes_its_own_cases_and_broken_ones_do_not(name: str) -> None:
    task = OWN[name]
    solution = task["check"]["solution"]
    assert len(task["check"]["cases"]) >= 8
    assert failing(solution, task) is None
    broken = list(mutants(solution))
    caught = [code for code in broken if failing(code, task) is not None]
    assert len(broken) >= 5
    assert len(caught) >= len(broken) - 3  # a table may begin anywhere for all teams


@pytest.mark.parametrize("name", CODE)
def test_the_required_shards_of_a_code_task_name_its_function(name: str) -> None:
    task = OWN[name]
    required = " ".join(shard["text"] for shard in task["shards"] if shard["required"])
    assert task["check"]["entry_point"] in required
    assert task["check"]["entry_point"] in task["instruction"]


# ---- files of tasks --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tasks.jsonl", "tasks.jsonl.gz", "tasks.json", "tasks.data"])
def test_tasks_are_recognised_by_content_gzipped_or_not(name: str, tmp_path: Path) -> None:
    tasks = list(OWN.values())
    path = tmp_path / name
    if name == "tasks.json":
        put(path, tasks)
    elif name == "tasks.data":  # gzipped, and its name does not say so
        path.write_bytes(gzip.compress("\n".join(map(json.dumps, tasks)).encode()))
    else:
        write_records(path, tasks, "task")
    assert read_tasks(path) == tasks
    assert [task["id"] for task in read_tasks(path, limit=3, domain="code")] == CODE[:3]


text = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"))
filled = text.map(lambda s: f"x{s}")
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.floats(-1e9, 1e9) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)
shards = st.lists(filled, min_size=1, max_size=4, unique=True).flatmap(
    lambda ids: st.tuples(
        *(
            st.fixed_dictionaries(
                {"id": st.just(one), "text": filled},
                optional={"required": st.none() | st.booleans()},
            )
            for one in ids
        )
    ).map(list)
)
math_checks = st.fixed_dictionaries(
    {"answer": st.integers().map(str)}, optional={"solution": filled}
)
code_checks = st.fixed_dictionaries(
    {
        "entry_point": st.sampled_from(["f", "Solution.f"]),
        "cases": st.lists(
            st.fixed_dictionaries(
                {"args": st.lists(plain, max_size=2), "expected": plain},
                optional={"kwargs": st.dictionaries(text, plain, max_size=2)},
            ),
            min_size=1,
            max_size=3,
        ),
    },
    optional={"setup": st.just("import math"), "solution": st.just("def f(): pass")},
)


@st.composite
def tasks(draw: st.DrawFn) -> Record:
    domain = draw(st.sampled_from(["math", "code"]))
    task = {
        "id": draw(filled), "domain": domain, "instruction": draw(filled), "shards": draw(shards),
        "check": draw(math_checks if domain == "math" else code_checks),
    }  # fmt: skip
    if draw(st.booleans()):
        task["metadata"] = draw(st.dictionaries(text, plain, max_size=2))
    return task


@settings(max_examples=25, deadline=None)
@given(st.lists(tasks(), min_size=1, max_size=3, unique_by=lambda task: task["id"]))
def test_written_tasks_read_back_equal(written: list[Record]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tasks.jsonl"
        write_records(path, written, "task")
        assert read_tasks(path) == written


# ---- Lost in Conversation's form -------------------------------------------------------------


def test_a_math_record_of_lost_in_conversation_is_a_task(tmp_path: Path) -> None:
    (found,) = read_tasks(put(tmp_path / "lic.json", [PENS]))
    assert found == {
        "id": "sharded-pens",
        "domain": "math",
        "instruction": "How many pens are in 2 boxes of 6?",
        "shards": [{"id": "1", "text": "how many pens?"}, {"id": "2", "text": "2 boxes of 6"}],
        "check": {"answer": "12", "solution": "2 x 6 = 12\n#### 12"},
        "metadata": {"form": "Lost in Conversation"},
    }


def test_records_without_a_kind_and_an_id_are_recognised_by_their_fields(tmp_path: Path) -> None:
    record = {"question": "How many?", "answer": "#### 1,200", "shards": [{"shard": "so many"}]}
    (found,) = read_tasks(put(tmp_path / "lic.json", [record]))
    assert (found["id"], found["domain"], found["check"]["answer"]) == ("task-1", "math", "1,200")


def test_required_marks_are_kept_where_there_are_some(tmp_path: Path) -> None:
    marked = {**PENS, "shards": [SHARDS[0], {**SHARDS[1], "required": False}]}
    (found,) = read_tasks(put(tmp_path / "lic.json", [marked]))
    assert [shard.get("required") for shard in found["shards"]] == [None, False]


def test_a_humaneval_record_gives_cases_imports_and_a_reference_that_passes(tmp_path: Path) -> None:
    (found,) = read_tasks(put(tmp_path / "lic.json", [HUMANEVAL]))
    check = found["check"]
    assert check["entry_point"] == "twice"
    assert check["cases"] == [{"args": [[1, 2]], "expected": [2, 4]}]
    assert "from typing import List" in check["setup"]
    assert failing(check["solution"], found) is None
    assert STUB.strip() in found["instruction"]


def test_humaneval_tests_are_taken_where_there_are_no_cases(tmp_path: Path) -> None:
    test = "def check(candidate):\n    assert candidate([1]) == [2]\n"
    record = {name: HUMANEVAL[name] for name in HUMANEVAL if name != "public_test_cases"}
    record |= {"test": test, "entry_point": "twice", "metadata": {}}
    (found,) = read_tasks(put(tmp_path / "lic.json", [record]))
    assert found["check"]["test"] == test
    assert found["check"]["entry_point"] == "twice"
    assert "cases" not in found["check"]


@pytest.mark.parametrize("pack", [json.dumps, lambda cases: packed(json.dumps(cases))])
def test_livecodebench_cases_have_an_argument_a_line_and_hidden_ones_are_unpacked(
    pack: Any, tmp_path: Path
) -> None:
    hidden = pack([{"input": '"a\\nb c"\n2\n', "output": "(3, None)"}])
    record = {**LIVECODEBENCH, "private_test_cases": hidden}
    (found,) = read_tasks(put(tmp_path / "lic.json", [record]))
    check = found["check"]
    assert check["entry_point"] == "Solution.words"
    assert check["cases"] == [
        {"args": ["a b", 1], "expected": 2},
        {"args": ["a\nb c", 2], "expected": [3, None]},  # a tuple is a list in JSON
    ]
    exec(check["setup"], {})
    assert "class Solution" in found["instruction"]
    assert found["metadata"]["source"] == "lcb_easy"


def test_packed_tests_never_run_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (open, (str(tmp_path / "made"), "w"))

    for value in (Evil(), print, [1], "\0"):
        path = put(tmp_path / "lic.json", [{**LIVECODEBENCH, "private_test_cases": packed(value)}])
        with pytest.raises(UserError, match=r"lic\.json:record 1: private_test_cases: "):
            read_tasks(path)
    assert not (tmp_path / "made").exists()


def test_what_is_left_out_of_sharded_instructions_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sql = {"task_id": "a", "task": "database", "shards": SHARDS}
    other = {"task_id": "b", "task": "actions", "shards": SHARDS}
    again = {**PENS, "shards": [{"shard_id": 1, "shard": "how many pens in 2 boxes of 6?"}]}
    blank = {**PENS, "shards": [*SHARDS, {"shard_id": 3, "shard": " "}]}
    path = put(tmp_path / "lic.json", [sql, blank, sql | {"task_id": "c"}, other, again, PENS])
    (found,) = read_tasks(path)
    assert [shard["id"] for shard in found["shards"]] == ["1", "2"]
    assert capsys.readouterr().err.splitlines() == [
        f"{path}: left out tasks of kinds that are not checked here: 1 actions, 2 database",
        f"{path}: left out 2 more shardings of tasks that it has already",
        f"{path}: left out 1 shards without text",
    ]


# ---- bad files -------------------------------------------------------------------------------

OWN_MATH, OWN_CODE = OWN[MATH[0]], OWN[CODE[0]]


def changed(record: Any, *path: Any, to: Any) -> Any:
    """A copy with the value at a path changed, or taken away where it is to be `...`."""
    copy = deepcopy(record)
    place = copy
    for part in path[:-1]:
        place = place[part]
    if to is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    return copy


PROBLEMS = [
    (changed(OWN_MATH, "shards", 1, "text", to=" "), "shards[1].text: is empty"),
    (changed(OWN_MATH, "shards", 1, "text", to=...), "shards[1]: missing 'text'"),
    (changed(OWN_MATH, "shards", 1, "id", to="1"), "shards[1].id: '1' is the id of shards[0] too"),
    (changed(OWN_MATH, "shards", to=[]), "shards: needs at least 1 item(s)"),
    (changed(OWN_MATH, "shards", 0, "required", to="yes"), 'shards[0].required: "yes" is not of'),
    (changed(OWN_MATH, "check", "answer", to="many"), "check.answer: 'many' holds no number"),
    (changed(OWN_MATH, "check", "answer", to=18), "check.answer: 18 is not of type 'string'"),
    (changed(OWN_MATH, "check", to={}), "check: missing 'answer'"),
    (changed(OWN_MATH, "domain", to="art"), "domain: \"art\" is not one of ['math', 'code']"),
    (changed(OWN_MATH, "domain", to=...), "(record): missing 'domain'"),
    (changed(OWN_MATH, "instruction", to=""), "instruction: is empty"),
    (changed(OWN_MATH, "answer", to="1"), "(record): unknown 'answer'"),
    (changed(OWN_CODE, "check", "cases", to=...), "check: missing 'cases'"),
    (changed(OWN_CODE, "check", "cases", to=[]), "check.cases: needs at least 1 item(s)"),
    (changed(OWN_CODE, "check", "test", to="assert f"), "check: "),
    (changed(OWN_CODE, "check", "answer", to="1"), "check: unknown 'answer'"),
    (changed(OWN_CODE, "check", "cases", 0, "expected", to=...), "missing 'expected'"),
    (changed(OWN_CODE, "check", "entry_point", to="a b"), "'a b' is no name of a function"),
    (changed(OWN_CODE, "check", "solution", to="def f("), "check.solution: is not Python ("),
    (changed(OWN_CODE, "check", "setup", to="\nimport"), "in line 2)"),
    (changed(PENS, "shards", 1, "shard", to=...), "shards[1].shard: is missing"),
    (changed(PENS, "shards", 1, to="two boxes"), "shards[1]: is no object with 'shard_id'"),
    (changed(PENS, "shards", to=SHARDS[:1] * 2), "shards[1].id: '1' is the id of shards[0] too"),
    (changed(PENS, "answer", to="#### a lot"), "check.answer: 'a lot' holds no number"),
    (changed(PENS, "answer", to=...), "answer: is missing or empty; a math record needs the text"),
    (changed(PENS, "question", to=""), "question: is missing or empty"),
    (changed(HUMANEVAL, "metadata", to={}), "metadata.func_name: is missing"),
    (changed(HUMANEVAL, "public_test_cases", to=...), "public_test_cases: is missing or empty"),
    (changed(HUMANEVAL, "public_test_cases", to="[1]"), "public_test_cases[0]: is no object with"),
    (
        changed(HUMANEVAL, "public_test_cases", to='[{"input": "{1, 2}", "output": "1"}]'),
        "public_test_cases[0].input: '{1, 2}' is neither JSON nor a plain Python value",
    ),
    (
        changed(
            LIVECODEBENCH,
            "public_test_cases",
            to='[{"input": "1", "output": "1", "testtype": "stdin"}]',
        ),
        "public_test_cases[0]: tests a program with input and output, not a function",
    ),
    (changed(LIVECODEBENCH, "private_test_cases", to="?"), "test_cases: cannot be unpacked"),
]  # fmt: skip


@pytest.mark.parametrize(("record", "problem"), PROBLEMS, ids=range(len(PROBLEMS)))
def test_a_bad_task_is_one_line_with_its_place(
    record: Record, problem: str, tmp_path: Path
) -> None:
    good = OWN[MATH[1]] if "instruction" in record else {**PENS, "task_id": "good"}
    path = put(tmp_path / "tasks.json", [good, record])
    with pytest.raises(UserError) as error:
        read_tasks(path)
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"{path}:record 2: ")
    assert problem in line


def test_all_problems_of_a_file_are_listed_with_the_lines(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    rows = [PROBLEMS[0][0], OWN_CODE, PROBLEMS[5][0]]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_tasks(path)
    first, second = str(error.value).splitlines()
    assert first.startswith(f"{path}:1: shards[1].text")
    assert second.startswith(f"{path}:3: check.answer")


def test_an_id_that_comes_twice_is_refused_in_both_forms(tmp_path: Path) -> None:
    path = put(tmp_path / "own.json", [OWN_MATH, OWN_CODE, OWN_MATH])
    with pytest.raises(UserError, match=rf"record 3: id: '{MATH[0]}' is the id of .*record 1 too"):
        read_tasks(path)
    path = put(tmp_path / "lic.json", [PENS, {**PENS, "question": "How many pencils?"}])
    with pytest.raises(UserError, match=r"record 2: task_id: 'sharded-pens' is another task at"):
        read_tasks(path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty; it needs at least one task"),
        (b"\n \n", "is empty"),
        (b"[]", "is empty"),
        (b"[\n{]", ":2: not JSON"),
        (b"id,shards", ":1: not JSON"),
        (b"[" * 99_999, "nested too deeply"),
        (b'["\xff"]', "not UTF-8 text"),
        (b'{"prompt": "x", "test": "y"}', "the first record has prompt, test"),
        (b'["a"]', "the first record has no fields"),
        (b'{"task": "summary", "shards": [{"shard": "x"}]}', "no task of math or code"),
        (gzip.compress(b"{}" * 99, mtime=0)[:-9], "broken gzip file"),
    ],
)
def test_a_file_without_tasks_is_refused_in_a_line(
    content: bytes, problem: str, tmp_path: Path
) -> None:
    path = tmp_path / "tasks"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_tasks(path)
    assert str(error.value).startswith(str(path))
    assert problem in str(error.value)
    assert "\n" not in str(error.value)


def test_no_file_a_folder_and_no_task_of_a_domain_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_tasks(tmp_path / "none")
    with pytest.raises(UserError, match="is a folder"):
        read_tasks(tmp_path)
    with pytest.raises(UserError, match=r"has no code task to take, of 1 in all"):
        read_tasks(put(tmp_path / "lic.json", [PENS]), domain="code")


def test_a_shard_may_leave_open_whether_it_is_required() -> None:
    for mark in (None, ...):
        assert record_problems(changed(OWN_MATH, "shards", 0, "required", to=mark), "task") == []


# ---- real data -------------------------------------------------------------------------------


def data(name: str) -> Path:
    folder = os.environ.get("USERLM_SYNTH_DATA")
    if not folder:
        pytest.skip("USERLM_SYNTH_DATA names no folder with real data")
    return Path(folder) / name


def test_real_sharded_problems_are_read_once_each_with_numbers_as_answers() -> None:
    path = data("gsm8k_sharded.json.gz")
    with gzip.open(path) as file:
        records = json.load(file)
    found = read_tasks(path)
    assert len(found) == len({record["question"] for record in records}) == 428
    assert all(shard["text"].strip() for task in found for shard in task["shards"])
    assert not any("required" in shard for task in found for shard in task["shards"])
    for task in found:
        assert same_number(extract_number(task["check"]["solution"]), task["check"]["answer"])
    assert {4000, 5000, 67500} <= {extract_number(task["check"]["answer"]) for task in found}


def test_own_tasks_share_no_eight_words_in_a_row_with_known_sets() -> None:
    def runs(text: str) -> set[tuple[str, ...]]:
        words = re.findall(r"\w+", text.lower())
        return set(zip(*(words[start:] for start in range(8)), strict=False))

    ours = set[tuple[str, ...]]().union(*(runs(task["instruction"]) for task in OWN.values()))
    theirs = product(["gsm8k_test.jsonl.gz", "humaneval.jsonl.gz"], ["question", "prompt"])
    for name, field in theirs:
        with gzip.open(data(name)) as file:
            for line in file:
                assert not ours & runs(json.loads(line).get(field, ""))
