"""Chats in, clean conversations out: one record form, split so that no user is in two splits."""

from userlm_synth.conversations.prepare import prepare

__all__ = ["prepare"]
