"""Facts about the dataset card: the Hub reads it, hostile text stays text, its snippets run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import hub_process
import pytest
import reports
from huggingface_hub import DatasetCard
from hypothesis import given
from hypothesis import strategies as st
from test_simulate import a_record

import toys
from userlm_synth.errors import UserError
from userlm_synth.hub import build_dataset, card
from userlm_synth.pages.markdown import code, fenced, front_matter, link, plain
from userlm_synth.recipe import Push
from userlm_synth.records import Record, check, record_problems, write_records
from userlm_synth.reporting.page.page import render_page
from userlm_synth.reporting.page.plots import write_plots
from userlm_synth.user_lm.checkpoint import save_checkpoint

HOSTILE = (
    "</script><img src=x onerror=alert(1)> | `tick` ``` fence\n```\n# not a heading\n"
    "[click](javascript:x) \u202egnp.exe ~~~ <!-- -->"
)
TURNS = ("could i get a small latte please", "Sure! Here or to go?", "to go", HOSTILE)


def dialogues(count: int) -> list[Record]:
    """Dialogues of four turns; the last one of each is hostile."""
    said = toys.conversation(*TURNS)["messages"]
    return [
        {**a_record(n, False), "intent": f"order {n // 3} | <b>now</b>", "messages": said}
        for n in range(count)
    ]


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The release of a run with a report, a recipe, and hostile text wherever text can be."""
    run = tmp_path_factory.mktemp("cards") / "run"
    write_records(run / "dialogues" / "part-00000.jsonl", dialogues(60), "dialogue")
    report = reports.report()
    report["sets"][0]["available"] = 60
    report["warnings"] = [HOSTILE]
    (run / "report").mkdir()
    (run / "report" / "report.json").write_text(json.dumps(report))
    recipe = {"name": "x", "seed": 5, "generate": {"temperature": 0.7, "intents": HOSTILE}}
    (run / "recipe.yaml").write_text(json.dumps(recipe))
    settings = Push(
        license="other", license_name="Mine | <b>", license_link="https://example.org/l",
        pretty_name=f"Coffee {HOSTILE}", description=HOSTILE, language=("en",),
        sources={HOSTILE: "cc0-1.0: " + HOSTILE}, models={"u": "mit", "a": HOSTILE},
        validation=0.3,
    )  # fmt: skip
    out = run / "dataset"
    build_dataset(
        run, out, settings, "x",
        strict=True, page=render_page, plots=write_plots, repo_id="me/coffee",
    )  # fmt: skip
    return out


def text_of(folder: Path) -> str:
    return (folder / "README.md").read_text("utf-8")


def outside_fences(text: str) -> str:
    """The card without its front matter and what stands in blocks of code."""
    body = text.split("\n---\n", 1)[1]
    return re.sub(r"(?ms)^(`{3,})[a-z]*\n.*?^\1$", "", body)


def test_the_hub_reads_the_front_matter(released: Path) -> None:
    read = DatasetCard.load(released / "README.md").data
    front = read.to_dict()
    assert record_problems(front, "dataset_card") == []
    assert (read.license, read.license_name) == ("other", "Mine | <b>")
    assert read.pretty_name.startswith("Coffee </script>")
    assert front["language"] == ["en"]
    splits = {one["name"]: one["num_examples"] for one in front["dataset_info"]["splits"]}
    assert sum(splits.values()) == 60
    assert set(splits) == {"train", "validation"}
    sizes = [path.stat().st_size for path in (released / "data").iterdir()]
    assert front["dataset_info"]["download_size"] == sum(sizes)
    for one in front["configs"][0]["data_files"]:
        assert list(released.glob(one["path"]))


@pytest.mark.parametrize(
    ("field", "value"),
    [("license", "CC BY"), ("tags", ["synthetic"]), ("size_categories", ["many"]),
     ("language", ["English"]), ("source_datasets", []), ("extra", 1)],
)  # fmt: skip
def test_a_front_matter_that_the_hub_would_refuse_is_refused_here(
    released: Path, field: str, value: Any
) -> None:
    front = DatasetCard.load(released / "README.md").data.to_dict()
    assert record_problems({**front, field: value}, "dataset_card")


def test_headline_figures_stand_beside_people_with_intervals(released: Path) -> None:
    text = text_of(released)
    assert "| First-turn diversity (%) | 91.2 [90.9, 91.5] | 93.4 [93.1, 93.7] | yes |" in text
    told = "| Told from people (AUROC) (%) | 74.1 [72.0, 76.2] | 50.3 [48.2, 52.4] | yes |"
    assert told in text
    assert "| Detector" not in text, "it was not measured"
    for path in re.findall(r"!\[[^\]]+\]\((plots/[\w.]+)\)", text):
        assert (released / path).is_file()
    assert len(list((released / "plots").iterdir())) == text.count("](plots/") > 0
    assert (released / "index.html").is_file()


