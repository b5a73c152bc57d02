"""Jobs that touch files: what tools of the image say of them, as an agent would answer."""

from __future__ import annotations

import errno
import os

from pytest_sandboxes.backends.docker.shell.execs import Exec
from pytest_sandboxes.backends.docker.shell.jobs import KILLED, Job, error_answer
from pytest_sandboxes.backends.docker.shell.listing import Listing
from pytest_sandboxes.backends.docker.shell.place import Place
from pytest_sandboxes.backends.docker.shell.tasks import Task


class FileJob(Job):
    """Something that is done with a file."""

    def _take_output(self, data: bytes) -> None:
        super()._take_output(data)
        if self.is_cut:
            self.to_kill = True  # the rest, perhaps the zeros of a huge sparse file, is for nobody

    def _answer(self, status: int) -> dict[str, object]:
        answer = super()._answer(status)
        enough = self.to_kill and not self.timed_out
        if "error" in answer or (status == KILLED and not enough):
            return answer
        if status and not enough:
            return error_answer(self._reason(), self.task.names["path"])
        del answer["status"]
        return answer | self._details()

    def _details(self) -> dict[str, object]:
        return {"size": self.written}

    def _reason(self) -> int:
        """The errno that a tool of the image has put into words."""
        said = bytes(self.complaint)
        for number in errno.errorcode:
            if os.strerror(number).encode() in said:
                return number
        return errno.EIO


class ListJob(FileJob):
    """A listing."""

    def __init__(self, place: Place, number: int, task: Task, listing: Listing) -> None:
        super().__init__(place, number, task)
        self._listing = listing

    def _take_output(self, data: bytes) -> None:
        if not self._listing.feed(data):
            self.to_kill = True

    def _finish(self, process: Exec) -> None:
        if self.failure is None:
            for entry in self._listing.entries():
                super()._take_output(entry)
        super()._finish(process)

    def _details(self) -> dict[str, object]:
        return {"truncated": self._listing.truncated}
