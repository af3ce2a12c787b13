"""The checkpoint is an ordinary Hugging Face folder, used as the published model's card does."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from toys import INTENT, conversation, model, tokenizer, trained_user_lm
from userlm_synth.errors import UserError
from userlm_synth.user_lm import fingerprint, load_model, load_tokenizer, open_chat
from userlm_synth.user_lm.chat_format import special_ids
from userlm_synth.user_lm.checkpoint import save_checkpoint

CHATS = [
    conversation("a small latte please", "Sure! Is that all?", "yes", "Ready soon.", number=n)
    for n in range(8)
]


@pytest.fixture(scope="module")
def user_lm(tmp_path_factory):
    return trained_user_lm(tmp_path_factory.mktemp("checkpoint"), CHATS, epochs=60)


def test_the_folder_holds_safetensors_template_and_the_right_stops(user_lm):
    names = {file.name for file in user_lm.iterdir()}
    assert {"model.safetensors", "config.json", "generation_config.json"} <= names
    assert not any(name.endswith((".bin", ".pt", ".py")) for name in names)
    tok = AutoTokenizer.from_pretrained(user_lm)
    stops = tok.convert_tokens_to_ids(["<|eot_id|>", "<|endconversation|>"])
    config = json.loads((user_lm / "config.json").read_text())
    generation = json.loads((user_lm / "generation_config.json").read_text())
    assert sorted(config["eos_token_id"]) == sorted(generation["eos_token_id"]) == sorted(stops)


def test_the_template_opens_a_user_turn_with_or_without_a_generation_prompt(user_lm):
    tok = AutoTokenizer.from_pretrained(user_lm)
    messages = [
        {"role": "system", "content": INTENT},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello"},
    ]
    for some in (messages, messages[:1]):
        for more in ({}, {"add_generation_prompt": True}):
            text = tok.apply_chat_template(some, tokenize=False, **more)
            assert text.endswith("<|start_header_id|>user<|end_header_id|>\n\n")
    as_assistant = tok.apply_chat_template(
        messages[:2], tokenize=False, add_generation_prompt=True, generate_role="assistant"
    )
    assert as_assistant.endswith("<|start_header_id|>assistant<|end_header_id|>\n\n")


def test_it_is_driven_as_the_published_cards_snippet_does(user_lm):
    tok = AutoTokenizer.from_pretrained(user_lm)
    net = AutoModelForCausalLM.from_pretrained(user_lm)
    end_token_id = tok.encode("<|eot_id|>", add_special_tokens=False)
    end_conversation_id = tok.encode("<|endconversation|>", add_special_tokens=False)
    messages = [{"role": "system", "content": INTENT}]
    inputs = tok.apply_chat_template(messages, return_tensors="pt", return_dict=False)
    torch.manual_seed(0)
    for _ in range(5):
        outputs = net.generate(
            input_ids=inputs,
            do_sample=True,
            top_p=0.8,
            temperature=1,
            max_new_tokens=40,
            eos_token_id=end_token_id,
            pad_token_id=tok.eos_token_id,
            bad_words_ids=[[token_id] for token_id in end_conversation_id],
        )
        new = outputs[0][inputs.shape[1] :].tolist()
        assert end_conversation_id[0] not in new
        assert new[-1] == end_token_id[0]
        assert tok.decode(new, skip_special_tokens=True) == "a small latte please"


def test_generate_stops_by_itself_at_the_turns_end_and_at_the_conversations(user_lm):
    tok = AutoTokenizer.from_pretrained(user_lm)
    net = AutoModelForCausalLM.from_pretrained(user_lm)
    messages = [{"role": "system", "content": INTENT}, *CHATS[0]["messages"]]
    for turns, last in ((messages[:3], "<|eot_id|>"), (messages, "<|endconversation|>")):
        inputs = tok.apply_chat_template(turns, return_tensors="pt", return_dict=False)
        outputs = net.generate(input_ids=inputs, do_sample=False, max_new_tokens=40)
        assert tok.decode(outputs[0][inputs.shape[1] :].tolist()).endswith(last)


def test_new_rows_start_as_the_mean_of_the_trained_ones_and_tied_stays_tied():
    tok = tokenizer()
    net = model(tok)
    markup = tok.convert_tokens_to_ids(["<|start_header_id|>", "<|eot_id|>", "<|endconversation|>"])
    ordinary = [i for i in range(len(tok)) if i not in special_ids(tok)]
    mean = net.get_input_embeddings().weight[ordinary].mean(0).detach()
    open_chat(net, tok, "user")
    table = net.get_input_embeddings().weight
    for row in markup:
        assert torch.allclose(table[row], mean)
    assert net.get_output_embeddings().weight is table


def test_the_trained_markup_of_a_chat_model_is_kept():
    tok = tokenizer()
    net = model(tok)
    tok.chat_template = "{{ 'any' }}"
    header, end = tok.convert_tokens_to_ids(["<|start_header_id|>", "<|eot_id|>"])
    before = net.get_input_embeddings().weight[[header, end]].clone()
    open_chat(net, tok, "user")
    assert torch.equal(net.get_input_embeddings().weight[[header, end]], before)


def test_a_tokenizer_without_the_markup_grows_and_the_model_with_it():
    tok = tokenizer()
    plain = type(tok)(
        tokenizer_object=type(tok.backend_tokenizer).from_str(tok.backend_tokenizer.to_str())
    )
    net = model(tok)
    plain.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    before = net.get_input_embeddings().weight.shape[0]
    open_chat(net, plain, "user")
    assert net.get_input_embeddings().weight.shape[0] == before + 2
    assert net.config.vocab_size == before + 2


def test_half_precision_checkpoints_are_loaded_in_fp32(tmp_path):
    tok = tokenizer()
    save_checkpoint(model(tok).to(torch.bfloat16), tok, tmp_path / "half", {})
    assert next(load_model(str(tmp_path / "half")).parameters()).dtype == torch.float32


def test_the_fingerprint_names_the_content(tmp_path):
    tok = tokenizer()
    for name, seed in (("a", 0), ("b", 1)):
        save_checkpoint(model(tok, seed), tok, tmp_path / name / "m", {})
    first, second = (fingerprint(str(tmp_path / name / "m")) for name in "ab")
    assert first != second
    assert first.startswith("m#")
    assert fingerprint("org/model@abc") == "org/model@abc"


@pytest.mark.parametrize("name", ["./missing", "EMPTY"])
def test_a_folder_that_is_no_checkpoint_is_one_clear_line(tmp_path, name):
    path = str(tmp_path) if name == "EMPTY" else name
    for load in (load_tokenizer, load_model):
        with pytest.raises(UserError) as error:
            load(path)
        assert "\n" not in str(error.value)
