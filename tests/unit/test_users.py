from __future__ import annotations

from pytest_sandboxes.backends.users import _IDS, Users


def test_nobody_is_given_out_twice_before_all_have_been() -> None:
    made = Users()
    first = [uid for _ in range(4_900) for uid in made.take(8)]
    assert len(set(first)) == len(first)
    assert set(first) <= set(_IDS)


def test_ids_are_in_a_row_wherever_it_has_begun() -> None:
    made = Users()
    for count in (1, 256, 7) * 500:
        taken = made.take(count)
        assert len(taken) == count
        assert taken[0] in _IDS
        assert taken[-1] == taken[0] + count - 1
        assert taken[-1] in _IDS


def test_two_runs_begin_elsewhere() -> None:
    assert len({Users().take(1)[0] for _ in range(20)}) > 1
