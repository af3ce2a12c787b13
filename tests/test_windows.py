"""The windows of a long conversation, against a slow reference; many conversations at once."""

from __future__ import annotations

import sys
from itertools import islice, takewhile
from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from toys import conversation, model, tokenizer
from userlm_synth.errors import UserError
from userlm_synth.user_lm import (
    CONTEXT,
    END,
    TURN_END,
    WORD,
    encode_texts,
    open_chat,
    render,
    render_all,
)

MODULE = sys.modules["userlm_synth.user_lm.render"]  # its name in the package is a function
FORMS = {}
for speaker in ("user", "assistant"):
    tok = tokenizer()
    FORMS[speaker] = open_chat(model(tok), tok, speaker)
FORM = FORMS["user"]


def digits(lengths):
    """Texts of so many digits, each a token of the toy tokenizer; no two places look alike."""
    stream = "".join(str(number * 7919 % 10007) for number in range(sum(lengths)))
    at = 0
    for length in lengths:
        yield stream[at : at + length]
        at += length


# ---- against the slow reference --------------------------------------------------------------


def turns_of(form, one):
    """(role, ids of the text, their kind, ids that close the turn)."""
    close = [form.turn_end_id]
    texts = encode_texts(form.tokenizer, [m["content"] for m in one["messages"]])
    roles = [m["role"] for m in one["messages"]]
    turns = [(role, ids, WORD, close) for role, ids in zip(roles, texts, strict=True)]
    if form.speaker == "user" and roles[-1] == "assistant":
        turns.append(("user", [form.end_id], END, []))
    return turns


def write(form, head, turns, first, target, last, cut):
    """[(id, kind, turn)] of a window whose opening turns lose `cut` tokens; None if they can't."""
    texts = [ids for _, ids, _, _ in turns]
    opening = [index for index in (first, first + 1) if index < target]
    for index in sorted(opening, key=lambda index: len(texts[index]), reverse=True):
        while cut and len(texts[index]) > 1:
            texts[index] = texts[index][1:]
            cut -= 1
    if cut:
        return None
    out = [(token, CONTEXT, 0) for token in head]
    before, trained = "system" if head else "start", False
    for index in range(first, last + 1):
        role, _, kind, close = turns[index]
        markup = form.pieces[before, role][trained:]  # it begins with the end of the turn before
        before, trained = role, role == form.speaker and index >= target
        out += [(token, CONTEXT, 0) for token in markup]
        number = index // 2 + 1
        out += [(token, *((kind, number) if trained else (CONTEXT, 0))) for token in texts[index]]
        out += [(token, TURN_END, number) for token in close if trained]
    return out


def slow_window(form, turns, head, targets, max_length, enough):
    """(tokens, last turn) of the window for the first of `targets`, by trying: every opening,
    every cut of it, every last turn."""
    target, most = targets[0], max_length

    def possible(opening, last):
        """(cut, tokens of history kept, window) for every cut that there can be."""
        history = sum(len(ids) for _, ids, _, _ in turns[opening:target])
        every = (
            (cut, history - cut, write(form, head, turns, opening, target, last, cut))
            for cut in range(history + 1)
        )
        return list(takewhile(lambda one: one[2] is not None, every))

    def tries(opening, last):
        return [one for one in possible(opening, last) if len(one[2]) <= most]

    openings = [index for index in range(target + 1) if turns[index][0] == "user"]
    whole = bool(tries(openings[-1], target))
    if not whole:  # it is cut in any case; half of the room is for its history
        room = max_length - len(head) - len(form.pieces["system" if head else "start", "user"])
        most += len(turns[target][1] + turns[target][3]) - (room + 1) // 2
    kept = {
        opening: max((history for _, history, _ in tries(opening, target)), default=-1)
        for opening in openings
    }
    opening = max(openings, key=lambda opening: (min(kept[opening], enough), opening))
    best, last = min(tries(opening, target) or possible(opening, target)[-1:]), target
    for further in targets[1:] if whole else []:
        good = [
            one
            for one in tries(opening, further)
            if one[0] == 0 or (best[0] > 0 and one[1] >= enough)
        ]
        if good:
            longest, last = min(good), further
    return (longest if last > target else best)[2][:max_length], last


def slow_windows(form, one, head, max_length, enough):
    """All windows by DESIGN's rule; None where a turn has no room."""
    turns, windows = turns_of(form, one), []
    targets = [index for index, turn in enumerate(turns) if turn[0] == form.speaker]
    while targets:
        window, last = slow_window(form, turns, head, targets, max_length, enough)
        if not any(kind for _, kind, _ in window):
            return None
        windows.append(window)
        targets = [index for index in targets if index > last]
    return windows


