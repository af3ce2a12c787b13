"""User simulators beside people: the paper's Tables 1, 2 and 4, and its Figures 3 to 6."""

from userlm_synth.evaluation.compare import compare, comparison_table
from userlm_synth.evaluation.evaluate import evaluate
from userlm_synth.evaluation.named import evaluate_named

__all__ = ["compare", "comparison_table", "evaluate", "evaluate_named"]
