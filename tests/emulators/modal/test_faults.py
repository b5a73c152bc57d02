"""Faults, as the unmodified client meets them, and what the log says of each."""

from __future__ import annotations

import time

import pytest

from tests.emulators.modal.conftest import Service, Start, connect
from tests.emulators.modal.faults import Kind


def hits(service: Service) -> list[tuple[str, str]]:
    """The faults that have hit a call."""
    return [(entry["method"], entry["kind"]) for entry in service.control.events("fault")]


def test_unavailable_for_a_moment(service: Service) -> None:
    service.control.inject("SandboxCreateV2", "unavailable", times=2)
    assert service.create().poll() is None
    assert hits(service) == [("SandboxCreateV2", "unavailable")] * 2
    assert len(service.control.events("sandbox_created")) == 1


def test_unavailable_for_good(service: Service) -> None:
    from modal.exception import ServiceError

    service.control.inject("SandboxCreate*", "unavailable", times=None)
    with pytest.raises(ServiceError, match="not available"):
        service.create()
    assert not service.control.events("sandbox_created")
    service.control.clear_faults()
    assert service.create().poll() is None


def test_throttled_with_a_time_to_come_back(service: Service) -> None:
    service.control.inject("SandboxCreateV2", "throttled", retry_after=0.5)
    service.create()
    first, second = service.control.events("call", method="SandboxCreateV2")
    assert second["time"] - first["time"] >= 0.5


def test_throttled_without_one(service: Service) -> None:
    from modal.exception import ResourceExhaustedError

    service.control.inject("SandboxCreateV2", "throttled")
    with pytest.raises(ResourceExhaustedError):
        service.create()


def test_a_lost_request_is_made_again_by_the_client(service: Service) -> None:
    service.control.inject("SandboxCreateV2", "lost_request")
    service.create(name="one")
    assert len(service.control.events("sandbox_created")) == 1
    assert len(service.control.events("call", method="SandboxCreateV2")) == 2
    assert hits(service) == [("SandboxCreateV2", "lost_request")]


def test_a_lost_reply_looks_like_a_name_that_is_taken(service: Service) -> None:
    from modal.exception import AlreadyExistsError

    service.control.inject("SandboxCreateV2", "lost_reply")
    with pytest.raises(AlreadyExistsError):
        service.create(name="one")
    (created,) = service.control.events("sandbox_created")
    assert service.control.running() == [created["sandbox"]]


def test_a_lost_reply_without_a_name_makes_two(service: Service) -> None:
    service.control.inject("SandboxCreateV2", "lost_reply")
    service.create()
    assert len(service.control.running()) == 2


@pytest.mark.parametrize("kind", ["slow", "late_reply"])
def test_slow_creation(service: Service, kind: Kind) -> None:
    service.control.inject("SandboxCreateV2", kind, delay=0.7)
    began = time.monotonic()
    service.create()
    assert time.monotonic() - began >= 0.7


def test_an_expired_token_of_the_router_is_renewed(service: Service) -> None:
    sandbox = service.create()
    service.control.inject("TaskExecStart", "expired_token")
    assert service.run(sandbox, "echo here")[0] == "here\n"
    assert hits(service) == [("TaskExecStart", "expired_token")]
    assert len(service.control.events("exec_started")) == 1


def renewals(service: Service) -> list[int]:
    """How often the client has got a token, of each kind that it renews."""
    methods = ("AuthTokenGet", "SandboxGetCommandRouterAccess")
    return [len(service.control.events("call", method=method)) for method in methods]


def test_tokens_that_do_expire(start: Start) -> None:
    lifetime = 3.0
    service = start(token_lifetime=lifetime)
    sandbox = service.create()
    process = sandbox.exec("cat", text=False)
    answers = iter(process.stdout)
    before = renewals(service)  # a slow client has had to renew them already
    time.sleep(lifetime + 0.1)
    process.stdin.write(b"x")
    process.stdin.drain()
    assert next(answers) == b"x"
    assert all(now > then for then, now in zip(before, renewals(service), strict=True))


def test_a_revoked_token_of_the_account(service: Service) -> None:
    from modal.exception import AuthError

    service.create()
    service.control.revoke_token()
    with pytest.raises(AuthError):
        service.create()


def test_a_wrong_token_of_the_account(service: Service) -> None:
    import modal
    from modal.exception import AuthError

    with connect("ak-wrong", "as-wrong") as client, pytest.raises(AuthError):
        modal.App.lookup("tests", client=client)


def test_input_is_exact_whatever_is_lost(service: Service) -> None:
    sandbox = service.create()
    process = sandbox.exec("cat", text=False)
    kinds: tuple[Kind, ...] = ("lost_request", "lost_reply", "unavailable")
    for number, kind in enumerate(kinds * 3):
        service.control.inject("TaskExecStdinWrite", kind)
        process.stdin.write(b"%d " % number)
        process.stdin.drain()
    process.stdin.write_eof()
    process.stdin.drain()
    assert process.stdout.read() == b"0 1 2 3 4 5 6 7 8 "
    assert len(hits(service)) == 9


def test_output_is_exact_whatever_is_lost(service: Service) -> None:
    sandbox = service.create()
    service.control.inject("TaskExecStdioRead", "lost_reply", times=3)
    assert service.run(sandbox, "seq 20000")[0].split() == [str(number) for number in range(1, 20001)]
    assert hits(service) == [("TaskExecStdioRead", "lost_reply")] * 3


def test_a_command_whose_start_is_lost_runs_once(service: Service) -> None:
    sandbox = service.create()
    service.control.inject("TaskExecStart", "lost_reply")
    service.run(sandbox, "echo x >> /count")
    assert service.run(sandbox, "cat /count")[0] == "x\n"


def test_only_calls_about_one_sandbox_and_not_the_first(service: Service) -> None:
    from modal.exception import ResourceExhaustedError

    one, other = service.create(), service.create()
    service.control.inject("TaskExecStart", "throttled", sandbox=one.object_id, skip=1)
    for sandbox in (other, other, one):
        assert service.run(sandbox, "true")[2] == 0
    with pytest.raises(ResourceExhaustedError):
        service.run(one, "true")
    (fault,) = service.control.events("fault")
    assert fault["sandbox"] == one.object_id


def test_a_router_that_is_gone_and_comes_back(service: Service) -> None:
    sandbox = service.create()
    process = sandbox.exec("cat", text=False)
    answers = iter(process.stdout)
    service.control.disconnect("router")
    service.control.connect("router")
    process.stdin.write(b"still here")
    process.stdin.drain()
    assert next(answers) == b"still here"
    assert sandbox.poll() is None


def test_a_router_that_stays_away(service: Service) -> None:
    sandbox = service.create()
    process = sandbox.exec("cat", text=False)
    service.control.disconnect("router")
    process.stdin.write(b"lost")
    with pytest.raises(ConnectionError):
        process.stdin.drain()
    assert sandbox.poll() is None  # the control plane is another server
    assert service.processes(sandbox)


def test_a_mistake_in_a_request_is_told(service: Service) -> None:
    from tests.emulators.control import ControlError

    with pytest.raises(ValueError, match="no fault is called 'fire'"):
        service.control.inject("SandboxCreateV2", "fire")  # type: ignore[arg-type]
    with pytest.raises(ControlError, match="Sandbox with ID sb-nope not found"):
        service.control.kill("sb-nope")
    with pytest.raises(ControlError, match="has not come to pass in time"):
        service.control.wait("sandbox_created", timeout=0.01)
