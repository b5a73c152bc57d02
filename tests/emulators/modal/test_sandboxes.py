"""Sandboxes, as the unmodified client makes, finds and lists them."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.emulators.modal import sandboxes
from tests.emulators.modal.conftest import Service
from tests.emulators.modal.hosts import Guest, Recipe
from tests.emulators.modal.process_host import ProcessHost


def test_from_creation_to_termination(service: Service) -> None:
    sandbox = service.create()
    assert sandbox.poll() is None
    assert service.control.running() == [sandbox.object_id]
    sandbox.terminate()
    assert service.control.running() == []
    assert sandbox.poll() == 137


@pytest.mark.parametrize(("script", "code"), [("true", 0), ("exit 3", 3), ("kill -9 $$", 137)])
def test_it_ends_with_its_main_command(service: Service, script: str, code: int) -> None:
    sandbox = service.create("sh", "-c", script)
    sandbox.wait()
    assert sandbox.returncode == code
    (ended,) = service.control.wait("sandbox_ended")
    assert ended["cause"] == "its main command has ended"


def test_streams_of_the_main_command(service: Service) -> None:
    sandbox = service.create("sh", "-c", "cat; echo err >&2")
    sandbox.stdin.write(b"one\ntwo\n")
    sandbox.stdin.write_eof()
    sandbox.stdin.drain()
    sandbox.wait()
    assert sandbox.stdout.read() == "one\ntwo\n"  # also after the end
    assert sandbox.stderr.read() == "err\n"


def test_of_the_main_command_the_oldest_output_is_dropped(service: Service) -> None:
    sandbox = service.create("sh", "-c", "head -c 30000000 /dev/zero | tr '\\0' x; echo end")
    sandbox.wait()
    kept = sandbox.stdout.read()
    assert kept.endswith("xend\n")
    assert len(kept) < 10_000_000


def test_names_are_unique_among_those_that_run(service: Service) -> None:
    from modal.exception import AlreadyExistsError

    first = service.create(name="one")
    with pytest.raises(AlreadyExistsError):
        service.create(name="one")
    first.terminate()
    assert service.create(name="one").object_id != first.object_id


def test_from_name(service: Service) -> None:
    import modal
    from modal.exception import NotFoundError

    def find() -> modal.Sandbox:
        return modal.Sandbox.from_name("tests", "one", client=service.client)

    with pytest.raises(NotFoundError):
        find()
    sandbox = service.create(name="one")
    assert find().object_id == sandbox.object_id
    sandbox.terminate()
    with pytest.raises(NotFoundError):
        find()


def test_from_id(service: Service) -> None:
    import modal
    from modal.exception import NotFoundError

    sandbox = service.create()
    again = modal.Sandbox.from_id(sandbox.object_id, client=service.client)
    assert service.run(again, "echo here")[0] == "here\n"
    with pytest.raises(NotFoundError):
        modal.Sandbox.from_id("sb-01ARZ3NDEKTSV4RRFFQ69G5FAV", client=service.client)


def test_lists_by_tags_over_pages(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    import modal

    monkeypatch.setattr(sandboxes, "_PAGE", 2)
    made = [service.create(tags={"run": "a", "number": str(number)}) for number in range(5)]
    made[0].terminate()
    service.create(tags={"run": "b"})

    def listed(**tags: str) -> list[str]:
        found = modal.Sandbox.list(app_id=service.app.app_id, tags=tags, client=service.client)
        return [each.object_id for each in found]

    assert listed(run="a") == [each.object_id for each in reversed(made[1:])]
    assert listed(run="a", number="3") == [made[3].object_id]
    assert listed(run="c") == []


def test_set_tags_replaces_all(service: Service) -> None:
    sandbox = service.create(tags={"run": "a", "state": "new"})
    sandbox.set_tags({"state": "old"})
    assert sandbox.get_tags() == {"state": "old"}


def test_what_was_asked_for_is_in_the_log(service: Service) -> None:
    wanted: dict[str, Any] = {
        "timeout": 77,
        "idle_timeout": 66,
        "cpu": 1.5,
        "memory": 512,
        "region": ["us-east", "eu-west"],
    }
    allowed: dict[str, Any] = {
        "outbound_cidr_allowlist": ["10.0.0.0/8"],
        "outbound_domain_allowlist": ["example.com"],
    }
    service.create(name="one", cloud="aws", tags={"a": "b"}, env={"SECRET": "hush"}, **wanted, **allowed)
    (created,) = service.control.events("sandbox_created")
    assert created.items() >= {
        "name": "one", "tags": {"a": "b"}, "argv": ["sleep", "infinity"], "timeout": 77, "idle_timeout": 66,
        "milli_cpu": 1500, "memory_mb": 512, "cloud": "aws", "regions": ["us-east", "eu-west"], "gpu": "",
        "network": "ALLOWLIST", "allowed_cidrs": ["10.0.0.0/8"], "allowed_domains": ["example.com"],
    }.items()  # fmt: skip
    assert "hush" not in str(service.control.events())


def test_one_with_a_gpu_is_of_v1(service: Service) -> None:
    import modal

    sandbox = service.create(gpu="A10G", name="big", env={"A": "1"}, tags={"run": "a"})
    assert service.control.events("call", method="SandboxCreate")
    assert service.control.events("sandbox_created")[0]["gpu"] == "A10G"
    assert service.run(sandbox, "echo $A")[0] == "1\n"
    found = modal.Sandbox.from_name("tests", "big", client=service.client)
    assert service.run(found, "echo $A")[0] == "1\n"
    listed = modal.Sandbox.list(app_id=service.app.app_id, tags={"run": "a"}, client=service.client)
    assert [each.object_id for each in listed] == [sandbox.object_id]
    sandbox.set_tags({})
    assert sandbox.get_tags() == {}
    sandbox.terminate()
    assert sandbox.poll() == 137


def test_no_network_but_the_loopback(service: Service) -> None:
    interfaces = "tail -n +3 /proc/net/dev | cut -d: -f1"
    for options in ({"block_network": True}, {"outbound_cidr_allowlist": ["10.0.0.0/8"]}):
        assert service.run(service.create(**options), interfaces)[0].split() == ["lo"]


def test_what_it_does_not_do_is_unimplemented(service: Service) -> None:
    from modal.exception import UnimplementedError

    with pytest.raises(UnimplementedError, match="no tunnels"):
        service.create(encrypted_ports=[80])
    with pytest.raises(UnimplementedError, match="TaskSnapshotFilesystemRequest"):
        service.create().snapshot_filesystem()


def test_one_that_does_not_start_has_ended(service: Service) -> None:
    sandbox = service.create("/nope", name="one")
    sandbox.wait()
    assert sandbox.returncode == 1
    (ended,) = service.control.events("sandbox_ended")
    assert "No such file or directory: '/nope'" in ended["cause"]
    assert ended["status"] == "GENERIC_STATUS_INIT_FAILURE"
    sandbox.terminate()


def test_missing_objects(service: Service) -> None:
    import modal
    from modal.exception import NotFoundError

    with pytest.raises(NotFoundError, match="App 'nope'"):
        modal.App.lookup("nope", client=service.client)
    with pytest.raises(NotFoundError, match="Secret 'nope'"):
        service.create(secrets=[modal.Secret.from_name("nope")])
    with pytest.raises(NotFoundError, match="Volume 'nope'"):
        service.create(volumes={"/data": modal.Volume.from_name("nope")})


def test_secrets(service: Service) -> None:
    import modal

    modal.Secret.objects.create("keys", {"KEY": "named"}, client=service.client)
    named = modal.Secret.from_name("keys", required_keys=["KEY"], client=service.client)
    sandbox = service.create("sh", "-c", "echo $KEY; cat", secrets=[named])
    assert next(iter(sandbox.stdout)) == "named\n"
    assert service.run(sandbox, "echo $KEY")[0] == "named\n"
    given = modal.Secret.from_dict({"KEY": "given"})
    assert service.run(sandbox, "echo $KEY", secrets=[given])[0] == "given\n"


def test_volumes(service: Service) -> None:
    import modal

    volume = modal.Volume.from_name("data", create_if_missing=True, client=service.client)
    writer = service.create(volumes={"/data": volume})
    assert service.run(writer, "echo kept > /data/file")[2] == 0
    writer.terminate()
    reader = service.create(volumes={"/elsewhere": volume.with_mount_options(read_only=True)})
    assert service.run(reader, "cat /elsewhere/file") == ("kept\n", "", 0)
    assert service.run(reader, "touch /elsewhere/other")[2] != 0


@pytest.fixture
def go_on(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Sandboxes do not start before it is set."""
    started = threading.Event()
    start = ProcessHost.start

    async def start_late(host: ProcessHost, recipe: Recipe) -> Guest:
        await asyncio.to_thread(started.wait, 30)
        return await start(host, recipe)

    monkeypatch.setattr(ProcessHost, "start", start_late)
    return started


