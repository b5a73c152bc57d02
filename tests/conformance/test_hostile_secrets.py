"""Nothing of the machine and its user can be seen from inside: environment, files, keys, sockets, processes."""

from __future__ import annotations

import ctypes
import os
import platform
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_sandboxes import Slot
from tests.conformance.attacks import NUMBERS, SYSTEM_CALLS
from tests.conformance.capabilities import Capability
from tests.conformance.helpers import GENEROUS, SlotFactory, python

pytestmark = pytest.mark.needs(Capability.ISOLATION)


@pytest.fixture
def secret() -> str:
    return f"secret-{uuid.uuid4().hex}"


@pytest.fixture
def fresh(sandbox_factory: SlotFactory, secret: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slot]:
    """A slot that was started when the secret was already in this process's environment and keyring."""
    monkeypatch.setenv("CONFORMANCE_SECRET", secret)
    libc = ctypes.CDLL(None)
    column = ("x86_64", "aarch64").index(platform.machine())
    user_keyring, session_keyring = -4, -3
    for keyring in (user_keyring, session_keyring):
        content = secret.encode()
        libc.syscall(NUMBERS["add_key"][column], b"user", content, content, len(content), keyring)
    with sandbox_factory(env_vars={"A_PROFILE": "of its own"}, buffer_sandboxes=0) as slot:
        yield slot
    invalidate, search = 21, 10
    for keyring in (user_keyring, session_keyring):
        key = libc.syscall(NUMBERS["keyctl"][column], search, keyring, b"user", secret.encode(), 0)
        libc.syscall(NUMBERS["keyctl"][column], invalidate, key)


@pytest.mark.needs(Capability.PYTHON)
def test_neither_environment_nor_keys(fresh: Slot, secret: str) -> None:
    code = """
import os, sys
for folder, folders, names in os.walk("/proc"):
    for name in names:
        if name in ("kmsg", "kcore", "kpagecount", "kpageflags", "kpagecgroup", "clear_refs", "pagemap", "mem"):
            continue
        try:
            descriptor = os.open(os.path.join(folder, name), os.O_RDONLY | os.O_NONBLOCK)
            content = os.read(descriptor, 1 << 20)
            os.close(descriptor)
        except OSError:
            continue
        if os.fsencode(sys.argv[1] + sys.argv[2]) in content:
            print(folder, name)
"""
    pieces = secret[:20], secret[20:]  # so that the one who searches does not find himself
    result = python(fresh, code, *pieces)
    assert (result.stdout, result.stderr) == ("", "")
    seen = python(fresh, code, *pieces, env={"PLANTED": secret})
    assert "environ" in seen.stdout  # the search finds what there is


