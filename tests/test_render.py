"""The mask and the windows: what is trained on, to the token."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toys import INTENT, conversation, model, tokenizer
from userlm_synth.errors import UserError
from userlm_synth.flip import flip
from userlm_synth.user_lm import (
    CONTEXT,
    END,
    TURN_END,
    WORD,
    ChatFormat,
    encode_texts,
    open_chat,
    render,
    show_targets,
)

TOK = tokenizer()
FORM = open_chat(model(TOK), TOK, "user")
ASSISTANT_TOK = tokenizer()
ASSISTANT = open_chat(model(ASSISTANT_TOK), ASSISTANT_TOK, "assistant")
EOT, END_ID = TOK.convert_tokens_to_ids(["<|eot_id|>", "<|endconversation|>"])


def spans(window, kind):
    return TOK.decode([i for i, k in zip(window.ids, window.kinds, strict=True) if k == kind])


def test_the_users_words_turn_ends_and_the_end_token_are_the_only_targets():
    one = conversation("a latte please", "here or to go?", "to go", "five minutes.")
    (window,) = render(FORM, one, max_length=512)
    assert spans(window, WORD) == "a latte pleaseto go"
    assert spans(window, TURN_END) == "<|eot_id|><|eot_id|>"
    assert spans(window, END) == "<|endconversation|>"
    context = spans(window, CONTEXT)
    assert INTENT in context
    assert "here or to go?" in context
    assert "five minutes." in context


def test_end_token_is_the_only_target_after_the_last_reply():
    one = conversation("hi", "hello")
    (window,) = render(FORM, one, max_length=512)
    last_word = max(i for i, kind in enumerate(window.kinds) if kind in (WORD, TURN_END))
    assert [k for k in window.kinds[last_word + 1 :] if k != CONTEXT] == [END]
    assert window.ids[-1] == END_ID


def test_a_conversation_that_closes_on_a_user_turn_has_no_end_and_keeps_its_turn_end():
    (window,) = render(FORM, conversation("hi", "hello", "bye"), max_length=512)
    assert END not in window.kinds
    assert window.ids[-1] == EOT
    assert window.kinds[-1] == TURN_END


def test_the_assistant_lm_trains_on_replies_and_never_sees_the_intent():
    one = conversation("a latte please", "here or to go?")
    (window,) = render(ASSISTANT, one, max_length=512)
    assert spans(window, WORD) == "here or to go?"
    assert INTENT not in ASSISTANT_TOK.decode(window.ids)
    assert END_ID not in window.ids


def test_special_tokens_inside_peoples_text_are_text():
    text = "what does <|eot_id|> or <|endconversation|> mean?"
    (window,) = render(FORM, conversation(text, "<|start_header_id|>user"), max_length=512)
    assert window.ids.count(EOT) == 3  # after the intent, the user's turn, the reply
    assert window.ids.count(END_ID) == 1
    assert text in spans(window, WORD)


def test_the_intent_and_then_the_persona_are_the_system_message():
    one = {**conversation("hi", "hello"), "persona": "A student of music."}
    (window,) = render(FORM, one, max_length=512)
    assert f"{INTENT}\n\nA student of music.<|eot_id|>" in TOK.decode(window.ids)


@given(st.lists(st.text(min_size=1, max_size=40), min_size=1, max_size=7))
def test_our_ids_are_the_templates_own_and_each_sample_is_a_prefix(turns):
    one = conversation(*turns)
    (window,) = render(FORM, one, max_length=4096)
    for sample in flip(one):
        prompt = FORM.prompt(sample["prompt"])
        assert window.ids[: len(prompt)] == prompt
        text = sample["completion"][0]["content"]
        ids = [END_ID] if sample["end"] else [*encode_texts(TOK, [text])[0], EOT]
        assert window.ids[len(prompt) : len(prompt) + len(ids)] == ids
        kinds = window.kinds[len(prompt) : len(prompt) + len(ids)]
        assert kinds == ([END] if sample["end"] else [WORD] * (len(ids) - 1) + [TURN_END])
    words = sum(len(ids) for ids in encode_texts(TOK, turns[::2]))
    assert window.kinds.count(WORD) == words


PLAIN = st.text(alphabet="abc defg.?!", min_size=1, max_size=40).map(lambda t: f"x{t.strip()}")


@given(st.lists(PLAIN, min_size=2, max_size=8).filter(lambda turns: len(turns) % 2 == 0))
def test_plain_text_gets_the_ids_of_apply_chat_template(turns):
    messages = [{"role": "system", "content": INTENT}, *conversation(*turns)["messages"]]
    ids = TOK.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert FORM.prompt(messages) == ids


# ---- windows (against a slow reference: test_windows.py) ----------------------------------------


def test_a_later_window_repeats_the_intent_and_opens_with_512_tokens_of_history():
    turns = [f"turn {n} " + "word " * 60 for n in range(40)]
    windows = render(FORM, conversation(*turns), max_length=1024)
    assert len(windows) > 2
    for window in windows[1:]:
        assert INTENT in TOK.decode(window.ids)
        first_target = next(i for i, kind in enumerate(window.kinds) if kind)
        assert first_target >= 512
        assert len(window.ids) <= 1024


def test_short_turns_after_a_long_reply_have_512_tokens_of_history_and_share_a_window():
    turns = ["7" * length for length in (20, 1900, 20, 30, 300, *[20] * 8)]
    windows = render(FORM, conversation(*turns, intent=None), max_length=2048)
    assert [sorted(set(window.turns) - {0}) for window in windows] == [[1, 2], [3, 4, 5, 6, 7]]
    assert windows[1].lost_beginnings == 1  # the long reply's, which would not fit whole
    assert next(i for i, kind in enumerate(windows[1].kinds) if kind) >= 512
    assert len(windows[1].ids) == 2048  # no more is lost than must be


def test_a_reply_too_long_for_the_room_loses_its_beginning_and_is_counted():
    reply = " ".join(f"n{number}" for number in range(400))
    windows = render(FORM, conversation("hi", reply, "thanks"), max_length=256)
    assert [(window.lost_beginnings, window.lost_ends) for window in windows] == [(0, 0), (1, 0)]
    text = TOK.decode(windows[1].ids)
    assert "\n\nhi<|eot_id|>" in text
    assert "n399<|eot_id|>" in text
    assert " n10 " not in text
    assert len(windows[1].ids) == 256


def test_a_user_turn_too_long_for_the_room_is_cut_at_its_end_without_a_turn_end():
    long = " ".join(f"n{number}" for number in range(400))
    windows = render(FORM, conversation(long, "ok"), max_length=256)
    assert [(window.lost_beginnings, window.lost_ends) for window in windows] == [(0, 1), (1, 0)]
    assert spans(windows[0], WORD).startswith("n0 n1")
    assert TURN_END not in windows[0].kinds
    assert len(windows[0].ids) == 256
    assert "n399<|eot_id|>" in TOK.decode(windows[1].ids)  # as history it loses its beginning
    assert windows[1].kinds[-1] == END


def test_a_user_turn_longer_than_the_window_leaves_room_for_its_history():
    one = conversation("hi", "what is it?", "7" * 400, intent=None)
    window = render(FORM, one, max_length=256)[1]
    assert "\n\nhi<|eot_id|>" in TOK.decode(window.ids)
    assert "what is it?<|eot_id|>" in TOK.decode(window.ids)
    assert (window.lost_beginnings, window.lost_ends) == (0, 1)
    assert len(window.ids) == 256


def test_an_intent_that_fills_the_room_is_refused_in_one_line_with_the_conversation():
    one = conversation("hi", intent="long " * 200, number=7)
    with pytest.raises(UserError, match="'toy-7': max_length=64 is too small") as refused:
        render(FORM, one, max_length=64)
    assert "\n" not in str(refused.value)


# ---- other people's templates ------------------------------------------------------------------

USERLM_8B = (  # the published model's form: one newline, no BOS, always an open user header
    "{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n' + m.content "
    "+ '<|eot_id|>' }}{% endfor %}{{ '<|start_header_id|>user<|end_header_id|>' }}"
)


def test_a_template_that_leaves_the_newline_to_the_model_is_probed():
    tok = tokenizer()
    tok.chat_template = USERLM_8B
    form = ChatFormat.probe(tok)
    assert tok.decode(form.lead) == "\n"
    prompt = tok.decode(form.prompt([{"role": "system", "content": "X"}]))
    assert prompt == (
        "<|start_header_id|>system<|end_header_id|>\nX<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>"
    )
    (window,) = render(form, conversation("hi", "hello"), max_length=512)
    assert (
        tok.decode([i for i, k in zip(window.ids, window.kinds, strict=True) if k == WORD]) == "hi"
    )


def test_a_chatml_tokenizer_keeps_its_own_turns():
    tok = tokenizer()
    tok.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    form = open_chat(model(tok), tok, "user")
    (window,) = render(form, conversation("hi", "hello"), max_length=512)
    assert tok.decode(window.ids).endswith(
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nhello<|im_end|>\n"
        "<|im_start|>user\n<|endconversation|>"
    )
    ends = [i for i, k in zip(window.ids, window.kinds, strict=True) if k == TURN_END]
    assert tok.decode(ends) == "<|im_end|>"


@pytest.mark.parametrize(
    ("template", "says"),
    [
        (None, "no chat template"),
        (USERLM_8B.replace(">user<", ">assistant<"), "does not open a \\*user\\* turn"),
        (USERLM_8B.replace("m.content", "m.content | upper"), "drops or changes"),
        ("{{ raise_exception('only users') }}", "refuses"),
    ],
)
def test_a_template_that_cannot_serve_a_user_lm_is_refused(template, says):
    tok = tokenizer()
    tok.chat_template = template
    with pytest.raises(UserError, match=says):
        ChatFormat.probe(tok)


def test_the_coloured_tokens_show_targets_in_green_and_context_in_grey():
    (window,) = render(FORM, conversation("a latte", "sure"), max_length=512)
    shown = show_targets(TOK, window)
    assert "\x1b[32ma latte\x1b[0m\x1b[1;32m<|eot_id|>\x1b[0m" in shown
    assert shown.endswith("\x1b[1;35m<|endconversation|>\x1b[0m")
    assert "sure" in shown.split("\x1b[90m")[2]
