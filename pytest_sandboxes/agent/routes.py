"""Keeping code from all that is near: only the Internet is left to reach.

The kernel is told over a netlink socket, which needs no program in the image, no firewall in the kernel, and no access
to the machine of the container engine. What it is told holds for every protocol and every process here, and nobody
without CAP_NET_ADMIN can take it back, which the agent gives up right after.

- Rules for routes refuse what is sent to addresses that are near. The gateway's own is one of them: as the next hop it
  is known by another name.
- A socket that is bound to a device, and asks for no routing, passes by all rules and routes: the kernel takes whatever
  address for a neighbour's, and asks on the link for its hardware address, which the host tells for any of its own.
  So questions go to nobody there, and broadcasts with them. The one hardware address that is needed is fixed before.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
import time

TYPE_CHECKING = False  # `typing` is not worth its import time here
if TYPE_CHECKING:
    import socket as _socket
    from typing import Any
else:
    import _socket  # `socket` proper pulls in enum and selectors: milliseconds of every start

NEAR = (
    ("0.0.0.0", 8),  # noqa: S104 - this network
    ("10.0.0.0", 8),  # private
    ("100.64.0.0", 10),  # carriers' own; Alibaba's metadata server 100.100.100.200
    ("168.63.129.16", 32),  # Azure's host
    ("169.254.0.0", 16),  # link-local; metadata servers of AWS, GCP, Azure and others, credentials of ECS
    ("172.16.0.0", 12),  # private
    ("192.0.0.0", 24),  # protocol assignments; Oracle's metadata server 192.0.0.192
    ("192.168.0.0", 16),  # private
    ("198.18.0.0", 15),  # networks for benchmarks
    ("240.0.0.0", 4),  # reserved
)
"""What is not the Internet: first address and length of its prefix."""

# Refused, too. But a socket that is bound to a device sends to a group without a look at rules or routes.
_GROUPS = ("224.0.0.0", 4)
_WITNESSES = (
    "169.254.169.254",
    "169.254.170.2",
    "100.100.100.200",
    "168.63.129.16",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.0.1",
)
_OUTSIDE = "1.1.1.1"  # any that is not near
_NOWHERE = "240.0.0.1"  # nobody's, and no answer comes to the question for its hardware address
_NEXT_HOP = "240.0.0.2"  # what the gateway is called where it is the next hop, and nowhere else
_NO_HARDWARE = b"\2\0\0\0\0\0"  # a hardware address that nobody has
_OUTSIDE6 = "2000::1"

_SETLINK, _NEWROUTE, _GETROUTE, _NEWNEIGHBOUR, _GETNEIGHBOUR, _NEWRULE = 19, 24, 26, 28, 30, 32
_ERROR, _DONE = 2, 3
_MULTIPART = 2
_REQUEST, _ACKNOWLEDGE, _DUMP, _REPLACE, _EXCLUSIVE, _CREATE = 1, 4, 0x300, 0x100, 0x200, 0x400
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_BODY = struct.Struct("=8BI")  # of routes and of rules alike
_LINK = struct.Struct("=BxHiII")  # family, type, device, flags, which of them change
_NEIGHBOUR = struct.Struct("=BxxxiHBB")  # family, device, state, flags, type; as long as a body
_LINK_BROADCAST = 2
_NEIGHBOUR_ADDRESS, _NEIGHBOUR_HARDWARE = 1, 2
_PERMANENT = 0x80
_ATTRIBUTE = struct.Struct("=HH")
_ROUTE_DESTINATION, _ROUTE_DEVICE, _ROUTE_GATEWAY = 1, 4, 5
_ROUTE_USER, _ROUTE_PROTOCOL, _ROUTE_PORT = 25, 27, 29
_RULE_DESTINATION, _RULE_PRIORITY = 1, 6
_RULE_DEVICE, _RULE_USERS, _RULE_PROTOCOL, _RULE_PORTS = 17, 20, 22, 24
_MAIN_TABLE = 254
_OUR_TABLE = 100
_UNICAST, _PROHIBIT = 1, 8
_LOOK_UP = 1
_STATIC = 4
_ON_LINK = 4
_TCP, _UDP = 6, 17
_DNS = 53
_DISCARD = 9
_NOBODY = 65534
_EXCEPTIONS, _LOST, _REFUSALS = 10, 20, 30  # priorities of rules, the first one first
_TIMEOUT = 5.0
_LOOK_AGAIN = 0.0005  # seconds between looks at whether the gateway has said its hardware address
_REFUSED = (errno.EACCES, errno.ENETUNREACH, errno.EHOSTUNREACH)


def leave_internet_only() -> None:
    """Have the kernel refuse whatever is sent to an address that is near, and prove that it does.

    Near are private and special addresses, metadata servers, the neighbours on the container's own network, and the
    gateway, through which everything goes but which nothing is to be addressed to. There is no IPv6.

    Raises OSError when that cannot be proven.
    """
    try:
        _leave_internet_only()
    except OSError as error:
        raise OSError(
            f"network outbound cannot be kept from what is near here, {error}: use network none, or another Engine"
        ) from None


def _leave_internet_only() -> None:
    kernel = _Kernel()
    try:
        gateway, device, neighbours = kernel.surroundings()
        kernel.settle_next_hop(gateway, device)
        near = list(dict.fromkeys((*NEAR, *neighbours)))
        # Docker's resolver answers on this side of the network, and older ones ask on as root from in here, often a
        # server that is near
        for protocol in (_UDP, _TCP):
            kernel.exempt_root(protocol, _DNS)
        for address, length in ((gateway, 32), *near):
            kernel.lead_astray(address, length, device)
        # A refusal would also refuse what comes from the gateway, where the kernel checks ways back (rp_filter): its
        # questions for our hardware address, and its word on too large packets.
        kernel.astray_to(gateway)
        # Nor does a refusal mean anything to a socket that is bound to a device: it has to find a way.
        kernel.astray_over(_socket.if_indextoname(device))
        for address, length in (*near, _GROUPS):
            kernel.refuse(_socket.AF_INET, _socket.inet_aton(address), length)
        if _has_ipv6():
            kernel.refuse(_socket.AF_INET6, b"", 0)
        _prove(kernel, gateway, device, neighbours)
    finally:
        kernel.close()


def _prove(kernel: _Kernel, gateway: str, device: int, neighbours: list[tuple[str, int]]) -> None:
    hardware = kernel.hardware()
    if hardware.get(gateway) != _NO_HARDWARE or hardware.get(_NEXT_HOP) in (None, _NO_HARDWARE):
        raise OSError("the kernel does not keep the gateway's address from code")
    with open(f"/sys/class/net/{_socket.if_indextoname(device)}/broadcast") as file:
        if bytes.fromhex(file.read().replace(":", "")) != _NO_HARDWARE:
            raise OSError("the kernel does not keep code from asking around")
    if kernel.next_hop(_OUTSIDE) != _NEXT_HOP:
        raise OSError("the kernel does not send to the Internet what is for the Internet")
    for address in (*_WITNESSES, *(first for first, _ in (*NEAR[1:], *neighbours))):
        if (
            kernel.next_hop(address) is not None
            or kernel.next_hop(address, user=0) is not None
            or kernel.next_hop(address, protocol=_UDP, port=_DNS) is not None
            or kernel.next_hop(address, device=device) != _NOWHERE
        ):
            raise OSError(f"the kernel does not keep code from {address}")
    if kernel.next_hop(gateway) != _NOWHERE or kernel.next_hop(gateway, user=0) != _NOWHERE:
        raise OSError(f"the kernel does not keep code from its gateway {gateway}")
    if _has_ipv6() and kernel.next_hop(_OUTSIDE6) is not None:
        raise OSError("the kernel does not keep code from IPv6")


def _has_ipv6() -> bool:
    return os.path.exists("/proc/net/if_inet6")


class _Kernel:
    """The part of the kernel that routes packets. All its methods raise OSError for what it does not do."""

    def __init__(self) -> None:
        self._socket = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, 0)
        self._socket.settimeout(_TIMEOUT)
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def surroundings(self) -> tuple[str, int, list[tuple[str, int]]]:
        """The gateway, the number of its device, and the networks of neighbours: first address, length of prefix."""
        gateways = []
        neighbours = []
        body = _BODY.pack(_socket.AF_INET, *[0] * 8)
        for family, length, _, _, table, _, _, kind, _, attributes in self._ask(_GETROUTE, _DUMP, body):
            if (family, table, kind) != (_socket.AF_INET, _MAIN_TABLE, _UNICAST):
                continue
            if _ROUTE_GATEWAY in attributes:
                device = int.from_bytes(attributes[_ROUTE_DEVICE], sys.byteorder)
                gateways.append((_socket.inet_ntoa(attributes[_ROUTE_GATEWAY]), device))
            elif _ROUTE_DESTINATION in attributes:
                neighbours.append((_socket.inet_ntoa(attributes[_ROUTE_DESTINATION]), length))
        if len(gateways) != 1:
            raise OSError(f"the container has {len(gateways)} gateways instead of one")
        return (*gateways[0], neighbours)

    def settle_next_hop(self, gateway: str, device: int) -> None:
        """Know the gateway's hardware address for good, for the way out alone, and ask for no other any more."""
        asking = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
        try:
            asking.sendto(b"", (gateway, _DISCARD))  # has the kernel ask for it
        finally:
            asking.close()
        deadline = time.monotonic() + _TIMEOUT
        while True:
            hardware = self.hardware().get(gateway)
            if hardware is not None:
                break
            if time.monotonic() > deadline:
                raise OSError(f"the gateway {gateway} does not answer")
            time.sleep(_LOOK_AGAIN)
        link = _LINK.pack(0, 0, device, 0, 0) + _attribute(_LINK_BROADCAST, _NO_HARDWARE)
        self._ask(
            _SETLINK, _ACKNOWLEDGE, link
        )  # which makes the kernel forget all that it knows, so it comes first
        self._fix_hardware(_NEXT_HOP, device, hardware)
        self._fix_hardware(gateway, device, _NO_HARDWARE)
        route = _BODY.pack(_socket.AF_INET, 0, 0, 0, _MAIN_TABLE, _STATIC, 0, _UNICAST, _ON_LINK)
        route += _attribute(_ROUTE_GATEWAY, _socket.inet_aton(_NEXT_HOP))
        route += _attribute(_ROUTE_DEVICE, _number(device))
        self._ask(_NEWROUTE, _ACKNOWLEDGE | _CREATE | _REPLACE, route)

    def hardware(self) -> dict[str, bytes]:
        """Hardware addresses that are known, by address."""
        body = _NEIGHBOUR.pack(_socket.AF_INET, 0, 0, 0, 0)
        return {
            _socket.inet_ntoa(attributes[_NEIGHBOUR_ADDRESS]): attributes[_NEIGHBOUR_HARDWARE]
            for *_, attributes in self._ask(_GETNEIGHBOUR, _DUMP, body)
            if _NEIGHBOUR_HARDWARE in attributes
        }

    def _fix_hardware(self, address: str, device: int, hardware: bytes) -> None:
        body = _NEIGHBOUR.pack(_socket.AF_INET, device, _PERMANENT, 0, _UNICAST)
        body += _attribute(_NEIGHBOUR_ADDRESS, _socket.inet_aton(address))
        body += _attribute(_NEIGHBOUR_HARDWARE, hardware)
        self._ask(_NEWNEIGHBOUR, _ACKNOWLEDGE | _CREATE | _REPLACE, body)

    def exempt_root(self, protocol: int, port: int) -> None:
        """What root sends to a port goes wherever it did."""
        rule = _BODY.pack(_socket.AF_INET, 0, 0, 0, _MAIN_TABLE, 0, 0, _LOOK_UP, 0)
        rule += _attribute(_RULE_PRIORITY, _number(_EXCEPTIONS))
        rule += _attribute(_RULE_USERS, _number(0) + _number(0))
        rule += _attribute(_RULE_PROTOCOL, bytes([protocol]))
        rule += _attribute(_RULE_PORTS, struct.pack("=HH", port, port))
        self._tell(_NEWRULE, rule)

    def lead_astray(self, address: str, length: int, device: int) -> None:
        """Have a way for what is sent to a network on which it gets lost, over the device on which answers come."""
        route = _BODY.pack(_socket.AF_INET, length, 0, 0, _OUR_TABLE, _STATIC, 0, _UNICAST, _ON_LINK)
        route += _attribute(_ROUTE_DESTINATION, _socket.inet_aton(address))
        route += _attribute(_ROUTE_GATEWAY, _socket.inet_aton(_NOWHERE))
        route += _attribute(_ROUTE_DEVICE, _number(device))
        self._tell(_NEWROUTE, route)

    def astray_to(self, address: str) -> None:
        """What is sent to an address takes the ways astray."""
        rule = _BODY.pack(_socket.AF_INET, 32, 0, 0, _OUR_TABLE, 0, 0, _LOOK_UP, 0)
        rule += _attribute(_RULE_PRIORITY, _number(_LOST))
        self._tell(_NEWRULE, rule + _attribute(_RULE_DESTINATION, _socket.inet_aton(address)))

    def astray_over(self, device: str) -> None:
        """What is sent by a socket that is bound to a device takes the ways astray where there are any."""
        rule = _BODY.pack(_socket.AF_INET, 0, 0, 0, _OUR_TABLE, 0, 0, _LOOK_UP, 0)
        rule += _attribute(_RULE_PRIORITY, _number(_LOST))
        self._tell(_NEWRULE, rule + _attribute(_RULE_DEVICE, device.encode() + b"\0"))

    def refuse(self, family: int, address: bytes, length: int) -> None:
        """Whatever is sent to a network is refused at once."""
        rule = _BODY.pack(family, length, 0, 0, 0, 0, 0, _PROHIBIT, 0)
        rule += _attribute(_RULE_PRIORITY, _number(_REFUSALS))
        self._tell(_NEWRULE, rule + (_attribute(_RULE_DESTINATION, address) if length else b""))

    def next_hop(
        self, address: str, *, user: int = _NOBODY, protocol: int = _TCP, port: int = 80, device: int = 0
    ) -> str | None:
        """The gateway to which a packet is handed, the address itself without one, None when it is refused.

        `device` is the one to which the sender's socket is bound.
        """
        family = _socket.AF_INET6 if ":" in address else _socket.AF_INET
        packed = _socket.inet_pton(family, address)
        question = _BODY.pack(family, 8 * len(packed), *[0] * 7)
        question += _attribute(_ROUTE_DESTINATION, packed)
        question += _attribute(_ROUTE_USER, _number(user))
        question += _attribute(_ROUTE_PROTOCOL, bytes([protocol]))
        question += _attribute(_ROUTE_PORT, port.to_bytes(2, "big"))
        if device:
            question += _attribute(_ROUTE_DEVICE, _number(device))
        try:
            [(*_, attributes)] = self._ask(_GETROUTE, 0, question)
        except OSError as error:
            if error.errno in _REFUSED:
                return None
            raise
        return _socket.inet_ntop(family, attributes.get(_ROUTE_GATEWAY, packed))

    def _tell(self, kind: int, body: bytes) -> None:
        self._ask(kind, _ACKNOWLEDGE | _CREATE | _EXCLUSIVE, body)

    def _ask(self, kind: int, flags: int, body: bytes) -> list[tuple[Any, ...]]:
        self._sequence += 1
        header = _HEADER.pack(_HEADER.size + len(body), kind, _REQUEST | flags, self._sequence, 0)
        self._socket.send(header + body)
        answers: list[tuple[Any, ...]] = []
        while True:
            data = self._socket.recv(1 << 16)
            while data:
                length, answered, how, sequence, _ = _HEADER.unpack_from(data)
                message, data = data[_HEADER.size : length], data[_aligned(length) :]
                if sequence != self._sequence:
                    continue  # the rest of an answer that nobody waited for
                if answered == _ERROR:
                    (number,) = struct.unpack_from("=i", message)
                    if number:
                        raise OSError(-number, os.strerror(-number))
                    return answers
                if answered == _DONE:
                    return answers
                fields = _BODY.unpack_from(message)
                answers.append((*fields, _attributes(message[_BODY.size :])))
                if not how & _MULTIPART:
                    return answers


def _number(value: int) -> bytes:
    return value.to_bytes(4, sys.byteorder)


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def _attribute(kind: int, value: bytes) -> bytes:
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value.ljust(_aligned(len(value)), b"\0")


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if length < _ATTRIBUTE.size:
            break
        found[kind] = data[_ATTRIBUTE.size : length]
        data = data[_aligned(length) :]
    return found
