"""Facts about model SPECs and the in-process backend: its samples, its bans, its probabilities."""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from userlm_synth.backends import Request, Result, Spec, open_backend, parse_spec
from userlm_synth.backends.hf import HFBackend, SeededSampler
from userlm_synth.errors import UserError
from userlm_synth.records import END_TOKEN

LOGITS = [2.0, 1.5, 0.3, 0.0, -1.0, -4.0]


@pytest.fixture(scope="module")
def user(toy_models: Path) -> HFBackend:
    """The toy user LM."""
    return HFBackend(str(toy_models / "user_lm"), speaker="user")


def request(user: HFBackend, said: str = "to buy a lamp", **more: Any) -> Request:
    """A request for a user's opening turn."""
    prompt = user.form.prompt([{"role": "system", "content": said}])
    defaults: dict[str, Any] = {"max_tokens": 12, "end_id": user.form.end_id, "prompt_ids": prompt}
    return Request(**{**defaults, **more})


def ask_all(user: HFBackend, requests: list[Request]) -> list[Result]:
    async def ask() -> list[Result]:
        return await asyncio.gather(*(user.generate(one) for one in requests))

    return asyncio.run(ask())


def said(results: list[Result]) -> list[tuple[object, ...]]:
    """Everything but the end probability, whose last digits depend on the batch."""
    return [(r.text, r.finish, *r.token_ids, r.prompt_tokens, r.completion_tokens) for r in results]


# ---- SPECs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("hf:org/model@main", Spec("hf", "org/model@main")),
        ("org/model", Spec("hf", "org/model")),
        ("runs/x/user_lm", Spec("hf", "runs/x/user_lm")),
        ("./a:b", Spec("hf", "./a:b")),
        ("/tmp/odd:name", Spec("hf", "/tmp/odd:name")),
        ("scripted:replies.json", Spec("scripted", "replies.json")),
        ("openai:m@http://a/v1", Spec("openai", "m", ("http://a/v1",))),
        (
            "openai:org/m@v2@https://a/v1,http://b:8/v1",
            Spec("openai", "org/m@v2", ("https://a/v1", "http://b:8/v1")),
        ),
    ],
)
def test_a_spec_is_read(text: str, spec: Spec) -> None:
    assert parse_spec(text) == spec


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("opnai:m@http://a", "unknown kind of model 'opnai'; known: hf, openai, prompted, scri"),
        ("hf:", "names no model"),
        ("openai:m", "write openai:MODEL@URL"),
        ("openai:@http://a", "write openai:MODEL@URL"),
    ],
)
def test_a_spec_that_makes_no_sense_is_one_line(text: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_spec(text)
    assert said in str(caught.value)
    assert text in str(caught.value)


@pytest.mark.parametrize("content", ["[]", '"hi"', "{", "[1]"])
def test_a_script_that_is_no_list_of_texts_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "s.json").write_text(content)
    with pytest.raises(UserError, match=r"s\.json: "):
        open_backend(f"scripted:{tmp_path / 's.json'}", speaker="user")


