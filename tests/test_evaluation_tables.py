"""An evaluation as text, Markdown and LaTeX: the paper's layout, every reason once, names inert."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from browser import HOSTILE, OVERRIDE
from evaluations import WHY, human_row, make_evaluation, model_row, without
from hypothesis import given
from hypothesis import strategies as st

from userlm_synth.evaluation.columns import columns, fixed, shortened
from userlm_synth.evaluation.tables import latex_tables, markdown_tables
from userlm_synth.pages.latex import latex_text
from userlm_synth.pages.markdown import plain as markdown_text
from userlm_synth.records import Record, record_problems
from userlm_synth.summary import evaluation_table

NAMES = ["a_b & 50% $x^2$ #1 {~} \\o/", "[bracket] | pipe * star", f"{OVERRIDE}{'x' * 300}", "模型"]
FILES = ["wild_chat.jsonl", "prism.jsonl"]


def lacking() -> Record:
    """Two models on a file; one is a base that nothing can be sampled from."""
    base = without(
        model_row("base", "chats.jsonl", 1, "base"), naturalness=WHY, termination="no end"
    )
    evaluation = make_evaluation(1)
    return {**evaluation, "results": [human_row("chats.jsonl"), evaluation["results"][0], base]}


def test_the_fixture_is_an_evaluation() -> None:
    for evaluation in (make_evaluation(1), make_evaluation(12, FILES), lacking()):
        assert record_problems(evaluation, "evaluation") == []


# ---- the terminal ----------------------------------------------------------------------------


def test_the_terminal_shows_every_figure_with_its_direction_interval_and_n() -> None:
    text = evaluation_table(make_evaluation(2))
    first, second = (text.index(f"  UserLM-{at}") for at in (1, 2))
    assert first < second
    assert "Dialogue termination, higher is better" in text
    assert re.search(r"UserLM-1 +63.50  \[61.50, 65.50\] +n 520$", text, re.MULTILINE)
    assert re.search(r"UserLM-1 +7.28 .* 5.60  \[5.43, 5.77\] +n 200$", text, re.MULTILINE)
    assert re.search(r"human +94.00  \[93.60, 94.40\] +n 200$", text, re.MULTILINE)
    assert max(map(len, text.splitlines())) <= 100


def test_the_terminal_gives_each_reason_once_below() -> None:
    text = evaluation_table(lacking())
    assert text.count(WHY) == 1
    assert f"Naturalness (base): {WHY}" in text.split("not measured\n")[1]
    assert "not measured" not in evaluation_table(make_evaluation(2))


def test_the_terminal_leaves_out_what_no_row_has() -> None:
    evaluation = make_evaluation(1)
    reason = {"perplexity": "a server", "naturalness": WHY}
    evaluation["results"] = [without(evaluation["results"][0], **reason)]
    text = evaluation_table(evaluation)
    assert "Perplexity, lower" not in text
    assert "Naturalness, higher" not in text
    assert "Perplexity without intent, Perplexity with intent (UserLM-1): a server" in text


def test_names_neither_move_the_terminal_nor_its_columns() -> None:
    text = evaluation_table(make_evaluation(NAMES))
    assert all(c.isprintable() or c == "\n" for c in text)
    found = [re.match(r"  .*?\d  \[", line) for line in text.splitlines()]
    starts = {columns(one[0]) for one in found if one}
    assert len(starts) == 1, starts


@given(st.text(), st.integers(2, 30))
def test_a_shortened_name_fits_and_begins_as_it_did(text: str, most: int) -> None:
    short = shortened(text, most)
    assert columns(short) <= most
    assert short.isprintable() or not short


def test_numbers_have_fixed_digits() -> None:
    values = [fixed(x, 2) for x in (0.0, -0.001, 1234.5, 123456.7, 3.2e12, -1.5)]
    assert values == ["0.00", "0.00", "1,234.50", "123,457", "3.20e+12", "-1.50"]


# ---- Markdown --------------------------------------------------------------------------------


def markdown_rows(text: str) -> list[list[str]]:
    """Cells of every table row; an escaped pipe is text."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]


