"""What a Python is made of, said by itself: run as a program of its own, with the names of modules as arguments.

It imports them, and tells which files that took: of the interpreter, its loader, its libraries, and the modules.
"""

from __future__ import annotations

import ctypes
import importlib
import marshal
import os
import sys
from importlib.machinery import ExtensionFileLoader, FrozenImporter
from importlib.util import MAGIC_NUMBER, find_spec
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:  # what is imported here, is carried
    from typing import Any

_AT_BASE = 7  # where the kernel has put the loader of a program; 0 if the program has none
_HEADER = MAGIC_NUMBER + bytes(12)  # of a compiled module that goes without its source, so never out of date


class _LoadedObject(ctypes.Structure):
    """The first members of the C library's `struct dl_phdr_info`."""

    _fields_ = (("address", ctypes.c_void_p), ("name", ctypes.c_char_p))


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(_LoadedObject), ctypes.c_size_t, ctypes.c_void_p)


def survey(names: list[str]) -> dict[str, Any]:
    """Import the modules called `names`, and say which files that took, as a `Survey` of `carried`.

    Raises ImportError for a module that is missing.
    """
    if find_spec("_sha2") or find_spec("_sha256"):
        sys.modules["_hashlib"] = None  # type: ignore[assignment]  # 5 MB of OpenSSL for what can be had without
    for name in names:
        importlib.import_module(name)
    extensions, modules = _modules()
    loader, libraries = _libraries()
    return {
        "executable": str(Path("/proc/self/exe").readlink()),
        "loader": loader,
        "libraries": [path for path in libraries if path not in extensions],
        "extensions": extensions,
        "modules": modules,
        "standard_library": str(Path(os.__file__).parent.relative_to(sys.prefix)),
    }


def _modules() -> tuple[list[str], dict[str, bytes]]:
    """Paths of the extension modules among all that have been imported, and the others compiled."""
    extensions = []
    # frozen into the interpreter, which yet tells by its file where the standard library is
    code = {"os.pyc": FrozenImporter.get_code("os")}
    for module in list(sys.modules.values()):
        spec = getattr(module, "__spec__", None)
        if spec is None or not spec.has_location:
            continue  # built in, or frozen
        if isinstance(spec.loader, ExtensionFileLoader):
            extensions.append(spec.origin)
        else:
            path = spec.name.replace(".", "/")
            path += ".pyc" if spec.submodule_search_locations is None else "/__init__.pyc"
            code[path] = spec.loader.get_code(spec.name)
    return extensions, {path: _HEADER + marshal.dumps(each) for path, each in code.items()}


def _libraries() -> tuple[str | None, list[str]]:
    """Path of the loader, and of it and all that it has loaded, of which extension modules are a part."""
    library = ctypes.CDLL(None)
    library.getauxval.restype = ctypes.c_ulong
    found: list[tuple[str, int]] = []

    def see(loaded: ctypes._Pointer[_LoadedObject], _size: int, _data: object) -> int:
        found.append((os.fsdecode(loaded.contents.name or b""), loaded.contents.address or 0))
        return 0

    library.dl_iterate_phdr(_Callback(see), None)
    base = library.getauxval(_AT_BASE)
    _program, *others = found
    files = [(path, address) for path, address in others if "/" in path]  # the rest is the kernel's
    loader = next((path for path, address in files if base and address == base), None)
    return loader, [path for path, _ in files]


if __name__ == "__main__":
    sys.stdout.buffer.write(marshal.dumps(survey(sys.argv[1:])))
