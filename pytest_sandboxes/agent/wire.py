"""What travels between an agent and its controller: frames, and the values inside them.

A frame is `u32 payload length | u8 type | u32 request id | payload`, big-endian. A value is a tag byte and its content;
the codec knows None, bool, int, float, str, bytes, list and dict with str keys. It exists because `json` more than
doubles an agent's start-up time and has no bytes, while `pickle` and `marshal` must never touch what a sandbox says.
Decoding is strict: every length is checked against what is there, and nesting is bounded.
"""

from __future__ import annotations

HEADER_SIZE = 9
MAX_PAYLOAD = 1 << 18
"""Bytes of payload in one frame, at most: small enough that another request never waits long behind one."""
CHUNK = 1 << 16
"""Bytes read from a pipe and sent in one frame."""
WINDOW = 1 << 19
"""Bytes that may be under way on one stream before the receiver grants more."""
MAX_RESULT = 1 << 16
"""Bytes of an encoded result, at most."""

# controller to agent
REQUEST, STDIN, STDIN_END, CREDIT, KILL, PING, PAUSE, RESUME = range(1, 9)
# agent to controller
HELLO, STDOUT, STDERR, STARTED, RESULT, STDIN_CREDIT, PONG = range(17, 24)

_MAX_DEPTH = 8
_INT_LIMIT = 1 << 63


class ProtocolError(ValueError):
    """The other side sent something that this protocol does not allow."""


def frame(kind: int, request: int, payload: bytes = b"") -> bytes:
    """One frame, ready to be written."""
    return len(payload).to_bytes(4, "big") + bytes((kind,)) + request.to_bytes(4, "big") + payload


class FrameReader:
    """Cuts a byte stream into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[tuple[int, int, bytes]]:
        """Add `data`; return every frame that is now whole as (type, request id, payload).

        Raises `ProtocolError` for a frame larger than `MAX_PAYLOAD`, before any of it is kept.
        """
        buffer = self._buffer
        buffer += data
        frames = []
        start, end = 0, len(buffer)
        while end - start >= HEADER_SIZE:
            size = int.from_bytes(buffer[start : start + 4], "big")
            if size > MAX_PAYLOAD:
                raise ProtocolError(f"frame of {size} bytes")
            stop = start + HEADER_SIZE + size
            if stop > end:
                break
            request = int.from_bytes(buffer[start + 5 : start + 9], "big")
            frames.append((buffer[start + 4], request, bytes(buffer[start + HEADER_SIZE : stop])))
            start = stop
        if start:
            del buffer[:start]
        return frames


def encode(value: object) -> bytes:
    """`value` as bytes. Raises TypeError for a type that the codec does not know, ValueError for a huge int."""
    parts: list[bytes] = []
    _encode(value, parts)
    return b"".join(parts)


def _encode(value: object, parts: list[bytes]) -> None:
    if value is None:
        parts.append(b"N")
    elif value is True:
        parts.append(b"T")
    elif value is False:
        parts.append(b"F")
    elif isinstance(value, int):
        if not -_INT_LIMIT <= value < _INT_LIMIT:
            raise ValueError("integer beyond 64 bits")
        parts.append(b"i" + value.to_bytes(8, "big", signed=True))
    elif isinstance(value, float):
        text = repr(value).encode()
        parts.append(b"d" + bytes((len(text),)) + text)
    elif isinstance(value, str):
        text = value.encode()
        parts.append(b"s" + len(text).to_bytes(4, "big") + text)
    elif isinstance(value, (bytes, bytearray, memoryview)):
        parts.append(b"b" + len(value).to_bytes(4, "big") + bytes(value))
    elif isinstance(value, (list, tuple)):
        parts.append(b"l" + len(value).to_bytes(4, "big"))
        for item in value:
            _encode(item, parts)
    elif isinstance(value, dict):
        parts.append(b"m" + len(value).to_bytes(4, "big"))
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError("keys are str, not " + type(key).__name__)
            _encode(key, parts)
            _encode(item, parts)
    else:
        raise TypeError("cannot encode " + type(value).__name__)


def decode(data: bytes) -> object:
    """The value that `data` holds, all of it. Raises `ProtocolError` for anything else."""
    try:
        value, end = _decode(data, 0, 0)
    except (IndexError, ValueError, OverflowError) as error:
        raise ProtocolError(f"malformed value: {error}") from None
    if end != len(data):
        raise ProtocolError(f"{len(data) - end} bytes after the value")
    return value


def decode_dict(data: bytes) -> dict[str, object]:
    """The dict that `data` holds. Raises `ProtocolError` for anything else."""
    value = decode(data)
    if not isinstance(value, dict):
        raise ProtocolError("expected a mapping")
    return value


def _take(data: bytes, start: int, size: int) -> bytes:
    piece = data[start : start + size]
    if len(piece) != size:
        raise ProtocolError("value cut short")
    return piece


def _decode(data: bytes, at: int, depth: int) -> tuple[object, int]:
    if depth > _MAX_DEPTH:
        raise ProtocolError("nested too deep")
    tag = data[at]
    at += 1
    if tag == 0x4E:  # N
        return None, at
    if tag == 0x54:  # T
        return True, at
    if tag == 0x46:  # F
        return False, at
    if tag == 0x69:  # i
        return int.from_bytes(_take(data, at, 8), "big", signed=True), at + 8
    if tag == 0x64:  # d
        size = data[at]
        return float(_take(data, at + 1, size)), at + 1 + size
    size = int.from_bytes(_take(data, at, 4), "big")
    at += 4
    if tag == 0x73:  # s
        return _take(data, at, size).decode(), at + size
    if tag == 0x62:  # b
        return _take(data, at, size), at + size
    if size > len(data) - at:  # every item takes at least one byte
        raise ProtocolError("more items than bytes")
    if tag == 0x6C:  # l
        items = []
        for _ in range(size):
            item, at = _decode(data, at, depth + 1)
            items.append(item)
        return items, at
    if tag == 0x6D:  # m
        mapping = {}
        for _ in range(size):
            key, at = _decode(data, at, depth + 1)
            if not isinstance(key, str) or key in mapping:
                raise ProtocolError("bad key")
            mapping[key], at = _decode(data, at, depth + 1)
        return mapping, at
    raise ProtocolError(f"unknown tag {tag}")
