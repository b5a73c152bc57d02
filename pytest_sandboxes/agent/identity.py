"""Who the code of a slot runs as."""

from __future__ import annotations

import os

_NOBODYS = 65_533
"""The id of a user that runs nothing."""

TYPE_CHECKING = False  # `typing` is not worth its import time here
if TYPE_CHECKING:
    from types import TracebackType


class Identity:
    """Whoever the agent is."""

    def become(self) -> None:
        """Be that user from now on, for good."""

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class UserIdentity(Identity):
    """A user and a group of its own, under an agent that is root.

    As a context manager, this process itself acts as that user, with a way back. What it starts meanwhile has none, for
    a program that is executed forgets the saved ids: so a command is started at the price of a vfork. Others of that
    user may take the agent for one of theirs for so long. As the first process of its namespace, and not dumpable, it
    gets no signal and no tracer from them.
    """

    def __init__(self, uid: int, gid: int) -> None:
        self.uid = uid
        self.gid = gid

    def signal_all(self, number: int) -> None:
        """Signal every process of that user, and no other's, in one step that no fork escapes."""
        # As root it would be everybody's. Its rights are the effective user's; by the real and the saved one it is told
        # who may signal this process meanwhile, and that is none of the user's.
        os.setresuid(_NOBODYS, self.uid, 0)
        try:
            os.kill(-1, number)
        except OSError:  # there is none
            pass
        finally:
            os.setresuid(0, 0, 0)

    def become(self) -> None:
        """See `Identity.become`."""
        os.setgroups([])
        os.setresgid(self.gid, self.gid, self.gid)
        os.setresuid(self.uid, self.uid, self.uid)

    def __enter__(self) -> None:
        os.setgroups([])
        os.setresgid(self.gid, self.gid, 0)
        os.setresuid(self.uid, self.uid, 0)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
