"""What is sent elsewhere runs there without anything of ours."""

from __future__ import annotations

import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

from pytest_sandboxes import shipped
from pytest_sandboxes.batch.runners.gcp import job
from tests.unit.test_payload import interpreters

PACKAGE = "pytest_sandboxes.batch.runners.gcp.machine"


@pytest.mark.parametrize(
    "python", [pytest.param(path, id=version) for version, path in interpreters().items()]
)
def test_modules_find_each_other_and_nothing_else(python: str, tmp_path: Path) -> None:
    start = "print(last.__name__, last.Lease.__module__, sorted(last.main.__code__.co_varnames)[0])"
    program = shipped.program(PACKAGE, job._MODULES, start)
    command = [python, "-I", "-S", "-c", program]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False)
    assert (ran.stdout, ran.stderr) == (f"{PACKAGE}.main {PACKAGE}.lease attempt\n", "")


def test_every_module_of_the_machine_is_sent() -> None:
    folder = Path(str(files(PACKAGE)))
    assert {path.stem for path in folder.glob("*.py")} == {"__init__", *job._MODULES}


def test_an_entry_is_not_part_of_a_module() -> None:
    program = shipped.program(PACKAGE, ("bucket",), "print('a \\'b\\' \\n')")
    ran = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, timeout=60, check=True)
    assert ran.stdout == b"a 'b' \n\n"
