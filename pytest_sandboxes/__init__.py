"""Run untrusted code and coding-agent benchmarks as pytest suites, in isolated slots leased from a pool of sandboxes.

Most users need only the fixtures `sandbox`, `sandbox_factory` and `sandbox_pool`, and the marker `sandbox`. What stands
here is imported when it is first used, because pytest imports this package in every run.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_sandboxes.errors import (
        AcquireTimeoutError,
        BudgetExceededError,
        CommandFailedError,
        ConfigurationError,
        CredentialsRefusedError,
        ExecTimeoutError,
        InfrastructureError,
        IsolationUnavailableError,
        LeaseClosedError,
        ManyCallsError,
        MemoryLimitExceededError,
        OutputLimitExceededError,
        PoolClosedError,
        QuotaExceededError,
        RateLimitedError,
        SandboxesError,
        SandboxLostError,
        SandboxStartError,
        ServiceUnavailableError,
        SetupFailedError,
        UnsupportedError,
    )
    from pytest_sandboxes.many_calls import exec_many
    from pytest_sandboxes.pool.pool import Pool
    from pytest_sandboxes.pool.statistics import Statistics
    from pytest_sandboxes.process import AsyncProcess, Process
    from pytest_sandboxes.profiles.profile import Profile
    from pytest_sandboxes.results import ExecResult, FileBytes, FileEntry, FileText, Listing
    from pytest_sandboxes.slot import AsyncSlot, Slot
    from pytest_sandboxes.standalone import get_backend
    from pytest_sandboxes.tasks import Task, load_tasks
    from pytest_sandboxes.tool_calls import ToolResult

_HOMES = {
    "errors": (
        "AcquireTimeoutError",
        "BudgetExceededError",
        "CommandFailedError",
        "ConfigurationError",
        "CredentialsRefusedError",
        "ExecTimeoutError",
        "InfrastructureError",
        "IsolationUnavailableError",
        "LeaseClosedError",
        "ManyCallsError",
        "MemoryLimitExceededError",
        "OutputLimitExceededError",
        "PoolClosedError",
        "QuotaExceededError",
        "RateLimitedError",
        "SandboxLostError",
        "SandboxStartError",
        "ServiceUnavailableError",
        "SandboxesError",
        "SetupFailedError",
        "UnsupportedError",
    ),
    "many_calls": ("exec_many",),
    "pool.pool": ("Pool",),
    "pool.statistics": ("Statistics",),
    "process": ("AsyncProcess", "Process"),
    "profiles.profile": ("Profile",),
    "results": ("ExecResult", "FileBytes", "FileEntry", "FileText", "Listing"),
    "slot": ("AsyncSlot", "Slot"),
    "standalone": ("get_backend",),
    "tasks": ("Task", "load_tasks"),
    "tool_calls": ("ToolResult",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AcquireTimeoutError",
    "AsyncProcess",
    "AsyncSlot",
    "BudgetExceededError",
    "CommandFailedError",
    "ConfigurationError",
    "CredentialsRefusedError",
    "ExecResult",
    "ExecTimeoutError",
    "FileBytes",
    "FileEntry",
    "FileText",
    "InfrastructureError",
    "IsolationUnavailableError",
    "LeaseClosedError",
    "Listing",
    "ManyCallsError",
    "MemoryLimitExceededError",
    "OutputLimitExceededError",
    "Pool",
    "PoolClosedError",
    "Process",
    "Profile",
    "QuotaExceededError",
    "RateLimitedError",
    "SandboxLostError",
    "SandboxStartError",
    "SandboxesError",
    "ServiceUnavailableError",
    "SetupFailedError",
    "Slot",
    "Statistics",
    "Task",
    "ToolResult",
    "UnsupportedError",
    "exec_many",
    "get_backend",
    "load_tasks",
]


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
