"""Dialogues between a user LM and an assistant."""

from userlm_synth.simulate.generate import generate
from userlm_synth.simulate.sides import Job
from userlm_synth.simulate.store import OtherSettings

__all__ = ["Job", "OtherSettings", "generate"]
