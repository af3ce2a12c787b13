"""How well a model predicts real users, and whether it leaves where they left."""

from userlm_synth.evaluation.evaluate import evaluate
from userlm_synth.evaluation.figures import first_turn_figures, gap, perplexity, termination
from userlm_synth.evaluation.scoring import Model, Scores, score

__all__ = [
    "Model",
    "Scores",
    "evaluate",
    "first_turn_figures",
    "gap",
    "perplexity",
    "score",
    "termination",
]
