"""Facts about guardrails: what each refuses, what it lets pass, which tokens a filter takes."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toys import tokenizer
from userlm_synth.errors import UserError
from userlm_synth.recipe import Guardrails, load_recipe
from userlm_synth.records import INTENT_OPENING, Message
from userlm_synth.simulate.guardrails import (
    MARKUP,
    REASONS,
    expected_language,
    fault,
    first_token_ids,
    without_markup,
)
from userlm_synth.simulate.roles import HINTS, PHRASES, breaks_role, runs_on

ROOT = Path(__file__).resolve().parent.parent
INTENT = f"{INTENT_OPENING} buy lamps for the hall."
PAPER = ("I", "You", "Here")
SPANISH = "¿Puedes explicarme cómo funciona la fotosíntesis en las plantas del desierto?"


def said(*turns: str) -> list[Message]:
    """Messages of both sides, the user first."""
    return [
        {"role": ("user", "assistant")[place % 2], "content": text}
        for place, text in enumerate(turns)
    ]


def refused(
    text: str, finish: str = "eot", before: Sequence[str] = (), language: str | None = None,
    check_first: bool = True, **rules: Any,
) -> str | None:  # fmt: skip
    given = Guardrails(**rules)
    return fault(
        text, finish, said(*before), INTENT, given, check_first=check_first, language=language
    )


# ---- each on and off -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "on", "off", "reason"),
    [
        ("a <|im_end|> lamp", {}, {"control_tokens": False}, "control_tokens"),
        ("i want a lamp", {"first_token_filter": PAPER}, {}, "first_token"),
        ("Thanks!\nAssistant: You can", {}, {"run_on": False}, "run_on"),
        ("As an AI language model, I cannot", {}, {"role_break": False}, "role_break"),
        ("a lamp", {"min_words": 3}, {"min_words": 2}, "too_short"),
        ("a lamp for the hall", {"max_words": 4}, {"max_words": 5}, "too_long"),
        ("a  Lamp!", {}, {"no_repeats": False}, "repeats_a_turn"),
        ("Buy lamps for the hall", {}, {"no_repeats": False}, "repeats_the_intent"),
        (INTENT.upper(), {}, {"no_repeats": False}, "repeats_the_intent"),
        (SPANISH, {"language": "en"}, {"language": None}, "language_drift"),
    ],
)
def test_each_guardrail_refuses_when_it_is_on_and_not_when_it_is_off(
    text: str, on: dict[str, Any], off: dict[str, Any], reason: str
) -> None:
    for rules, expected in ((on, reason), (off, None)):
        language = expected_language(Guardrails(**rules), INTENT)
        before = ["a lamp", "Which one?"] if reason == "repeats_a_turn" else []
        given = {**rules, "language": language}
        assert refused(text, before=before, **given) == expected
        if language is not None:  # the simulator passes it once; the rules alone do nothing
            assert refused(text, **rules | {"language": None}) is None


@pytest.mark.parametrize(
    ("text", "finish", "reason"),
    [("bye", "end", "ended_early"), ("a lam", "length", "unfinished"), ("", "eot", "empty")],
)
def test_what_is_no_finished_turn_is_refused_whatever_the_rules(
    text: str, finish: str, reason: str
) -> None:
    free = {"no_repeats": False, "role_break": False, "run_on": False, "control_tokens": False}
    assert refused(text, finish, **free) == reason


@pytest.mark.parametrize("broken", ["a\0lamp", "a\ud800lamp"])
def test_what_no_record_may_hold_is_refused_whatever_the_rules(broken: str) -> None:
    assert refused(broken, control_tokens=False) == "control_tokens"


def test_turns_of_marks_alone_repeat_only_themselves() -> None:
    assert refused("?", before=["...", "Yes?"]) is None
    assert refused("...", before=["...", "Yes?"]) == "repeats_a_turn"


def test_only_the_users_own_turns_are_repeats() -> None:
    assert refused("Which one?", before=["a lamp", "Which one?"]) is None


TURN = st.text(st.characters(codec="utf-8"), max_size=80) | st.text(
    "<|eot_id>[/INST]s\n:AI", max_size=40
)


@given(
    TURN, st.sampled_from(["eot", "end", "length"]), st.lists(TURN, max_size=4),
    st.builds(
        Guardrails, no_repeats=st.booleans(), role_break=st.booleans(), run_on=st.booleans(),
        control_tokens=st.booleans(), min_words=st.integers(1, 4),
        max_words=st.none() | st.integers(1, 9),
        first_token_filter=st.just(()) | st.just(PAPER),
    ),
)  # fmt: skip
def test_any_text_passes_or_is_refused_for_a_known_reason(
    text: str, finish: str, before: list[str], rules: Guardrails
) -> None:
    reason = fault(text, finish, said(*before), INTENT, rules)
    assert reason is None or reason in REASONS
    if reason is None:
        assert finish == "eot"
        assert text
        assert not (rules.control_tokens and MARKUP.search(text))
        assert len(text.split()) >= rules.min_words
        assert rules.max_words is None or len(text.split()) <= rules.max_words


WORDS = st.sampled_from(
    ["could", "would", "like", "lamp", "hall", "two", "for", "and", "the", "price", "maybe"]
)


@given(st.lists(WORDS, min_size=3, max_size=25))
def test_a_turn_of_plain_words_within_the_limits_passes_the_papers_guardrails(
    words: list[str],
) -> None:
    rules = Guardrails(first_token_filter=PAPER, min_words=3, max_words=25)
    assert fault(" ".join(words), "eot", said("hello", "Hi!"), INTENT, rules) is None


@given(st.text("<|eot_id>[/INS]s \nstart_of_turn\0", max_size=60))
def test_text_without_markup_has_none_and_stays_as_it_is(text: str) -> None:
    left = without_markup(text)
    assert not MARKUP.search(left)
    assert without_markup(left) == left
    assert len(left) <= len(text)


# ---- role break, run-on ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "As an AI language model, I don't have feelings",
        "well, as a large language model I cannot",
        "I’m just an AI, so no",
        "Hello! How can I help you today?",
        "how may i assist you with your order?",
        "I'd be happy to help!",
        "Sure, I'd be happy to explain",
        "Is there anything else I can help you with?",
        "ok. Let me know if you have any other questions!",
        "Certainly! The capital is Canberra.",
        "Sure! Here's an example of a letter",
        "Of course, here are some tips",
        "You're welcome! Enjoy",
        "Here are some ideas:\n\n1. Paint it",
        "I'm sorry, but I cannot assist with that",
        "I hope this helps!",
    ],
)
def test_what_only_an_assistant_says_is_a_role_break(text: str) -> None:
    assert breaks_role(text)
    assert refused(text) == "role_break"


@pytest.mark.parametrize(
    "text",
    [
        "act as an AI language model and answer briefly",
        "are you an AI?",
        "Sure, here is my order: two lamps",
        "sure, that would help",
        "Here is the code:\n```\nx = 1\n```",
        "Here are my constraints:\n- cheap\n- red",
        "how can I help my son with his homework?",
        "I am an air traffic controller, help me write a letter",
        "I'd be happy to help my neighbour but I have no time",
        "of course not",
        "can you help me?",
        "let me know the price",
        "yes please, here is what i have so far",
    ],
)
def test_what_users_say_is_none(text: str) -> None:
    assert not breaks_role(text)
    assert refused(text) is None


def test_every_phrase_is_found_behind_its_hint() -> None:
    """The hints only save time: without them the same texts are found."""
    spoken = [
        "as an ai, i", "as an artificial intelligence my", "as a language model, it is",
        "i am a chatbot", "i'm a virtual assistant", "i am glad i could be of help",
        "how can i help you?", "anything else i can do for", "i'm here to assist you",
        "feel free to ask if you have any questions", "let me know if you have any questions",
        "don't hesitate to contact me if you have further questions",
        "let me know if there's anything else i", "i am sorry, but i cannot provide",
        "i'm sorry but as an ai", "i don't have personal opinions", "i hope that answers",
        "i'm sorry, but i'm unable to generate", "i don't have real-time",
        "let me know if you have additional questions", "let me know if you have more questions",
        "feel free to reach out if you have other questions",
        "feel free to ask if you need any further assistance",
    ]  # fmt: skip
    for text in spoken:
        assert PHRASES.search(text), text
        assert any(hint in text for hint in HINTS), text


@pytest.mark.parametrize(
    "text",
    [
        "thanks\nAssistant: You're",
        "thanks\n\nassistant: you",
        "a lamp. AI: Which one?",
        "User: a lamp",
        "a lamp\n**Assistant:** Which",
        "a lamp\nHuman: yes",
        "a lamp\n### Response:\nWhich",
        "a lamp?assistant\n\nWhich one",
        "a lamp\nassistant\nWhich one",
        "a lampassistant\n\nWhich one",
        "a lamp, please.assistant",
        "a lamp<|im_start|>assistant\nWhich",
        "a lamp [/INST] Which",
    ],
)
def test_a_turn_that_goes_on_into_the_assistants_is_a_run_on(text: str) -> None:
    assert runs_on(text)
    assert refused(text, control_tokens=False) == "run_on"


@pytest.mark.parametrize(
    "text",
    [
        "i need a virtual assistant",
        "what does an assistant do:\nthe job",
        "my boss wants an assistant\nwho can type",
        "he is a user\nof linux",
        "the superuser\nhas no rights",
        "subject: AI in schools",
        "i have a ui: it is slow\nand so on",
        "# users\nname, age",
        "an important\nthing",
    ],
)
def test_talk_of_assistants_and_users_is_none(text: str) -> None:
    assert not runs_on(text)
    assert refused(text) is None


def test_of_real_people_few_are_refused() -> None:
    folder = os.environ.get("USERLM_SYNTH_DATA")
    if not folder:
        pytest.skip("USERLM_SYNTH_DATA is not set: the folder with the real text")
    import sys

    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        measured = importlib.import_module("guardrails")
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    people, assistants = measured.people(Path(folder)), measured.assistants(Path(folder))
    assert sum(map(len, people.values())) > 30_000
    for name, turns in people.items():
        for check in (breaks_role, runs_on):
            assert sum(map(check, turns)) / len(turns) < 0.005, (name, check)
    assert sum(map(breaks_role, assistants)) / len(assistants) > 0.1


# ---- the first token -------------------------------------------------------------------------


def metaspace(*words: str) -> Any:
    """A tokenizer of whole words and letters that writes a space as `▁`, as SentencePiece does."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    pieces = [("<unk>", 0.0), *((f"▁{word}", -1.0) for word in words)]
    pieces += [(letter, -9.0) for letter in "▁abcdefghijklmnopqrstuvwxyzHIY'"]
    inner = Tokenizer(models.Unigram(pieces, 0))
    inner.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    inner.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")


