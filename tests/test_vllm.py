"""A real vLLM: in process and as a server it says what transformers says, and holds dialogues.

Run by `pytest -m vllm -n 0`. The models are the quickstart's, trained for half a minute: enough to
write words and to leave. All in fp32, greedy; texts of two engines may part only where the two best
tokens are closer than EPSILON, a difference of logits.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from conftest import Outcome
from vllm_answers import Answers, answer
from vllm_harness import Environment, Unavailable, environment, free_port, post, started

from userlm_synth.records import Record, read_lines, read_records
from userlm_synth.user_lm import ChatFormat, encode_texts, load_model, load_tokenizer

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]

EPSILON = 2e-3
NUM = 50
SHORT = ["train.epochs=0.15", "assistant.train.epochs=0.06",
         "train.validations=0", "assistant.train.validations=0"]  # fmt: skip


# ---- what the tests share ----------------------------------------------------------------------


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Path]]:
    """Waits for a shortened quickstart's run folder, trained while the environment is made."""
    folder = tmp_path_factory.mktemp("quickstart")
    command = [sys.executable, "-m", "userlm_synth", "train", "quickstart", *SHORT]
    with (folder / "log").open("w") as log:
        training = subprocess.Popen([*command, "--out", str(folder / "run")], stderr=log)

    def wait() -> Path:
        assert training.wait() == 0, (folder / "log").read_text()[-3000:]
        return folder / "run"

    yield wait
    training.kill()
    training.wait()


@pytest.fixture(scope="session")
def env(run: Callable[[], Path], request: pytest.FixtureRequest) -> Environment:
    try:
        return environment(request.config.cache.mkdir("vllm"))
    except Unavailable as why:
        pytest.skip(f"no environment with vLLM can be made here: {why}")


@pytest.fixture(scope="session")
def models(run: Callable[[], Path], env: Environment) -> dict[str, Path]:
    """The folders of the user LM and the assistant LM."""
    return {"user": run() / "user_lm", "assistant": run() / "assistant_lm"}


@pytest.fixture(scope="session")
def forms(models: dict[str, Path]) -> dict[str, ChatFormat]:
    return {
        name: ChatFormat.probe(load_tokenizer(str(folder)), name)  # type: ignore[arg-type]
        for name, folder in models.items()
    }


@pytest.fixture(scope="session")
def talks(run: Callable[[], Path], env: Environment) -> list[Record]:
    return list(read_records(run() / "conversations" / "test.jsonl", "conversation"))


Ask = Callable[..., dict[str, Any]]
Killed = dict[str, Any]  # `said`: answers, and `engines`: processes


@pytest.fixture(scope="session")
def ask(forms: dict[str, ChatFormat]) -> Ask:
    """A greedy request for the next turn after some messages, as the simulator makes it."""

    def make(side: str, messages: list[Any], **more: Any) -> dict[str, Any]:
        form = forms[side]
        return {
            "messages": messages, "prompt_ids": form.prompt(messages) + form.lead,
            "temperature": 0.0, "max_tokens": 24, "stop_ids": form.stop_ids,
            "end_id": form.end_id, **more,
        }  # fmt: skip

    return make


@pytest.fixture(scope="session")
def asked(ask: Ask, talks: list[Record], local: Any) -> dict[str, list[Any]]:
    """Openings, later turns and goodbyes of users; replies; filtered first tokens; no leaving."""
    intents = [{"role": "system", "content": one["intent"]} for one in talks[:14]]
    users = []
    for intent, one in zip(intents, talks, strict=False):
        users += [ask("user", [intent]), ask("user", [intent, *one["messages"][:2]])]
        users.append(ask("user", [intent, *one["messages"]]))
    plain = local({"user": users})["user"]
    filtered = []
    for one, said in zip(users[:12], plain, strict=False):
        filtered.append({**one, "banned_first": said["token_ids"][:1]})
        filtered.append({**one, "banned_first": said["token_ids"][1:6]})
        filtered.append({**one, "banned": [one["end_id"]]})
    replies = [ask("assistant", one["messages"][:1]) for one in talks[:10]]
    return {"user": users + filtered, "assistant": replies}


