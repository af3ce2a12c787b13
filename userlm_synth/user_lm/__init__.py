"""The user LM as an ordinary Hugging Face checkpoint: its turn format, its tokens, its files."""

from userlm_synth.user_lm.chat_format import ChatFormat, encode_texts
from userlm_synth.user_lm.checkpoint import (
    fingerprint,
    load_model,
    load_tokenizer,
    open_chat,
    save_checkpoint,
)
from userlm_synth.user_lm.render import CONTEXT, END, TURN_END, WORD, Rendered, render, show_targets
from userlm_synth.user_lm.scratch import train_tokenizer, untrained_model

__all__ = [
    "CONTEXT",
    "END",
    "TURN_END",
    "WORD",
    "ChatFormat",
    "Rendered",
    "encode_texts",
    "fingerprint",
    "load_model",
    "load_tokenizer",
    "open_chat",
    "render",
    "save_checkpoint",
    "show_targets",
    "train_tokenizer",
    "untrained_model",
]
