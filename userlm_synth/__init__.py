"""Train user language models, let them talk with an assistant, publish the dialogues."""

from userlm_synth._version import __version__

__all__ = ["__version__"]
