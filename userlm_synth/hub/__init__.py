"""Releases: the dataset folder, its card, and the Hub."""

from userlm_synth.hub.folder import build_dataset, split_by_intent

__all__ = ["build_dataset", "split_by_intent"]
