"""High-level intents: for conversations that have none, and new ones at scale."""

from userlm_synth.intents.make import make_intents

__all__ = ["make_intents"]
