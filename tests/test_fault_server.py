"""Facts about a run against a faulty server whose client is killed: the short form of
`benchmarks/generation.py --only faults`, on the same real server and command."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent / "benchmarks"))

import generation_faults
import generation_server
from generation_faults import Endured, Ordeal, endure, judge

ORDEAL = Ordeal(num=80, in_flight=80, kills=2, faults=0.015, timeout=0.4, latency=0.01, seed=2)


@pytest.fixture(scope="module")
def endured(tmp_path_factory: pytest.TempPathFactory) -> Endured:
    """The client's ordeal: a tenth of all requests fail, and it is killed twice."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generation_faults, "START", 1.0)
        patch.setattr(generation_faults, "LATE", 0.1)
        return endure(ORDEAL, tmp_path_factory.mktemp("ordeal"))


def test_every_kind_of_fault_is_met_and_survived(endured: Endured) -> None:
    assert all(endured.faults[name] > 0 for name in generation_server.FAULTS)
    assert endured.valid == f"{ORDEAL.num} records, all valid"


def test_dialogues_of_killed_runs_are_those_of_a_calm_one(endured: Endured) -> None:
    assert len(endured.kills) == ORDEAL.kills
    assert endured.same_as_calm == ORDEAL.num


def test_what_is_stored_at_a_kill_is_neither_lost_nor_asked_again(endured: Endured) -> None:
    assert max(endured.stored_at_kills) > 0
    assert endured.stored_at_kills == sorted(endured.stored_at_kills)
    assert (endured.lost, endured.stored_asked_again) == (0, 0)


def test_only_what_was_under_way_at_a_kill_is_paid_twice(endured: Endured) -> None:
    assert endured.without_a_kill == 0
    assert endured.paid_twice - endured.timed_out <= ORDEAL.kills * ORDEAL.in_flight


def test_a_stored_turn_that_is_asked_again_would_be_seen() -> None:
    result = Endured(kills=[10.0])
    log = [("a", 1.0, 1.1), ("b", 2.0, 2.1), ("a", 11.0, 11.1), ("b", 3.0, None), ("c", 4.0, 9.0)]
    judge(log, {"a": 10.0, "c": 10.0}, 1.0, result)
    assert (result.stored_asked_again, result.paid_twice, result.without_a_kill) == (1, 1, 0)
    result = Endured(kills=[10.0])
    judge([("a", 1.0, 1.1), ("a", 1.5, 1.6), ("a", 3.0, 3.1)], {}, 1.0, result)
    assert (result.paid_twice, result.timed_out, result.without_a_kill) == (2, 1, 1)
