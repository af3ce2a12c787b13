"""Releases: the folder of a dataset or a user LM, its card, and the Hub."""

from userlm_synth.hub.folder import build_dataset
from userlm_synth.hub.model import build_model
from userlm_synth.hub.release import outcome_text, plan_text, publish
from userlm_synth.hub.rows import split_by_intent

__all__ = [
    "build_dataset",
    "build_model",
    "outcome_text",
    "plan_text",
    "publish",
    "split_by_intent",
]