def test_a_client_that_goes_away_while_it_creates_one(service: Service, go_on: threading.Event) -> None:
    import modal

    async def give_up() -> str:
        image = modal.Image.from_registry("some/image")
        create = modal.Sandbox.create.aio
        creating = asyncio.ensure_future(
            create("sleep", "infinity", app=service.app, image=image, name="one", client=service.client)
        )
        (created,) = await asyncio.to_thread(service.control.wait, "sandbox_created")
        creating.cancel()
        with pytest.raises(asyncio.CancelledError):
            await creating
        return str(created["sandbox"])

    sandbox_id = asyncio.run(give_up())
    go_on.set()
    sandbox = modal.Sandbox.from_name("tests", "one", client=service.client)
    assert sandbox.object_id == sandbox_id
    assert service.run(sandbox, "echo here")[0] == "here\n"


def test_one_that_is_ended_before_it_has_started(service: Service, go_on: threading.Event) -> None:
    with ThreadPoolExecutor() as threads:
        creating = threads.submit(service.create)
        (created,) = service.control.wait("sandbox_created")
        killing = threads.submit(service.control.kill, created["sandbox"])
        go_on.set()
        sandbox = creating.result()
        killing.result()
    assert sandbox.poll() == 137
    assert not service.processes(sandbox)
