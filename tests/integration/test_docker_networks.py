"""What code with `network: outbound` reaches and what not, each with the proof that it was there to be reached."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pytest_sandboxes import ConfigurationError, SandboxStartError, Slot, get_backend
from pytest_sandboxes.agent import routes
from pytest_sandboxes.backends.base import BackendOptions
from pytest_sandboxes.backends.docker import DockerBackend, description
from pytest_sandboxes.pool.pool import Pool
from pytest_sandboxes.profiles.profile import Profile
from tests.integration.surroundings import (
    ASK,
    INTERNET,
    NAME_SERVER,
    NEAR,
    answers_from_everywhere,
    background,
    in_container,
)

pytest.importorskip("docker", reason="the docker SDK is not installed")

ROUTES = Path(routes.__file__).read_text("utf-8")
_NETLINK = ROUTES + "\nkernel = _Kernel()\n"
_SERVER = """
import socket
server = socket.create_server(("0.0.0.0", 8000))
print(socket.gethostbyname(socket.gethostname()), flush=True)
while True:
    connection, _ = server.accept()
    connection.sendall(b"answered")
    connection.close()
"""


def outbound(image: str, **fields: object) -> Profile:
    return Profile().override(
        {"image": image, "network": "outbound", "buffer_sandboxes": 0, **fields}, "test"
    )


class World(NamedTuple):
    """A run's sandboxes of both kinds, one that is a neighbour of theirs, and whoever answers around them."""

    slots: dict[str, Slot]
    neighbour: Slot
    network: str
    gateway: str
    port: int


def networks_of(engine: Any, backend: DockerBackend) -> list[str]:
    labels = [f"{name}={value}" for name, value in backend._labels.items()]
    return [each["Id"] for each in engine.api.networks(filters={"label": labels})]


@pytest.fixture(scope="module")
def world(engine: Any, python_image: str, busybox_image: str) -> Iterator[World]:
    backend = DockerBackend(BackendOptions())
    pool = Pool({"docker": backend})
    profile = outbound(python_image)
    try:
        slots = {
            isolation: Slot(pool.lease("docker", outbound(python_image, isolation=isolation)))
            for isolation in ("slot", "sandbox")
        }
        neighbour = Slot(pool.lease("docker", profile))
        (network,) = networks_of(engine, backend)
        gateway = engine.api.inspect_network(network)["IPAM"]["Config"][0]["Gateway"]
        with answers_from_everywhere(engine.api, python_image, busybox_image, network) as port:
            yield World(slots, neighbour, network, gateway, port)
    finally:
        pool.close()
    assert networks_of(engine, backend) == []


@pytest.fixture(params=["slot", "sandbox"])
def slot(request: pytest.FixtureRequest, world: World) -> Slot:
    """A sandbox where code runs as nobody, and one where it runs as root."""
    return world.slots[request.param]


def python(slot: Slot, code: str) -> str:
    result = slot.exec("python3", "-c", code)
    assert result.success, result
    return result.stdout.strip()


def test_code_reaches_the_internet(slot: Slot, world: World) -> None:
    code = f"{ASK}\nfor kind in (1, 2): print(ask('{INTERNET}', {world.port}, kind))"
    assert python(slot, code) == "answered\nanswered"


@pytest.mark.parametrize("kind", [1, 2], ids=["tcp", "udp"])
def test_code_reaches_nothing_that_is_near(
    slot: Slot, world: World, engine: Any, python_image: str, kind: int
) -> None:
    ask = f"{ASK}\nfor each in {NEAR!r}: print(ask(each, {world.port}, {kind}))"
    there = in_container(engine.api, python_image, ["python3", "-c", ask], network_mode=world.network)
    assert there.split() == ["answered"] * len(NEAR)
    assert python(slot, ask).split() == ["EACCES"] * len(NEAR)


