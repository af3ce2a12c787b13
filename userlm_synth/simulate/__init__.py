"""Dialogues between a user LM and an assistant: guarded, seeded, durable as they finish."""

from userlm_synth.simulate.generate import generate, plan_dialogues, read_intents
from userlm_synth.simulate.store import OtherSettings

__all__ = ["OtherSettings", "generate", "plan_dialogues", "read_intents"]
