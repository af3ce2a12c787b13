"""Facts about assistants that are prompted to play the user."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_openai_backend import serving

from userlm_synth.backends import Request, Result, open_backend, parse_spec
from userlm_synth.backends.prompted import FIRST, GO_ON, NEXT, PromptedBackend, bare, told_to
from userlm_synth.errors import UserError
from userlm_synth.records import END_TOKEN, Message

SYSTEM = "You are a user chatting with an assistant language model to buy a lamp.\n\nA nurse."
CHAT: list[Message] = [
    {"role": "system", "content": SYSTEM},
    {"role": "user", "content": "lamps?"},
    {"role": "assistant", "content": "Which room?"},
    {"role": "user", "content": "hall"},
    {"role": "assistant", "content": "Take this one."},
]
Script = Callable[[str], PromptedBackend]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def says(tmp_path: Path) -> Script:
    """A prompted model that answers with a text, whatever it is asked."""

    def make(text: str) -> PromptedBackend:
        path = tmp_path / "script.json"
        path.write_text(json.dumps([text]))
        backend = open_backend(f"prompted:scripted:{path}", speaker="user")
        assert isinstance(backend, PromptedBackend)
        return backend

    return make


async def all_of(backend: PromptedBackend, *settings: dict[str, Any]) -> list[Result]:
    """The answers to requests for the next turn of CHAT, one after the other."""
    await backend.start()
    results = [await backend.generate(Request(messages=CHAT, **each)) for each in settings]
    assert await backend.waiting() in (None, 0)
    await backend.close()
    return results


def ask(backend: PromptedBackend, **settings: Any) -> Result:
    """The answer to one."""
    return asyncio.run(all_of(backend, settings))[0]


# ---- what the model is told ------------------------------------------------------------------


def test_the_conversation_is_told_from_the_other_side() -> None:
    told = told_to(CHAT, may_end=True)
    assert [m["role"] for m in told] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert [m["content"] for m in told[1:]] == [
        FIRST, "lamps?", "Which room?", "hall", f"Take this one.\n\n{NEXT}",
    ]  # fmt: skip
    assert SYSTEM in told[0]["content"]


def test_a_first_message_is_asked_for_where_nobody_has_spoken() -> None:
    for may_end in (True, False):
        assert told_to(CHAT[:1], may_end=may_end)[1:] == [{"role": "user", "content": FIRST}]
    assert "{" not in told_to([], may_end=True)[0]["content"], "no goal, no blank for it"


def test_only_who_may_leave_is_told_how() -> None:
    assert END_TOKEN in told_to(CHAT, may_end=True)[-1]["content"]
    going_on = told_to(CHAT, may_end=False)
    assert going_on[-1]["content"] == f"Take this one.\n\n{GO_ON}"
    assert not any(END_TOKEN in message["content"] for message in going_on)


def test_a_prompt_extends_the_one_before_but_for_its_note() -> None:
    """So that a server's prefix cache keeps what it has read."""
    before, after = told_to(CHAT[:3], may_end=False), told_to(CHAT, may_end=True)
    assert after[: len(before) - 1] == before[:-1]
    assert before[-1]["content"].startswith(after[len(before) - 1]["content"])


def test_braces_in_an_intent_are_text() -> None:
    text = "write {x} and {0}"
    assert text in told_to([{"role": "system", "content": text}], may_end=True)[0]["content"]


# ---- what it answers -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (" a lamp for the hall \n", "a lamp for the hall"),
        ('"a lamp"', "a lamp"),
        ("“a lamp”", "a lamp"),
        ("User: a lamp", "a lamp"),
        ("**User:** a lamp", "a lamp"),
        ('user: "a lamp"', "a lamp"),
        ('"Human: a lamp"', "a lamp"),
        ('"big" or "small"', '"big" or "small"'),
        ("the word is 'lamp'", "the word is 'lamp'"),
        ("users: see below", "users: see below"),
        ('"', '"'),
        ("User:", ""),
        ("<think>a lamp, then</think>\n\nlamps?", "lamps?"),
        ("<think>a lamp, then", ""),
        ("how do i end a conversation", "how do i end a conversation"),
    ],
)
def test_a_message_comes_without_what_models_put_around_it(
    says: Script, said: str, text: str
) -> None:
    result = ask(says(said))
    assert (result.text, result.finish) == (text, "eot")
    assert result.completion_tokens == len(said.split())


