"""Each family's own turns, and the end token in the place that the family has for it.

The checkpoints are tiny ones of the documented layout (tests/families.py, with the sources in
userlm_synth/user_lm/families.py); the real ones were not run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

import families
from families import NAMES, SENTENCEPIECE, UNTIED, family
from userlm_synth.user_lm import (
    ChatFormat,
    encode_texts,
    load_tokenizer,
    open_chat,
    save_checkpoint,
    special_ids,
)
from userlm_synth.user_lm.families import family_of

END = "<|endconversation|>"
SYSTEM = "You are a user. Order 20 lattes."
CHATML = (
    f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
    "<|im_start|>assistant\nhello<|im_end|>\n<|im_start|>user\n"
)
LLAMA3 = (
    f"<|start_header_id|>system<|end_header_id|>\n\n{SYSTEM}<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nhello<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n"
)
GEMMA = (
    f"<start_of_turn>system\n{SYSTEM}<end_of_turn>\n<start_of_turn>user\nhi<end_of_turn>\n"
    "<start_of_turn>model\nhello<end_of_turn>\n<start_of_turn>user\n"
)
MISTRAL = f"[SYSTEM_PROMPT]{SYSTEM}[/SYSTEM_PROMPT][INST]hi[/INST]hello</s>[INST]"
#: family, TURNS in its markup, the token that ends a user's turn, and the reserved slot that the
#: end token takes over (None: the row after the last token)
EXPECTED = {
    "llama3": ("Llama-3", LLAMA3, "<|eot_id|>", "<|reserved_special_token_247|>"),
    "qwen2": ("Qwen", CHATML, "<|im_end|>", None),
    "qwen3": ("Qwen", CHATML, "<|im_end|>", None),
    "gemma3": ("Gemma", GEMMA, "<end_of_turn>", "<unused98>"),
    "gemma2": ("Gemma", GEMMA, "<end_of_turn>", "<unused98>"),
    "mistral_v1": ("plain", LLAMA3, "<|eot_id|>", None),
    "mistral_v3": ("Mistral", MISTRAL, "[/INST]", "[control_768]"),
    "mistral_tekken": ("Mistral", MISTRAL, "[/INST]", "<SPECIAL_999>"),
    "smollm2": ("SmolLM2", CHATML, "<|im_end|>", None),
    "smollm3": ("SmolLM3", CHATML, "<|im_end|>", "<|reserved_special_token_247|>"),
    "olmo2": ("OLMo", CHATML, "<|im_end|>", "<|extra_id_10|>"),
    "olmo3": ("OLMo", CHATML, "<|im_end|>", "<|extra_id_10|>"),
}
TURNS = [
    {"role": "system", "content": SYSTEM},
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "hello"},
]
each_family = pytest.mark.parametrize("name", NAMES)


@dataclass
class Opened:
    """A base checkpoint after `open_chat`, and what it was before."""

    model: Any
    tokenizer: Any
    form: ChatFormat
    before: dict[str, int]
    tables: list[torch.Tensor]
    special: set[int]


def tables_of(model: Any) -> list[torch.Tensor]:
    """The embedding [V, H], and the head where it has weights of its own."""
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    return [embedding] if head is embedding else [embedding, head]


def open_base(name: str, speaker: Any = "user") -> Opened:
    model, tokenizer = family(name)
    before = tokenizer.get_vocab()
    tables = [table.detach().clone() for table in tables_of(model)]
    special = special_ids(tokenizer)
    form = open_chat(model, tokenizer, speaker)
    return Opened(model, tokenizer, form, before, tables, special)


opened = cache(open_base)


@each_family
def test_a_family_is_recognised_and_keeps_its_own_turns(name):
    one = opened(name)
    expected, text, turn_end, _ = EXPECTED[name]
    assert family_of(family(name)[1]).name == expected
    written = one.tokenizer.apply_chat_template(TURNS, tokenize=False)
    assert written == (one.tokenizer.bos_token or "") + text
    assert one.form.stop_ids == one.tokenizer.convert_tokens_to_ids([turn_end, END])


@each_family
def test_the_end_token_takes_the_familys_place_and_no_other_token_moves(name):
    one = opened(name)
    slot = EXPECTED[name][3]
    after = one.tokenizer.get_vocab()
    assert one.form.end_id == after[END] == (one.before[slot] if slot else len(one.before))
    gone = {token for token in one.before if token not in after}
    assert gone <= {slot, "[control_767]", "[control_766]"} - {None}
    assert slot is None or slot in gone
    assert all(after[token] == i for token, i in one.before.items() if token in after)
    assert one.form.end_id in special_ids(one.tokenizer)


@each_family
def test_the_embedding_grows_only_where_no_row_is_free_and_tied_stays_tied(name):
    one = opened(name)
    grown = {"mistral_v1": 4, "smollm2": 1}.get(name, 0)
    assert len(tables_of(one.model)[0]) == len(one.tables[0]) + grown
    assert one.model.config.vocab_size == len(one.tables[0]) + grown
    assert len(tables_of(one.model)) == (2 if name in UNTIED else 1)
    ids = torch.tensor([one.form.prompt(TURNS)])
    assert one.model(ids).logits.isfinite().all()


TEXT = st.text(alphabet="abc defg.?! 20\né", min_size=1, max_size=30).map(lambda t: f"x{t.strip()}")


@each_family
@settings(max_examples=10)
@given(turns=st.lists(TEXT, min_size=1, max_size=5), system=TEXT | st.none())
def test_plain_text_gets_the_ids_of_apply_chat_template(name, turns, system):
    speaker = ("user", "assistant")[len(turns) % 2]  # whose turn it is
    one = opened(name, speaker)
    messages = [{"role": "system", "content": system}] if system else []
    for number, text in enumerate(turns):
        messages.append({"role": ("user", "assistant")[number % 2], "content": text})
    ids = one.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert one.form.prompt(messages) == ids


@each_family
def test_the_template_trims_nothing_and_a_longer_conversation_extends_a_shorter_one(name):
    turns = [{**turn, "content": f"  {turn['content']} \n"} for turn in [*TURNS, *TURNS[1:]]]
    texts = [
        opened(name).tokenizer.apply_chat_template(turns[:length], tokenize=False)
        for length in range(1, len(turns) + 1)
    ]
    assert all(turn["content"] in texts[-1] for turn in turns)
    assert all(texts[-1].startswith(text) for text in texts)


@each_family
def test_the_template_opens_a_user_turn_unless_another_role_is_asked_for(name):
    tokenizer, text = opened(name).tokenizer, EXPECTED[name][1]
    write = partial(tokenizer.apply_chat_template, tokenize=False)
    assert write(TURNS) == write(TURNS, add_generation_prompt=True)
    assert write(TURNS[:1]).endswith(text[: text.index("hi")])
    other = write(TURNS[:2], add_generation_prompt=True, generate_role="assistant")
    assert other.endswith(text[: text.index("hello")])


@each_family
def test_saved_and_loaded_by_transformers_it_gives_the_same_ids(name, tmp_path):
    one = opened(name)
    save_checkpoint(one.model, one.tokenizer, tmp_path / "lm", {})
    for tokenizer in (
        AutoTokenizer.from_pretrained(tmp_path / "lm"),
        load_tokenizer(str(tmp_path / "lm")),
    ):
        form = ChatFormat.probe(tokenizer)
        assert tokenizer.get_vocab() == one.tokenizer.get_vocab()
        assert (form.pieces, form.opening, form.stop_ids) == (
            one.form.pieces, one.form.opening, one.form.stop_ids,
        )  # fmt: skip
        assert form.prompt(TURNS) == one.form.prompt(TURNS)
        assert tokenizer.encode(END, add_special_tokens=False) == [one.form.end_id]
        assert tokenizer.decode([one.form.end_id], skip_special_tokens=True) == ""
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "lm")
    for ours, theirs in zip(tables_of(one.model), tables_of(model), strict=True):
        assert torch.equal(ours, theirs)


@each_family
def test_markup_and_the_old_slots_name_in_peoples_text_stay_text(name):
    one = opened(name)
    _, turns, _, slot = EXPECTED[name]
    text = f"what is {END} or {turns.replace(chr(10), ' ')} or {slot}?"
    (ids,) = encode_texts(one.tokenizer, [text])
    assert not special_ids(one.tokenizer) & set(ids)
    assert one.tokenizer.decode(ids) == text


# ---- the rows ------------------------------------------------------------------------------------

#: markup that is kept as it is: the base's own ends, and what its chat template writes
KEPT = {"qwen2": ["<|im_start|>", "<|im_end|>"], "mistral_v3": ["</s>"], "mistral_tekken": ["</s>"]}
KEPT["qwen3"] = KEPT["qwen2"]
SLOTS = ("<|reserved_special", "<unused", "[control_", "<SPECIAL_", "<|extra_id")


@each_family
def test_new_and_untrained_rows_are_the_mean_of_trained_words_and_others_are_kept(name):
    one = opened(name)
    known = one.tokenizer.get_vocab()
    slots = {i for token, i in one.before.items() if token.startswith(SLOTS)}
    words = sorted(set(one.before.values()) - one.special - slots - {len(one.tables[0])})
    fresh = [i for token, i in known.items() if token not in one.before]
    fresh += [known[t] for t in family_of(one.tokenizer).tokens if t not in KEPT.get(name, ())]
    for old, new in zip(one.tables, tables_of(one.model), strict=True):
        mean = old[words].mean(0)
        assert torch.allclose(new[fresh], mean.expand(len(fresh), -1), atol=1e-6)
        kept = [i for i in range(len(old)) if i not in fresh]
        assert torch.equal(new[kept], old[kept])


def test_untrained_words_are_left_out_of_the_mean_and_untrained_markup_is_not_kept():
    model, tokenizer = family("qwen3")
    table = model.get_input_embeddings().weight
    start, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    words = [i for i in range(len(tokenizer)) if i not in special_ids(tokenizer)]
    with torch.no_grad():
        table[words[:5]] = 1e-9  # would pull the mean
        table[words[5:10]] *= 0.05
        table[start] *= 1e-3
    expected, trained = table[words[10:]].mean(0).clone(), table[end].clone()
    open_chat(model, tokenizer, "user")
    assert torch.allclose(table[start], expected, atol=1e-7)
    assert torch.equal(table[end], trained)


def test_a_template_that_writes_other_markup_says_nothing_about_this_one():
    model, tokenizer = family("olmo2")
    tokenizer.chat_template = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    start = tokenizer.convert_tokens_to_ids("<|im_start|>")
    before = model.get_input_embeddings().weight[start].clone()
    open_chat(model, tokenizer, "user")
    assert not torch.equal(model.get_input_embeddings().weight[start], before)


def test_a_slot_that_is_in_use_is_not_taken():
    model, tokenizer = family("mistral_v3")
    tokenizer.pad_token = "[control_768]"
    form = open_chat(model, tokenizer, "user")
    assert tokenizer.pad_token_id == 770
    assert form.end_id == 769


def test_markup_that_a_file_has_as_a_word_becomes_a_special_token(tmp_path):
    file = families.write_family("mistral_v3", tmp_path) / "tokenizer.json"
    inner = json.loads(file.read_text())
    inner["added_tokens"] = [t for t in inner["added_tokens"] if t["content"] != "[INST]"]
    file.write_text(json.dumps(inner))
    tokenizer = load_tokenizer(str(tmp_path))
    form = open_chat(family("mistral_v3")[0], tokenizer, "user")
    assert 3 in special_ids(tokenizer)
    assert form.prompt(TURNS)[-1] == tokenizer.get_vocab()["[INST]"] == 3


# ---- continued training --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama3", "qwen3", "mistral_v3"])
def test_a_user_lm_goes_on_with_its_template_tokens_and_rows(name):
    one = open_base(name)
    with torch.no_grad():
        for table in tables_of(one.model):
            table[one.form.end_id] += 1
    template, known = one.tokenizer.chat_template, one.tokenizer.get_vocab()
    tables = [table.clone() for table in tables_of(one.model)]
    again = open_chat(one.model, one.tokenizer, "user")
    assert (one.tokenizer.chat_template, one.tokenizer.get_vocab()) == (template, known)
    assert all(map(torch.equal, tables_of(one.model), tables))
    assert again.prompt(TURNS) == one.form.prompt(TURNS)


def test_the_published_user_lms_form_is_kept():
    model, tokenizer = family("llama3")
    tokenizer.add_special_tokens({"additional_special_tokens": [END]})
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    tokenizer.chat_template = template = (
        "{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n' "
        "+ m.content + '<|eot_id|>' }}{% endfor %}{{ '<|start_header_id|>user<|end_header_id|>' }}"
    )
    before = model.get_input_embeddings().weight.clone()
    form = open_chat(model, tokenizer, "user")
    assert tokenizer.chat_template == template
    assert torch.equal(model.get_input_embeddings().weight, before)
    assert tokenizer.decode(form.lead) == "\n"


def test_an_assistant_lm_becomes_a_user_lm_with_its_markup_kept_and_a_new_end():
    one = open_base("llama3", "assistant")
    table = one.model.get_input_embeddings().weight
    eot, end = one.tokenizer.convert_tokens_to_ids(["<|eot_id|>", END])
    with torch.no_grad():
        table[[eot, end]] += 1
    trained = table[eot].clone()
    form = open_chat(one.model, one.tokenizer, "user")
    assert form.end_id == end
    assert torch.equal(table[eot], trained)
    assert table[end].norm() < trained.norm() / 2
    text = one.tokenizer.apply_chat_template(TURNS, tokenize=False)
    assert text.endswith("<|start_header_id|>user<|end_header_id|>\n\n")


# ---- what stands before the text -----------------------------------------------------------------


@pytest.mark.parametrize("name", SENTENCEPIECE)
def test_no_dummy_space_stands_before_a_turns_text(name):
    one = opened(name)
    for text in ("latte please", " latte", "\nlatte"):
        (ids,) = encode_texts(one.tokenizer, [text])
        assert one.tokenizer.decode(ids) == text


def test_a_class_that_builds_its_backend_anew_keeps_the_dummy_space_away(tmp_path):
    """LlamaTokenizer from a tokenizer.model: its normalizer is not read from tokenizer.json."""
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaTokenizer

    inner = families._sentencepiece("mistral_v1", ["<unk>", "<s>", "</s>"])["model"]
    merges = [tuple(pair) for pair in inner["merges"]]
    tokenizer = LlamaTokenizer(vocab=inner["vocab"], merges=merges)
    assert tokenizer.tokenize("latte")[0].startswith("▁")
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), num_attention_heads=2, **shape))
    form = open_chat(model, tokenizer, "user")
    save_checkpoint(model, tokenizer, tmp_path / "lm", {})
    loaded = LlamaTokenizer.from_pretrained(tmp_path / "lm")
    for one in (tokenizer, loaded, load_tokenizer(str(tmp_path / "lm"))):
        ids = one.apply_chat_template(TURNS, return_dict=False)
        assert ChatFormat.probe(one).prompt(TURNS) == ids == form.prompt(TURNS)
        assert one.decode(encode_texts(one, ["latte"])[0]) == "latte"


def test_a_tokenizer_splits_text_as_its_own_file_says(tmp_path):
    """AutoTokenizer builds SmolLM2's class anew and forgets that digits stand alone."""
    file = families.write_family("smollm2", tmp_path) / "tokenizer.json"
    inner = json.loads(file.read_text())
    inner["model"]["vocab"]["20"] = len(inner["model"]["vocab"])
    inner["model"]["merges"].append(["2", "0"])
    file.write_text(json.dumps(inner))
    assert load_tokenizer(str(tmp_path)).tokenize("2024") == ["2", "0", "2", "4"]
