import pytest


def test_subtests(subtests: pytest.Subtests) -> None:
    for number in range(3):
        with subtests.test("sub", number=number):
            print("in", number)
            assert number != 1


def test_subtests_pass(subtests: pytest.Subtests) -> None:
    with subtests.test(msg="\x1b fine"):
        pass
