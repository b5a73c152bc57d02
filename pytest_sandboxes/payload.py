"""The agent as bytes: what a launcher writes into a new sandbox's stream before the first frame.

The interpreter in the sandbox is started with `BOOTSTRAP` as its program. That reads the payload from
descriptor 0, closes whatever else it may have inherited, and becomes the agent. Nothing is installed, mounted
or imported there.
"""

from __future__ import annotations

import marshal
from functools import cache
from importlib.resources import files

# each only imports what stands before it
_MODULES = (
    "wire",
    "tree",
    "link",
    "processes",
    "confinement",
    "identity",
    "cleaning",
    "files",
    "spawn",
    "jobs",
    "main",
)
_PACKAGE = "pytest_sandboxes.agent"

BOOTSTRAP = (
    "import os, select\n"
    "os.closerange(3, 1 << 20)\n"
    "def read(size):\n"
    "    data = b''\n"
    "    while len(data) < size:\n"
    "        if not select.select([0], [], [], 60)[0]: os._exit(0)\n"
    "        piece = os.read(0, size - len(data))\n"
    "        if not piece: os._exit(0)\n"
    "        data += piece\n"
    "    return data\n"
    "load = read(int(read(10)))\n"
)
_RUN = """
import sys
def start(modules):
    parent = type(sys)("pytest_sandboxes")
    package = type(sys)("pytest_sandboxes.agent")
    parent.__path__ = package.__path__ = []
    sys.modules.update({parent.__name__: parent, package.__name__: package})
    for name, code in modules:
        module = type(sys)(package.__name__ + "." + name)
        sys.modules[module.__name__] = module
        setattr(package, name, module)
        exec(code, module.__dict__)
    sys.modules[package.__name__ + ".main"].Agent().run()
"""


def bootstrap(*, same_interpreter: bool) -> str:
    """The program for `python -ISE -c`; `same_interpreter` says that it is the very one that runs here."""
    if same_interpreter:
        return BOOTSTRAP + "import marshal\nrun, modules = marshal.loads(load)\nexec(run)\nstart(modules)\n"
    return BOOTSTRAP + "exec(compile(load, 'agent', 'exec'))\n"


@cache
def payload(*, same_interpreter: bool) -> bytes:
    """What to write to the new interpreter: compiled when it is the same as this one, else as source."""
    folder = files(_PACKAGE)
    sources = [(name, folder.joinpath(f"{name}.py").read_text("utf-8")) for name in _MODULES]
    if same_interpreter:
        compiled = [
            (name, compile(source, f"{_PACKAGE}.{name}", "exec", dont_inherit=True, optimize=2))
            for name, source in sources
        ]
        body = marshal.dumps((compile(_RUN, "agent", "exec", dont_inherit=True), compiled))
    else:
        body = f"{_RUN}start([(n, compile(s, n, 'exec')) for n, s in {sources!r}])\n".encode()
    return b"%010d" % len(body) + body
