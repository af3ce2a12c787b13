"""The user LM as an ordinary Hugging Face checkpoint: its turn format, its tokens, its files."""

from userlm_synth.user_lm.chat_format import ChatFormat, encode_texts, special_ids
from userlm_synth.user_lm.checkpoint import (
    open_chat,
    save_checkpoint,
    set_generation,
    user_lm_format,
)
from userlm_synth.user_lm.loading import fingerprint, load_model, load_tokenizer
from userlm_synth.user_lm.render import (
    CONTEXT,
    END,
    TURN_END,
    WORD,
    Rendered,
    render,
    render_all,
    show_targets,
)
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
    "render_all",
    "save_checkpoint",
    "set_generation",
    "show_targets",
    "special_ids",
    "train_tokenizer",
    "untrained_model",
    "user_lm_format",
]
