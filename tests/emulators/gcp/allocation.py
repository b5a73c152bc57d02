"""Whether there are VMs to be had. Where there are none, a job is not told by an error, but by events while it waits.

The sentences begin as in nextflow-io/nextflow issues 3061 and 5550, and have the codes of
https://cloud.google.com/batch/docs/troubleshooting.
"""

from __future__ import annotations

import asyncio
from typing import Literal, get_args

Shortage = Literal["quota", "stockout", "invalid"]
_SENTENCES: dict[str, str] = {
    "quota": "VM in Managed Instance Group meets error: Batch Error: code - CODE_GCE_QUOTA_EXCEEDED, description - error "
    "count is 1, latest message example: Instance '{instance}' creation failed: Quota 'CPUS' exceeded. Limit: 24.0 in "
    "region {region}.",
    "stockout": "VM in Managed Instance Group meets error: Batch Error: code - CODE_GCE_ZONE_RESOURCE_POOL_EXHAUSTED, "
    "description - error count is 1, latest message example: Instance '{instance}' creation failed: The zone "
    "'projects/{project}/zones/{region}-a' does not have enough resources available to fulfill the request. "
    "'(resource type:compute)'.",
    "invalid": "Job gets non-retryable information Batch Error: code - CODE_GCE_INVALID_FIELD_VALUE, description - "
    "Invalid value for field 'operation': ''. No zone supports all of the provided instance templates.",
}


class Allocation:
    """Of a region. Belongs to the emulator's loop."""

    def __init__(self) -> None:
        self._shortage: Shortage | None = None
        self._change = asyncio.Condition()

    async def withhold(self, shortage: Shortage) -> None:
        """Give out no VM."""
        if shortage not in get_args(Shortage):
            raise ValueError(f"no shortage is called {shortage!r}; there are {', '.join(get_args(Shortage))}")
        async with self._change:
            self._shortage = shortage
            self._change.notify_all()

    async def release(self) -> None:
        """Give out as many as are wanted."""
        async with self._change:
            self._shortage = None
            self._change.notify_all()

    @property
    def shortage(self) -> Shortage | None:
        """What keeps VMs from being made."""
        return self._shortage

    async def wait_for_change(self) -> None:
        """Wait until there is another shortage, or none."""
        async with self._change:
            await self._change.wait()

    def sentence(self, project: str, region: str, instance: str) -> str:
        """What the job's event says of the shortage."""
        assert self._shortage is not None
        return _SENTENCES[self._shortage].format(project=project, region=region, instance=instance)
