"""`chat`: a person plays the assistant, in process, on a pipe and on a real terminal."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import Outcome
from hypothesis import given
from hypothesis import strategies as st

from toys import INTENT
from userlm_synth.backends import Backend, Result
from userlm_synth.backends.scripted import ScriptedBackend
from userlm_synth.errors import UserError
from userlm_synth.recipe import Generate
from userlm_synth.records import END_TOKEN, Record, file_problems, read_records
from userlm_synth.simulate.chat import Chat, harmless, save

SCRIPT = ["hi there", "a small one", END_TOKEN]


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., str]:
    """A SPEC of scripted user turns."""

    def write(*turns: str) -> str:
        path = tmp_path / "script.json"
        path.write_text(json.dumps(turns or SCRIPT))
        return f"scripted:{path}"

    return write


class Talking:
    """The command line in process, with lines on standard input."""

    def __call__(self, spec: str, *lines: str, options: tuple[object, ...] = ()) -> Outcome:
        from click.testing import CliRunner

        from userlm_synth.cli import main

        arguments = ["chat", spec, "--intent", INTENT, *map(str, options)]
        done = CliRunner().invoke(main, arguments, input="".join(f"{one}\n" for one in lines))
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return Outcome(done.exit_code, done.stdout, done.stderr)


talk = Talking()


def make(backend: Any, **settings: Any) -> Chat:
    """A chat of the library."""
    return Chat(backend, Generate(**settings), INTENT, None, 3, "hash")


def ask(chat: Chat) -> Result:
    """The user's next turn."""
    return asyncio.run(chat.ask())


@pytest.fixture
def user_lm(toy_models: Path) -> Backend:
    """The toy user LM in process."""
    from userlm_synth.backends import open_backend

    backend: Backend = open_backend(str(toy_models / "user_lm"), speaker="user")
    return backend


# ---- what is said ------------------------------------------------------------------------------


def test_the_user_opens_the_person_answers_and_the_user_leaves(
    script: Callable[..., str], tmp_path: Path
) -> None:
    file = tmp_path / "chats.jsonl"
    done = talk(script(), "which size?", "here you are", "never read", options=("--save", file))
    assert done.code == 0, done.err
    said = [line for line in done.out.splitlines() if line.startswith(("user>", "you >", "the"))]
    assert said == [
        "user> hi there", "you > which size?", "user> a small one", "you > here you are",
        "the user leaves",
    ]  # fmt: skip
    (record,) = read_records(file, "dialogue")
    assert [one["content"] for one in record["messages"]] == [
        "hi there", "which size?", "a small one", "here you are",
    ]  # fmt: skip
    assert (record["stop_reason"], record["assistant_model"]) == ("user_ended", "human")
    assert record["metadata"] == {"made_by": "chat"}
    assert record["intent"] == INTENT


def test_the_probability_of_leaving_stands_beside_each_turn_of_a_real_model(
    toy_models: Path, tmp_path: Path
) -> None:
    file = tmp_path / "chats.jsonl"
    done = talk(str(toy_models / "user_lm"), "ok", options=("--seed", 5, "--save", file))
    assert done.code == 0, done.err
    shown = re.findall(r"would leave: (< 1|\d+) %", done.out)
    (record,) = read_records(file, "dialogue")
    chances = record["end_probabilities"]
    assert len(chances) == 2
    assert [f"{100 * chance:.0f}" for chance in chances] == shown
    assert record["usage"]["user"]["completion_tokens"] > 0


def test_the_same_seed_and_replies_give_the_same_chat(user_lm: Backend) -> None:
    def turns(seed_of: Chat) -> list[str]:
        said = [ask(seed_of).text]
        seed_of.answer("ok")
        return [*said, ask(seed_of).text]

    one, two, other = (make(user_lm, max_tokens=20) for _ in range(3))
    other.seed = 4
    assert turns(one) == turns(two) != turns(other)


def test_a_user_never_leaves_before_it_has_said_something(user_lm: Backend) -> None:
    for seed in range(12):  # the toy would leave three times in ten
        chat = make(user_lm, max_tokens=4)
        chat.seed = seed
        assert ask(chat).finish != "end"
        assert chat.stop is None


def test_leaving_at_once_through_a_backend_that_bans_nothing_is_no_dialogue(
    script: Callable[..., str], tmp_path: Path
) -> None:
    file = tmp_path / "chats.jsonl"
    done = talk(script(END_TOKEN), "hello?", options=("--save", file))
    assert done.code == 0
    assert "the user says nothing; /again asks once more" in done.out
    assert "nothing to reply to" in done.out
    assert not file.exists()