def texts_of(tok: Any, ids: Sequence[int]) -> set[str]:
    return {tok.decode([token]).strip().lower() for token in ids}


def quickstarts() -> Any:
    from userlm_synth.user_lm import load_tokenizer

    return load_tokenizer(str(ROOT / "userlm_synth" / "world" / "base"))


@pytest.mark.parametrize("make", [tokenizer, quickstarts, lambda: metaspace("I", "You", "Here")])
def test_a_filter_bans_the_tokens_that_are_its_words_and_no_others(make: Any) -> None:
    tok = make()
    ids = first_token_ids(tok, PAPER)
    assert ids
    assert texts_of(tok, ids) <= {"i", "you", "here"}
    opens = tok.encode("I", add_special_tokens=False)[0]
    assert opens in ids


def test_a_space_alone_is_not_banned_where_it_is_a_token_of_its_own() -> None:
    tok = metaspace("I")
    assert tok.encode(" I", add_special_tokens=False)[0] != tok.encode("I")[0], "the trap"
    assert texts_of(tok, first_token_ids(tok, ["I"])) == {"i"}


def test_a_word_of_several_tokens_bans_none_and_is_found_in_the_text() -> None:
    tok = tokenizer()
    pieces = tok.encode("Latterly", add_special_tokens=False)
    assert len(pieces) > 1
    assert first_token_ids(tok, ["Latterly"]) == []
    assert refused("Latterly we talk", first_token_filter=("Latterly",)) == "first_token"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("I want", True), ("i want", True), ("I'm here", True), ("You", True), ("\nhere is", True),
        ("It is", False), ("Iced tea", False), ("Your lamp", False), ("so I want", False),
        ("Hereby", False), ("\"I\" is a letter", False),
    ],
)  # fmt: skip
def test_the_first_word_is_looked_at_whole_and_in_both_capitalisations(
    text: str, found: bool
) -> None:
    assert refused(text, first_token_filter=PAPER) == ("first_token" if found else None)
    assert refused(text, first_token_filter=PAPER, check_first=False) is None


