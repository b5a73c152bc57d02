"""Listings: what the tools of an image say of files, as entries that an agent would send."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator

from pytest_sandboxes.agent import wire

_LONGEST_PATH = 4096
_LONGEST_ENTRY = 1 << 20  # code can make longer paths than can be named
_MOST_SORTED = 100_000  # entries of which the first are found; of more, the first of those that have come
_FEW = 100  # entries that may be too many before they are sorted, and a quarter of what is wanted
_ENTRY = re.compile(rb"([0-9a-f]{1,8} [0-9]{1,19} -?[0-9]{1,18} (?:-|[0-9a-f]{64})) \./([^\0]+)")
_TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}


class Listing:
    """Turns what `scripts.LIST` says into entries as an agent sends them: the first ones, in sorted order.

    It keeps little more than these, each at about the size of its path: code decides how many there are, and how long.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._text = bytearray()
        self._sign = b""
        self._seen = 0
        self._kept: list[tuple[bytes, bytes]] = []
        """The path of each, separated by what sorts before all that a name may have, and what is said of it."""
        self._too_deep = False

    @property
    def truncated(self) -> bool:
        """There were more entries than wanted, or deeper ones than can be named."""
        return self._too_deep or self._seen > self._limit

    def feed(self, data: bytes) -> bool:
        """Take what has come; False when no more is looked at. Raises `ProtocolError` for what is no entry."""
        self._text += data
        if not self._sign:
            sign, space, _ = self._text.partition(b" ")
            if not space:
                if len(sign) > _LONGEST_PATH:
                    raise wire.ProtocolError("not an entry of a listing")
                return True
            self._sign = bytes(sign)
        # an entry ends where the next begins, because a name may have anything in it but what nobody knew
        *whole, rest = self._text.split(b"\n" + self._sign + b" ")
        self._text = bytearray(self._sign + b" " + rest if whole else rest)
        for text in whole:
            self._add(bytes(text))
        if len(rest) > _LONGEST_ENTRY:
            raise wire.ProtocolError("an entry of a listing has no end")
        return self._seen <= max(self._limit, _MOST_SORTED)

    def entries(self) -> Iterator[bytes]:
        """All that is wanted, once no more comes, and once only: each is let go of when it is given out."""
        if self._text:
            self._add(bytes(self._text).removesuffix(b"\n"))
            self._text.clear()
        self._sort()
        self._kept.reverse()
        while self._kept:
            key, said = self._kept.pop()
            entry = _encoded(key.replace(b"\0", b"/"), said)
            yield len(entry).to_bytes(4, "big") + entry

    def _add(self, text: bytes) -> None:
        found = _ENTRY.fullmatch(text.removeprefix(self._sign + b" "))
        if found is None:
            raise wire.ProtocolError("not an entry of a listing")
        said, path = found.groups()
        if len(path) > _LONGEST_PATH:
            self._too_deep = True
            return
        self._seen += 1
        self._kept.append((path.replace(b"/", b"\0"), said))
        if len(self._kept) > self._limit + self._limit // 4 + _FEW:
            self._sort()

    def _sort(self) -> None:
        self._kept.sort()
        del self._kept[self._limit :]


def _encoded(path: bytes, said: bytes) -> bytes:
    """An entry as an agent has it."""
    mode, size, mtime, digest = said.split(b" ")
    kind = _TYPES.get(stat.S_IFMT(int(mode, 16)), "device")
    sha256 = None if digest == b"-" else digest.decode()
    permissions = stat.S_IMODE(int(mode, 16))
    return wire.encode([path, kind, min(int(size), 1 << 62), permissions, float(mtime), sha256])