@pytest.mark.parametrize(
    "said",
    [
        END_TOKEN, f'"{END_TOKEN}"', f"User: {END_TOKEN}", "<|EndConversation|>",
        "<endconversation>", "<|end_conversation|>", "[end of conversation]",
        f"thanks, that's it! {END_TOKEN}",
        f"{END_TOKEN}\nAssistant: bye", f"<think>is it done?</think>{END_TOKEN}",
    ],
)  # fmt: skip
def test_the_end_token_leaves_also_after_a_farewell(says: Script, said: str) -> None:
    result = ask(says(said))
    assert (result.text, result.finish) == ("", "end")


def test_an_end_token_in_its_thoughts_does_not_leave(says: Script) -> None:
    result = ask(says(f"<think>{END_TOKEN}? not yet</think>and the bulb?"))
    assert (result.text, result.finish) == ("and the bulb?", "eot")


def test_who_may_not_leave_has_said_what_stands_before_the_end_token(says: Script) -> None:
    result = ask(says(f'"thanks! a bulb too" {END_TOKEN}'), may_end=False)
    assert (result.text, result.finish) == ("thanks! a bulb too", "eot")
    assert ask(says(f"User: {END_TOKEN}"), may_end=False).finish == "end", "to be counted"


@pytest.mark.parametrize("text", ["a", "User: a", '"a"', ""])
def test_what_is_bare_stays_as_it_is(text: str) -> None:
    assert bare(bare(text)) == bare(text)


# ---- which models ----------------------------------------------------------------------------


def test_a_prompted_model_is_named_after_its_model(says: Script) -> None:
    backend = says("a")
    assert backend.name == "prompted:scripted:script.json"
    assert (backend.form, backend.context, backend.first_token) == (None, None, "regenerate")
    assert backend.signals is backend.inner.signals


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ("prompted:", "names no model"),
        ("prompted:prompted:hf:x", "cannot be prompted again; write prompted:hf:x"),
        ("prompted:openai:x", "write openai:MODEL@URL"),
        ("prompted:gguf:x", "unknown kind of model 'gguf'"),
    ],
)
def test_a_spec_that_names_no_promptable_model_is_refused(spec: str, line: str) -> None:
    with pytest.raises(UserError, match=line):
        parse_spec(spec)


def test_a_local_assistant_plays_the_user_through_its_own_template(toy_models: Path) -> None:
    backend = open_backend(f"prompted:hf:{toy_models / 'assistant_lm'}", speaker="user")
    inner = backend.inner
    asked = backend.asked(Request(messages=CHAT, max_tokens=8, seed=3, session="s"))
    assert asked.prompt_ids == inner.form.prompt(told_to(CHAT, may_end=True))
    assert inner.form.speaker == "assistant"
    assert inner.context - backend.context == len(inner.form.prompt(told_to([], may_end=True)))
    inner.context = len(asked.prompt_ids) + 8
    full, result, again = asyncio.run(all_of(backend, {"max_tokens": 9}, *[{"max_tokens": 8}] * 2))
    assert (full.finish, full.prompt_tokens) == ("context_full", 0)
    assert result.finish in ("eot", "length")
    assert result.prompt_tokens == len(asked.prompt_ids)
    assert result == again


def test_a_server_gets_the_conversation_as_messages() -> None:
    with serving(lambda body, number: f"User: turn {number}") as server:
        backend = open_backend(f"prompted:openai:tiny@{server.url}", speaker="user")
        settings = {"temperature": 0.5, "top_p": 0.9, "max_tokens": 9, "banned": [3], "end_id": 3}
        result = ask(backend, **settings)
    sent = server.requests[-1]
    assert result.text.startswith("turn ")
    assert sent["messages"] == told_to(CHAT, may_end=True)
    assert (sent["temperature"], sent["top_p"], sent["max_tokens"]) == (0.5, 0.9, 9)
    assert not {"logit_bias", "stop_token_ids", "logprobs"} & set(sent)
    assert (result.prompt_tokens, result.completion_tokens) == (5, 7)