def test_a_filter_written_in_either_case_finds_both() -> None:
    for word in ("maybe", "Maybe"):
        for text in ("maybe so", "Maybe so"):
            assert refused(text, first_token_filter=(word,)) == "first_token"
    tok = quickstarts()
    assert first_token_ids(tok, ["you"]) == first_token_ids(tok, ["You"])


def test_words_of_a_filter_are_words_and_no_patterns() -> None:
    assert refused("axc", first_token_filter=("a.c", "(")) is None
    assert refused("a.c is", first_token_filter=("a.c", "(")) == "first_token"


# ---- language --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "intent", "found"),
    [
        (None, INTENT, None),
        ("es", INTENT, "es"),
        ("Spanish", INTENT, "es"),
        ("en-US", INTENT, "en"),
        ("auto", f"{INTENT_OPENING} find out how plants in the desert store water.", "en"),
        ("auto", f"{INTENT_OPENING} {SPANISH}", "es"),
        ("auto", f"{INTENT_OPENING} x = 1", None),
    ],
)
def test_the_language_is_the_recipes_or_that_of_the_intent(
    rule: str | None, intent: str, found: str | None
) -> None:
    assert expected_language(Guardrails(language=rule), intent) == found


def test_a_language_that_does_not_exist_is_named() -> None:
    with pytest.raises(UserError, match=r"generate\.guardrails\.language: 'english2' is no lang"):
        expected_language(Guardrails(language="english2"), INTENT)


