"""What travels between an agent and its controller: frames, and the values inside them.

A frame is `u32 payload length | u8 type | u32 request id | u32 number | payload`, big-endian. The number counts the
frames of one direction: who carries a stream in pieces could leave one out, repeat one or change their order, and
nobody would see it where a piece is whole frames. A value is a tag byte and its content; the codec knows None, bool,
int, float, str, bytes, list and dict with str keys. It exists because `json` more than doubles an agent's start-up time
and has no bytes, while `pickle` and `marshal` must never touch what a sandbox says. Decoding is strict: every length is
checked against what is there, and nesting is bounded.
"""

from __future__ import annotations

TYPE_CHECKING = False  # `typing` is not worth its import time in a sandbox
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    _ByType = dict[type, Callable[[Any], bytes]]
else:
    _ByType = dict

HEADER_SIZE = 13
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
_MAX_NAMES = 100
_INT_LIMIT = 1 << 63
_CONSTANTS = {0x4E: None, 0x54: True, 0x46: False}  # N, T, F


class ProtocolError(ValueError):
    """The other side sent something that this protocol does not allow."""


def frame(kind: int, request: int, payload: bytes = b"", number: int = 0) -> bytes:
    """One frame, ready to be written if that is its number."""
    return b"%b%c%b%b%b" % (
        len(payload).to_bytes(4, "big"),
        kind,
        request.to_bytes(4, "big"),
        number.to_bytes(4, "big"),
        payload,
    )


class Numbering:
    """Counts the frames of one direction, and says the number of each in turn."""

    def __init__(self) -> None:
        self.coming = 0
        """The number of the next frame."""

    def next(self) -> int:
        """The number of the next frame, which is the one that is dealt with now."""
        number = self.coming
        self.coming = (number + 1) & 0xFFFFFFFF
        return number

    def number(self, frames: bytes) -> bytes:
        """Whole frames, one behind the other, with their numbers."""
        view = memoryview(frames)
        pieces: list[bytes | memoryview] = []
        done = at = 0
        while at + HEADER_SIZE <= len(view):
            size = int.from_bytes(view[at : at + 4], "big")
            pieces += view[done : at + 9], self.next().to_bytes(4, "big")
            done = at + HEADER_SIZE
            at = done + size
        pieces.append(view[done:])
        return b"".join(pieces)