def test_hostile_text_is_text_everywhere(released: Path) -> None:
    text = text_of(released)
    assert "\u202e" not in text.split("\n---\n", 1)[1]
    rest = outside_fences(text)
    assert "<img" not in re.sub(r"\\<", "", rest)
    assert "\n# not a heading" not in rest
    assert "[click](javascript" not in rest
    assert not re.search(r"(?<!\\)<(?!/?https)[a-z!/]", rest)
    heads = [line for line in rest.splitlines() if line.startswith("#")]
    assert len(heads) == 1 + 10 + 3, heads
    for table in re.findall(r"(?m)(?:^\|.*\n)+", rest):
        columns = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(columns) == 1, table


def test_one_dialogue_is_shown_readable_and_as_its_record(released: Path) -> None:
    text = text_of(released)
    fence = re.search(r"(?ms)^(`{4,})json\n(.*?)^\1$", text)
    assert fence is not None
    record = check(json.loads(fence[2]), "dialogue", "the card")
    assert [one["content"] for one in record["messages"]] == list(TURNS)
    before = text[: fence.start()]
    assert before.count("**User**") == before.count("**Assistant**") == 2
    assert "\n````text\n</script>" in before


@given(st.text(st.sampled_from("a`|<>\\\n#[]()*_~ \u202e-&!"), max_size=40))
def test_no_text_leaves_its_line_or_its_fence(text: str) -> None:
    for one in (plain(text), code(text), link(text, text)):
        assert "\n" not in one
        assert not re.search(r"(?<!\\)(?:\\\\)*\|", one)
    block = fenced(text).splitlines()
    closing = [at for at, line in enumerate(block[1:], 1) if line.startswith(block[0])]
    assert closing == [len(block) - 1]


def test_a_front_matter_that_is_no_yaml_is_named_with_its_line(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    assert front_matter(readme) == {}
    readme.write_text("---\nlicense: mit\ntags: [a\n---\n# A model\n")
    with pytest.raises(UserError, match=r"README.md:3: its front matter is no YAML: .*; mend it"):
        front_matter(readme)
    readme.write_text("# A model\n")
    assert front_matter(readme) == {}
    readme.write_text("\ufeff---\r\nlicense: mit\r\n---\r\n")
    assert front_matter(readme) == {"license": "mit"}


def test_the_sizes_that_the_hub_knows() -> None:
    found = [card.size_category(n) for n in (999, 1_000, 99_999, 999_999, 10**6, 10**7, 10**9)]
    assert found == [
        "n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "n>100M",
    ]  # fmt: skip


def test_without_a_report_or_a_recipe_the_card_says_so(tmp_path: Path) -> None:
    write_records(tmp_path / "d.jsonl", dialogues(5), "dialogue")
    build_dataset(tmp_path / "d.jsonl", tmp_path / "out", Push(), "x", page=render_page)
    text = text_of(tmp_path / "out")
    assert "Beyond chance" not in text
    assert "report.json" not in text
    assert text.count("No recipe lies beside these dialogues") == 2
    assert DatasetCard.load(tmp_path / "out" / "README.md").data.license == "unknown"


def snippets(text: str) -> list[str]:
    return re.findall(r"(?ms)^```python\n(.*?)^```$", text)


@pytest.mark.slow
def test_the_snippets_run_as_they_stand(
    released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tokenizer = toys.tokenizer()
    save_checkpoint(toys.model(tokenizer), tokenizer, tmp_path / "tiny", {})
    # a chat model's template: the toy's own opens a user turn
    (tmp_path / "tiny" / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    )
    load, train = snippets(text_of(released))
    changes = {
        "me/coffee": str(released),
        "Qwen/Qwen3-0.6B": str(tmp_path / "tiny"),
        'output_dir="sft", max_steps=100': (
            f'output_dir={str(tmp_path / "sft")!r}, max_steps=2, report_to="none", use_cpu=True,'
            "per_device_train_batch_size=2, bf16=False"
        ),
    }
    for snippet in (load, f"{train}\nprint(trainer.state.global_step)"):
        code = snippet
        for old, new in changes.items():
            code = code.replace(old, new)
        environment = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
        done = hub_process.start(code, torch=True, **environment).wait()
        assert done.returncode == 0, done.stderr[-2000:]
        if snippet is load:
            assert done.stdout.startswith("user: could i get a small latte please")
        else:
            assert done.stdout.split()[-1] == "2"
