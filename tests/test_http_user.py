"""Facts about how a user LM on a server is asked, and how its leaving is seen."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from http_toys import chat, listing, toy, words
from test_http_backend import opened, quick, refused  # noqa: F401

import toys
from userlm_synth.backends import Request, Result
from userlm_synth.backends.first_token import PROBE
from userlm_synth.backends.openai_server import OpenAIServer
from userlm_synth.errors import UserError
from userlm_synth.records import END_TOKEN
from userlm_synth.user_lm import ChatFormat, fingerprint, load_tokenizer, open_chat
from userlm_synth.user_lm.checkpoint import save_checkpoint

TURNS: Any = [
    {"role": "system", "content": toys.INTENT},
    {"role": "user", "content": "could i get a small latte please"},
    {"role": "assistant", "content": "Sure! Is that for here or to go?"},
]
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user LM's checkpoint; its weights are random."""
    tokenizer, place = toys.tokenizer(), tmp_path_factory.mktemp("served") / "user_lm"
    model = toys.model(tokenizer)
    open_chat(model, tokenizer, "user")
    save_checkpoint(model, tokenizer, place, {})
    return place


@pytest.fixture(scope="module")
def lead_folder(folder: Path) -> Path:
    """The same with a newline between the opened user turn and the words, as UserLM-8b has."""
    place = folder.parent / "with_lead"
    place.mkdir()
    for file in folder.iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    template = (
        "{%- for m in messages %}{{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>' "
        "+ '\\n' + m['content'] + '<|eot_id|>' }}{%- endfor %}"
        "{{- '<|start_header_id|>user<|end_header_id|>' }}"
    )
    tokenizer = load_tokenizer(str(folder))
    tokenizer.chat_template = template
    tokenizer.save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def form(folder: Path) -> ChatFormat:
    return ChatFormat.probe(load_tokenizer(str(folder)), "user")


def vllm(root: Any = None) -> Any:
    """The list of models of a vLLM server."""
    return listing("tiny", owned_by="vllm", root=str(root), max_model_len=512)


def plain(answers: Any) -> Any:
    """A vLLM without our processor: it answers the question for it as any other request."""
    return lambda path, body, number: words("x", [9]) if number == 0 else answers(path, body)


def native(answers: Any) -> Any:
    """A vLLM with our processor."""

    def behave(path: str, body: Any, number: int) -> Any:
        if body.get("vllm_xargs") == PROBE:
            return 400, {}, refused("banned_first is a list of token ids")
        return answers(path, body)

    return behave


def wanted(form: ChatFormat | None, **more: Any) -> Request:
    ids = form and [*form.prompt(TURNS), *form.lead]
    end = form.end_id if form else None
    request = Request(
        messages=TURNS, prompt_ids=ids, temperature=0.5, top_p=0.9, max_tokens=9, seed=3,
        end_id=end, session="chat",
    )  # fmt: skip
    return replace(request, **more)


def ask(server: Any, **more: Any) -> tuple[OpenAIServer, Result]:
    """The result of one request with the form that the backend found, after `start`."""
    settings = {key: more.pop(key) for key in ("api", "tokenizer") if key in more}
    backend = opened(server, speaker="user", **settings)

    async def run() -> Result:
        try:
            await backend.start()
            return await backend.generate(wanted(backend.form, **more))
        finally:
            await backend.close()

    return backend, asyncio.run(run())


# ---- the prompt --------------------------------------------------------------------------------


@pytest.fixture(params=["folder", "lead_folder"])
def served(request: pytest.FixtureRequest) -> Path:
    place: Path = request.getfixturevalue(request.param)
    return place


def test_chat_and_completions_lead_to_the_same_prompt(served: Path) -> None:
    tokenizer = load_tokenizer(str(served))
    with toy(native(lambda path, body: words("hi", [9])), vllm(served)) as server:
        ask(server, api="completions")
    with toy(native(lambda path, body: chat("hi", token_ids=[9])), vllm(served)) as other:
        ask(other, api="chat")
    path, asked = other.requests[-1]
    assert path == CHAT
    assert asked["messages"] == TURNS
    assert asked["add_generation_prompt"] is True
    text = tokenizer.apply_chat_template(TURNS, tokenize=False, add_generation_prompt=True)
    by_the_server = tokenizer.encode(text, add_special_tokens=False)
    lead = ChatFormat.probe(
        tokenizer, "user"
    ).lead  # the model writes it, where it is asked by chat
    assert server.bodies[-1]["prompt"] == by_the_server + lead


