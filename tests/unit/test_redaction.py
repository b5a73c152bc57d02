"""Values of secrets in reports become their names, whole or cut, as they are or as Python writes them."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_sandboxes.display import tail
from pytest_sandboxes.reporting.redaction import SHORTEST, Mask

TOKEN = "tok-8f3a91c2d7e64b05"
KEY = "-----BEGIN KEY-----\nMIIEvQIBADANBgkq\nhkiG9w0BAQEFAASC\n-----END KEY-----"
ODD = "quote'\"back\\slash\ttab"
VALUES = {"TOKEN": TOKEN, "KEY": KEY, "ODD": ODD, "PIN": "123"}
MASK = Mask(VALUES)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("nothing", "nothing"),
        (TOKEN, "***TOKEN***"),
        (f"a{TOKEN}b{TOKEN}", "a***TOKEN***b***TOKEN***"),
        (f"E   | {KEY.splitlines()[1]}\n", "E   | ***KEY***\n"),
        (repr(f"x {ODD}"), "'x ***ODD***'"),
        (json.dumps(ODD), '"***ODD***"'),
        ("the PIN is 123", "the PIN is 123"),
        (f"'{TOKEN[:9]}...{TOKEN[-6:]}'", "'***TOKEN***...***TOKEN***'"),
        (f"{TOKEN[:4]}…", "***TOKEN***…"),
        (f"{TOKEN[:3]}…", f"{TOKEN[:3]}…"),
        ("wait... what", "wait... what"),
        (f"...{TOKEN[-5:]}...{TOKEN[:5]}...", "...***TOKEN***...***TOKEN***..."),
    ],
)
def test_masked(text: str, masked: str) -> None:
    assert MASK(text) == masked


@given(st.text(max_size=40), st.integers(0, 60))
def test_no_value_and_no_piece_of_it_at_the_beginning_of_a_tail(text: str, characters: int) -> None:
    shown = MASK(tail(f"{text}{TOKEN}\n{TOKEN}{text}", characters=characters + SHORTEST))
    assert TOKEN not in shown
    assert TOKEN[-8:] not in shown


@given(st.text(st.sampled_from("tok-8f3a91c2…. \n|*"), max_size=60))
def test_no_text_breaks_it(text: str) -> None:
    assert TOKEN not in MASK(text + TOKEN + text)


def test_the_longer_one_is_masked_whole() -> None:
    assert Mask({"SHORT": "abcd", "LONG": "abcd-efgh"})("abcd-efgh abcd") == "***LONG*** ***SHORT***"


def test_clean_text_stays_the_same_object() -> None:
    text = "nothing to see here\n" * 10
    assert MASK(text) is text


def test_many_cuts_take_no_time() -> None:
    long = Mask({f"KEY{number}": f"{number}" + "abcdefgh" * 200 for number in range(10)})
    begun = time.process_time()
    long("...abc" * 100_000)
    assert time.process_time() - begun < 10  # a second at most; without a short way, hours