@pytest.fixture(scope="session")
def local(models: dict[str, Path]) -> Callable[[dict[str, list[Any]]], Answers]:
    """What transformers says."""

    def run(asked: dict[str, list[Any]]) -> Answers:
        specs = {name: {"spec": f"hf:{models[name]}", "speaker": name} for name in asked}
        return asyncio.run(answer(specs, asked))

    return run


@pytest.fixture(scope="session")
def expected(asked: dict[str, list[Any]], local: Any) -> Answers:
    found: Answers = local(asked)
    return found


@pytest.fixture(scope="session")
def killed(
    env: Environment,
    models: dict[str, Path],
    asked: dict[str, list[Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Killed:
    """What vLLM says in a process of its environment, both models on engines side by side, which
    was killed then (kill -9); and its engines' processes."""
    folder = tmp_path_factory.mktemp("in_process")
    specs = {name: {"spec": f"vllm:{models[name]}", "speaker": name} for name in asked}
    long = {**asked["user"][0], "prompt_ids": [5] * 5000}
    more = {"user": [*asked["user"], long], "assistant": asked["assistant"]}
    (folder / "asked.json").write_text(json.dumps({"specs": specs, "asked": more}))
    script = Path(__file__).parent / "vllm_answers.py"
    said = folder / "said.json"
    env.run("python", script, folder / "asked.json", said, status=-signal.SIGKILL)
    found: Killed = json.loads(said.read_text())
    return found


@pytest.fixture(scope="session")
def in_process(killed: Killed) -> Answers:
    return killed["said"]


@pytest.fixture(scope="session")
def servers(
    env: Environment, models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """The SPECs of the user LM, by `serve`, and of the assistant LM, by `vllm serve` alone."""
    logs, ports = tmp_path_factory.mktemp("logs"), (free_port(), free_port())
    user = [env.program("userlm-synth"), "serve", str(models["user"]), "--port", str(ports[0])]
    flags = env.variables["USERLM_SYNTH_VLLM_ARGS"].split()
    other = [env.program("vllm"), "serve", str(models["assistant"]), "--port", str(ports[1]),
             "--host", "127.0.0.1", "--served-model-name", "assistant_lm", *flags]  # fmt: skip
    urls = [f"http://127.0.0.1:{port}/v1" for port in ports]
    with ExitStack() as stack:
        waits = [  # they load side by side
            stack.enter_context(started(command, env.variables, log, sign))
            for command, log, sign in (
                (user, logs / "user", f"openai:user_lm@{urls[0]}"),
                (other, logs / "assistant", "Application startup complete"),
            )
        ]
        for wait in waits:
            wait()
        yield {"user": f"openai:user_lm@{urls[0]}", "assistant": f"openai:assistant_lm@{urls[1]}"}


@pytest.fixture(scope="session", params=["chat", "completions"])
def over_http(
    request: pytest.FixtureRequest, servers: dict[str, str], asked: dict[str, list[Any]]
) -> Answers:
    """What the servers say, by each of the two ways to ask for a user's turn."""
    specs = {
        name: {"spec": spec, "speaker": name, "api": request.param if name == "user" else "auto"}
        for name, spec in servers.items()
    }
    return asyncio.run(answer(specs, asked))


# ---- the same words ----------------------------------------------------------------------------


class Judge:
    """Whether two greedy answers are the same, or part where the model itself hardly chooses."""

    def __init__(self, models: dict[str, Path], forms: dict[str, ChatFormat]) -> None:
        self.models = {name: load_model(str(folder)).eval() for name, folder in models.items()}
        self.forms = forms

    def ids(self, name: str, said: dict[str, Any]) -> list[int]:
        """The tokens with the one that closed them."""
        form = self.forms[name]
        if not said["token_ids"]:  # some servers tell an assistant's text alone
            (ids,) = encode_texts(form.tokenizer, [said["text"]])
            said = {**said, "token_ids": ids}
        closing = {"eot": [form.turn_end_id], "end": [form.end_id], "length": []}
        return [*said["token_ids"], *closing[said["finish"]]]

    def gap(self, name: str, one: dict[str, Any], before: list[int], pair: list[int]) -> float:
        """How far, in logits, the two tokens lie from the best that is allowed there."""
        import torch

        with torch.no_grad():
            ids = torch.tensor([[*one["prompt_ids"], *before]])
            logits = self.models[name](ids).logits[0, -1]
        banned = [*one.get("banned", []), *([] if before else one.get("banned_first", []))]
        logits[banned] = -torch.inf
        return float(logits.max() - logits[pair].min())

    def compare(self, name: str, asked: list[Any], mine: list[Any], other: list[Any]) -> int:
        """The number of answers that are equal token by token; the others are ties."""
        equal = 0
        for one, a, b in zip(asked, mine, other, strict=True):
            left, right = self.ids(name, a), self.ids(name, b)
            if left == right:
                assert a["text"] == b["text"]
                equal += 1
                continue
            at = next(i for i, (x, y) in enumerate(zip(left, right, strict=False)) if x != y)
            gap = self.gap(name, one, left[:at], [left[at], right[at]])
            assert gap < EPSILON, f"{a['text']!r} and {b['text']!r} part at {at}, gap {gap}"
        return equal


@pytest.fixture(scope="session")
def judge(models: dict[str, Path], forms: dict[str, ChatFormat]) -> Judge:
    return Judge(models, forms)


def test_the_models_write_words_and_leave(expected: Answers) -> None:
    finishes = [one["finish"] for one in expected["user"][:42]]
    assert finishes.count("end") >= 5
    assert finishes.count("eot") >= 20
    assert sum(len(one["text"].split()) >= 2 for one in expected["user"]) >= 30


@pytest.mark.parametrize("side", ["user", "assistant"])
def test_greedy_text_in_process_is_that_of_transformers(
    side: str, judge: Judge, asked: dict[str, list[Any]], expected: Answers, in_process: Answers
) -> None:
    mine = in_process[side][: len(asked[side])]
    assert judge.compare(side, asked[side], expected[side], mine) >= 0.9 * len(asked[side])


@pytest.mark.parametrize("side", ["user", "assistant"])
def test_greedy_text_over_http_is_that_of_transformers(
    side: str, judge: Judge, asked: dict[str, list[Any]], expected: Answers, over_http: Answers
) -> None:
    equal = judge.compare(side, asked[side], expected[side], over_http[side])
    assert equal >= 0.9 * len(asked[side])


def test_a_filter_of_first_tokens_filters_first_tokens_alone(
    asked: dict[str, list[Any]], in_process: Answers, over_http: Answers
) -> None:
    for said in (in_process["user"], over_http["user"]):
        later = 0
        for one, result in zip(asked["user"], said, strict=False):
            banned = one.get("banned_first", [])
            assert result["token_ids"][:1] == [] or result["token_ids"][0] not in banned
            later += any(token in banned for token in result["token_ids"][1:])
        assert later >= 6


def test_who_may_not_leave_does_not(
    asked: dict[str, list[Any]], in_process: Answers, over_http: Answers
) -> None:
    for said in (in_process["user"], over_http["user"]):
        held = [r for one, r in zip(asked["user"], said, strict=False) if one.get("banned")]
        assert len(held) == 12
        assert {one["finish"] for one in held} <= {"eot", "length"}


def test_the_chance_to_leave_is_that_of_transformers(
    expected: Answers, in_process: Answers, over_http: Answers
) -> None:
    for said in (in_process["user"], over_http["user"]):
        for mine, other in zip(expected["user"], said, strict=False):
            assert other["end_probability"] == pytest.approx(
                mine["end_probability"], rel=2e-3, abs=1e-6
            )


def test_the_end_comes_by_its_token_id_and_is_billed(
    expected: Answers, in_process: Answers, over_http: Answers
) -> None:
    for said in (in_process["user"], over_http["user"]):
        ends = [one for one in said if one["finish"] == "end"]
        assert len(ends) >= 5
        assert all(one["completion_tokens"] == len(one["token_ids"]) + 1 for one in ends)


def test_a_prompt_beyond_the_context_is_told_apart(in_process: Answers) -> None:
    assert in_process["user"][-1]["finish"] == "context_full"


def test_chat_and_completions_send_the_same_prompt_ids(
    servers: dict[str, str], asked: dict[str, list[Any]]
) -> None:
    _, _, url = servers["user"].partition("@")
    for one in asked["user"][:12]:
        settings = {"model": "user_lm", "max_tokens": 1, "return_token_ids": True}
        chat = post(f"{url}/chat/completions", {**settings, "messages": one["messages"]})
        ours = post(f"{url}/completions", {**settings, "prompt": one["prompt_ids"]})
        assert chat["prompt_token_ids"] == one["prompt_ids"]
        assert ours["choices"][0]["prompt_token_ids"] == one["prompt_ids"]


# ---- dialogues ---------------------------------------------------------------------------------


def command(users: str, assistants: str, intents: Path, out: Path) -> list[str]:
    return [
        "generate", "--user", users, "--assistant", assistants, "--intents", str(intents),
        "--num", str(NUM), "--out", str(out), "--concurrency", "16", "--seed", "5",
        "generate.max_turns=4", "generate.max_tokens=30", "generate.temperature=0.7",
        "generate.guardrails.first_token_filter=[I, You]", "assistant.max_tokens=30",
        "assistant.temperature=0.3",
    ]  # fmt: skip


def finished(out: Path, cli: Callable[..., Outcome]) -> dict[str, Record]:
    """The dialogues of a folder, valid, all there, by their ids."""
    files = [*sorted(out.glob("part-*.jsonl")), out / "rejected.jsonl"]
    assert cli("validate", *files).code == 0
    records = [one for file in files for _, one in read_lines(file)]
    assert len({one["id"] for one in records}) == len(records) == NUM
    good = [one for one in records if "reason" not in one]
    assert len(good) >= NUM * 0.7
    for one in good:
        users = [turn["content"] for turn in one["messages"] if turn["role"] == "user"]
        assert all(isinstance(chance, float) for chance in one["end_probabilities"])
        assert not any(text.startswith(("I ", "You ")) for text in users)
        assert one["usage"]["user"]["prompt_tokens"] > 0
    assert any(one["stop_reason"] == "user_ended" for one in good)
    return {one["id"]: one for one in records}


@pytest.fixture(scope="session")
def intents(run: Callable[[], Path], env: Environment) -> Path:
    return run() / "conversations" / "test.jsonl"


@pytest.fixture(scope="session")
def by_http(
    servers: dict[str, str],
    intents: Path,
    cli: Callable[..., Outcome],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Record]:
    out = tmp_path_factory.mktemp("http") / "dialogues"
    done = cli(*command(servers["user"], servers["assistant"], intents, out))
    assert done.code == 0, done.err
    return finished(out, cli)


def test_dialogues_over_http_are_valid_and_complete(by_http: dict[str, Record]) -> None:
    assert len(by_http) == NUM


def test_dialogues_in_process_are_valid_and_those_of_the_same_ids(
    env: Environment,
    models: dict[str, Path],
    intents: Path,
    by_http: dict[str, Record],
    cli: Callable[..., Outcome],
    tmp_path: Path,
) -> None:
    out = tmp_path / "dialogues"
    specs = [f"vllm:{models[name]}" for name in ("user", "assistant")]
    env.run("userlm-synth", *command(*specs, intents, out))
    found = finished(out, cli)
    assert set(found) == set(by_http)
    cached = sum(one["usage"]["user"].get("cached_tokens", 0) for one in found.values())
    assert cached > 0


def test_no_engine_outlives_a_process_that_was_killed(killed: Killed) -> None:
    assert len(killed["engines"]) >= 2  # one a model, and on some devices their workers
    for _ in range(100):
        if not any(Path(f"/proc/{pid}/cmdline").exists() for pid in killed["engines"]):
            return
        time.sleep(0.1)
    pytest.fail(f"still there: {killed['engines']}")
