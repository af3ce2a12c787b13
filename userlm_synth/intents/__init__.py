"""High-level intents: for conversations that have none, and new ones at scale."""

from userlm_synth.intents.make import make_intents
from userlm_synth.intents.synthesize import coverage_table, synthesize_intents
from userlm_synth.money import parse_price

__all__ = ["coverage_table", "make_intents", "parse_price", "synthesize_intents"]
