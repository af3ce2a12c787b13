"""Tiny random checkpoints laid out as the families' own are: `family(name) -> (model, tokenizer)`.

Special tokens have the documented names, order and (where they come before the words) ids; text is
normalised and split as in the makers' tokenizer.json; the words are few. The sources are those
named in userlm_synth/user_lm/families.py. The real files were not at hand when this was written:
what their tokenizer_config.json says beside these tokens is shortened.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from userlm_synth.user_lm import load_model, load_tokenizer
from userlm_synth.user_lm.scratch import SPLIT

TEXTS = [
    "could i get a small latte please",
    "sure, is that for here or to go? 2024",
    "to go thanks",
]
ROLES = "system user assistant model"
QWEN_SPLIT = SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]

LLAMA3 = [  # 3.1 and 3.2; Llama-3 itself has more reserved slots in place of the tools' tokens
    "<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>", "<|finetune_right_pad_id|>", "<|reserved_special_token_2|>",
    "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>",
    *(f"<|reserved_special_token_{n}|>" for n in range(3, 248)),
]  # fmt: skip
SMOLLM3 = [
    *LLAMA3[:2], "<think>", "</think>", *LLAMA3[4:11], "<|im_start|>", "<|im_end|>",
    *LLAMA3[13:],
]  # fmt: skip
SMOLLM2 = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<reponame>", "<file_sep>",
    "<filename>", "<gh_stars>", "<issue_start>", "<issue_comment>", "<issue_closed>",
    "<jupyter_start>", "<jupyter_text>", "<jupyter_code>", "<jupyter_output>", "<jupyter_script>",
    "<empty_output>",
]  # fmt: skip
QWEN3 = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>",
    "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>",
    "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
]  # fmt: skip
OLMO = [  # dolma2; the marked ones are no special tokens there
    "~<|extra_id_0|>", "<|endoftext|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>",
    "~|||PHONE_NUMBER|||", "~|||EMAIL_ADDRESS|||", "~|||IP_ADDRESS|||", "<|im_start|>",
    "<|im_end|>", *(f"~<|extra_id_{n}|>" for n in range(1, 11)), "<|endofprompt|>", "<|pad|>",
]  # fmt: skip
GEMMA2 = [
    "<pad>", "<eos>", "<bos>", "<unk>", "~<mask>", "~<2mass>", "~[@BOS@]",
    *(f"~<unused{n}>" for n in range(99)), "<start_of_turn>", "<end_of_turn>", "~\n", "~\n\n",
]  # fmt: skip
GEMMA3 = [
    "<pad>", "<eos>", "<bos>", "<unk>", "~<mask>", "~[multimodal]",
    *(f"~<unused{n}>" for n in range(99)), "<start_of_turn>", "<end_of_turn>", "~\n", "~\n\n",
]  # fmt: skip
MISTRAL3 = [
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]",
    *(f"[control_{n}]" for n in range(8, 769)),
]  # fmt: skip
TEKKEN = [  # as version 7 has it
    "<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]",
    "[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]",
    "[TOOL_CONTENT]", *(f"<SPECIAL_{n}>" for n in range(20, 1000)),
]  # fmt: skip
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

#: special tokens, config class, class of the tokenizer, its named tokens, rows beyond its tokens
LAYOUTS: dict[str, tuple[list[str], str, str, dict[str, Any], int]] = {
    "llama3": (LLAMA3, "LlamaConfig", "PreTrainedTokenizerFast",
               {"bos_token": LLAMA3[0], "eos_token": LLAMA3[1]}, 0),
    "qwen3": (QWEN3, "Qwen3Config", "Qwen2Tokenizer",
              {"eos_token": QWEN3[0], "pad_token": QWEN3[0], "chat_template": CHATML,
               "additional_special_tokens": QWEN3[1:]}, 24),
    "qwen2": (QWEN3, "Qwen2Config", "Qwen2Tokenizer",
              {"eos_token": QWEN3[0], "pad_token": QWEN3[0], "chat_template": CHATML,
               "additional_special_tokens": QWEN3[1:]}, 24),
    "gemma3": (GEMMA3, "Gemma3TextConfig", "GemmaTokenizer",
               {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>",
                "unk_token": "<unk>", "image_token": "<image_soft_token>"}, -1),
    "gemma2": (GEMMA2, "Gemma2Config", "GemmaTokenizer",
               {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>",
                "unk_token": "<unk>",
                "additional_special_tokens": ["<start_of_turn>", "<end_of_turn>"]}, 0),
    "mistral_v1": (["<unk>", "<s>", "</s>"], "MistralConfig", "LlamaTokenizer",
                   {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
                    "add_bos_token": True, "legacy": True}, 0),
    "mistral_v3": (MISTRAL3, "MistralConfig", "LlamaTokenizer",
                   {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
                    "add_bos_token": True, "legacy": False}, 0),
    "mistral_tekken": (TEKKEN, "MistralConfig", "PreTrainedTokenizerFast",
                       {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
                        "additional_special_tokens": TEKKEN}, 0),
    "smollm2": (SMOLLM2, "LlamaConfig", "GPT2Tokenizer",
                {"bos_token": SMOLLM2[0], "eos_token": SMOLLM2[0], "unk_token": SMOLLM2[0],
                 "additional_special_tokens": SMOLLM2}, 0),
    "smollm3": (SMOLLM3, "SmolLM3Config", "PreTrainedTokenizerFast",
                {"eos_token": LLAMA3[1]}, 0),
    "olmo2": (OLMO, "Olmo2Config", "GPT2Tokenizer",
              {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>",
               "pad_token": "<|pad|>"}, 74),
    "olmo3": (OLMO, "Olmo3Config", "GPT2Tokenizer",
              {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>",
               "pad_token": "<|pad|>"}, 74),
}  # fmt: skip
NAMES = tuple(LAYOUTS)
SENTENCEPIECE = ("gemma2", "gemma3", "mistral_v1", "mistral_v3")
WORDS_FIRST = ("llama3", "qwen2", "qwen3", "smollm3", "olmo2", "olmo3")
UNTIED = ("mistral_v1", "mistral_v3", "mistral_tekken", "olmo2", "olmo3")


def family(name: str) -> tuple[Any, Any]:
    """(model, tokenizer) of a tiny base of that family, loaded as a real one would be."""
    with tempfile.TemporaryDirectory() as folder:
        place = str(write_family(name, Path(folder)))
        return load_model(place), load_tokenizer(place)


def write_family(name: str, folder: Path) -> Path:
    """The same as files in `folder`."""
    import torch

    special, config, kind, named, padding = LAYOUTS[name]
    folder.mkdir(exist_ok=True)
    inner = _sentencepiece(name, special) if name in SENTENCEPIECE else _byte_level(name, special)
    (folder / "tokenizer.json").write_text(json.dumps(inner))
    about = {"tokenizer_class": kind, "clean_up_tokenization_spaces": False, **named}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    ids = {**inner["model"]["vocab"], **{t["content"]: t["id"] for t in inner["added_tokens"]}}
    model = _model(config, len(ids) + padding, name not in UNTIED, ids, named)
    if name == "llama3":  # practically zero in the published base, except the first two
        with torch.no_grad():
            model.get_input_embeddings().weight[ids[LLAMA3[2]] :] *= 1e-20
    model.save_pretrained(folder)
    return folder


def _byte_level(name: str, special: list[str]) -> dict[str, Any]:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, trainers
    from tokenizers import pre_tokenizers as pre

    tok = Tokenizer(models.BPE())
    split = QWEN_SPLIT if name.startswith("qwen") else SPLIT
    before: Any = pre.Split(Regex(split), "isolated")
    if name == "smollm2":
        before = pre.Digits(individual_digits=True)
    level = pre.ByteLevel(add_prefix_space=False, use_regex=name == "smollm2")
    tok.pre_tokenizer = pre.Sequence([before, level])
    tok.decoder = decoders.ByteLevel()
    if name.startswith("qwen"):
        tok.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(
        vocab_size=360 + (0 if name in WORDS_FIRST else len(special)),
        special_tokens=[] if name in WORDS_FIRST else special,
        initial_alphabet=pre.ByteLevel.alphabet(), show_progress=False,
    )  # fmt: skip
    tok.train_from_iterator([*TEXTS, ROLES] * 20, trainer)
    inner: dict[str, Any] = json.loads(tok.to_str())
    words = len(inner["model"]["vocab"]) if name in WORDS_FIRST else 0
    inner["added_tokens"] = [_added(token, words + n) for n, token in enumerate(special)]
    return inner


def _sentencepiece(name: str, special: list[str]) -> dict[str, Any]:
    """Pieces with bytes to fall back on. Gemma writes spaces as they are; Mistral puts one more
    before the text, v1 before each part between special tokens, v3 before the first."""
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers
    from tokenizers import pre_tokenizers as pre

    tok = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tok.pre_tokenizer = pre.Metaspace(prepend_scheme="always")
    names = [token.removeprefix("~") for token in special]
    trainer = trainers.BpeTrainer(
        vocab_size=len(special) + 400, special_tokens=[*names, *BYTES], show_progress=False
    )
    tok.train_from_iterator([*TEXTS, *TEXTS, ROLES] * 20, trainer)
    ends: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if name.startswith("gemma"):
        tok.normalizer = normalizers.Replace(" ", "▁")
        tok.pre_tokenizer = pre.Split(" ", "merged_with_previous")
    elif name == "mistral_v1":
        tok.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
        tok.pre_tokenizer = None
    else:
        tok.pre_tokenizer = pre.Metaspace(prepend_scheme="first", split=False)
    if name.startswith("mistral"):
        ends.append(decoders.Strip(" ", 1, 0))
    tok.decoder = decoders.Sequence(ends)
    inner: dict[str, Any] = json.loads(tok.to_str())
    inner["added_tokens"] = [_added(token, n) for n, token in enumerate(special)]
    if name == "gemma3":  # in the tokenizer of the text models too, which have no row for it
        inner["added_tokens"].append(_added("<image_soft_token>", len(inner["model"]["vocab"])))
    return inner


def _added(token: str, place: int) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    special = not token.startswith("~")
    return {"id": place, "content": token.removeprefix("~"), **flags, "special": special}


def _model(config: str, rows: int, tied: bool, ids: dict[str, int], named: dict[str, Any]) -> Any:
    import torch
    import transformers

    sizes: dict[str, Any] = {
        "vocab_size": rows, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
        "max_position_embeddings": 512, "tie_word_embeddings": tied,
        "pad_token_id": ids.get(named.get("pad_token", "")),
        "bos_token_id": ids.get(named.get("bos_token", "")),
        "eos_token_id": ids[named["eos_token"]],
    }  # fmt: skip
    if config in ("Gemma2Config", "Gemma3TextConfig", "Olmo3Config"):
        sizes |= {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}
    if config.startswith("Gemma"):
        sizes["query_pre_attn_scalar"] = 8
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = getattr(transformers, config)(**sizes)
        return transformers.AutoModelForCausalLM.from_config(made)