class FrameReader:
    """Cuts a byte stream into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._numbers = Numbering()

    def feed(self, data: bytes | memoryview) -> list[tuple[int, int, bytes]]:
        """Add `data`; return every frame that is now whole as (type, request id, payload).

        Raises `ProtocolError` for a frame larger than `MAX_PAYLOAD`, before any of it is kept, and for one that is not
        the next.
        """
        buffer = self._buffer
        buffer += data
        frames = []
        start, end = 0, len(buffer)
        with memoryview(buffer) as view:  # slices of it are no copies
            while end - start >= HEADER_SIZE:
                size = int.from_bytes(view[start : start + 4], "big")
                if size > MAX_PAYLOAD:
                    raise ProtocolError(f"frame of {size} bytes")
                if int.from_bytes(view[start + 9 : start + HEADER_SIZE], "big") != self._numbers.coming:
                    raise ProtocolError("a frame is missing, comes twice or out of turn")
                stop = start + HEADER_SIZE + size
                if stop > end:
                    break
                self._numbers.next()
                request = int.from_bytes(view[start + 5 : start + 9], "big")
                frames.append((view[start + 4], request, bytes(view[start + HEADER_SIZE : stop])))
                start = stop
        if start:
            del buffer[:start]
        return frames


def encode(value: object) -> bytes:
    """`value` as bytes. Raises TypeError for a type that the codec does not know, ValueError for a huge int."""
    return _ENCODERS[type(value)](value)


def _encode_int(value: int) -> bytes:
    if not -_INT_LIMIT <= value < _INT_LIMIT:
        raise ValueError("integer beyond 64 bits")
    return b"i" + value.to_bytes(8, "big", signed=True)


def _encode_float(value: float) -> bytes:
    text = float.__repr__(value).encode()
    return b"d" + bytes((len(text),)) + text


def _encode_text(value: str) -> bytes:
    text = value.encode()
    return b"s" + len(text).to_bytes(4, "big") + text


def _encode_bytes(value: bytes) -> bytes:
    return b"b" + len(value).to_bytes(4, "big") + value


def _encode_list(value: list[object]) -> bytes:
    items = [_ENCODERS[type(item)](item) for item in value]
    return b"l" + len(value).to_bytes(4, "big") + b"".join(items)


def _encode_dict(value: dict[str, object]) -> bytes:
    parts = [b"m" + len(value).to_bytes(4, "big")]
    for key, item in value.items():
        parts.append(_names.get(key) or _encode_name(key))
        parts.append(_ENCODERS[type(item)](item))
    return b"".join(parts)


def _encode_name(key: str) -> bytes:
    if not isinstance(key, str):
        raise TypeError("keys are str, not " + type(key).__name__)
    name = _encode_text(key)
    if len(_names) < _MAX_NAMES:
        _names[key] = name
    return name


_names: dict[str, bytes] = {}
"""Encoded keys: messages have the same few, again and again."""


class _Encoders(_ByType):
    """How to encode values of each type, and of those derived from it."""

    def __missing__(self, kind: type) -> Callable[[Any], bytes]:
        for base in kind.__mro__:
            if base in self:
                return self[base]
        raise TypeError("cannot encode " + kind.__name__)


_ENCODERS = _Encoders(
    {
        type(None): lambda _: b"N",
        bool: lambda value: b"T" if value else b"F",
        int: _encode_int,
        float: _encode_float,
        str: _encode_text,
        bytes: _encode_bytes,
        bytearray: _encode_bytes,
        memoryview: _encode_bytes,
        list: _encode_list,
        tuple: _encode_list,
        dict: _encode_dict,
    }
)


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


def _decode(data: bytes, at: int, depth: int) -> tuple[object, int]:
    """The value at `at` and where it ends, in few steps: this is where most of a message's time goes."""
    tag = data[at]
    at += 1
    if tag in _CONSTANTS:
        return _CONSTANTS[tag], at
    if tag == 0x69:  # i
        end = at + 8
        if end > len(data):
            raise ProtocolError("value cut short")
        return int.from_bytes(data[at:end], "big", signed=True), end
    if tag == 0x64:  # d
        end = at + 1 + data[at]
        if end > len(data):
            raise ProtocolError("value cut short")
        return float(data[at + 1 : end]), end
    start = at + 4
    size = int.from_bytes(data[at:start], "big")
    end = start + size
    if end > len(data):  # for a list and a dict too: every item takes at least one byte
        raise ProtocolError("value cut short")
    if tag == 0x73:  # s
        return data[start:end].decode(), end
    if tag == 0x62:  # b
        return data[start:end], end
    if depth > _MAX_DEPTH:
        raise ProtocolError("nested too deep")
    if tag == 0x6C:  # l
        return _decode_list(data, start, size, depth + 1)
    if tag == 0x6D:  # m
        return _decode_dict(data, start, size, depth + 1)
    raise ProtocolError(f"unknown tag {tag}")


def _decode_list(data: bytes, at: int, size: int, depth: int) -> tuple[list[object], int]:
    items = []
    for _ in range(size):
        item, at = _decode(data, at, depth)
        items.append(item)
    return items, at


def _decode_dict(data: bytes, at: int, size: int, depth: int) -> tuple[dict[str, object], int]:
    mapping: dict[str, object] = {}
    for _ in range(size):
        start = at + 5
        end = start + int.from_bytes(data[at + 1 : start], "big")
        key = data[start:end].decode()
        if data[at] != 0x73 or key in mapping:
            raise ProtocolError("bad key")
        # there is something behind the key, or the key has been cut short
        tag = data[end]
        if tag in _CONSTANTS:
            mapping[key], at = _CONSTANTS[tag], end + 1
        else:
            mapping[key], at = _decode(data, end, depth)
    return mapping, at
