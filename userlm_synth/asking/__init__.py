"""Questions to a model, many at once: kept answers, and a budget that is never passed."""

from userlm_synth.asking.asker import ATTEMPTS, CUT_OFF, Asker, Failure, Question
from userlm_synth.asking.cache import Cache

__all__ = ["ATTEMPTS", "CUT_OFF", "Asker", "Cache", "Failure", "Question"]