def test_messages_alone_are_rendered_where_ids_are_sent(served: Path) -> None:
    with toy(native(lambda path, body: words("hi", [9])), vllm(served)) as server:
        ask(server)
        ask(server, prompt_ids=None)
    assert server.bodies[-1] == server.bodies[1]


def test_a_served_checkpoint_is_named_by_its_content_and_gives_the_turn_format(
    folder: Path, form: ChatFormat
) -> None:
    with toy(native(lambda path, body: words("hi", [9])), vllm(folder)) as server:
        backend, _ = ask(server)
    assert backend.name == "openai:tiny#" + fingerprint(str(folder)).partition("#")[2]
    assert backend.form
    assert backend.form.stop_ids == form.stop_ids
    assert (backend.context, backend.first_token) == (512, "native")
    path, sent = server.requests[-1]
    assert path == COMPLETIONS
    assert sent["prompt"] == form.prompt(TURNS)
    assert sent["stop_token_ids"] == form.stop_ids
    assert sent["return_token_ids"] is True
    assert sent["skip_special_tokens"] is False
    assert (sent["top_k"], sent["min_p"], sent["repetition_penalty"]) == (-1, 0.0, 1.0)


def test_two_servers_with_different_checkpoints_are_refused(
    folder: Path, lead_folder: Path
) -> None:
    one, two = toy(words("x", [9]), vllm(folder)), toy(words("x", [9]), vllm(lead_folder))
    with one as first, two as second:
        backend = opened(first, second, speaker="user")
        with pytest.raises(UserError, match="different models"):
            asyncio.run(backend.start())
        asyncio.run(backend.close())


def test_a_tokenizer_that_the_recipe_names_serves_where_the_server_names_none(
    folder: Path, form: ChatFormat
) -> None:
    with toy(words("hi", [])) as server:
        backend, result = ask(server, tokenizer=str(folder), banned=(5,))
    assert (backend.path, backend.first_token) == ("/completions", "regenerate")
    assert result.text == "hi"
    sent = server.bodies[-1]
    assert sent["prompt"] == form.prompt(TURNS)
    assert sent["logit_bias"] == {"5": -100}
    assert not {"stop_token_ids", "return_token_ids", "top_k"} & set(sent)


@pytest.mark.parametrize("status", [404, 405, 400])
def test_a_server_without_completions_is_asked_by_chat(folder: Path, status: int) -> None:
    def behave(path: str, body: Any, number: int) -> Any:
        return chat("hi") if path == CHAT else (status, {}, refused("no"))

    with toy(behave) as server:
        backend, result = ask(server, tokenizer=str(folder))
    assert (backend.path, result.text) == ("/chat/completions", "hi")


def test_completions_without_a_tokenizer_are_refused_in_one_line() -> None:
    with toy(chat("hi")) as server:
        backend = opened(server, speaker="user", api="completions")
        with pytest.raises(UserError, match="needs the user LM's tokenizer"):
            asyncio.run(backend.start())
        asyncio.run(backend.close())


def test_messages_alone_go_to_a_server_that_says_nothing_of_its_tokenizer() -> None:
    with toy(chat("\n hi")) as server:
        backend, result = ask(server)
    assert backend.form is None
    assert server.bodies[-1]["messages"] == TURNS
    assert result.text == "hi"  # what the template writes before the words, the model wrote


# ---- leaving -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ids", "more", "finish", "kept"),
    [
        ([9, "eot"], {"stop_reason": "eot"}, "eot", [9]),
        ([9, 8], {}, "length", [9, 8]),
        (["end"], {"stop_reason": "end"}, "end", []),
        (["end"], {"stop_reason": None}, "end", []),  # the model's own stop id: no reason given
        ([9, "end"], {"stop_reason": "end"}, "end", [9]),
        (["eot"], {"stop_reason": "eot"}, "eot", []),  # an empty turn is not the end
    ],
)
@pytest.mark.parametrize("api", ["chat", "completions"])
def test_vllm_tells_the_end_by_its_id(
    folder: Path, form: ChatFormat, api: str, ids: Any, more: Any, finish: str, kept: list[int]
) -> None:
    named = {"eot": form.turn_end_id, "end": form.end_id}
    ids = [named.get(one, one) for one in ids]
    more = {key: named.get(value, value) for key, value in more.items()}
    reason = "length" if finish == "length" else "stop"
    one = chat("", reason, token_ids=ids, **more)
    if api == "completions":
        one = words("", ids, reason, **more)
    with toy(native(lambda path, body: one), vllm(folder)) as server:
        _, result = ask(server, api=api)
    assert (result.finish, list(result.token_ids)) == (finish, kept)


