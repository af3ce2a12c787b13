"""Does the corpus help? One small assistant trained on real dialogues, on generated ones, on both
and on none, and each scored on real assistant turns that none of them has seen."""

from userlm_synth.utility.experiment import Dialogues, run_utility
from userlm_synth.utility.table import utility_table, verdict

__all__ = ["Dialogues", "run_utility", "utility_table", "verdict"]
