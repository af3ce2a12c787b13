"""The report: how diverse and natural generated dialogues are, beside a reference of equal size.

`make_report` computes, `render_page` draws, `write_report` does both and writes the two files.
"""

from userlm_synth.reporting.page import render_page, write_report
from userlm_synth.reporting.statistics import make_report

__all__ = ["make_report", "render_page", "write_report"]
