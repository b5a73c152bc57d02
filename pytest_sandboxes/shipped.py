"""Modules of ours as one program, for an interpreter to which nothing is installed."""

from __future__ import annotations

from importlib.resources import files

LOADER = """
import sys
def load(package, modules):
    names = package.split(".")
    for number in range(len(names)):
        parent = type(sys)(".".join(names[: number + 1]))
        parent.__path__ = []
        sys.modules[parent.__name__] = parent
    for name, code in modules:
        module = type(sys)(package + "." + name)
        sys.modules[module.__name__] = module
        setattr(parent, name, module)
        exec(code, module.__dict__)
    return module
"""
"""Defines `load(PACKAGE, [(NAME, CODE), …])`, which returns the last of the modules."""


def sources(package: str, modules: tuple[str, ...]) -> list[tuple[str, str]]:
    """Name and source of modules of a package."""
    folder = files(package)
    return [(name, folder.joinpath(f"{name}.py").read_text("utf-8")) for name in modules]


def program(package: str, modules: tuple[str, ...], entry: str) -> str:
    """A program that loads modules, of which each only imports what stands before it, and evaluates `entry`.

    `entry` sees the last of them as `last`.
    """
    found = sources(package, modules)
    return (
        f"{LOADER}last = load({package!r}, [(name, compile(source, name, 'exec')) for name, source in {found!r}])\n"
        f"{entry}\n"
    )
