"""Packing: every sequence once, in as few rows as best fit finds, divided among processes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from userlm_synth.recipe import Training
from userlm_synth.training.batches import STEP_SIZES, collate, micro_batches, pack, plan
from userlm_synth.training.tokens import Windows
from userlm_synth.user_lm.render import CONTEXT, END, TURN_END, WORD, Rendered

LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=60)


@given(LENGTHS, st.integers(50, 120))
def test_packing_keeps_every_sequence_once_and_no_row_overflows(lengths, room):
    rows = pack(lengths, room)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    sizes = [sum(lengths[index] for index in row) for row in rows]
    assert all(size <= room for size in sizes)
    assert len(rows) == 1 or sum(sorted(sizes)[:2]) > room  # no two rows could be one


def test_an_epoch_shows_each_row_once_and_the_next_in_another_order():
    rows = [[number] for number in range(40)]
    steps = plan(rows, Training(epochs=2, max_length=32, batch_tokens=128), seed=1)
    flat = [row[0] for step in steps for row in step]
    assert sorted(flat[:40]) == sorted(flat[40:]) == list(range(40))
    assert flat[:40] != flat[40:]
    assert plan(rows, Training(epochs=2, max_length=32, batch_tokens=128), seed=1) == steps


def best_fit(lengths, room):
    """The plain way: each sequence, longest first, into the fullest row that has room."""
    rows = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        left = [room - sum(lengths[i] for i in row) for row in rows]
        fitting = [r for r in range(len(rows)) if left[r] >= lengths[index]]
        if fitting:
            rows[min(fitting, key=lambda r: left[r])].append(index)
        else:
            rows.append([index])
    return rows


@given(LENGTHS, st.integers(50, 120))
def test_rows_are_filled_best_fit(lengths, room):
    def sizes(rows):
        return sorted(sum(lengths[index] for index in row) for row in rows)

    assert sizes(pack(lengths, room)) == sizes(best_fit(lengths, room))


def test_a_sequence_longer_than_the_row_is_refused():
    with pytest.raises(ValueError, match="51 tokens"):
        pack([3, 51], 50)


def test_max_steps_ends_an_epoch_early():
    rows = [[number] for number in range(40)]
    options = Training(max_length=32, batch_tokens=128)
    assert len(plan(rows, options, 1)) == 10
    short = plan(rows, Training(max_length=32, batch_tokens=128, max_steps=3), 1)
    assert short == plan(rows, options, 1)[:3]


@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 4))
def test_processes_share_a_steps_rows_and_do_as_many_micro_batches(count, world, at_once):
    step = [[2 * number, 2 * number + 1] for number in range(count)]
    shares = [micro_batches(step, rank, world, at_once) for rank in range(world)]
    assert len({len(share) for share in shares}) == 1
    seen = [index for share in shares for members in share for index in members]
    assert sorted(seen) == list(range(2 * count))
    assert all(len(members) <= 2 * at_once for share in shares for members in share)


def rendered(kinds, turns=None):
    return Rendered(ids=list(range(5, 5 + len(kinds))), kinds=list(kinds), turns=turns or kinds)


KINDS = st.lists(st.sampled_from([CONTEXT, WORD, TURN_END, END]), min_size=1, max_size=12)


@given(st.lists(KINDS, min_size=1, max_size=6), st.data())
def test_a_batch_says_of_each_target_its_place_and_its_sequence(all_kinds, data):
    windows = Windows.of((number, rendered(kinds)) for number, kinds in enumerate(all_kinds))
    assert windows.owners.tolist() == [n for n, kinds in enumerate(all_kinds) if any(kinds[1:])]
    members = data.draw(st.permutations(range(len(windows))))
    batch = collate(windows, members, 0)
    chosen = [all_kinds[windows.owners[index]] for index in members]
    flat = [kind for kinds in chosen for kind in [CONTEXT, *kinds[1:]]]
    places = [place for place, kind in enumerate(flat) if kind]
    assert (batch.at + 1).tolist() == places
    assert batch.kinds.tolist() == [flat[place] for place in places]
    assert batch.labels.tolist() == batch.ids[0, places].tolist()
    owners = [index for index, kinds in zip(members, chosen, strict=True) for _ in kinds]
    assert batch.owners.tolist() == [owners[place] for place in places]
    restart = [position for kinds in chosen for position in range(len(kinds))]
    size = len(restart)
    assert batch.positions[0, :size].tolist() == restart
    assert batch.segments[: len(chosen)] == tuple(len(kinds) for kinds in chosen)
    assert len(batch.ids[0]) == sum(batch.segments) == batch.offsets[-1]
    assert len(batch.ids[0]) % STEP_SIZES == 0 < len(batch.ids[0]) < size + 2 * STEP_SIZES
    assert windows.targets == sum(bool(kind) for kind in flat)


def test_an_empty_micro_batch_is_padding_without_a_target():
    batch = collate(Windows.of([(0, rendered([0, 1]))]), [], 7)
    assert set(batch.ids[0].tolist()) == {7}
    assert len(batch.labels) == 0


@given(st.lists(KINDS, min_size=1, max_size=6))
def test_windows_on_the_disk_are_those_in_memory(tmp_path_factory, all_kinds):
    windows = Windows.of((number, rendered(kinds)) for number, kinds in enumerate(all_kinds))
    folder = tmp_path_factory.mktemp("tokens")
    windows.save(folder)
    opened = Windows.open(folder)
    assert opened.hash == windows.hash
    assert opened.lengths.tolist() == windows.lengths.tolist()
    for weight in ("token", "sample", 3.0):
        assert np.array_equal(opened.weights(weight), windows.weights(weight))
