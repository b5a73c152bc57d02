"""The programs of the shell that a sandbox runs: its main command, and what starts the agent beside it.

A sandbox of Modal's lives as long as its main command. That one ends with the agent: it waits at a named pipe for the
end of whoever has opened it for writing, which is the shell that waits for the agent. So the kernel tells it, whatever
has ended the agent: its controller's word, its own deadline without a heartbeat, or a kill. A sandbox that is parked is
one that has been told beforehand to wait for another agent.
"""

from __future__ import annotations

from collections.abc import Sequence

_LIFE_LINE = "/.pytest-sandboxes-alive"
_PARKED = "-parked"  # behind that, a file with the seconds that the sandbox waits for its next agent
ARRIVAL = 60
"""Seconds that a sandbox waits for its first agent before it ends."""
LOST_PIPE = 97
"""What the shell of an agent ends with when there is no main command to tell."""

# When its agent has ended, it may be told to wait for another: by a file that only root can make.
# The first writer is there for the agent to arrive meanwhile: it goes when the pipe has lost its name, which who has
# arrived takes away. The pipe gets that name when both its ends are open. Nobody but root may open it before.
# Who is not root shares all with the code anyway, and has no other place than that for everybody.
_PLACE = """life=$1
[ -w / ] || life=/tmp$1
"""
_MAIN = f"""umask 077
{_PLACE}patience=$2
while :; do
  mkfifo "$life-new" || exit 1
  (
    exec 9>"$life-new"
    mv "$life-new" "$life"
    seconds=0
    while [ -p "$life" ] && [ "$seconds" -lt "$patience" ]; do
      sleep 1
      seconds=$((seconds + 1))
    done
  ) &
  cat "$life-new" >/dev/null
  rm -f "$life"
  read -r patience <"$life{_PARKED}" || exit 0
  rm "$life{_PARKED}"
done 2>/dev/null"""

_AGENT = f"""{_PLACE}tries=0
until [ -p "$life" ]; do
  tries=$((tries + 1))
  [ "$tries" -lt 200 ] || exit {LOST_PIPE}
  sleep 0.1
done
exec 9>"$life"
rm "$life"
shift
unset SHLVL
for name in $(env | sed -n 's/^\\(MODAL_[A-Za-z0-9_]*\\)=.*/\\1/p'); do
  unset "$name"
done
while [ "$1" != -- ]; do
  mkdir -p "$1" || exit 1
  shift
done
shift
"$@" 9>&-
exit $?"""

_PROBE = """pwd
id -u
uname -m
until [ "$1" = -- ]; do
  [ -d "$1" ] && echo "$1"
  shift
done
echo --
shift
exec "$@" </dev/null 2>&1"""

CLOSE_PUBLIC_PLACES = (
    r"find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /tmp -o -path /var/tmp \) -prune"
    r" -o -perm -0002 \( -type d -o -type f \) -exec chmod o-w {} +"
)
"""A step of a build: closes what code of one lease could write to and that of the next could read, but for the places
that a reset cleans."""

QUEUES = "/dev/mqueue"
"""Where message queues can be seen, and removed."""
SHARED = ("/tmp", "/var/tmp", "/dev/shm", QUEUES)  # noqa: S108 - the sandbox's own
"""Places that any code may write to, where an image has them."""


def main_command() -> Sequence[str]:
    """What a sandbox is created with."""
    return ("sh", "-c", _MAIN, "sh", _LIFE_LINE, str(ARRIVAL))


def park_command(seconds: int) -> Sequence[str]:
    """Has the main command wait so long for another agent, once the one that is there has ended."""
    return ("sh", "-c", f'umask 077; echo "$2" >"$1{_PARKED}"', "sh", _LIFE_LINE, str(seconds))


def agent_command(python: Sequence[str], directories: Sequence[str]) -> Sequence[str]:
    """What starts an agent by `python`, a command with its program, once `directories` are there."""
    return ("sh", "-c", _AGENT, "sh", _LIFE_LINE, *directories, "--", *python)


def probe(python: Sequence[str], directories: Sequence[str]) -> Sequence[str]:
    """What tells of an image: its working directory, user, machine, and which of `directories` it has.

    Then comes what `python` says.
    """
    return ("sh", "-c", _PROBE, "sh", *directories, "--", *python)
