"""Packed attention is each family's own attention, one sequence at a time."""

from __future__ import annotations

import pytest
import torch
import transformers

from userlm_synth.training import attention
from userlm_synth.training.attention import use_packed_attention
from userlm_synth.training.batches import collate
from userlm_synth.training.loss import batch_losses
from userlm_synth.training.tokens import Windows
from userlm_synth.user_lm.render import CONTEXT, WORD, Rendered

SHAPE = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip
LENGTHS = (23, 7, 31, 2, 15)
FAMILIES = {
    "Llama": {},
    "Qwen2": {},
    "Qwen3": {"head_dim": 8},
    "SmolLM3": {"pad_token_id": 0},
    "Olmo2": {},
    "Olmo3": {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
    "Mistral": {"sliding_window": 8},
    "Gemma2": {"head_dim": 8, "sliding_window": 8, "attn_logit_softcapping": 3.0,
               "final_logit_softcapping": 4.0, "query_pre_attn_scalar": 16},
    "Gemma3Text": {"head_dim": 8, "sliding_window": 8, "query_pre_attn_scalar": 16,
                   "layer_types": ["sliding_attention", "full_attention"]},
    "Granite": {"logits_scaling": 3.0, "attention_multiplier": 0.2},
    "Cohere": {"logit_scale": 0.3},
    "Phi3": {"pad_token_id": 0},
}  # fmt: skip


def model_of(family: str):
    config = getattr(transformers, f"{family}Config")(**SHAPE, **FAMILIES[family])
    torch.manual_seed(0)
    name = {"Gemma3Text": "Gemma3"}.get(family, family)
    net = getattr(transformers, f"{name}ForCausalLM")(config).double().eval()
    with torch.no_grad():  # random weights hardly attend; these do
        for parameter in net.parameters():
            parameter.mul_(5 if parameter.ndim == 2 else 1)
    return net


def windows():
    generator = torch.Generator().manual_seed(1)
    found = []
    for number, length in enumerate(LENGTHS):
        ids = torch.randint(3, 97, (length,), generator=generator).tolist()
        kinds = [CONTEXT, *([WORD, CONTEXT] * length)][:length]
        found.append((number, Rendered(ids=ids, kinds=kinds, turns=kinds)))
    return Windows.of(found)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_packs_losses_and_gradients_are_those_of_its_members_alone(family):
    net = model_of(family)
    net.set_attn_implementation("eager")
    alone, some = [], windows()
    for index in range(len(some)):
        one = collate(some, [index], 0)
        logits = net(one.ids).logits[0, one.at]
        alone.append(torch.nn.functional.cross_entropy(logits, one.labels, reduction="none"))
    torch.cat(alone).sum().backward()
    wanted = {name: p.grad.clone() for name, p in net.named_parameters()}
    net.zero_grad()
    assert use_packed_attention(net)
    losses = batch_losses(net, collate(some, range(len(some)), 0))
    losses.total.backward()
    assert torch.allclose(losses.each, torch.cat(alone).detach(), atol=1e-5)
    for name, parameter in net.named_parameters():
        scale = wanted[name].abs().max()
        assert (parameter.grad - wanted[name]).abs().max() <= 1e-5 * scale + 1e-9, name


def test_without_the_boundaries_sequences_would_read_each_other():
    net = model_of("Llama")
    use_packed_attention(net)
    batch = collate(windows(), range(len(LENGTHS)), 0)
    apart = batch_losses(net, batch).each
    batch.segments = (len(batch.ids[0]),)
    assert (batch_losses(net, batch).each - apart).abs().max() > 0.05


def test_recurrent_layers_are_not_packed():
    net = model_of("Llama")
    net.config.layer_types = ["linear_attention", "full_attention"]
    assert not use_packed_attention(net)


def test_a_model_with_attention_sinks_goes_one_by_one_with_its_own_attention():
    shape = {**SHAPE, "num_local_experts": 2, "num_experts_per_tok": 1, "head_dim": 8}
    config = transformers.GptOssConfig(
        **shape, layer_types=["sliding_attention", "full_attention"], sliding_window=8,
        pad_token_id=0, eos_token_id=1, bos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    net = transformers.GptOssForCausalLM(config).eval()
    with torch.no_grad():
        for layer in net.model.layers:
            layer.self_attn.sinks.fill_(2.0)
    assert not use_packed_attention(net)
    some = windows()
    for index, length in enumerate(LENGTHS):
        batch = collate(some, [index], 0)
        logits = net(batch.ids[:, :length]).logits[0, batch.at]
        wanted = torch.nn.functional.cross_entropy(logits, batch.labels, reduction="none")
        assert torch.allclose(batch_losses(net, batch).each, wanted, atol=1e-5)


def test_the_saved_config_does_not_name_our_attention(tmp_path):
    net = model_of("Llama")
    use_packed_attention(net)
    net.save_pretrained(tmp_path)
    assert "userlm_packed" not in (tmp_path / "config.json").read_text()


def test_under_autocast_queries_and_keys_come_in_half_precision(monkeypatch):
    seen = []
    kernel = attention._varlen_kernel
    monkeypatch.setattr(
        attention, "_varlen_kernel", lambda q, *rest: seen.append(q.dtype) or kernel(q, *rest)
    )
    net = model_of("Llama").float()
    use_packed_attention(net)
    with torch.autocast("cpu", torch.bfloat16):
        batch_losses(net, collate(windows(), range(len(LENGTHS)), 0))
    assert set(seen) == {torch.bfloat16}
