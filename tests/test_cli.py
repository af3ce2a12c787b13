"""Facts about the command line: bad input is one clear line and exit status 1, good text survives.

Nothing is half-written, whatever goes wrong.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner

from toys import INTENT, conversation
from userlm_synth import __version__
from userlm_synth.cli import main
from userlm_synth.records import read_records

Cli = Callable[..., Any]
Write = Callable[..., Path]
GOOD = conversation("hi", "hello", number=1)
LINE = json.dumps(GOOD).encode() + b"\n"


def with_messages(*roles: str) -> bytes:
    messages = [{"role": role, "content": "x"} for role in roles]
    return json.dumps({**GOOD, "id": "b", "messages": messages}).encode() + b"\n"


MANY = gzip.compress(b"".join(LINE.replace(b"toy-1", b"toy-%d" % n) for n in range(999)))

# What is wrong -> (name, bytes, what the one line says after the file's name).
BAD_FILES = {
    "empty": ("c.jsonl", b"", ": is empty; it needs at least one"),
    "blank": ("c.jsonl", b"\n \n", ": is empty; it needs at least one"),
    "torn": ("c.jsonl", LINE + b'{"id": "b", "mess', ":2: not JSON"),
    "words": ("c.jsonl", LINE + b"hello\n", ":2: not JSON (Expecting value at column 1)"),
    "deep": ("c.jsonl", LINE + b"[" * 100_000 + b"\n", ":2: nested too deeply"),
    "not a number": ("c.jsonl", b'{"id": NaN}\n', ":1: NaN is not JSON"),
    "same role twice": ("c.jsonl", with_messages("user", "user"), ":1: messages[1].role: two user"),
    "assistant first": ("c.jsonl", with_messages("assistant"), ":1: messages[0].role: the user"),
    "other role": ("c.jsonl", with_messages("user", "tool"), ':1: messages[1].role: "tool" is not'),
    "NUL text": ("c.jsonl", LINE.replace(b"hi", b"h\\u0000i"), ":1: messages[0].content: contains"),
    "NUL bytes": ("c.jsonl", b"\0" * 64, ":1: not JSON"),
    "lone surrogate": ("c.jsonl", LINE.replace(b"hi", b"\\ud83d"), ":1: messages[0].content: con"),
    "raw surrogate": ("c.jsonl", LINE.replace(b"hi", b"\xed\xa0\xbd"), ":1: messages[0].content: "),
    "empty intent": ("c.jsonl", LINE.replace(INTENT.encode(), b""), ":1: intent: is empty"),
    "latin-1": ("c.jsonl", LINE + LINE.replace(b"hi", b"\xe9t\xe9"), ":2: not UTF-8 text (byte "),
    "same id": ("c.jsonl", LINE + b"\n" + LINE, ":3: id: 'toy-1' is on line 1 too"),
    "cut gzip": ("c.jsonl.gz", MANY[:-20], ": broken gzip file after line"),
    "no gzip": ("c.jsonl.gz", LINE, ": broken gzip file after line 0"),
}  # fmt: skip


@pytest.fixture(params=sorted(BAD_FILES))
def bad(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """A bad file and how its error line goes on after its name."""
    name, content, said = BAD_FILES[request.param]
    path = tmp_path / name
    path.write_bytes(content)
    return path, f"{path}{said}"


# `prepare` reads more kinds of files, in its own words, and takes what it can mend.
SAID_BY_PREPARE = {
    "cut gzip": ":996: the gzip file is broken from here on",
    "no gzip": ": the gzip file is broken from here on",
}
TAKEN_BY_PREPARE = {"empty intent", "same id"}


@pytest.mark.parametrize("kind", sorted(set(BAD_FILES) - TAKEN_BY_PREPARE))
def test_prepare_refuses_a_bad_file_in_one_line(cli: Cli, kind: str, tmp_path: Path) -> None:
    name, content, said = BAD_FILES[kind]
    path = tmp_path / name
    path.write_bytes(content)
    as_it_is = "conversations.clean=null"
    done = cli("prepare", "--source", path, "--out", tmp_path / "out", as_it_is)
    assert done.error.startswith(f"error: {path}{SAID_BY_PREPARE.get(kind, said)}")
    assert len(done.error) < 400 + len(str(path))
    assert not (tmp_path / "out").exists()


def test_flip_refuses_a_bad_file_in_one_line(
    cli: Cli, bad: tuple[Path, str], tmp_path: Path
) -> None:
    path, said = bad
    done = cli("flip", path, "--out", tmp_path / "samples.jsonl")
    assert done.error.startswith(f"error: {said}")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_generate_refuses_a_bad_file_in_one_line(
    cli: Cli, bad: tuple[Path, str], tmp_path: Path
) -> None:
    path, said = bad
    (tmp_path / "s.json").write_text('["a"]')
    spec = f"scripted:{tmp_path / 's.json'}"
    sides = ["--user", spec, "--assistant", spec, "--intents", path]
    done = cli("generate", *sides, "--out", tmp_path / "out")
    assert done.error.startswith(f"error: {said}")
    assert not (tmp_path / "out").exists()


def test_validate_prints_the_same_problem_and_fails(cli: Cli, bad: tuple[Path, str]) -> None:
    path, said = bad
    done = cli("validate", path)
    assert done.code == 1
    assert done.out.startswith(said)
    assert len(done.out.splitlines()) == 1
    assert "Traceback" not in done.err


def test_validate_prints_a_line_for_each_problem_of_each_file(
    cli: Cli, tmp_path: Path, write_jsonl: Write
) -> None:
    one = write_jsonl(tmp_path / "a.jsonl", [GOOD, {**GOOD, "id": "", "intent": ""}])
    two = tmp_path / "b.jsonl"
    two.write_bytes(b"{x}\n" + LINE)
    done = cli("validate", one, two)
    assert done.code == 1
    assert [line.split(": ")[:2] for line in done.out.splitlines()] == [
        [f"{one}:2", "id"],
        [f"{one}:2", "intent"],
        [f"{two}:1", "not JSON (Expecting property name enclosed in double quotes at column 2); "
         "mend or remove the line"],
    ]  # fmt: skip
    assert done.err == "3 problem(s) in 3 records\n"


def test_validate_prints_a_key_that_cannot_be_printed(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(LINE.replace(b'"metadata": {}', b'"metadata": {"\\ud800": "\\u0000"}'))
    done = cli("validate", path)
    assert done.code == 1
    assert done.out.count(f"{path}:1: metadata.?: contains a ") == 2


def test_validate_is_content_with_good_files(cli: Cli, tmp_path: Path) -> None:
    plain, packed = tmp_path / "a.jsonl", tmp_path / "a.jsonl.gz"
    plain.write_bytes(LINE)
    packed.write_bytes(gzip.compress(LINE))
    done = cli("validate", plain, packed)
    assert (done.code, done.out, done.err) == (0, "2 records, all valid\n", "")


def test_validate_takes_the_schema_it_is_given(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(LINE)
    assert cli("validate", path, "--schema", "intent").out.startswith(f"{path}:1: (record): unk")
    assert "no schema named 'chat'" in cli("validate", path, "--schema", "chat").error


def test_a_file_that_is_not_there_is_one_line(cli: Cli, tmp_path: Path) -> None:
    missing = tmp_path / "missing.jsonl"
    for arguments in (
        ["validate", missing],
        ["flip", missing, "--out", tmp_path / "x"],
        ["prepare", "--source", missing, "--out", tmp_path / "x"],
        ["report", missing, "--reference", missing, "--out", tmp_path / "x"],
        ["recipes", "show", missing.with_suffix(".yaml")],
    ):
        error = cli(*arguments).error
        assert str(missing.stem) in error
        assert "no " in error
    assert "no file of a known kind" in cli("validate", tmp_path).error
    assert list(tmp_path.iterdir()) == []


# ---- unusual text ----------------------------------------------------------------------------

UNUSUAL = [
    "👩‍👩‍👧‍👦 🏳️‍🌈 \U0001fae0",
    "שלום עולם \u202eمرحبا\u202c",
    "line\u2028paragraph\u2029next\x85line\x0b\x0c\x1c end",
    "  spaces before\tand after \r\n",
    "<|eot_id|><|endconversation|> as text, \\u0041 \\n \"quoted\" {'a': 1}",
    "e\u0301 \ufb01 \u00a0 \ufeff \ufffd",
    "long " * 400_000,
]


def test_unusual_text_goes_through_prepare_and_flip_unchanged(
    cli: Cli, tmp_path: Path, write_jsonl: Write
) -> None:
    chats = [conversation(text, text[::-1], number=n) for n, text in enumerate(UNUSUAL)]
    source = write_jsonl(tmp_path / "odd.jsonl", chats)
    recipe = tmp_path / "odd.yaml"
    section = {"source": str(source), "train": 1, "validation": 0, "test": 0, "clean": None}
    recipe.write_text(yaml.safe_dump({"name": "odd", "conversations": section}))
    assert cli("prepare", recipe, "--out", tmp_path / "out").code == 0
    train = tmp_path / "out" / "train.jsonl"
    assert read_records(train, "conversation") == chats
    assert cli("flip", train, "--out", tmp_path / "samples.jsonl").code == 0
    samples = read_records(tmp_path / "samples.jsonl", "sample")
    assert [s["completion"][0]["content"] for s in samples if s["turn"] == 1] == UNUSUAL
    assert [s["prompt"][-1]["content"] for s in samples if s["end"]] == [t[::-1] for t in UNUSUAL]
    done = cli("validate", train, tmp_path / "samples.jsonl")
    assert done.out == f"{3 * len(UNUSUAL)} records, all valid\n"


# ---- recipes ---------------------------------------------------------------------------------


def recipe_file(folder: Path, **sections: Any) -> Path:
    path = folder / "r.yaml"
    path.write_text(yaml.safe_dump({"name": "r", **sections}))
    return path


def test_a_typo_in_a_recipe_suggests_the_right_key(cli: Cli, tmp_path: Path) -> None:
    path = recipe_file(tmp_path, conversations={"source": "quickstart", "cuont": 20})
    for command in (["run"], ["prepare"], ["train"], ["recipes", "validate"]):
        more = [] if command[0] == "recipes" else ["--out", tmp_path / "out"]
        done = cli(*command, path, *more)
        said = "conversations.cuont: unknown key; did you mean 'count'?"
        assert done.error == f"error: {path}: {said}"
    assert not (tmp_path / "out").exists()


def test_a_recipe_that_names_a_missing_file_says_which(cli: Cli, tmp_path: Path) -> None:
    path = recipe_file(tmp_path, conversations={"source": "nowhere.jsonl"})
    error = cli("run", path, "--out", tmp_path / "out").error
    assert error.startswith(f"error: {path}: conversations.source: nowhere.jsonl: no such file")
    assert not (tmp_path / "out").exists()


def test_all_faults_of_a_recipe_are_listed_at_once(cli: Cli, tmp_path: Path) -> None:
    path = recipe_file(
        tmp_path,
        conversations={"source": "nowhere.jsonl", "cuont": 20, "train": "most"},
        train={"epochs": -1},
        pussh={},
    )
    paths = [line.split(": ")[2] for line in cli("run", path, "--out", tmp_path / "o").errors]
    assert paths == [
        "pussh", "conversations.cuont", "conversations.source", "conversations.train",
        "train.epochs",
    ]  # fmt: skip
    assert (
        cli("run", path, "--out", tmp_path / "o", "train.epochs=1").errors[-1].count("epochs") == 0
    )


def test_recipes_are_listed_shown_copied_and_checked(cli: Cli, tmp_path: Path) -> None:
    assert "quickstart" in cli("recipes", "list").out
    shown = cli("recipes", "show", "quickstart").out
    assert cli("recipes", "copy", "quickstart", tmp_path).code == 0
    mine = tmp_path / "quickstart.yaml"
    assert mine.read_text(encoding="utf-8") == shown
    assert "exists already" in cli("recipes", "copy", "quickstart", mine).error
    assert cli("recipes", "validate", mine).out.startswith(f"{mine}: valid (hash ")


# ---- the rest --------------------------------------------------------------------------------


def test_a_generate_command_that_lacks_a_side_says_what_it_needs(cli: Cli, tmp_path: Path) -> None:
    said = "error: generate: needs --user, --assistant and --intents (or a recipe that names them)"
    assert cli("generate", "--out", tmp_path / "d").error == said
    assert cli("generate", "a", "b", "--out", tmp_path / "d").error.startswith(
        "error: generate: one"
    )


def test_a_files_name_reaches_a_recipe_as_it_is(
    cli: Cli, tmp_path: Path, write_jsonl: Write
) -> None:
    (tmp_path / "s.json").write_text('["a"]')
    spec = f"scripted:{tmp_path / 's.json'}"
    for name in ("my intents #1.jsonl", "a: b.jsonl", "[x]'\"é🙂.jsonl"):
        path = write_jsonl(tmp_path / name, [{"id": "i", "intent": "x"}])
        sides = ["--user", spec, "--assistant", spec, "--intents", path, "generate.max_turns=1"]
        done = cli("generate", *sides, "--out", tmp_path / f"out {name}")
        assert done.out.endswith("1 accepted; rejected: none\n"), done.err


def test_flags_win_over_the_recipe(cli: Cli, tmp_path: Path, write_jsonl: Write) -> None:
    (tmp_path / "s.json").write_text('["a"]')
    spec = f"scripted:{tmp_path / 's.json'}"
    intents = write_jsonl(tmp_path / "i.jsonl", [{"id": "i", "intent": "x"}])
    recipe = recipe_file(
        tmp_path,
        assistant={"model": spec},
        generate={"user": spec, "intents": str(intents), "num": 5, "max_turns": 1},
    )
    assert cli("generate", recipe, "--num", 2, "--out", tmp_path / "d").code == 0
    assert len(read_records(tmp_path / "d" / "part-00000.jsonl", "dialogue")) == 2


def test_every_command_explains_itself() -> None:
    runner = CliRunner()
    assert runner.invoke(main, ["--version"]).stdout == f"userlm-synth, version {__version__}\n"
    for name, command in main.commands.items():
        assert command.help, name
        done = runner.invoke(main, [name, "--help"])
        assert done.exit_code == 0
        assert len([p for p in command.params if isinstance(p, click.Option)]) <= 9, name
    listed = runner.invoke(main, ["-h"]).stdout
    assert all(name in listed for name in main.commands)


def test_an_unknown_command_is_a_usage_error(cli: Cli) -> None:
    done = cli("sing")
    assert done.code == 2
    assert "No such command 'sing'" in done.err


def test_a_bug_is_a_short_notice_and_a_traceback_with_v_only(tmp_path: Path) -> None:
    import click

    from userlm_synth.cli import Program

    @click.group(cls=Program)
    @click.option("-v", "--verbose", is_flag=True)
    def program(verbose: bool) -> None:
        """A program with a bug in it."""

    @program.command()
    def fail() -> None:
        """Divide by zero."""
        _ = 1 / 0

    plain = CliRunner().invoke(program, ["fail"])
    assert plain.exit_code == 1
    assert plain.stderr.startswith("error: internal error, please report it: ZeroDivisionError")
    assert "Traceback" not in plain.stderr
    assert "Traceback" in CliRunner().invoke(program, ["-v", "fail"]).stderr