@pytest.mark.parametrize(
    ("answer", "text", "finish"),
    [
        (chat(END_TOKEN), "", "end"),
        (chat(f"\n{END_TOKEN}"), "", "end"),
        (chat(f"bye{END_TOKEN}<|eot_id|>"), "bye", "end"),
        (chat(""), "", "end"),  # stripped
        (chat("\n"), "", "end"),
        (chat(None), "", "end"),
        (chat("", "length"), "", "length"),
        (chat("hi"), "hi", "eot"),
        (chat("hi", "length"), "hi", "length"),
    ],
)
def test_other_servers_tell_the_end_by_its_text_or_by_nothing_at_all(
    answer: Any, text: str, finish: str
) -> None:
    with toy(answer) as server:
        _, result = ask(server)
    assert (result.text, result.finish) == (text, finish)


def test_an_empty_reply_is_no_end_where_the_user_may_not_leave() -> None:
    with toy(chat("")) as server:
        assert ask(server, may_end=False)[1].finish == "eot"


def test_a_vllm_whose_tokenizer_is_elsewhere_is_asked_for_the_end_tokens_id() -> None:
    def behave(path: str, body: Any, number: int) -> Any:
        if path == "/tokenize":
            assert (body["prompt"], body["add_special_tokens"]) == (END_TOKEN, False)
            return {"tokens": [77]}
        return chat("", token_ids=[5, 77])

    with toy(behave, vllm("org/model")) as server:
        backend, result = ask(server, may_end=False)
    assert (backend.end_id, result.finish, result.token_ids) == (77, "end", [5])
    sent = server.bodies[-1]
    assert sent["stop_token_ids"] == [77]
    assert sent["logit_bias"] == {"77": -100}


# ---- the probability of leaving ----------------------------------------------------------------


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_the_probability_of_leaving_is_asked_of_vllm_by_the_end_tokens_id(
    served: Path, api: str
) -> None:
    form = ChatFormat.probe(load_tokenizer(str(served)), "user")
    end = f"token_id:{form.end_id}"
    before = len(form.lead) if api == "chat" else 0  # a token's figures that are not the words'
    tops = [{end: math.log(0.9)}] * before + [{"token_id:9": -0.5, end: math.log(0.25)}]
    if api == "chat":
        lists = [[{"token": k, "logprob": v} for k, v in top.items()] for top in tops]
        content = [{"token": "token_id:9", "top_logprobs": one} for one in lists]
        answer: Any = chat("hi", token_ids=[9], logprobs={"content": content})
    else:
        answer = words("hi", [9], logprobs={"top_logprobs": tops})
    with toy(native(lambda path, body: answer), vllm(served)) as server:
        _, result = ask(server, api=api)
    assert result.end_probability == pytest.approx(0.25)
    sent = server.bodies[-1]
    assert sent["logprob_token_ids"] == [form.end_id]
    assert sent["return_tokens_as_token_ids"] is True


def test_a_request_that_names_no_end_asks_for_no_probabilities(folder: Path) -> None:
    with toy(native(lambda path, body: words("hi", [9])), vllm(folder)) as server:
        ask(server, end_id=None)
    assert not {"logprobs", "logprob_token_ids"} & set(server.bodies[-1])


@pytest.mark.parametrize(("token", "chance"), [(END_TOKEN, 0.25), ("other", None)])
def test_other_servers_tell_it_where_the_end_is_among_the_likeliest_tokens(
    token: str, chance: float | None
) -> None:
    newline = {"token": "\n", "top_logprobs": [{"token": END_TOKEN, "logprob": -0.1}]}
    word = {"token": "hi", "top_logprobs": [{"token": token, "logprob": math.log(0.25)}]}
    with toy(chat("\nhi", logprobs={"content": [newline, word]})) as server:
        _, result = ask(server)
    assert server.bodies[-1]["top_logprobs"] == 20
    assert result.end_probability == (chance and pytest.approx(chance))


@pytest.mark.parametrize(
    "logprobs", [None, {}, [], 5, {"content": []}, {"content": [{"top_logprobs": None}]}]
)
def test_probabilities_that_did_not_come_are_none(logprobs: Any) -> None:
    with toy(chat("hi", logprobs=logprobs)) as server:
        _, result = ask(server)
    assert (result.text, result.end_probability) == ("hi", None)


