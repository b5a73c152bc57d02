"""What becomes of a job: said to people once each, and to the runner what it has to act upon."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pytest_sandboxes.batch.runners.gcp.service import CALL_TIMEOUT, Service
from pytest_sandboxes.display import one_line

if TYPE_CHECKING:
    from google.cloud import batch_v1

_AGES_PER_LOOK = 10  # a job is looked at whenever it is so much older, and
_PAUSES = 0.5, 5.0  # seconds at least, and at most
_SHORTAGES = {
    "CODE_GCE_QUOTA_EXCEEDED": "quota",
    "CODE_GCE_ZONE_RESOURCE_POOL_EXHAUSTED": "stockout",
}
_WORDS = {"QUEUED": "queued", "SCHEDULED": "provisioning VMs", "RUNNING": "running"}
_ENDED = frozenset({"SUCCEEDED", "FAILED", "CANCELLED"})
_BEGUN_TASKS = ("RUNNING", "SUCCEEDED", "FAILED")
_ENDED_TASKS = frozenset({"SUCCEEDED", "FAILED", "UNEXECUTED"})


class Watch:
    """Of one job. Raises `BackendUnavailableError` where the service does not answer."""

    def __init__(self, service: Service, name: str, tell: Callable[[str], None]) -> None:
        self.name = name
        self.created = time.monotonic()
        self.has_begun = False
        """A task has run, some time."""
        self.has_ended = False
        self.trouble = ""
        """The last that the service has told of what keeps VMs from being there."""
        self._service = service
        self._tell = tell
        self._state = ""
        self._told: set[str] = set()
        self._looked = float("-inf")
        self._ended_tasks = 0

    def look(self) -> dict[int, int | None]:
        """Tasks that have ended of late, and the exit codes of those that say one; empty where there is no news."""
        from google.api_core.exceptions import NotFound

        now = time.monotonic()
        pause = sorted((*_PAUSES, (now - self.created) / _AGES_PER_LOOK))[1]
        if now - self._looked < pause or self.has_ended:
            return {}
        try:
            job = self._service.call(
                "batch", f"it cannot look at job {self.name}", self._get, passes=(NotFound,)
            )
        except NotFound:
            self.has_ended = True
            self.trouble = "somebody has deleted it"
            self._tell(f"job {self.name.rpartition('/')[2]} is gone: {self.trouble}")
            return {}
        self._looked = time.monotonic()
        state = job.status.state.name
        self._say(state, job.status.status_events)
        self.has_ended = state in _ENDED
        counts = [dict(group.counts) for group in job.status.task_groups.values()]
        # it may have been queued at one look, and over at the next
        self.has_begun = self.has_begun or any(each.get(name) for each in counts for name in _BEGUN_TASKS)
        ended = sum(count for each in counts for name, count in each.items() if name in _ENDED_TASKS)
        if not self.has_ended and ended == self._ended_tasks:
            return {}
        self._ended_tasks = ended
        return self._service.call("batch", f"it cannot look at tasks of {self.name}", self._tasks)

    def _get(self) -> batch_v1.Job:
        return self._service.batch.get_job(name=self.name, timeout=CALL_TIMEOUT, retry=None)

    def _tasks(self) -> dict[int, int | None]:
        found: dict[int, int | None] = {}
        request: Any = {"parent": f"{self.name}/taskGroups/group0", "page_size": 1000}
        for task in self._service.batch.list_tasks(request=request, timeout=CALL_TIMEOUT, retry=None):
            if task.status.state.name in _ENDED_TASKS:
                codes = [event.task_execution.exit_code for event in task.status.status_events]
                code = next((code for code in reversed(codes) if code), None)
                found[int(task.name.rpartition("/")[2])] = code
        return found

    def _say(self, state: str, events: Any) -> None:
        if state != self._state:
            self._state = state
            self._tell(f"job {self.name.rpartition('/')[2]} is {_WORDS.get(state, state.lower())}")
        for event in events:
            text = str(event.description)
            if "CODE_" in text and text not in self._told:
                self._told.add(text)
                words = [f"{word}: " for code, word in _SHORTAGES.items() if code in text]
                self.trouble = one_line("".join([*words[:1], text]), 500)
                self._tell(self.trouble)
