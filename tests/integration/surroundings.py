"""What a container of the Engine finds around it, made without touching the routes of the Engine's host itself.

One listener in the host's own network answers for everybody: for the Internet, for metadata servers, for the host. By a
rule of the host, packets that come from the one bridge under test, and no others, are delivered to it, whatever their
address. So no network, and no root on this machine, is needed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

INTERNET = "203.0.113.7"
"""An address that is not near, whose owner answers."""
NEAR = (
    "169.254.169.254",
    "169.254.170.2",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "10.1.2.3",
    "192.168.77.7",
    "198.18.0.1",
)
"""Addresses from which the same one answers."""

NAME_SERVER = f"10.53.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"
"""One more, of this process alone, who says of every name that it is `INTERNET`."""

_TABLES = range(101, 251)  # those that no one else uses, of those that busybox can name
_PATIENCE = 30.0
_LISTENER = """
import os, socket, threading

TRANSPARENT, PKTINFO = 19, 8  # the answer has to come from the address that was asked, whosever it is
tcp = socket.socket()
tcp.setsockopt(socket.IPPROTO_IP, TRANSPARENT, 1)
tcp.bind(("0.0.0.0", 0))
tcp.listen(100)
port = tcp.getsockname()[1]
udp = socket.socket(type=socket.SOCK_DGRAM)
udp.setsockopt(socket.IPPROTO_IP, TRANSPARENT, 1)
udp.setsockopt(socket.IPPROTO_IP, PKTINFO, 1)
udp.bind(("0.0.0.0", port))

def answer_datagrams():
    while True:
        data, ancillary, _, sender = udp.recvmsg(100, 100)
        here = ancillary[0][2][4:8]
        udp.sendmsg([b"answered"], [(socket.IPPROTO_IP, PKTINFO, bytes(4) + here + bytes(4))], 0, sender)

def answer_names():
    while True:
        query, sender = names.recvfrom(512)
        end = query.index(0, 12) + 5  # the question: a name, its type and class
        is_a = query[end - 3] == 1
        answer = bytes.fromhex("c00c000100010000003c0004") + socket.inet_aton("INTERNET")
        header = query[:2] + bytes.fromhex("81800001") + bytes([0, is_a]) + bytes(4)
        names.sendto(header + query[12:end] + (answer if is_a else b""), sender)

names = socket.socket(type=socket.SOCK_DGRAM)
names.setsockopt(socket.IPPROTO_IP, TRANSPARENT, 1)
names.bind(("NAME_SERVER", 53))
threading.Thread(target=answer_datagrams, daemon=True).start()
threading.Thread(target=answer_names, daemon=True).start()
print(port, flush=True)
while True:
    connection, _ = tcp.accept()
    connection.sendall(b"answered")
    connection.close()
""".replace("INTERNET", INTERNET).replace("NAME_SERVER", NAME_SERVER)

ASK = """
import errno, socket
from concurrent.futures import ThreadPoolExecutor

def ask(address, port, kind=socket.SOCK_STREAM, options=(), source=None):
    '''What is answered, or the name of the error.'''
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind) as asking:
        asking.settimeout(5)
        try:
            for option in options:
                asking.setsockopt(*option)
            if source:
                asking.bind((source, 0))
            asking.connect((address, port))
            if kind == socket.SOCK_DGRAM:
                asking.send(b"?")
            return asking.recv(100).decode()
        except TimeoutError:
            return "timeout"
        except OSError as error:
            return errno.errorcode.get(error.errno, str(error))

def ask_all(asked):
    '''Of each the arguments; those who answer nothing are waited for together.'''
    with ThreadPoolExecutor(len(asked)) as threads:
        return [each.result() for each in [threads.submit(ask, *each) for each in asked]]
"""
"""Code for inside: `ask(address, port)`, and `ask_all`."""


def in_container(api: Any, image: str, command: Sequence[str], **host_config: Any) -> str:
    """What a plain container says, whose command succeeds."""
    container = api.create_container(
        image, list(command), host_config=api.create_host_config(**host_config), labels={"tests": "here"}
    )["Id"]
    try:
        api.start(container)
        status = api.wait(container)["StatusCode"]
        said: str = api.logs(container).decode()
        assert status == 0, said
        return said
    finally:
        api.remove_container(container, force=True, v=True)


@contextmanager
def background(api: Any, image: str, code: str, **host_config: Any) -> Iterator[tuple[str, str]]:
    """A plain container that runs Python; its id, and the first line that it says."""
    container = api.create_container(
        image, ["python3", "-c", code], host_config=api.create_host_config(**host_config)
    )["Id"]
    try:
        api.start(container)
        deadline = time.monotonic() + _PATIENCE
        while b"\n" not in (
            said := api.logs(container)
        ):  # to follow them, the SDK opens sockets and leaves them so
            assert time.monotonic() < deadline, said
            time.sleep(0.02)
        yield container, said.decode().partition("\n")[0]
    finally:
        api.remove_container(container, force=True, v=True)


@contextmanager
def answers_from_everywhere(api: Any, python_image: str, busybox_image: str, network: str) -> Iterator[int]:
    """Have somebody answer, by TCP and UDP, whatever a container of a bridge network asks of those addresses.

    Yields the port, which is also one of the Engine's host.
    """
    bridge = f"br-{network[:12]}"
    table = _TABLES[os.getpid() % len(_TABLES)]

    def on_host(*commands: str) -> None:
        command = ["sh", "-ec", "\n".join(commands)]
        in_container(api, busybox_image, command, network_mode="host", cap_add=["NET_ADMIN"])

    addresses = (INTERNET, NAME_SERVER, *NEAR)
    with background(api, python_image, _LISTENER, network_mode="host", cap_add=["NET_ADMIN"]) as (_, port):
        on_host(
            *(f"ip route add local {address} dev lo table {table}" for address in addresses),
            f"ip rule add iif {bridge} table {table}",
        )
        try:
            yield int(port)
        finally:
            on_host(f"ip rule del iif {bridge} table {table}", f"ip route flush table {table}")