def test_code_reaches_no_service_of_the_host_by_its_gateway(
    slot: Slot, world: World, engine: Any, python_image: str
) -> None:
    ask = f"{ASK}\nprint(*ask_all([('{world.gateway}', {world.port}, kind) for kind in (1, 2)]))"
    there = in_container(engine.api, python_image, ["python3", "-c", ask], network_mode=world.network)
    assert there.split() == ["answered"] * 2
    assert "answered" not in python(slot, ask)


def test_no_option_of_a_socket_gets_code_around_that(slot: Slot, world: World) -> None:
    targets = ("169.254.169.254", "10.1.2.3", world.gateway)
    code = f"""{ASK}
here, interface = socket.gethostbyname(socket.gethostname()), socket.if_nametoindex("eth0")
ways = [
    ([(1, 25, b"eth0")], None),  # SO_BINDTODEVICE: the kernel then assumes neighbours
    ([(1, 5, 1)], None),  # SO_DONTROUTE
    ([(1, 5, 1), (1, 25, b"eth0")], None),
    ([(0, 50, socket.htonl(interface).to_bytes(4, "little"))], None),  # IP_UNICAST_IF
    ([], here),
    ([(1, 36, 1)], None),  # SO_MARK
    ([(0, 19, 1)], None),  # IP_TRANSPARENT
    # IP_OPTIONS: a loose source route by an address of the Internet
    ([(0, 4, bytes([131, 7, 4]) + socket.inet_aton("{INTERNET}") + bytes(1))], None),
]
asked = [(each, {world.port}, kind, *way) for way in ways for each in {targets!r} for kind in (1, 2)]
for arguments, answer in zip(asked, ask_all(asked)):
    print(answer, *arguments)
"""
    said = python(slot, code).splitlines()
    assert len(said) == 8 * 6
    assert not [each for each in said if each.startswith("answered")]


@pytest.mark.parametrize(
    "attack",
    [
        "kernel._ask(33, 5, rule(priority, table, action))",  # RTM_DELRULE, each in turn
        "kernel._ask(32, 0x605, rule(1, 254, 1))",  # RTM_NEWRULE before all others: look up the main table
        "kernel.exempt_root(6, 80)",
        "kernel._ask(25, 5, _BODY.pack(2, 32, 0, 0, 100, 0, 0, 0, 0) + to)",  # RTM_DELROUTE
        "kernel._ask(24, 0x605, _BODY.pack(2, 32, 0, 0, 255, 4, 0, 1, 0) + to + via)",  # into the first table
        "kernel._ask(20, 0x605, struct.pack('=BBBBI', 2, 24, 0, 0, 2) + bytes([8, 0, 2, 0, 10, 1, 2, 9]))",  # RTM_NEWADDR
        "kernel._ask(19, 5, struct.pack('=BBHiII', 0, 0, 0, 2, 0, 1))",  # RTM_SETLINK: down
        "kernel._ask(28, 0x605, struct.pack('=BBHiHBB', 2, 0, 0, 2, 128, 0, 1) + to)",  # RTM_NEWNEIGH
        "socket.socket(2, 3, 6)",
        "socket.socket(2, 3, 255)",
        "socket.socket(17, 3)",
        "socket.socket(10, 3, 58)",
        "fcntl.ioctl(socket.socket(2, 2), 0x890B, bytes(120))",  # SIOCADDRT
        "fcntl.ioctl(socket.socket(2, 2), 0x8914, b'eth0' + bytes(36))",  # SIOCSIFFLAGS: down
        "os.unshare(0x40000000)",
        "open('/proc/sys/net/ipv4/conf/all/accept_local', 'w')",
    ],
)
def test_code_cannot_undo_it(slot: Slot, world: World, attack: str) -> None:
    if "os.unshare" in attack:
        attack = "unshare()"
    code = f"""{_NETLINK}
import ctypes, fcntl, socket
def unshare():
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x40000000):
        raise OSError(ctypes.get_errno(), "unshare")
priority, table, action = 30, 0, _PROHIBIT
def rule(priority, table, action):
    return _BODY.pack(2, 0, 0, 0, table, 0, 0, action, 0) + _attribute(_RULE_PRIORITY, _number(priority))
to = _attribute(1, socket.inet_aton("169.254.169.254"))
via = _attribute(5, socket.inet_aton("{world.gateway}")) + _attribute(4, _number(socket.if_nametoindex("eth0")))
try:
    {attack}
except OSError as error:
    print(errno.errorcode[error.errno])
else:
    print("done")
{ASK}
print(ask("169.254.169.254", {world.port}))
"""
    refusal, afterwards = python(slot, code).split()
    assert refusal in {"EPERM", "EACCES", "EROFS"}
    assert afterwards == "EACCES"


