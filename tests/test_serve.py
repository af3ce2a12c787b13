"""`serve` without vLLM: what is refused, what is started, what the check of an endpoint sees."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import Outcome
from test_openai_backend import Server, serving

from userlm_synth.backends import open_backend
from userlm_synth.backends.first_token import (
    FIELD,
    PROBE,
    PROCESSOR,
    _first_rows,
    ban,
    banned_first,
)
from userlm_synth.backends.reaper import Reaper
from userlm_synth.backends.vllm_settings import arguments_of, model_arguments
from userlm_synth.errors import UserError
from userlm_synth.serving import serve as serving_module
from userlm_synth.serving.check import ASKED, check
from userlm_synth.serving.serve import Endpoint, endpoint, serve, write_generation_config
from userlm_synth.user_lm import ChatFormat, load_tokenizer


@pytest.fixture
def as_if_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here needs vLLM itself."""
    monkeypatch.setattr(serving_module, "prepare", lambda _: None)


@pytest.fixture(scope="module")
def form(toy_models: Path) -> ChatFormat:
    return ChatFormat.probe(load_tokenizer(str(toy_models / "user_lm")))


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


# ---- what is refused ---------------------------------------------------------------------------


def test_without_vllm_serve_is_one_line_that_says_what_to_install(
    cli: Callable[..., Outcome], toy_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    mend = "pip install 'userlm-synth[vllm]'"
    model = toy_models / "user_lm"
    assert mend in cli("serve", model).error
    with pytest.raises(UserError, match=re.escape(f"vllm:{model}: vLLM is not installed: {mend}")):
        open_backend(f"vllm:{model}", speaker="user")


def test_a_model_that_opens_an_assistant_turn_is_not_served(
    cli: Callable[..., Outcome], toy_models: Path, as_if_installed: None
) -> None:
    error = cli("serve", toy_models / "assistant_lm").error
    assert "does not open a *user* turn" in error
    assert "assistant_lm" in error


def test_a_port_in_use_is_one_line(
    cli: Callable[..., Outcome], toy_models: Path, as_if_installed: None
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        error = cli("serve", toy_models / "user_lm", "--port", port).error
    assert error == f"error: 127.0.0.1:{port}: is in use; name another --port"


def test_an_adapter_of_another_model_is_not_served(
    toy_models: Path, tmp_path: Path, as_if_installed: None
) -> None:
    model = str(toy_models / "user_lm")
    with pytest.raises(UserError, match="holds no adapter"):
        endpoint(model, port=free_port(), adapters=[tmp_path])
    (tmp_path / "ann").mkdir()
    about = {"base_model_name_or_path": str(toy_models / "assistant_lm"), "r": 4}
    (tmp_path / "ann" / "adapter_config.json").write_text(json.dumps(about))
    (tmp_path / "ann" / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"ann: is an adapter of .*assistant_lm, not of .*user_lm"):
        endpoint(model, port=free_port(), adapters=[tmp_path])
    served = copied(toy_models / "user_lm", tmp_path / "ann" / "base")
    (tmp_path / "ann" / "adapter_config.json").write_text(
        json.dumps({**about, "base_model_name_or_path": str(served)})
    )
    found = endpoint(model, port=free_port(), adapters=[tmp_path])
    assert found.names == ["user_lm", "ann"]


def copied(model: Path, place: Path) -> Path:
    shutil.copytree(model, place)
    return place


# ---- what is started ---------------------------------------------------------------------------


def test_the_command_loads_the_processor_and_a_persons_arguments_come_last(
    toy_models: Path, tmp_path: Path, as_if_installed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("USERLM_SYNTH_VLLM_ARGS", "--dtype float32")
    where = endpoint(str(toy_models / "user_lm"), port=free_port(), extra=["--max-model-len", "64"])
    command = where.command(tmp_path)
    assert command[command.index("--logits-processors") + 1] == PROCESSOR
    assert command[command.index("--model") + 1] == str(toy_models / "user_lm")
    assert command[command.index("--served-model-name") + 1] == "user_lm"
    assert command[-4:] == ["--dtype", "float32", "--max-model-len", "64"]
    assert "--enable-lora" not in command


def test_the_stop_ids_are_those_of_the_template_whatever_the_configs_say(
    toy_models: Path, tmp_path: Path, form: ChatFormat
) -> None:
    model = copied(toy_models / "user_lm", tmp_path / "model")
    config = {"eos_token_id": 1, "temperature": 0.6}
    (model / "generation_config.json").write_text(json.dumps(config))
    write_generation_config(Endpoint(str(model), "m", form, "127.0.0.1", 1), tmp_path)
    written = json.loads((tmp_path / "generation_config.json").read_text())
    assert written == {"eos_token_id": form.stop_ids, "temperature": 0.6}


def test_arguments_of_one_side_follow_those_for_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USERLM_SYNTH_VLLM_ARGS", "--dtype float32")
    monkeypatch.setenv("USERLM_SYNTH_VLLM_ARGS_USER", "--gpu-memory-utilization 0.2")
    assert arguments_of("user") == ["--dtype", "float32", "--gpu-memory-utilization", "0.2"]
    assert arguments_of("assistant") == ["--dtype", "float32"]
    monkeypatch.setenv("USERLM_SYNTH_VLLM_ARGS", "--name 'open")
    with pytest.raises(UserError, match="USERLM_SYNTH_VLLM_ARGS: No closing quotation"):
        arguments_of("user")


def test_a_revision_goes_to_vllm_as_one_and_the_rank_as_it_has_kernels_for() -> None:
    arguments = model_arguments("org/model@abc", [12, 4])
    assert arguments[:4] == ["--model", "org/model", "--revision", "abc"]
    assert arguments[-4:] == ["--max-lora-rank", "16", "--max-loras", "2"]


@pytest.mark.parametrize(
    ("extra", "key"),
    [([], None), (["--api-key", "k1"], "k1"), (["--api-key=k2"], "k2")],
)
def test_the_check_uses_the_key_that_the_server_will_ask_for(
    extra: list[str], key: str | None, form: ChatFormat
) -> None:
    assert Endpoint("m", "m", form, "0.0.0.0", 1, extra=extra).key == key


# ---- the check ---------------------------------------------------------------------------------


def well(form: ChatFormat, **broken: Any) -> Callable[[dict[str, Any], int], Any]:
    """A server that behaves, but for what is named."""

    def behave(body: dict[str, Any], number: int) -> Any:
        if "messages" in body:
            ids = broken.get("prompt") or form.prompt(body["messages"])
            return 200, {}, {"prompt_token_ids": ids, "choices": [{}]}
        filtered = body.get("vllm_xargs", {}).get(FIELD, [])
        if filtered == PROBE[FIELD]:
            if broken.get("processor"):
                return 400, {}, {"error": {"message": f"{FIELD} is a list of token ids"}}
            filtered = []
        if broken.get("blind"):
            filtered = []
        allowed = [one for one in body.get("allowed_token_ids", [9]) if one not in filtered]
        ids = broken.get("forced", [allowed[0]])
        return 200, {}, {"choices": [{"token_ids": ids}]}

    broken.setdefault("processor", True)
    return behave


def checked(server: Server, form: ChatFormat) -> None:
    check(Endpoint("m", "m", form, "127.0.0.1", server.server_port))


def test_an_endpoint_that_behaves_passes_the_check(form: ChatFormat) -> None:
    with serving(well(form)) as server:
        checked(server, form)
    assert {body["model"] for body in server.requests} == {"m"}


@pytest.mark.parametrize(
    ("broken", "line"),
    [
        ({"prompt": [1, 2]}, "with a *user* turn opened at the end"),
        ({"forced": []}, "<|endconversation|> came back as []"),
        ({"forced": [1, 2]}, "came back as [1, 2]"),
        ({"blind": True}, "the filter of first tokens let a filtered token pass"),
        ({"processor": False}, "the processor that filters first tokens is not loaded"),
    ],
)
def test_the_check_says_what_is_wrong(form: ChatFormat, broken: Any, line: str) -> None:
    with serving(well(form, **broken)) as server, pytest.raises(UserError) as found:
        checked(server, form)
    assert line in str(found.value)
    assert all("the check failed: m: " in one for one in str(found.value).splitlines())


def test_a_server_that_refuses_the_check_is_one_line(form: ChatFormat) -> None:
    answer = (404, {}, {"error": {"message": "The model `m` does not exist."}})
    with serving(lambda body, number: answer) as server, pytest.raises(UserError) as found:
        checked(server, form)
    assert str(found.value).endswith(
        'status 404: {"error": {"message": "The model `m` does not exist."}}'
    )


# ---- the processes -----------------------------------------------------------------------------

#: Stands for `vllm serve`: takes its time, has a child, answers what the check asks.
TOY = """
import subprocess, sys, time
sys.path[:0] = {paths!r}
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open({pids!r}, "w").write(str(child.pid))
from test_openai_backend import Handler, Server
from test_serve import well
def get(self):
    self.send_response(200)
    self.end_headers()
    self.wfile.write(b"{{}}")
Handler.do_GET = get
Server.server_bind = lambda self: (setattr(self, "server_address", ("127.0.0.1", {port})),
                                   type(self).__mro__[1].server_bind(self))
Server(well(None, **{broken!r})).serve_forever()
"""


class Toy(Endpoint):
    """An endpoint whose server is a toy."""

    code = ""

    def command(self, config: Path) -> list[str]:
        assert (config / "generation_config.json").is_file()
        return [sys.executable, "-c", self.code]


@pytest.fixture
def toy(toy_models: Path, tmp_path: Path, form: ChatFormat) -> Callable[..., Toy]:
    def make(code: str = TOY, **broken: Any) -> Toy:
        found = Toy(str(toy_models / "user_lm"), "m", form, "127.0.0.1", free_port())
        paths = [str(Path(__file__).parent), *sys.path]
        values = {"paths": paths, "pids": str(tmp_path / "pid"), "port": found.port}
        text = code.format(**values, broken={"prompt": form.prompt(ASKED), **broken})
        object.__setattr__(found, "code", text)
        return found

    return make


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def soon(what: Callable[[], bool]) -> bool:
    """Whether it comes true within ten seconds."""
    for _ in range(200):
        if what():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_stop_the_server_and_its_children(
    toy: Callable[..., Toy], tmp_path: Path, number: int
) -> None:
    seen = []

    def ready() -> None:
        seen.append(int((tmp_path / "pid").read_text()))
        os.kill(os.getpid(), number)

    serve(toy(), ready)
    assert len(seen) == 1
    assert soon(lambda: not alive(seen[0]))


def test_a_server_that_fails_the_check_is_stopped_and_not_ready(
    toy: Callable[..., Toy], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="the check failed: m: its chat template"):
        serve(toy(prompt=[1]), lambda: pytest.fail("not ready"))
    assert soon(lambda: not alive(int((tmp_path / "pid").read_text())))


def test_a_server_that_does_not_start_is_one_line(toy: Callable[..., Toy]) -> None:
    with pytest.raises(UserError, match="vLLM did not start \\(status 3\\)"):
        serve(toy("import sys; sys.exit(3)"))


def test_processes_end_with_one_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, time\n"
        "from userlm_synth.backends.reaper import Reaper\n"
        "sleep = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
        "child = subprocess.Popen(sleep, start_new_session=True)\n"
        "Reaper([child.pid])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout
        child = int(owner.stdout.readline())
        assert alive(child)
        owner.kill()
    assert soon(lambda: not alive(child))


def test_a_dismissed_reaper_kills_nobody() -> None:
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    with subprocess.Popen(sleep) as child:
        reaper = Reaper([child.pid])
        reaper.dismiss()
        assert reaper.process.returncode is not None
        assert alive(child.pid)
        child.kill()


# ---- the filter of first tokens ----------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["?", [1, "2"], [True], [-1], [1.0], {"a": 1}, 3])
def test_what_is_no_list_of_ids_is_refused_by_name(wrong: Any) -> None:
    with pytest.raises(ValueError, match=FIELD):
        banned_first({FIELD: wrong})


def test_a_request_without_the_field_filters_nothing() -> None:
    assert banned_first(None) == banned_first({}) == banned_first({"other": 1}) == []


def test_banned_tokens_of_a_row_have_no_probability_and_others_keep_theirs() -> None:
    import torch

    logits = torch.arange(12.0).reshape(3, 4)
    ban(logits, {0: [1, 99], 2: [0, 3], 1: []})
    gone = logits.isinf()
    assert gone.nonzero().tolist() == [[0, 1], [2, 0], [2, 3]]
    assert torch.equal(logits[~gone], torch.arange(12.0).reshape(3, 4)[~gone])


def second_runner(lengths: list[int], slots: list[int], rows: list[int] | None = None) -> Any:
    """A step of vLLM's second model runner: tokens seen by each request, its slot, its rows."""
    import numpy as np
    import torch

    return SimpleNamespace(
        idx_mapping_np=np.array(slots),
        seq_lens_upper_bound_np=np.array(lengths),
        expanded_idx_mapping=torch.tensor(slots if rows is None else rows),
    )


def test_only_a_request_that_has_seen_its_prompt_alone_is_filtered() -> None:
    import numpy as np

    states = SimpleNamespace(prompt_len=SimpleNamespace(np=np.array([5, 7, 0, 3])))
    banned = {0: [11], 1: [12], 3: [13]}
    step = second_runner(lengths=[3, 5, 6], slots=[3, 0, 1])  # the last is within its prompt
    assert _first_rows(banned, states, step) == {0: [13], 1: [11]}
    later = second_runner(lengths=[4, 6, 7], slots=[3, 0, 1])
    assert _first_rows(banned, states, later) == {2: [12]}
    drafts = second_runner(lengths=[9, 5], slots=[3, 0], rows=[3, 3, 3, 0])
    assert _first_rows(banned, states, drafts) == {3: [11]}