def test_a_server_that_gives_no_probabilities_is_not_asked_again() -> None:
    def behave(path: str, body: Any, number: int) -> Any:
        return (400, {}, refused("logprobs is not supported")) if "logprobs" in body else chat("hi")

    with toy(behave) as server:
        _, result = ask(server)
    assert result.text == "hi"
    assert not {"logprobs", "top_logprobs"} & set(server.bodies[-1])


# ---- the filter of the first token -------------------------------------------------------------


def continued(path: str, body: Any) -> Any:
    """The first token of a two-byte letter, then the second one and a word."""
    usage = {"prompt_tokens": 50, "prompt_tokens_details": {"cached_tokens": 32}}
    if body["max_tokens"] == 1:
        top = {f"token_id:{i}": math.log(0.125) for i in body["logprob_token_ids"]}
        return {**words("\ufffd", LETTER[:1], logprobs={"top_logprobs": [top]}), "usage": usage}
    return {**words("\ufffdx", [*LETTER[1:], 9], "stop", stop_reason=4), "usage": usage}


LETTER: list[int] = []


def test_two_calls_filter_the_first_token_and_are_one_result(
    folder: Path, form: ChatFormat
) -> None:
    LETTER[:] = form.tokenizer.encode("é", add_special_tokens=False)
    assert len(LETTER) == 2
    eot, end = form.stop_ids
    with toy(plain(continued), vllm(folder)) as server:
        backend, result = ask(server, banned=(end,), banned_first=(eot, 30, 31))
    assert backend.first_token == "two_calls"
    assert [path for path, _ in server.requests[1:]] == [COMPLETIONS] * 2
    first, second = server.bodies[1:]
    assert first["prompt"] == form.prompt(TURNS)
    assert (first["max_tokens"], second["max_tokens"]) == (1, 8)
    assert first["logit_bias"] == {str(one): -100 for one in (end, eot, 30, 31)}
    assert second["logit_bias"] == {str(end): -100}
    assert second["prompt"] == [*first["prompt"], *LETTER[:1]]
    assert second["seed"] != first["seed"]  # else both draw with the same random number
    assert "logprobs" not in second
    own = {"prompt", "max_tokens", "seed", "logit_bias"} | {
        one for one in first if "logprob" in one
    }
    own.add("return_tokens_as_token_ids")
    assert {k: v for k, v in first.items() if k not in own} == {
        k: v for k, v in second.items() if k not in own
    }
    assert result.text == form.tokenizer.decode([*LETTER, 9])
    assert list(result.token_ids) == [*LETTER, 9]
    assert (result.finish, result.end_probability) == ("eot", pytest.approx(0.125))
    assert (result.prompt_tokens, result.cached_tokens) == (100, 64)


@pytest.mark.parametrize(("which", "finish"), [(0, "eot"), (1, "end")])
def test_a_turn_that_ends_at_its_first_token_needs_no_second_call(
    folder: Path, form: ChatFormat, which: int, finish: str
) -> None:
    stop = form.stop_ids[which]
    answer = words("", [stop], "stop", stop_reason=stop)
    with toy(plain(lambda path, body: answer), vllm(folder)) as server:
        _, result = ask(server, banned_first=(30,))
    assert result.finish == finish
    assert len(server.requests) == 2  # one of them looked for the processor


def test_where_only_the_turns_end_is_banned_first_one_call_is_enough(
    folder: Path, form: ChatFormat
) -> None:
    with toy(plain(lambda path, body: words("hi", [9])), vllm(folder)) as server:
        ask(server, banned_first=(form.turn_end_id,))
    assert [body["max_tokens"] for body in server.bodies] == [1, 9]


def test_a_vllm_with_our_processor_filters_in_one_call(folder: Path, form: ChatFormat) -> None:
    with toy(native(lambda path, body: words("hi", [9])), vllm(folder)) as server:
        ask(server, banned=(7,), banned_first=(form.turn_end_id, 30))
    assert len(server.requests) == 2
    sent = server.bodies[-1]
    assert sent["vllm_xargs"] == {"banned_first": [form.turn_end_id, 30]}
    assert sent["logit_bias"] == {"7": -100}


def test_chat_filters_natively_only_where_the_words_come_first(
    folder: Path, lead_folder: Path
) -> None:
    for place, way in ((folder, "native"), (lead_folder, "regenerate")):
        with toy(native(lambda path, body: chat("hi", token_ids=[9])), vllm(place)) as server:
            assert ask(server, api="chat")[0].first_token == way