@settings(max_examples=300)
@given(
    lengths=st.lists(st.integers(1, 9) | st.integers(1, 40), min_size=1, max_size=9),
    intent=st.none() | st.integers(1, 20),
    persona=st.none() | st.integers(1, 20),
    speaker=st.sampled_from(["user", "assistant"]),
    max_length=st.integers(8, 130),
    enough=st.integers(1, 40) | st.just(512),
)
@example([9, 40, 3, 4, 4, 9, 3, 9, 3], 10, None, "user", 60, 20)
@example([1] * 6, None, None, "assistant", 25, 1)  # a history of just as much as is asked for
@example([1] * 9 + [27, 1, 15], None, None, "user", 44, 3)  # as much of it as may go
@example([1] * 7 + [19, 19, 40, 1, 1], None, None, "assistant", 100, 20)  # a window just full
@example([22, 1], None, 1, "user", 33, 512)  # a turn longer than the window, then a short one
@example([1, 1], None, None, "assistant", 12, 512)  # room for one token of each turn
@example([3], 2, None, "user", 12, 5)  # an intent that leaves no room at all
def test_windows_are_those_of_the_slow_reference(
    lengths, intent, persona, speaker, max_length, enough
):
    form = FORMS[speaker]
    intent, persona, *texts = digits([intent or 0, persona or 0, *lengths])
    one = {**conversation(*texts, intent=intent or None), "persona": persona or None}
    system = "\n\n".join(part for part in (intent, persona) if part)
    head = []
    if system and speaker == "user":
        head = form.pieces["start", "system"] + encode_texts(form.tokenizer, [system])[0]
    expected = slow_windows(form, one, head, max_length, enough)
    with mock.patch.object(MODULE, "HISTORY", enough):
        if expected is None:
            with pytest.raises(UserError, match=rf"max_length={max_length} is too small"):
                render(form, one, max_length=max_length)
            return
        windows = render(form, one, max_length=max_length)
    assert expected == [
        list(zip(window.ids, window.kinds, window.turns, strict=True)) for window in windows
    ]
    numbers = [number for window in windows for number in sorted(set(window.turns)) if number]
    assert numbers == list(range(1, len(numbers) + 1))  # each once, none lost
    trained = sum(window.targets for window in windows)
    whole = sum(window.targets for window in render(form, one, max_length=10**6))
    assert (trained == whole) == (sum(window.lost_ends for window in windows) == 0)


# ---- many conversations ----------------------------------------------------------------------

CHATS = [
    conversation("a latte", "to go?", "yes", "ok", number=number, intent=f"intent {number % 3}")
    for number in range(10)
]


@pytest.mark.parametrize("speaker", ["user", "assistant"])
@pytest.mark.parametrize("block", [1, 3, 100])
def test_many_conversations_at_once_are_the_same_windows_as_one_by_one(speaker, block):
    form = FORMS[speaker]
    chats = [*CHATS, conversation(*digits([30] * 6), number=10)]
    many = render_all(
        form, chats, max_length=90, block=block, with_intent=lambda one: one["id"] != "toy-4"
    )
    one_by_one = [
        (place, window)
        for place, one in enumerate(chats)
        for window in render(form, one, max_length=90, with_intent=place != 4)
    ]
    assert list(many) == one_by_one
    assert len(one_by_one) > len(chats)


def test_the_intent_is_left_out_of_the_conversations_that_it_is_asked_for():
    windows = render_all(FORM, CHATS, max_length=512, with_intent=lambda one: one["id"] != "toy-4")
    shown = ["intent" in FORM.tokenizer.decode(window.ids) for _, window in windows]
    assert shown == [place != 4 for place in range(10)]


def test_the_texts_of_a_block_are_encoded_in_one_call_and_equal_ones_once():
    with mock.patch.object(MODULE, "encode_texts", wraps=encode_texts) as encode:
        list(render_all(FORM, CHATS, max_length=512, block=5))
    calls = [sorted(call.args[1]) for call in encode.call_args_list]
    assert calls == [["a latte", "intent 0", "intent 1", "intent 2", "ok", "to go?", "yes"]] * 2


def test_no_more_than_a_block_of_conversations_is_taken_at_a_time():
    source = iter(CHATS)
    windows = render_all(FORM, source, max_length=512, block=4)
    assert [place for place, _ in islice(windows, 3)] == [0, 1, 2]
    assert len(list(source)) == 6
