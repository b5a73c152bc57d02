"""The options of `docker run` in a container runnable, which is a string of its own in Batch."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import dataclass
from typing import Any, NoReturn


class OptionError(Exception):
    """An option that is not done here; says which."""


@dataclass(frozen=True)
class Options:
    """What the options say, in the words of the Engine's API."""

    network: str
    """Empty where nothing is said of it."""
    environment: dict[str, str]
    config: dict[str, Any]
    host_config: dict[str, Any]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise OptionError(message)


def _parser() -> _Parser:
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--network", "--net", default="")
    parser.add_argument("--env", "-e", action="append", default=[])
    parser.add_argument("--user", "-u", dest="User")
    parser.add_argument("--workdir", "-w", dest="WorkingDir")
    parser.add_argument("--hostname", "-h", dest="Hostname")
    parser.add_argument("--privileged", action="store_true")
    parser.add_argument("--init", action="store_true")
    parser.add_argument("--read-only", action="store_true")
    parser.add_argument("--rm", action="store_true")
    parser.add_argument("--ipc", default="")
    parser.add_argument("--cap-add", action="append")
    parser.add_argument("--cap-drop", action="append")
    parser.add_argument("--security-opt", action="append")
    parser.add_argument("--tmpfs", action="append", default=[])
    parser.add_argument("--memory", "-m", type=_bytes, default=0)
    parser.add_argument("--shm-size", type=_bytes, default=0)
    parser.add_argument("--cpus", type=float, default=0.0)
    parser.add_argument("--pids-limit", type=int, default=0)
    return parser


def parse_options(text: str) -> Options:
    """Raises `OptionError` for what is not done here."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise OptionError(str(error)) from error
    said = _parser().parse_args(words)
    wanted = {
        "Privileged": said.privileged,
        "Init": said.init,
        "ReadonlyRootfs": said.read_only,
        "IpcMode": said.ipc,
        "CapAdd": said.cap_add,
        "CapDrop": said.cap_drop,
        "SecurityOpt": said.security_opt,
        "Tmpfs": dict(_pair(each, ":") for each in said.tmpfs),
        "Memory": said.memory,
        "ShmSize": said.shm_size,
        "NanoCpus": int(said.cpus * 1e9),
        "PidsLimit": said.pids_limit,
    }
    return Options(
        network=said.network,
        environment=dict(_pair(each, "=") for each in said.env),
        config={name: value for name in ("User", "WorkingDir", "Hostname") if (value := getattr(said, name))},
        host_config={name: value for name, value in wanted.items() if value},
    )


def _pair(text: str, separator: str) -> tuple[str, str]:
    first, _, second = text.partition(separator)
    return first, second


def _bytes(text: str) -> int:
    unit = {"b": 0, "k": 10, "m": 20, "g": 30}.get(text[-1:].lower())
    return int(text) if unit is None else int(text[:-1]) << unit