def test_a_conversation_that_fills_the_context_ends_so(user_lm: Backend) -> None:
    chat = make(user_lm, max_tokens=20)
    ask(chat)
    while chat.stop is None:
        chat.answer("word " * 300)
        ask(chat)
    assert chat.stop == "context_full"
    assert chat.record()["stop_reason"] == "context_full"
    assert len(chat.end_probabilities) == (len(chat.messages) // 2)


def test_an_assistant_model_is_refused_in_one_line(toy_models: Path) -> None:
    error = talk(str(toy_models / "assistant_lm"), "hi").error
    assert "does not open a *user* turn" in error


def test_an_empty_intent_is_refused(
    script: Callable[..., str], cli: Callable[..., Outcome]
) -> None:
    assert "--intent" in cli("chat", script(), "--intent", "  ").error


def test_settings_reach_the_model(toy_models: Path) -> None:
    options = ("generate.max_tokens=1", "generate.temperature=0")  # no toy leaves at once
    assert "cut at 1 token" in talk(str(toy_models / "user_lm"), options=options).out


def test_an_unknown_setting_is_refused_before_the_model_is_loaded() -> None:
    assert "generate.tempo" in talk("no/such/model", options=("generate.tempo=1",)).error


# ---- commands ----------------------------------------------------------------------------------


def test_again_draws_another_sample_of_the_same_turn(user_lm: Backend) -> None:
    chat = make(user_lm, max_tokens=24)
    first = ask(chat)
    chat.forget()
    second = ask(chat)
    assert first.text != second.text
    assert [one["content"] for one in chat.messages] == [second.text]
    assert len(chat.end_probabilities) == 1
    assert chat.record()["guardrails"] == {"asked_again": 1}


def test_undo_takes_a_reply_and_its_answer_back(script: Callable[..., str], tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    done = talk(
        script("one", "two", "three"), "a bad reply", "/undo", "a good reply", "/undo", "/undo",
        "the last", options=("--save", file),
    )  # fmt: skip
    assert "there is no reply to take back" in done.out
    (record,) = read_records(file, "dialogue")
    assert [one["content"] for one in record["messages"]] == ["one", "the last", "two"]
    assert len(record["end_probabilities"]) == 2
    assert (record["stop_reason"], record["metadata"]["left"]) == ("max_turns", "assistant")


def test_after_undo_the_probabilities_are_those_of_what_is_left(user_lm: Backend) -> None:
    chat = make(user_lm, max_tokens=8)
    ask(chat)
    before = chat.record()["end_probabilities"]
    chat.answer("ok")
    ask(chat)
    assert chat.undo()
    assert chat.record()["end_probabilities"] == before


def test_lines_joined_by_a_backslash_are_one_reply(
    script: Callable[..., str], tmp_path: Path
) -> None:
    file = tmp_path / "chats.jsonl"
    talk(script(), "first\\", "  second", options=("--save", file))
    assert read_records(file, "dialogue")[0]["messages"][1]["content"] == "first\n  second"


def test_slashes_are_commands_and_two_are_text(script: Callable[..., str], tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    done = talk(
        script(), "/agian", "/help", "", "//etc/hosts", "/quit", "never read",
        options=("--save", file),
    )  # fmt: skip
    assert done.code == 0
    assert "/agian: no such command" in done.out
    assert "/undo" in done.out
    assert "an empty reply is not sent" in done.out
    (record,) = read_records(file, "dialogue")
    assert [one["content"] for one in record["messages"]] == [
        "hi there", "/etc/hosts", "a small one",
    ]  # fmt: skip


def test_save_names_a_file_in_the_middle_and_keeps_it_up_to_date(
    script: Callable[..., str], tmp_path: Path
) -> None:
    file = tmp_path / "new" / "chats.jsonl"
    done = talk(script(), "/save", f"/save {file}", "which size?", f"/save {tmp_path}", "/quit")
    assert "name a file: /save chats.jsonl" in done.out
    assert "not saved: " in done.out
    assert "is a folder" in done.out
    assert len(read_records(file, "dialogue")[0]["messages"]) == 3


def test_a_chat_that_is_not_kept_says_how_to_keep_one(script: Callable[..., str]) -> None:
    assert "--save FILE" in talk(script(), "hi").out


# ---- the file ----------------------------------------------------------------------------------


def dialogue(number: int, text: str = "hi") -> Record:
    """A chat's record."""
    chat = make(ScriptedBackend.__new__(ScriptedBackend))
    chat.user.name = "toy"
    chat.id = f"chat-{number}"
    chat.messages = [{"role": "user", "content": text}]
    return chat.record()


def test_saving_again_replaces_the_chats_own_line_and_no_other(tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    for number, text in [(1, "a"), (2, "b"), (3, "c"), (2, "d")]:
        save(dialogue(number, text), file)
    texts = [one["messages"][0]["content"] for one in read_records(file, "dialogue")]
    assert texts == ["a", "c", "d"]
    assert [one.name for one in tmp_path.iterdir()] == ["chats.jsonl"]


def test_a_last_line_without_its_newline_is_not_joined(tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    save(dialogue(1), file)
    file.write_bytes(file.read_bytes().rstrip())
    save(dialogue(2), file)
    assert file_problems(file) == (2, [])


def test_chats_that_save_to_one_file_at_once_lose_nothing(tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    threads = [threading.Thread(target=save, args=(dialogue(n), file)) for n in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_records(file, "dialogue")) == 40
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("text", ["# notes\n", "[1, 2]\n", '{"id": 1}\n{"tor'])
def test_a_file_that_is_not_of_records_is_refused_and_left_alone(
    text: str, script: Callable[..., str], tmp_path: Path
) -> None:
    file = tmp_path / "notes.jsonl"
    file.write_text(text)
    assert str(file) in talk(script(), "hi", options=("--save", file)).error
    assert file.read_text() == text


def test_a_file_in_a_folders_place_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    error = talk("no/such/model", options=("--save", tmp_path / "file" / "chats.jsonl")).error
    assert "is a file" in error


def test_a_full_disk_leaves_the_former_state(small_disk: Callable[[str], Path]) -> None:
    file = small_disk("64k") / "chats.jsonl"
    save(dialogue(1, "a"), file)
    before = file.read_bytes()
    with pytest.raises(UserError, match="disk is full"):
        save(dialogue(1, "long " * 20_000), file)
    assert file.read_bytes() == before


# ---- the terminal ------------------------------------------------------------------------------


@given(st.text())
def test_no_text_of_a_model_controls_the_terminal(text: str) -> None:
    shown = harmless(text)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown)
    if text.isprintable():
        assert shown == text


def test_no_text_of_a_model_passes_for_a_line_of_the_program(script: Callable[..., str]) -> None:
    done = talk(script("hi\nyou > sure\x1b[2J\x9b1A", "bye"), "/quit")
    assert "user> hi\n      you > sure\\x1b[2J\\x9b1A" in done.out


class Person:
    """Somebody at a real terminal."""

    def __init__(self, *arguments: object) -> None:
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "userlm_synth", "chat", *map(str, arguments)],
            stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(slave)
        self.screen = ""

    def sees(self, text: str, patience: float = 60.0) -> str:
        """Wait until the terminal shows it; everything up to there, which is then gone."""
        deadline = time.monotonic() + patience
        while text not in self.screen:
            assert time.monotonic() < deadline, self.screen
            if select.select([self.master], [], [], 1.0)[0]:
                try:
                    self.screen += os.read(self.master, 65536).decode()
                except OSError:  # the terminal is closed
                    assert text in self.screen, self.screen
        before, found, self.screen = self.screen.partition(text)
        return before + found

    def types(self, keys: str) -> None:
        """Press keys."""
        os.write(self.master, keys.encode())

    def interrupts(self) -> None:
        """Press Ctrl-C until it works: Python's input is deaf for a moment after each key."""
        for _ in range(5):
            self.types("\x03")
            with suppress(AssertionError):
                self.sees("\n", patience=5.0)
                return
        raise AssertionError(self.screen)

    def waits(self) -> int:
        """The exit status."""
        self.sees("chats.jsonl")
        status = self.process.wait(30)
        os.close(self.master)
        return status


def test_on_a_terminal_a_person_types_edits_and_leaves_with_ctrl_d(
    script: Callable[..., str], tmp_path: Path
) -> None:
    file = tmp_path / "chats.jsonl"
    person = Person(script(), "--intent", INTENT, "--save", file)
    person.sees("user> hi there")
    person.sees("you > ")
    person.types("which sizf\x7fe?\r")
    person.sees("user> a small one")
    person.sees("you > ")
    person.types("\x04")
    assert person.waits() == 0
    (record,) = read_records(file, "dialogue")
    assert [one["content"] for one in record["messages"]] == [
        "hi there", "which size?", "a small one",
    ]  # fmt: skip


def test_ctrl_c_leaves_with_130_and_keeps_what_was_said(
    script: Callable[..., str], tmp_path: Path
) -> None:
    file = tmp_path / "chats.jsonl"
    person = Person(script(), "--intent", INTENT, "--save", file)
    person.sees("you > ")
    person.types("half a rep")
    person.sees("half a rep")
    person.interrupts()
    assert person.waits() == 130
    assert "Traceback" not in person.screen
    assert [one["content"] for one in read_records(file, "dialogue")[0]["messages"]] == ["hi there"]


def test_a_chat_that_is_killed_is_in_its_file_up_to_the_last_turn(
    script: Callable[..., str], tmp_path: Path
) -> None:
    file = tmp_path / "chats.jsonl"
    person = Person(script(), "--intent", INTENT, "--save", file)
    person.sees("you > ")
    person.types("which size?\r")
    person.sees("a small one")
    person.sees("you > ")
    person.process.send_signal(signal.SIGKILL)
    person.process.wait(30)
    os.close(person.master)
    assert len(read_records(file, "dialogue")[0]["messages"]) == 3
