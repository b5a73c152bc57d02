"""The agent as bytes: what a launcher writes into a new sandbox's stream before the first frame.

The interpreter in the sandbox is started with `BOOTSTRAP` as its program. That reads the payload from
descriptor 0, closes whatever else it may have inherited, and becomes the agent. Nothing is installed, mounted
or imported there.
"""

from __future__ import annotations

import ast
import marshal
from collections.abc import Iterable, Iterator
from functools import cache

from pytest_sandboxes import shipped

# each only imports what stands before it
_MODULES = (
    "wire",
    "tree",
    "link",
    "processes",
    "confinement",
    "routes",
    "parking",
    "identity",
    "cleaning",
    "copying",
    "files",
    "spawn",
    "clock",
    "jobs",
    "slots",
    "main",
)
_PACKAGE = "pytest_sandboxes.agent"

OLDEST_PYTHON = (3, 8)
"""Version of the oldest interpreter that runs the agent."""

# Gives up as an agent does that hears nothing from its controller.
BOOTSTRAP = (
    "import os, select\n"
    "os.closerange(3, 1 << 20)\n"
    "def read(size):\n"
    "    data = b''\n"
    "    while len(data) < size:\n"
    "        if not select.select([0], [], [], 30)[0]: os._exit(0)\n"
    "        piece = os.read(0, size - len(data))\n"
    "        if not piece: os._exit(0)\n"
    "        data += piece\n"
    "    return data\n"
    "data = read(int(read(10)))\n"
)
_START = "last.Agent().run()"


def bootstrap(*, same_interpreter: bool) -> str:
    """The program for `python -ISE -c`; `same_interpreter` says that it is the very one that runs here."""
    if same_interpreter:
        return (
            f"{BOOTSTRAP}import marshal\nloader, modules = marshal.loads(data)\nexec(loader)\n"
            f"last = load({_PACKAGE!r}, modules)\n{_START}\n"
        )
    return BOOTSTRAP + "exec(compile(data, 'agent', 'exec'))\n"


def trial() -> str:
    """Program that goes before `bootstrap` to see whether an interpreter can run the agent, and all that it may import.

    One that cannot ends with a sentence that says why.
    """
    return (
        "import sys\n"
        f"if sys.version_info < {OLDEST_PYTHON}: sys.exit('it is Python %d.%d' % sys.version_info[:2])\n"
        "if sys.implementation.name != 'cpython': sys.exit('it is no CPython: ' + sys.implementation.name)\n"
        f"import {', '.join(imported_modules())}\n"
    )


@cache
def imported_modules() -> tuple[str, ...]:
    """The modules of the standard library that the agent imports, at once or when it needs them."""
    found = set()
    for _, source in shipped.sources(_PACKAGE, _MODULES):
        for node in _executed(ast.parse(source)):
            if isinstance(node, ast.Import):
                found |= {each.name for each in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module is not None:
                found.add(node.module)
    return tuple(sorted(name for name in found if not name.startswith("pytest_sandboxes")))


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    """A node and all below it, without what is for type checkers alone."""
    yield node
    below: Iterable[ast.AST] = ast.iter_child_nodes(node)
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        below = node.orelse
    for child in below:
        yield from _executed(child)


@cache
def payload(*, same_interpreter: bool) -> bytes:
    """What to write to the new interpreter: compiled when it is the same as this one, else as source."""
    if same_interpreter:
        compiled = [
            (name, compile(source, f"{_PACKAGE}.{name}", "exec", dont_inherit=True, optimize=2))
            for name, source in shipped.sources(_PACKAGE, _MODULES)
        ]
        body = marshal.dumps((compile(shipped.LOADER, "agent", "exec", dont_inherit=True), compiled))
    else:
        body = shipped.program(_PACKAGE, _MODULES, _START).encode()
    return b"%010d" % len(body) + body
