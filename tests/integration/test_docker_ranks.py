"""Backend docker: the agent's turns come before those of code, and code cannot have such a rank."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_sandboxes import get_backend

SYS_NICE = 23
_ASK = f"""
import os

def refusal(function, *arguments):
    try:
        function(*arguments)
    except OSError as error:
        return type(error).__name__

def rank(pid):
    with open(f"/proc/{{pid}}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[16])

with open("/proc/self/status") as file:
    sets = [int(line.split()[1], 16) for line in file if line.startswith("Cap")]
print(
    rank(1),
    rank("self"),
    os.sched_getscheduler(0) == os.SCHED_OTHER,
    refusal(os.nice, -1),
    refusal(os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(1)),
    any(mask >> {SYS_NICE} & 1 for mask in sets),
)
"""


@pytest.mark.parametrize(
    ("fields", "agents_rank"),
    [
        ({}, "-20"),
        ({"isolation": "sandbox", "user": "0"}, "-20"),
        ({"isolation": "sandbox", "user": "1000:1000"}, "0"),  # it has no right to a better one either
    ],
    ids=["slot", "sandbox of root's", "sandbox of somebody's"],
)
def test_code_has_the_usual_rank_and_no_way_to_a_better_one(
    engine: object, python_image: str, fields: dict[str, Any], agents_rank: str
) -> None:
    with get_backend("docker").create_sandbox(image=python_image, **fields) as slot:
        said = slot.exec("python3", "-c", _ASK, check=True).stdout.split()
    assert said == [agents_rank, "0", "True", "PermissionError", "PermissionError", "False"]