def test_nobody_inside_can_administrate_the_network(slot: Slot) -> None:
    for process in ("1", "self"):
        status = slot.sh(f"cat /proc/{process}/status", check=True).stdout
        sets = {line.split()[0]: int(line.split()[1], 16) for line in status.splitlines() if "Cap" in line}
        assert len(sets) == 5
        assert not any(mask >> capability & 1 for mask in sets.values() for capability in (12, 13))


def test_it_holds_after_a_reset(world: World) -> None:
    slot = world.slots["slot"]
    slot.reset()
    ask = f"{ASK}\nprint(ask('169.254.169.254', {world.port}), ask('{INTERNET}', {world.port}))"
    assert python(slot, ask) == "EACCES answered"


def test_sandboxes_cannot_reach_each_other(slot: Slot, world: World, engine: Any, python_image: str) -> None:
    server = world.neighbour.popen("python3", "-c", _SERVER)
    address = server.stdout.readline(timeout=30).strip()
    by_device = "socket.SOCK_STREAM, [(1, 25, b'eth0')]"
    ask = f"{ASK}\nprint(*ask_all([('{address}', 8000), ('{address}', 8000, {by_device})]))"
    assert python(world.neighbour, ask).split()[0] == "answered", "it does answer"
    assert "answered" not in python(slot, ask)
    # without the rules inside, the Engine alone keeps them apart
    plain = in_container(engine.api, python_image, ["python3", "-c", ask], network_mode=world.network)
    assert plain.split() == ["timeout", "timeout"]
    server.kill()


def test_neighbours_on_a_network_that_is_not_a_runs_reach_each_other(engine: Any, python_image: str) -> None:
    network = engine.api.create_network("tests-plain", driver="bridge")["Id"]
    try:
        with background(engine.api, python_image, _SERVER, network_mode=network) as (_, address):
            ask = f"{ASK}\nprint(ask('{address}', 8000))"
            said = in_container(engine.api, python_image, ["python3", "-c", ask], network_mode=network)
            assert said.strip() == "answered"
    finally:
        engine.api.remove_network(network)


def test_code_asks_nobody_by_broadcast(slot: Slot, world: World, engine: Any, python_image: str) -> None:
    ask = f"""
import socket
asking = socket.socket(type=socket.SOCK_DGRAM)
asking.settimeout(2)
asking.setsockopt(1, 6, 1)
asking.setsockopt(1, 25, b"eth0")
asking.bind(("", {world.port ^ 1}))  # at the other port it would hear itself
try:
    asking.sendto(b"?", ("255.255.255.255", {world.port}))
    print(asking.recv(100).decode())
except TimeoutError:
    print("nothing")
"""
    there = in_container(engine.api, python_image, ["python3", "-c", ask], network_mode=world.network)
    assert there.strip() == "answered"
    assert python(slot, ask) == "nothing"


def test_names_are_resolved_inside(slot: Slot) -> None:
    assert "nameserver 127.0.0.11" in slot.read_text("/etc/resolv.conf")
    # Docker's resolver knows the container's own name
    code = "import socket; print(socket.gethostbyname(socket.gethostname()).count('.'))"
    assert python(slot, code) == "3"