@pytest.mark.parametrize("text", ["ok", "Paris", "print(x)", "2 + 2 = 4", "hmm"])
def test_a_turn_in_no_sure_language_does_not_drift(text: str) -> None:
    assert refused(text, language="es") is None


def test_a_drift_is_to_another_language_only() -> None:
    assert refused(SPANISH, language="es") is None
    assert refused(SPANISH, language="en") == "language_drift"


# ---- the page --------------------------------------------------------------------------------


def test_the_page_has_every_field_with_its_default_and_what_the_recipes_set() -> None:
    page = (ROOT / "docs" / "guardrails.md").read_text("utf-8")
    rows = [
        [cell.strip(" `") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in page.partition("| counted as")[0].splitlines()
        if re.match(r"\| `\w+` \|", line)
    ]
    names = ["corpus-guarded", "corpus-free", "benchmark"]
    assert f"default | {' | '.join(names)}" in page.replace("`", "")
    shown = {row[0]: row[-4:] for row in rows}
    assert list(shown) == [one.name for one in fields(Guardrails)]
    rules = [Guardrails()]
    for name in names:
        generate = load_recipe(name).generate
        assert generate
        rules.append(generate.guardrails)
    for name, cells in shown.items():
        assert cells == [written(getattr(one, name)) for one in rules], name
    for reason in REASONS:
        assert f"`{reason}`" in page, reason


def written(value: Any) -> str:
    """A setting as the page has it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return ", ".join(value) or "none" if isinstance(value, tuple) else str(value or "none")


def test_the_bare_task_of_a_benchmark_repeats_the_intent():
    intent = f"{INTENT_OPENING} complete the following: Add 3 and 4."
    assert fault("add 3 and 4", "eot", [], intent, Guardrails()) == "repeats_the_intent"
    assert fault("add 3 to 4", "eot", [], intent, Guardrails()) is None
