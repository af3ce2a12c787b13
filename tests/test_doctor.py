"""`doctor`: on healthy models everything is well; of a planted fault exactly that is found."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Outcome
from toy_server import FAULTS, toy_server

from userlm_synth.errors import UserError
from userlm_synth.serving import sampler_probes
from userlm_synth.serving.doctor import Diagnosis, admit, examine
from userlm_synth.serving.findings import Finding
from userlm_synth.serving.probes import PROBES

KEY_ENV = "USERLM_SYNTH_TEST_KEY"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy on the way to this machine; a server that is not there is believed at once; and a
    busy machine is no slow model, but where concurrency itself is looked at."""
    from userlm_synth.backends import http_api

    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(http_api, "START_WAITS", ())
    monkeypatch.setattr(sampler_probes, "GAIN", 0.0)


def look(spec: object, role: Any = "user", tokenizer: object = None) -> Diagnosis:
    """A diagnosis."""
    return examine(str(spec), role, str(tokenizer) if tokenizer else None, KEY_ENV)


def served(folder: Path, *faults: str, role: Any = "user", tokenizer: object = None) -> Diagnosis:
    """The diagnosis of a server with faults."""
    with toy_server(folder, *faults) as (spec, _):
        return look(spec, role, tokenizer)


def bad(found: Diagnosis) -> dict[str, str]:
    """The probes that found something, with their verdicts."""
    wrong = ("warning", "broken")
    return {name: one.verdict for name, one in found.findings.items() if one.verdict in wrong}


# ---- in process --------------------------------------------------------------------------------


def test_a_user_lm_in_process_is_well(toy_models: Path) -> None:
    found = look(toy_models / "user_lm")
    assert list(found.findings) == list(PROBES)
    assert len(PROBES) == 10
    assert bad(found) == {}
    assert [name for name, one in found.findings.items() if one.verdict != "ok"] == ["price"]
    assert "%" in found.findings["logprobs"].what


def test_an_assistant_in_process_is_well_in_its_own_role_and_broken_in_the_others(
    toy_models: Path,
) -> None:
    assert bad(look(toy_models / "assistant_lm", "assistant")) == {}
    for name, role in (("assistant_lm", "user"), ("user_lm", "assistant")):
        found = look(toy_models / name, role)
        assert bad(found) == {"template": "broken"}
        assert found.broken