def test_a_script_answers_by_the_number_of_turns(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text(json.dumps(["a", "b", END_TOKEN]))
    script = open_backend(f"scripted:{tmp_path / 's.json'}", speaker="user")
    turns = [{"role": role, "content": "x"} for role in ("user", "assistant") * 3]
    system = [{"role": "system", "content": "x"}]
    answers = [
        asyncio.run(script.generate(Request(messages=[*system, *turns[:n]]))) for n in (0, 2, 4, 6)
    ]
    assert [a.text for a in answers] == ["a", "b", "", ""]
    assert [a.finish for a in answers] == ["eot", "eot", "end", "end"]


def test_a_folder_that_is_no_checkpoint_is_one_line(tmp_path: Path, toy_models: Path) -> None:
    with pytest.raises(UserError, match="is not a checkpoint folder"):
        open_backend(str(tmp_path), speaker="user")
    with pytest.raises(UserError, match="no such folder"):
        open_backend(f"hf:{tmp_path}/nowhere", speaker="user")
    with pytest.raises(UserError, match="has no chat template"):
        open_backend(str(toy_models / "base"), speaker="user")
    with pytest.raises(UserError, match="does not open a \\*user\\* turn"):
        open_backend(str(toy_models / "assistant_lm"), speaker="user")


# ---- the in-process model --------------------------------------------------------------------


def test_a_text_is_the_same_alone_and_in_any_batch(user: HFBackend) -> None:
    requests = [
        request(user, "to go " * n, seed=n, max_tokens=6 + 3 * n, temperature=0.5 + 0.2 * n)
        for n in range(1, 6)
    ]
    alone = [user.run([one])[0] for one in requests]
    assert said(ask_all(user, requests)) == said(alone)
    assert said(ask_all(user, requests[::-1])) == said(alone[::-1])
    assert len({one.text for one in alone}) >= 4


def test_more_requests_than_the_batch_holds_are_all_answered(toy_models: Path) -> None:
    small = HFBackend(str(toy_models / "user_lm"), speaker="user", batch=2)
    requests = [request(small, seed=n) for n in range(5)]
    assert said(ask_all(small, requests)) == said(small.run(requests))


def test_a_row_has_its_own_limit_and_keeps_its_own_end(user: HFBackend) -> None:
    requests = [request(user, seed=n, max_tokens=30) for n in range(24)]
    free = user.run(requests)
    ended = [len(one.token_ids) for one in free if one.finish != "length"]
    assert ended, "the toy closes some turns by itself"
    tight = [request(user, seed=n, max_tokens=5) for n in range(24)]
    mixed = user.run([*tight, requests[0]])  # the last row keeps the batch going
    for whole, short in zip(free, mixed, strict=False):
        if whole.finish != "length" and len(whole.token_ids) < 5:
            assert said([short]) == said([whole])
        else:
            assert short.finish == "length"
            assert list(short.token_ids) == list(whole.token_ids)[:5]
            assert short.completion_tokens == 5


def test_banned_tokens_never_come_and_first_ones_not_first(user: HFBackend) -> None:
    plain = user.run([request(user, seed=n) for n in range(40)])
    opening = {one.token_ids[0] for one in plain if one.token_ids}
    later = Counter(t for one in plain for t in one.token_ids[1:]).most_common()
    first = next(token for token, _ in later if token in opening)
    banned = [token for token, _ in later if token != first][:2] + user.form.stop_ids
    changes = {"banned": banned, "banned_first": [first]}
    kept = user.run([request(user, seed=n, **changes) for n in range(40)])
    tokens = [list(one.token_ids) for one in kept]
    assert not {t for ids in tokens for t in ids} & set(banned)
    assert first not in {ids[0] for ids in tokens}
    assert first in {t for ids in tokens for t in ids[1:]}
    assert {one.finish for one in kept} == {"length"}


def test_control_tokens_other_than_the_stops_are_never_written(user: HFBackend) -> None:
    never = {
        number for number, token in user.tokenizer.added_tokens_decoder.items() if token.special
    } - set(user.form.stop_ids)
    assert len(never) >= 3
    hot = user.run([request(user, seed=n, temperature=50.0, max_tokens=40) for n in range(40)])
    tokens = {t for one in hot for t in one.token_ids}
    assert len(tokens) > 150  # nearly everything came up
    assert not tokens & never


def logits_at(user: HFBackend, ids: list[int]) -> Any:
    import torch

    with torch.no_grad():
        return user.model(torch.tensor([ids])).logits[0, -1]


def test_the_end_probability_is_the_models_own_before_bans_and_temperature(
    user: HFBackend,
) -> None:
    end = user.form.end_id
    assert end is not None
    plain = request(user)
    expected = float(logits_at(user, list(plain.prompt_ids or ())).softmax(-1)[end])
    for more in ({}, {"banned": [end]}, {"temperature": 0.1}, {"top_p": 0.1}):
        (result,) = user.run([request(user, **more)])
        assert result.end_probability == pytest.approx(expected, rel=1e-4)
    (unasked,) = user.run([request(user, end_id=None)])
    assert unasked.end_probability is None


def test_the_end_token_is_an_end_and_the_turns_end_is_not(user: HFBackend) -> None:
    form = user.form
    everything = set(range(len(form.tokenizer)))
    for only, finish in ((form.end_id, "end"), (form.turn_end_id, "eot")):
        banned = sorted(everything - {only})
        (result,) = user.run([request(user, banned=banned)])
        assert (result.finish, result.text, result.completion_tokens) == (finish, "", 1)


def test_temperature_zero_takes_the_most_likely_token(user: HFBackend) -> None:
    cold = request(user, temperature=0.0, banned=user.form.stop_ids, max_tokens=8)
    ids = list(cold.prompt_ids or ())
    expected = []
    for _ in range(8):
        logits = logits_at(user, ids + expected)
        allowed = logits.clone()
        allowed[[*user.never, *user.form.stop_ids]] = -math.inf
        expected.append(int(allowed.argmax()))
    for seed in (0, 1):
        (result,) = user.run([Request(**{**vars(cold), "seed": seed})])
        assert list(result.token_ids) == expected


# ---- the sampler -----------------------------------------------------------------------------


def draw(requests: list[Request], never: list[int] | None = None) -> list[int]:
    """One token a request from LOGITS."""
    import torch

    sampler = SeededSampler(requests, never or [], 0, 0)
    ids = torch.empty((len(requests), 0), dtype=torch.long)
    scores = sampler(ids, torch.tensor([LOGITS] * len(requests)))
    assert torch.isfinite(scores).sum(-1).tolist() == [1] * len(requests)
    tokens: list[int] = scores.argmax(-1).tolist()
    return tokens


def nucleus(temperature: float, top_p: float, banned: set[int]) -> dict[int, float]:
    """The exact distribution: the smallest set of likeliest tokens that reaches `top_p`."""
    weights = {i: math.exp(z / temperature) for i, z in enumerate(LOGITS) if i not in banned}
    total = sum(weights.values())
    kept: dict[int, float] = {}
    mass = 0.0
    for token in sorted(weights, key=lambda i: -weights[i]):
        if mass >= top_p:
            break
        kept[token] = weights[token] / total
        mass += kept[token]
    return {token: share / mass for token, share in kept.items()}


@pytest.mark.parametrize(
    ("temperature", "top_p", "banned"),
    [(1.0, 1.0, set()), (0.7, 0.8, set()), (2.0, 0.9, set()), (1.0, 0.6, {0}), (1.0, 0.01, set())],
)
def test_samples_follow_the_exact_distribution(
    temperature: float, top_p: float, banned: set[int]
) -> None:
    count = 2000
    asked = {"temperature": temperature, "top_p": top_p, "banned": sorted(banned)}
    drawn = Counter(draw([Request(seed=n, **asked) for n in range(count)]))
    expected = nucleus(temperature, top_p, banned)
    assert set(drawn) <= set(expected)
    surprise = sum((drawn[t] - count * p) ** 2 / (count * p) for t, p in expected.items())
    assert surprise < 25  # chi-square of five degrees of freedom: once in 7,000 seeds sets


def test_a_seed_fixes_its_draw_wherever_the_row_stands() -> None:
    requests = [Request(seed=n) for n in range(30)]
    assert draw(requests)[::-1] == draw(requests[::-1])


def test_rows_of_one_batch_have_their_own_temperature_and_top_p() -> None:
    mixed = [Request(seed=n, temperature=(0.0, 1.0)[n % 2]) for n in range(200)]
    tokens = draw(mixed)
    assert set(tokens[::2]) == {0}
    assert len(set(tokens[1::2])) >= 4


def test_the_largest_draw_there_is_still_takes_a_token_that_may_come() -> None:
    import torch

    class Largest:
        def random(self) -> float:
            return math.nextafter(1.0, 0.0)  # 1.0 once it is a float32

    sampler = SeededSampler([Request(top_p=0.8, banned=[1])], [5], 0, 0)
    sampler.draws = [Largest()]  # type: ignore[list-item]
    ids = torch.empty((1, 0), dtype=torch.long)
    token = int(sampler(ids, torch.tensor([LOGITS])).argmax())
    assert token in nucleus(1.0, 0.8, {1, 5})
