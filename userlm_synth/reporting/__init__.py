"""The report: how diverse and natural generated dialogues are, beside a reference of equal size.

`make_report` computes, `render_page` and `write_plots` draw what it gives, and `write_report` does
all of it and writes the files.
"""

from userlm_synth.reporting.page.page import render_page
from userlm_synth.reporting.page.plots import write_plots
from userlm_synth.reporting.report import Inputs, make_report, write_report

__all__ = ["Inputs", "make_report", "render_page", "write_plots", "write_report"]