@pytest.fixture
def files(secret: str, tmp_path: Path) -> Iterator[list[Path]]:
    """Files with the secret, readable for everybody, where users keep theirs."""
    places = [tmp_path, Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"), Path.home(), Path.cwd()]
    planted = []
    for place in dict.fromkeys(places):
        if os.access(place, os.W_OK):
            path = place / f".{secret}"
            path.write_text(secret)
            path.chmod(0o644)
            planted.append(path)
    yield planted
    for path in planted:
        path.unlink()


def test_no_files(sandbox: Slot, secret: str, files: list[Path]) -> None:
    assert len(files) >= 3
    for path in files:
        assert not sandbox.exec("cat", str(path)).success
        with pytest.raises((FileNotFoundError, PermissionError)):
            sandbox.read_bytes(str(path))
    found = sandbox.sh(f"find / -name '*{secret}*' -not -path '/proc/*' 2>/dev/null", timeout=GENEROUS).stdout
    assert found == ""
    sandbox.write_text(secret, "")
    assert secret in sandbox.sh(f"find / -name '*{secret}*' -not -path '/proc/*' 2>/dev/null").stdout


@pytest.mark.needs(Capability.ALLOW_LIST)
@pytest.mark.parametrize(
    "path",
    [
        "/etc/shadow",
        "/etc/ssh",
        "/etc/sudoers",
        "/etc/machine-id",
        "/etc/hostname",
        "/etc/resolv.conf",
        "/root/.ssh",
        "/home",
        "/run",
        "/var/run",
        "/var/lib",
        "/var/log",
        "/mnt",
        "/srv",
        "/boot",
        "/sys",
        "/dev/kmsg",
        "/dev/mem",
        "/dev/sda",
        "/dev/vda",
        "/dev/fuse",
        "/dev/kvm",
        "/dev/net/tun",
        "/run/docker.sock",
        "/var/run/docker.sock",
        "/proc/1/root/etc/shadow",
    ],
)
def test_places_that_are_not_there(sandbox: Slot, path: str) -> None:
    assert not sandbox.exec("test", "-e", path).success
    with pytest.raises(OSError, match=r"No such file|denied"):
        sandbox.list_files(path)


@pytest.mark.needs(Capability.OWN_SANDBOX)
def test_only_its_own_processes(sandbox: Slot) -> None:
    processes = sandbox.sh("cd /proc; cat [0-9]*/comm").stdout.split()
    assert len(processes) <= 8  # the agent's, the command's, and those that keep a sandbox there
    host = socket.gethostname()
    assert host not in sandbox.sh("hostname; cat /proc/sys/kernel/hostname; cat /etc/hosts").stdout.split()


@pytest.mark.needs(Capability.PYTHON)
def test_no_network_of_the_machine(sandbox: Slot) -> None:
    name = f"\0{uuid.uuid4().hex}"
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(name)
        abstract.listen()
        code = f"""
import fcntl, socket, struct
def reach(family, address):
    with socket.socket(family) as end:
        end.settimeout(5)
        end.connect(address)
def is_up(name):
    asked = struct.pack("16s24x", name.encode())
    SIOCGIFFLAGS, IFF_UP = 0x8913, 1
    with socket.socket() as any_socket:
        return struct.unpack_from("H", fcntl.ioctl(any_socket, SIOCGIFFLAGS, asked), 16)[0] & IFF_UP
print(attempt(reach, socket.AF_UNIX, {name!r}))
for address in ("127.0.0.1", "::1", "169.254.169.254", "10.0.0.1", "8.8.8.8"):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    print(attempt(reach, family, (address, {server.getsockname()[1]})))
print([name for _, name in socket.if_nameindex() if is_up(name)])
"""
        result = python(sandbox, SYSTEM_CALLS + code)
    refused, *addresses, interfaces = result.stdout.splitlines()
    assert refused == "ECONNREFUSED"
    without_ipv6 = {"EADDRNOTAVAIL", "EAFNOSUPPORT"}
    assert addresses[0] == "ECONNREFUSED"
    assert addresses[1] in {"ECONNREFUSED", *without_ipv6}
    assert set(addresses[2:]) == {"ENETUNREACH"}
    assert interfaces == "['lo']"


@pytest.mark.needs(Capability.PYTHON)
def test_its_own_loopback_works(sandbox: Slot) -> None:
    code = """
import socket
with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
    client.sendall(b"hello")
    print(server.accept()[0].recv(5))
"""
    assert python(sandbox, code).stdout == "b'hello'\n"


@pytest.mark.needs(Capability.PYTHON)
def test_no_shared_memory_of_the_machine(sandbox: Slot, promised: frozenset[Capability]) -> None:
    libc = ctypes.CDLL(None)
    key = int(uuid.uuid4()) & 0x7FFFFFFF
    created = libc.shmget(key, 4096, 0o1000 | 0o666)
    assert created != -1
    try:
        code = f"print(_LIBC.shmget({key}, 0, 0), os.path.getsize('/proc/sysvipc/shm'))\n"
        code += "print(*(line.split()[0] for line in open('/proc/sysvipc/shm')), sep='\\n')"
        first, _, *keys = python(sandbox, SYSTEM_CALLS + code).stdout.splitlines()
        assert first == "-1 0"
        assert str(key) not in keys
        assert not keys or Capability.OWN_SANDBOX not in promised  # of a neighbour
    finally:
        libc.shmctl(created, 0, None)
