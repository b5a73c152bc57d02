"""Where code can write: its workspace and the places for everybody, each of them bounded, and nowhere else."""

from __future__ import annotations

import posixpath

import pytest

from pytest_sandboxes import Slot
from tests.conformance.attacks import SYSTEM_CALLS
from tests.conformance.capabilities import Capability
from tests.conformance.helpers import GENEROUS, python

pytestmark = pytest.mark.needs(Capability.ISOLATION)


def _places_of_neighbours(promised: frozenset[Capability]) -> list[str]:
    """Where other tests at this time may have made what is open to everybody."""
    return [] if Capability.OWN_SANDBOX in promised else ["/tmp", "/var/tmp", "/dev/shm"]


@pytest.mark.needs(Capability.PYTHON)
def test_no_other_directory_takes_a_file(sandbox: Slot, promised: frozenset[Capability]) -> None:
    code = """
import sys
taken = set()
def is_neighbours(folder):
    return folder.startswith(tuple(sys.argv[1:])) and os.stat(folder).st_uid not in (0, os.getuid())
for folder, folders, _ in os.walk("/"):
    if attempt(is_neighbours, folder) is not False:
        folders.clear()
        continue
    if folder == "/":
        folders.remove("proc")
    opened = attempt(os.open, os.path.join(folder, "planted"), os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    made = attempt(os.mkdir, os.path.join(folder, "planted folder"))
    linked = attempt(os.symlink, "x", os.path.join(folder, "planted link"))
    if isinstance(opened, int) or made is None or linked is None:
        taken.add(folder)
    if isinstance(opened, int):
        os.close(opened)
print(*sorted(taken), sep="\\n")
"""
    places = [f"{place}/" for place in _places_of_neighbours(promised)]
    result = python(sandbox, SYSTEM_CALLS + code, *places, timeout=GENEROUS)
    home = sandbox.sh("echo $HOME").stdout.strip()
    own = {sandbox.workspace, "/tmp", "/dev/shm", home}
    temporary = sandbox.sh("echo $TMPDIR").stdout.strip()
    may = own | {"/var/tmp", "/dev/mqueue", temporary}
    if home.startswith("/home/"):
        may.add(posixpath.dirname(home))
    allowed = may | {f"{folder}/planted folder" for folder in may}
    taken = set(result.stdout.splitlines())
    assert own <= taken <= allowed, taken ^ own


@pytest.mark.needs(Capability.PYTHON)
def test_no_file_that_was_there_before_can_be_changed(sandbox: Slot, promised: frozenset[Capability]) -> None:
    find = "find / -not -type l -not -type d -writable -not -path '/proc/[0-9]*'"
    for place in _places_of_neighbours(promised):
        find += rf" -not \( -path '{place}/*' -not -user 0 -not -user $(id -u) \)"
    code = "import sys\nfor path in sys.stdin.read().split():\n"
    code += "    if isinstance(attempt(os.open, path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY), int): print(path)"
    script = f'{find} 2>/dev/null | python3 -I -S -c "$CODE"'
    writable = set(sandbox.sh(script, env={"CODE": SYSTEM_CALLS + code}, timeout=GENEROUS).stdout.split())
    assert "/dev/null" in writable
    devices = {"full", "null", "ptmx", "pts/ptmx", "random", "tty", "urandom", "zero"}
    # triggers for whoever opens them, of no effect on others
    triggers = {f"/proc/pressure/{name}" for name in ("cpu", "io", "irq", "memory")}
    # Docker lays /dev/null over what nobody is to see
    nothing = {path for path in writable if sandbox.exec("test", path, "-ef", "/dev/null").success}
    assert writable <= {f"/dev/{name}" for name in devices} | triggers | nothing


@pytest.mark.needs(Capability.PYTHON)
def test_no_setting_of_the_kernel_can_be_changed(sandbox: Slot) -> None:
    code = """
for folder, _, names in os.walk("/proc/sys"):
    for name in names:
        path = os.path.join(folder, name)
        try:
            with open(path, "rb") as file:
                content = file.read()
        except OSError:
            continue
        opened = attempt(os.open, path, os.O_WRONLY)
        if isinstance(opened, int) and isinstance(attempt(os.write, opened, content), int):
            print(path)
"""
    result = python(sandbox, SYSTEM_CALLS + code, timeout=GENEROUS)
    assert (result.stdout, result.stderr) == ("", "")


@pytest.mark.needs(Capability.PYTHON)
def test_own_files_of_proc_give_no_power(sandbox: Slot) -> None:
    code = """
for name, order in (("uid_map", b"0 0 1"), ("gid_map", b"0 0 1"), ("oom_score_adj", b"-1000"), ("loginuid", b"0"),
                    ("timerslack_ns", b"1"), ("setgroups", b"allow"), ("projid_map", b"0 0 1")):
    for process in ("self", "1"):
        opened = attempt(os.open, f"/proc/{process}/{name}", os.O_WRONLY)
        if isinstance(opened, int) and isinstance(attempt(os.write, opened, order), int):
            print(process, name)
"""
    written = set(python(sandbox, SYSTEM_CALLS + code).stdout.splitlines())
    assert written <= {"self timerslack_ns", "self loginuid"}


@pytest.mark.needs(Capability.QUOTAS)
@pytest.mark.sandbox(disk=4)
@pytest.mark.parametrize(("place", "megabytes"), [(".", 4), ("/tmp", 4), ("$HOME", 4), ("/dev/shm", 64)])
def test_every_place_is_bounded(sandbox: Slot, place: str, megabytes: int) -> None:
    script = (
        f"cd {place}; for i in 1 2 3; do head -c 40m /dev/zero > file$i; done 2>/dev/null; du -sk . | cut -f1"
    )
    written = int(sandbox.sh(script).stdout)
    assert 0 < written <= megabytes << 10
    inodes = int(sandbox.sh(f"stat -f -c %c {place}").stdout)
    assert inodes > 0
