"""Archives that are the same bytes for the same content, and are known by their digest."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Archive:
    """A tar file."""

    path: Path
    sha256: str
    size: int
    """In bytes."""


@dataclass(frozen=True)
class Member:
    """A file or link of an archive."""

    name: str
    source: Path
    """The file that it is made of."""
    target: str | None = None
    """Where a link leads; None for a file."""
    is_executable: bool = False


def write(members: Iterable[Member], path: Path) -> Archive:
    """Write an archive. Raises OSError when a file cannot be read."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for member in members:
            info = tarfile.TarInfo(member.name)
            if member.target is not None:
                info.type, info.linkname = tarfile.SYMTYPE, member.target
                tar.addfile(info)
                continue
            content = member.source.read_bytes()
            info.size, info.mode = len(content), 0o755 if member.is_executable else 0o644
            tar.addfile(info, io.BytesIO(content))
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return Archive(path, digest.hexdigest(), path.stat().st_size)
