"""The option `--solutions` and the fixture that stands for it."""

from __future__ import annotations

from pathlib import Path

import pytest

REFERENCES = Path(__file__).parent / "references"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--solutions",
        metavar="DIR",
        help="judge the solutions DIR/<task id>.py; without it, the references. Write --solutions=DIR.",
    )


def pytest_configure(config: pytest.Config) -> None:
    if not _solutions(config).is_dir():
        raise pytest.UsageError(
            f"--solutions: no directory {_solutions(config)}; name one with a <task id>.py for each task"
        )


@pytest.fixture(scope="session")
def solutions(pytestconfig: pytest.Config) -> Path:
    """The directory of the solutions to judge."""
    return _solutions(pytestconfig)


def _solutions(config: pytest.Config) -> Path:
    # The option is unknown when pytest was pointed at a directory above and found this file later.
    given = config.getoption("--solutions", default=None)
    return REFERENCES if given is None else config.invocation_params.dir / given