def test_markdown_has_table_1_over_all_files_and_table_2_for_each() -> None:
    text = markdown_tables(make_evaluation(2, FILES))
    tables = text.split("**Table ")[1:]
    assert [len(markdown_rows(table)[0]) for table in tables] == [9, 7, 7]
    first, second = markdown_rows(tables[0]), markdown_rows(tables[1])
    assert [row[0].strip() for row in first[2:]] == ["UserLM-1", "UserLM-2"]
    assert [row[0].strip() for row in second[2:]] == ["UserLM-1", "UserLM-2", "human"]
    assert second[0][1:] == [
        " First-turn diversity ↑ ", " Intent decomposition ↓ ", " Dialogue termination ↑ ",
        " Naturalness ↑ ", " Role adherence ↑ ", " Intent adherence ↑ ",
    ]  # fmt: skip
    assert second[-1][1:4] == [" 94.00 [93.60, 94.40] ", " 1.70 [1.00, 2.40] ", " – "]
    assert "naturalness 200" in tables[1]
    assert text.count("stopwords: scikit-learn") == 1


def test_markdown_marks_a_dash_with_its_reason() -> None:
    text = markdown_tables(lacking())
    (row,) = [row for row in markdown_rows(text) if row[0] == " base "][1:]
    assert row[3:5] == [" –<sup>a</sup> ", " –<sup>b</sup> "]
    assert "<sup>a</sup> no end" in text
    assert text.count(markdown_text(WHY)) == 1


def test_a_reason_is_for_the_figures_that_are_not_there() -> None:
    evaluation = make_evaluation(1)
    row = evaluation["results"][0]
    del row["perplexity"]["with_intent"]
    row["not_measured"] = {"perplexity": "no conversation has an intent"}
    (shown,) = markdown_rows(markdown_tables(evaluation).split("**Table ")[1])[2:]
    assert shown[1].startswith(" 7.28 [")
    assert shown[2] == " –<sup>a</sup> "
    assert "Perplexity with intent (UserLM-1): no conv" in evaluation_table(evaluation)


def test_names_stay_text_in_markdown() -> None:
    text = markdown_tables(make_evaluation([*NAMES, HOSTILE]))
    assert {len(row) for row in markdown_rows(text)} == {5, 7}
    assert "<img" not in text
    assert "</script" not in text
    assert "\u202e" not in text


# ---- LaTeX -----------------------------------------------------------------------------------


def body(text: str) -> list[str]:
    """The rows of all tabulars, without their ends."""
    lines = re.findall(r"^    (.*) \\\\$", text, re.MULTILINE)
    return [line for line in lines if "multicolumn" not in line]


def test_latex_has_balanced_tables_with_as_many_cells_as_columns() -> None:
    text = latex_tables(make_evaluation([*NAMES, HOSTILE], FILES))
    assert text.count("\\begin{") == text.count("\\end{") == 6
    for table in text.split("\\begin{table}")[1:]:
        kinds = re.search(r"\\begin\{tabular\}\{(l(r+))\}", table)
        assert kinds
        for line in body(table):
            assert len(re.findall(r"(?<!\\)&", line)) == len(kinds[2])
    assert "\\toprule" in text
    assert len(set(re.findall(r"\\label\{(.*?)\}", text))) == 3


def test_latex_puts_people_last_and_reasons_below() -> None:
    text = latex_tables(lacking())
    second = text.split("\\begin{table}")[2]
    assert [name for line in body(second) if (name := line.split(" &")[0])][-3:] == [
        "UserLM-1", "base", "human",
    ]  # fmt: skip
    assert "--\\textsuperscript{a}" in second
    assert second.count("needs a contrast") == 1
    assert second.index("\\end{tabular}") < second.index("needs a contrast")


@given(st.text())
def test_any_text_is_text_in_latex(text: str) -> None:
    made = latex_text(text)
    bare = re.sub(r"\\(?:[{}$&#_%]|[a-z]+\{\}|char34\{\})|(?<=-)\{\}(?=-)", "", made)
    assert not set(bare) & set('$&#_%~^\\<>|"`')
    # after the end of a row, a bracket or a star would be read as an argument
    assert not set(re.sub(r"\{[\[\]*]\}", "", bare)) & set("{}[]*")
    assert "\n" not in made


def test_latex_compiles_with_booktabs(tmp_path: Path) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("needs the program `pdflatex` on PATH")
    tables = latex_tables(make_evaluation([NAMES[1], NAMES[0], HOSTILE, OVERRIDE], FILES))
    head = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n"
    (tmp_path / "tables.tex").write_text(f"{head}{tables}\\end{{document}}\n", "utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "tables.tex"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:]
