"""The checkpoint is an ordinary Hugging Face folder, used as the published model's card does."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from families import family
from toys import INTENT, conversation, model, tokenizer, trained_user_lm
from userlm_synth.errors import UserError
from userlm_synth.user_lm import fingerprint, load_model, load_tokenizer, open_chat
from userlm_synth.user_lm.chat_format import special_ids
from userlm_synth.user_lm.checkpoint import checkpoint_dtype, save_checkpoint
from userlm_synth.user_lm.loading import adapter_base

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
    tok.chat_template = "{{ '<|start_header_id|>any<|end_header_id|><|eot_id|>' }}"
    header, end = tok.convert_tokens_to_ids(["<|start_header_id|>", "<|eot_id|>"])
    before = net.get_input_embeddings().weight[[header, end]].clone()
    open_chat(net, tok, "user")
    assert torch.equal(net.get_input_embeddings().weight[[header, end]], before)


def test_a_tokenizer_without_the_markup_grows_and_the_model_with_it():
    model_, plain = family("mistral_v1")
    before = model_.get_input_embeddings().weight.shape[0]
    open_chat(model_, plain, "user")
    assert model_.get_input_embeddings().weight.shape[0] == before + 4
    assert model_.config.vocab_size == before + 4


@pytest.mark.parametrize("name", ["llama3", "mistral_v3"])  # tied, and with a head of its own
def test_half_precision_checkpoints_are_trained_in_fp32_and_saved_as_they_came(tmp_path, name):
    net, tok = family(name)
    save_checkpoint(net, tok, tmp_path / "half", {}, dtype=torch.bfloat16)
    assert checkpoint_dtype(str(tmp_path / "half")) == torch.bfloat16
    assert {w.dtype for w in load_file(tmp_path / "half/model.safetensors").values()} == {
        torch.bfloat16
    }
    again = load_model(str(tmp_path / "half"))
    assert {w.dtype for w in [*net.parameters(), *again.parameters()]} == {torch.float32}
    for ours, theirs in zip(net.parameters(), again.parameters(), strict=True):
        assert torch.equal(ours.bfloat16().float(), theirs)


@pytest.mark.parametrize("config", ["{}", '{"torch_dtype": "float16"}', '{"dtype": "bfloat16"}'])
def test_a_checkpoints_dtype_is_what_its_config_says_or_else_its_weights(tmp_path, config):
    folder = saved(tmp_path)
    (folder / "config.json").write_text(config)
    expected = {"{}": torch.float32, '{"torch_dtype": "float16"}': torch.float16}
    assert checkpoint_dtype(str(folder)) == expected.get(config, torch.bfloat16)


@pytest.mark.parametrize("name", ["llama3", "mistral_v3"])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_gathered_weights_are_saved_in_place_of_the_models_own(tmp_path, name, dtype):
    net, tok = family(name)
    gathered = {key: weight.clone() + 1 for key, weight in net.state_dict().items()}
    save_checkpoint(net, tok, tmp_path / "lm", {}, dtype=dtype, state_dict=gathered)
    stored = load_file(tmp_path / "lm/model.safetensors")
    tied = name == "llama3"
    assert set(stored) == set(gathered) - ({"lm_head.weight"} if tied else set())
    again = load_model(str(tmp_path / "lm"))
    assert (again.get_output_embeddings().weight is again.get_input_embeddings().weight) == tied
    for key, weight in again.state_dict().items():
        assert torch.equal(weight, gathered[key].to(dtype or torch.float32).float())


def test_how_attention_was_computed_is_not_saved(tmp_path):
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    AttentionInterface.register("of_one_training", sdpa_attention_forward)
    net, tok = family("gemma3")
    net.set_attn_implementation("of_one_training")
    net.config._attn_implementation_internal = "of_one_training"
    for name, dtype in (("a", None), ("b", torch.bfloat16)):
        save_checkpoint(net, tok, tmp_path / name, {}, dtype=dtype)
        assert "of_one_training" not in (tmp_path / name / "config.json").read_text()
        again = AutoModelForCausalLM.from_pretrained(tmp_path / name)
        assert again.config._attn_implementation == "sdpa"
    assert net.config._attn_implementation == "of_one_training"


def test_the_fingerprint_names_the_content(tmp_path):
    tok = tokenizer()
    for name, seed in (("a", 0), ("b", 1)):
        save_checkpoint(model(tok, seed), tok, tmp_path / name / "m", {})
    first, second = (fingerprint(str(tmp_path / name / "m")) for name in "ab")
    assert first != second
    assert first.startswith("m#")
    assert fingerprint("org/model@abc") == "org/model@abc"


# ---- what cannot be loaded -----------------------------------------------------------------------


def saved(folder):
    """A base checkpoint in `folder`/base."""
    tok = tokenizer()
    save_checkpoint(model(tok), tok, folder / "base", {})
    return folder / "base"


def change_config(folder, **values):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def without_layer(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.down_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def pickled(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def torn(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def as_adapter(folder):
    (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')


MODEL_FAULTS = {
    "no config": (lambda f: (f / "config.json").unlink(), r"no config\.json"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "cannot be loaded as a model"),
    "torn weights": (torn, "cannot be loaded as a model"),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), "cannot be loaded as a model"),
    "unknown kind": (lambda f: change_config(f, model_type="zork"), "model type `zork`"),
    "pickles": (pickled, r"pickle weights only \(pytorch_model\.bin\).*save_pretrained"),
    "vocabulary": (
        lambda f: change_config(f, vocab_size=999),
        r"model\.embed_tokens\.weight has the shape \[368, 16\] in the weights and \[999, 16\]",
    ),
    "smaller vocabulary": (lambda f: change_config(f, vocab_size=9), r"and \[9, 16\] by config"),
    "a missing layer": (
        without_layer, r"weights of model\.layers\.1\.mlp\.down_proj\.weight are missing"
    ),
    "a missing head": (
        lambda f: change_config(f, tie_word_embeddings=False), r"lm_head\.weight are missing"
    ),
    "an adapter": (as_adapter, "is an adapter of org/base, not a full model.*`userlm-synth merge`"),
}  # fmt: skip


@pytest.mark.parametrize("fault", MODEL_FAULTS)
def test_weights_that_would_load_wrongly_or_not_at_all_are_one_line(tmp_path, fault):
    folder = saved(tmp_path)
    damage, says = MODEL_FAULTS[fault]
    load_model(str(folder))
    damage(folder)
    with pytest.raises(UserError, match=f"^{folder}: .*{says}") as error:
        load_model(str(folder))
    assert "\n" not in str(error.value)


def no_tokenizer(folder):
    for file in folder.glob("tokenizer*"):
        file.unlink()


TOKENIZER_FAULTS = {
    "none": (no_tokenizer, "has no tokenizer.*copy the files"),
    "only its config": (lambda f: (f / "tokenizer.json").unlink(), "has no tokenizer"),
    "torn": (lambda f: (f / "tokenizer.json").write_text("{"), "cannot be loaded as a tokenizer"),
    "empty": (lambda f: (f / "tokenizer.json").write_text("{}"), "cannot be loaded as a tokenizer"),
    "an adapter": (as_adapter, "is an adapter of org/base"),
}


@pytest.mark.parametrize("fault", TOKENIZER_FAULTS)
def test_a_tokenizer_that_is_missing_or_torn_is_one_line(tmp_path, fault):
    folder = saved(tmp_path)
    damage, says = TOKENIZER_FAULTS[fault]
    damage(folder)
    with pytest.raises(UserError, match=says) as error:
        load_tokenizer(str(folder))
    assert "\n" not in str(error.value)


def test_a_tokenizer_that_knows_more_than_the_weights_is_refused():
    tok = tokenizer()
    net = model(tok)
    tok.add_tokens(["lots", "more"])
    with pytest.raises(UserError, match="knows 370 tokens, the weights have 368 rows"):
        open_chat(net, tok, "user")


def test_an_adapter_beside_a_config_is_still_an_adapter(tmp_path):
    folder = saved(tmp_path)
    shutil.copy(folder / "config.json", folder / "adapter_config.json")
    with pytest.raises(UserError, match="does not say what it is an adapter of"):
        load_model(str(folder))
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "a/b"}')
    assert adapter_base(str(folder)) == "a/b"
    with pytest.raises(UserError, match="is an adapter of a/b"):
        load_model(str(folder))


def test_a_hub_id_that_cannot_be_reached_is_one_line():
    for load in (load_tokenizer, load_model):
        with pytest.raises(UserError, match=r"^nobody/nothing@abc: cannot be loaded") as error:
            load("nobody/nothing@abc")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["./missing", "EMPTY"])
def test_a_folder_that_is_no_checkpoint_is_one_clear_line(tmp_path, name):
    path = str(tmp_path) if name == "EMPTY" else name
    for load in (load_tokenizer, load_model):
        with pytest.raises(UserError) as error:
            load(path)
        assert "\n" not in str(error.value)