def test_dockers_resolver_can_ask_a_name_server_that_is_near(
    world: World, engine: Any, python_image: str
) -> None:
    code = f"{ROUTES}\nleave_internet_only()\nos.setuid(1000)\n{ASK}\n"
    code += "print(socket.gethostbyname('name.example'))\n"
    code += f"print(ask('{NAME_SERVER}', 53, 2), ask('{NAME_SERVER}', 53, 1))"
    said = in_container(
        engine.api,
        python_image,
        ["python3", "-c", code],
        network_mode=world.network,
        cap_add=["NET_ADMIN"],
        dns=[NAME_SERVER],
    )
    assert said.split() == [INTERNET, "EACCES", "EACCES"]


@pytest.mark.parametrize("check", ["0", "1", "2"])
def test_answers_come_however_the_kernel_checks_ways_back(
    world: World, engine: Any, python_image: str, busybox_image: str, check: str
) -> None:
    bridge = f"br-{world.network[:12]}"
    code = f"{ROUTES}\nleave_internet_only()\nprint('ready', flush=True)\n{ASK}\nimport time\n"
    code += f"for _ in range(3): print(ask('{INTERNET}', {world.port}), flush=True); time.sleep(0.2)"
    with background(
        engine.api,
        python_image,
        code,
        network_mode=world.network,
        cap_add=["NET_ADMIN"],
        sysctls={"net.ipv4.conf.all.rp_filter": check},
    ) as (container, _):
        # the host has to ask for the container's hardware address anew
        forget = ["ip", "neigh", "flush", "dev", bridge]
        in_container(engine.api, busybox_image, forget, network_mode="host", cap_add=["NET_ADMIN"])
        engine.api.wait(container)
        assert engine.api.logs(container).decode().split() == ["ready", "answered", "answered", "answered"]


def test_a_sandbox_that_cannot_be_kept_from_what_is_near_does_not_start(
    python_image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(description, "_NETWORK_CAPABILITIES", ())  # as where the kernel takes no rules
    pool = Pool({"docker": DockerBackend(BackendOptions())})
    try:
        with pytest.raises(SandboxStartError, match="network outbound cannot be kept from what is near here"):
            pool.lease("docker", outbound(python_image))
    finally:
        pool.close()


def test_code_that_is_not_root_in_an_image_of_its_own_is_refused(python_image: str) -> None:
    backend = DockerBackend(BackendOptions())
    try:
        with pytest.raises(ConfigurationError, match=r"^test: network of profile .* set user to root"):
            backend.check_machine(outbound(python_image, isolation="sandbox", user="nobody"))
    finally:
        backend.close()


def test_a_run_has_one_network_and_makes_another_when_somebody_removes_it(
    engine: Any, python_image: str
) -> None:
    backend = DockerBackend(BackendOptions())
    profile = outbound(python_image)
    try:
        with ThreadPoolExecutor(3) as threads:
            launched = list(threads.map(lambda _: backend.launch(profile), range(3)))
        (network,) = networks_of(engine, backend)
        for each in launched:
            each.stream.close()
            each.end()
        engine.api.remove_network(network)
        with pytest.raises(SandboxStartError, match="cannot start a container"):
            backend.launch(profile)
        again = backend.launch(profile)
        again.stream.close()
        again.end()
    finally:
        backend.close()
    assert networks_of(engine, backend) == []


@pytest.mark.parametrize("fields", [{}, {"isolation": "sandbox"}, {"slots_per_sandbox": 2}])
def test_proxies_of_the_docker_client_are_not_the_codes(
    python_image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any]
) -> None:
    """The client's configuration has them, often with a password, for whatever it starts."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    proxies = {"default": {"httpProxy": "http://me:hunter2@proxy.example:1"}}
    (tmp_path / "config.json").write_text(json.dumps({"proxies": proxies}))
    with get_backend("docker").create_sandbox(image=python_image, **fields) as sandbox:
        said = sandbox.sh("env; cat /proc/[0-9]*/environ 2>/dev/null || true").stdout
    assert "PATH=" in said
    assert "hunter2" not in said
