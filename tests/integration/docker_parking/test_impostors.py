"""Containers that are not what they seem to be: planted ones, and agents that lie."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from pytest_sandboxes.agent import parking as agent_parking
from pytest_sandboxes.backends.docker import parking as docker_parking
from pytest_sandboxes.parking_records import Parked, Records
from tests.integration.docker_parking.conftest import KEEP, Place

LIARS = {
    "silent": "",
    "wrong": "os.read(0, 4096); say(bytes(32))",
    "unasked": "say(bytes(32))",
    "short": "os.read(0, 4096); say(bytes(31))",
    "echo": "data = os.read(0, 4096); say(data)",
    "endless": "os.read(0, 1)\nwhile True: say(bytes(1 << 20))",
    "endless complaint": "os.read(0, 1)\nwhile True: os.write(2, bytes(1 << 16))",
    "frames": "os.read(0, 4096); say(struct.pack('>IBI', 0xffffffff, 17, 0) * 10)",
    "gone": "os.read(0, 4096); os._exit(0)",
    "proof of another": "os.read(0, 4096); say(bytes.fromhex(os.environ['PROOF']))",
}


def test_a_planted_container_is_not_even_asked(
    place: Place, engine: Any, plant: Callable[[str], str]
) -> None:
    planted = plant("say(os.read(0, 1) or b'ended'); os._exit(0)")
    place.use()
    run = place.inner.run(KEEP)
    assert run.counts == {"passed": 1}
    assert place.seen() == [place.only()[:12]]
    assert "taken over" not in run.stdout
    assert engine.api.inspect_container(planted)["State"]["Running"], "it has got nothing to read"


@pytest.mark.parametrize("liar", LIARS)
def test_a_container_that_stands_where_a_parked_one_was_is_removed(
    place: Place, engine: Any, plant: Callable[..., str], liar: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_parking, "_PROOF_TIMEOUT", 1.0)
    key = bytes(32)
    of_another = agent_parking.proof(key, bytes(32), b"docker another recipe")
    with closing(place.backend()) as backend:
        container = plant(LIARS[liar], PROOF=of_another.hex())
        assert backend._parking is not None
        recipe = backend._parking.recipe(place.profile, backend._image(place.profile, lambda _: None))  # type: ignore[arg-type, return-value]
        Records().add(
            Parked(
                backend="docker",
                host=backend._engine.host,
                sandbox=container,
                recipe=recipe,
                profile="default",
                directory=str(place.inner.path),
                users=(20_001,),
                interpreter=("python3", "-c"),
                started=time.time(),
                uses=0,
                key=key,
                expires=time.time() + 300,
            )
        )
        assert backend.take_over(place.profile) is None
    assert container not in {each["Id"] for each in engine.api.containers(all=True)}
    assert Records().list() == {}


def test_a_proof_that_is_right_and_more_than_that_is_none(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.use()
    place.inner.run(KEEP)
    place.only()
    right = agent_parking.proof
    monkeypatch.setattr(
        agent_parking, "proof", lambda *of: right(*of)[:-1]
    )  # so what comes is a byte too long
    with closing(place.backend()) as backend:
        assert backend.take_over(place.profile) is None
    assert place.containers() == {}