def test_stop_ids_on_which_the_configs_disagree_are_told(toy_models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "user_lm"
    shutil.copytree(toy_models / "user_lm", folder)
    config = json.loads((folder / "config.json").read_text())
    both = config["eos_token_id"]
    config["eos_token_id"] = both[1]
    (folder / "config.json").write_text(json.dumps(config))
    found = look(folder)
    assert bad(found) == {"stop ids": "warning"}
    said = found.findings["stop ids"].what
    assert f"config.json says [{both[1]}]" in said
    assert f"generation_config.json says {both}" in said


def test_a_checkpoint_without_an_end_token_is_broken(toy_models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "user_lm"
    shutil.copytree(toy_models / "user_lm", folder)
    for file in folder.glob("*.json"):
        file.write_text(file.read_text().replace("<|endconversation|>", "<|another|>"))
    assert bad(look(folder)) == {"end token": "broken", "logprobs": "warning"}


def test_what_does_not_apply_to_a_script_says_so(tmp_path: Path) -> None:
    script = tmp_path / "script.json"
    script.write_text('["hi"]')
    found = look(f"scripted:{script}")
    assert {one.verdict for one in found.findings.values()} == {"not applicable"}
    assert all(one.what for one in found.findings.values())


def test_of_a_prompted_model_the_model_is_examined_as_an_assistant(toy_models: Path) -> None:
    found = look(f"prompted:hf:{toy_models / 'assistant_lm'}")
    assert found.role == "assistant"
    assert bad(found) == {}


# ---- over HTTP ---------------------------------------------------------------------------------


def test_a_served_user_lm_is_well_in_all_ten(
    toy_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = served(toy_models / "user_lm")
    assert {name: one.what for name, one in found.findings.items() if one.verdict != "ok"} == {}
    assert not found.broken
    assert found.settings == []


#: fault: what is found, and what is to be set
PLANTED: dict[str, tuple[dict[str, str], list[str]]] = {
    "assistant_template": (
        {"template": "warning"},
        ["generate.server.api=completions", "generate.server.tokenizer=FOLDER"],
    ),
    "other_template": (
        {"template": "warning"},
        ["generate.server.api=completions", "generate.server.tokenizer=FOLDER"],
    ),
    "stripped": ({"end token": "warning"}, []),
    "no_stops": ({"stop ids": "broken"}, []),
    "no_bias": ({"logit bias": "warning"}, []),
    "no_seed": ({"seeds": "warning"}, []),
    "no_logprobs": ({"logprobs": "warning"}, []),
    "short_context": ({"context": "broken"}, ["generate.server.context=256"]),
    "cut_context": ({"context": "broken"}, ["generate.server.context=2048"]),
    "busy": ({"concurrency": "broken"}, ["generate.concurrency=1"]),
    "no_completions": ({"special tokens": "warning"}, []),
    "no_chat": ({}, []),
    "no_eos": ({}, []),  # each request names its stop ids
}


@pytest.mark.parametrize("fault", PLANTED)
def test_exactly_the_planted_fault_is_found(fault: str, toy_models: Path) -> None:
    folder = toy_models / "user_lm"
    found = served(folder, fault)
    expected, settings = PLANTED[fault]
    assert bad(found) == expected
    assert found.settings == [one.replace("FOLDER", str(folder)) for one in settings]
    assert found.broken == ("broken" in expected.values())
    assert all(one.mend for one in found.findings.values() if one.verdict in ("warning", "broken"))


def test_every_fault_that_the_toy_server_can_have_is_looked_for() -> None:
    elsewhere = {"one_at_a_time", "plain", "no_root", "no_models", "down"}
    assert set(PLANTED) | elsewhere == set(FAULTS)


@pytest.mark.parametrize(("faults", "verdict"), [((), "ok"), (("one_at_a_time",), "warning")])
def test_a_server_that_answers_one_at_a_time_is_told(
    faults: tuple[str, ...], verdict: str, toy_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampler_probes, "GAIN", 1.5)

    async def probe(spec: str) -> Finding:
        from userlm_synth.backends import parse_spec

        patient = await admit(spec, parse_spec(spec), "user", None, KEY_ENV)
        try:
            return await PROBES["concurrency"](patient)
        finally:
            await patient.close()

    with toy_server(toy_models / "user_lm", *faults, pause=0.1) as (spec, _):
        assert asyncio.run(probe(spec)).verdict == verdict


def test_a_server_with_a_foreign_template_and_no_completions_is_broken(toy_models: Path) -> None:
    found = served(toy_models / "user_lm", "assistant_template", "no_completions")
    assert found.findings["template"].verdict == "broken"
    assert "--chat-template" in found.findings["template"].mend


def test_without_a_tokenizer_the_doctor_asks_for_it_and_with_it_all_is_well(
    toy_models: Path,
) -> None:
    folder = toy_models / "user_lm"
    found = served(folder, "no_root")
    assert not found.broken
    for name in ("template", "end token"):
        assert "--tokenizer" in found.findings[name].mend
    assert bad(served(folder, "no_root", tokenizer=folder)) == {}


def test_a_server_that_takes_openais_fields_alone_is_asked_in_them(toy_models: Path) -> None:
    folder = toy_models / "user_lm"
    with toy_server(folder, "plain") as (spec, server):
        found = look(spec, tokenizer=folder)
    assert bad(found) == {"end token": "warning"}  # an empty reply
    assert not any("return_token_ids" in body for body in server.requests[-20:])


def test_an_assistant_over_http_is_well(toy_models: Path) -> None:
    found = served(toy_models / "assistant_lm", role="assistant")
    assert bad(found) == {}
    # a server's template is text, in which names are tokens
    assert "<|eot_id|> would be read" in found.findings["special tokens"].what


def test_a_user_lm_where_an_assistant_is_wanted_is_broken(toy_models: Path) -> None:
    found = served(toy_models / "user_lm", role="assistant")
    assert found.findings["template"].verdict == "broken"


def test_an_assistant_where_a_user_lm_is_wanted_is_broken(toy_models: Path) -> None:
    found = served(toy_models / "assistant_lm")
    assert found.findings["template"].verdict == "broken"


def test_a_model_behind_a_server_without_a_list_is_examined(toy_models: Path) -> None:
    folder = toy_models / "user_lm"
    assert bad(served(folder, "no_models", tokenizer=folder)) == {}


# ---- the command -------------------------------------------------------------------------------


def test_the_text_is_eighty_columns_wide_and_ends_on_what_to_set(
    toy_models: Path, cli: Callable[..., Outcome]
) -> None:
    folder = toy_models / "user_lm"
    with toy_server(folder, "assistant_template", "short_context") as (spec, _):
        done = cli("doctor", spec)
    assert done.code == 1
    *lines, last = done.out.splitlines()
    assert max(map(len, (line for line in lines if str(folder) not in line))) <= 80
    assert last == (
        "1 broken, 1 warning, 8 ok. Set generate.server.api=completions "
        f"generate.server.tokenizer={folder} generate.server.context=256"
    )
    heads = [line[3:18].strip() for line in lines if line[:2].strip().isdigit()]
    assert heads == list(PROBES)


def test_json_says_the_same(toy_models: Path, cli: Callable[..., Outcome]) -> None:
    with toy_server(toy_models / "user_lm", "no_seed") as (spec, _):
        done = cli("doctor", spec, "--json")
    assert done.code == 0
    found = json.loads(done.out)
    assert list(found["probes"]) == list(PROBES)
    assert found["probes"]["seeds"]["verdict"] == "warning"
    assert found["probes"]["seeds"]["mend"]
    assert (found["role"], found["broken"], found["set"]) == ("user", False, [])


def test_what_cannot_be_examined_is_one_line(
    toy_models: Path, cli: Callable[..., Outcome], tmp_path: Path
) -> None:
    folder = toy_models / "user_lm"
    assert "the server is not there" in cli("doctor", "openai:toy@http://127.0.0.1:9/v1").error
    assert "no such folder" in cli("doctor", tmp_path / "none").error
    with toy_server(folder, "down") as (spec, _):
        assert "answers no request (500: out of memory" in cli("doctor", spec).error
        other = spec.replace("toy@", "other@")
        assert "has no model 'other'; it has: toy" in cli("doctor", other).error
        assert "no such folder" in cli("doctor", spec, "--tokenizer", tmp_path / "none").error


def test_a_script_that_is_none_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        look(f"scripted:{tmp_path / 'none.json'}")
