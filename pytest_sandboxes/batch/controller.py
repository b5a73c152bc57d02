"""A plugin of the pytest that the user has started, in batch mode: it collects, sends, and reports.

Its `pytest_runtestloop` takes the place of pytest's own. Options that run no test are left to pytest.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_sandboxes.batch import bundle as bundles
from pytest_sandboxes.batch import environment as environments
from pytest_sandboxes.batch import shard
from pytest_sandboxes.batch.durations import Durations
from pytest_sandboxes.batch.partition import count_shards, partition
from pytest_sandboxes.batch.relay import Relay
from pytest_sandboxes.batch.replay import Replay
from pytest_sandboxes.batch.runners.base import Order, Terminated
from pytest_sandboxes.batch.runners.choice import Choice, chosen
from pytest_sandboxes.batch.runners.handover import Project
from pytest_sandboxes.batch.wheels import OWN
from pytest_sandboxes.batch.workplace import Workplace
from pytest_sandboxes.display import one_line
from pytest_sandboxes.errors import ConfigurationError
from pytest_sandboxes.profiles.profile import Profile
from pytest_sandboxes.reporting.progress import TerminalProgress
from pytest_sandboxes.reporting.scrub import clean
from pytest_sandboxes.reporting.status import Status
from pytest_sandboxes.run import Run, is_sandbox_test
from pytest_sandboxes.settings.settings import Settings
from pytest_sandboxes.supply import check_backend_name
from pytest_sandboxes.wording import counted

if TYPE_CHECKING:
    from pytest_sandboxes.batch.runners.base import Runner

_EMPTY = "/.pytest-sandboxes/empty.ini"
"""Stands for the absence of a configuration file."""
_RUNS_NO_TEST = ("collectonly", "setupplan")
_NOT_ELSEWHERE = {
    "usepdb": "--pdb",
    "trace": "--trace",
    "setuponly": "--setup-only",
}
_OF_IMAGES = ("image", "setup", "docker", "modal")
"""Fields of a profile that say which image a sandbox is of."""
_NARROWING = ("lf", "stepwise")
"""Options by which the controller, which has the cache, leaves out tests that a shard collects."""


def check_options(config: pytest.Config, settings: Settings) -> None:
    """Raise `ConfigurationError` for what cannot be had of tests that run elsewhere."""
    why = f"batch mode ({settings.mode_source}) runs tests in other processes"
    if any(config.getoption(option, default=False) for option in _RUNS_NO_TEST):
        return
    for option, flag in _NOT_ELSEWHERE.items():
        if config.getoption(option, default=False):
            raise ConfigurationError(
                f"{why}, where {flag} cannot work: use --sandbox-mode interactive with it"
            )
    if config.getoption("dist", default="no") == "each" and _workers(config):
        raise ConfigurationError(
            f"{why} and reports each of them once, but --dist each runs them in every worker: use another --dist, or "
            "--sandbox-mode interactive"
        )
    for setting in ("keep_failed", "keep", "budget"):
        if getattr(settings, setting):
            raise ConfigurationError(
                f"{settings.source(setting)}: {why}, each with sandboxes of its own, which end with it and are not "
                f"counted together: drop it, or use --sandbox-mode interactive"
            )
    if len(settings.backends) > 1 and "gcp" in settings.backends:
        raise ConfigurationError(
            f"{settings.source('backends')} is {','.join(settings.backends)!r}, but backend gcp runs whole tests, and "
            "cannot be one of several: name it alone, and the backend inside as gcp: {backend: NAME} in the profile"
        )
    try:
        distribution(OWN)
    except PackageNotFoundError:
        raise ConfigurationError(
            f"{why} and installs this plugin for them, but here it can only be imported: python -m pip install {OWN}"
        ) from None
    if settings.isolation == "none":
        raise ConfigurationError(_no_isolation(settings.source("isolation")))


def leave_workers_to_shards(config: pytest.Config) -> None:
    """Keep pytest-xdist from starting workers here; shards get the same command line, and start theirs."""
    nobody: dict[str, object] = {"numprocesses": None, "tx": [], "dist": "no", "distload": False}
    for name, value in nobody.items():
        if hasattr(config.option, name):
            setattr(config.option, name, value)


def _no_isolation(source: str) -> str:
    return (
        f"{source} is 'none', but batch mode runs shards beside each other, whose code has to be isolated: remove it, "
        "or use --sandbox-mode interactive for code that you trust"
    )


class Batch:
    """Registered in batch mode, after `check_options`."""

    def __init__(
        self, config: pytest.Config, settings: Settings, get_run: Callable[[pytest.Config], Run]
    ) -> None:
        """`get_run` makes the session's run; raises `ConfigurationError`."""
        self._config = config
        self._settings = settings
        self._get_run = get_run
        self._workers = _workers(config)
        self._lines: list[str] = []
        self._has_failed = False
        self._status: Status | None = None
        leave_workers_to_shards(config)

    # -- before the first test

    def check(self, items: Sequence[pytest.Item]) -> None:
        """Check what tests ask for, as far as that does not take the place where they run.

        Raises `ConfigurationError`.
        """
        run = self._get_run(self._config)
        main = self._profile()
        for item in items:
            requirement = run.requirement(item)
            needs = is_sandbox_test(item)
            if needs and requirement.profile.secrets:
                raise ConfigurationError(
                    f"{requirement.profile.source('secrets')} asks for secrets, and batch mode carries none to its "
                    "shards: use --sandbox-mode interactive for these tests"
                )
            if needs and requirement.profile.isolation == "none":
                raise ConfigurationError(_no_isolation(requirement.profile.source("isolation")))
            if requirement.profile.gcp != main.gcp and self._settings.runner == "gcp":
                raise ConfigurationError(
                    f"{requirement.profile.source('gcp')}: section gcp of profile {requirement.profile.name!r} is not "
                    f"that of profile {main.name!r} ({self._settings.source('profile')}), but one job runs all tests: "
                    "have one profile extend the other, or run them apart"
                )

    def _profile(self) -> Profile:
        """That of tests that name none, whose section says where the runner gcp goes."""
        settings = self._settings
        return self._get_run(self._config).profiles.get(settings.profile, settings.source("profile"))

    def pytest_report_collectionfinish(self, items: Sequence[pytest.Item]) -> str | None:
        """Say that there is nothing to send."""
        if items:
            return None
        return "sandboxes: batch mode has no tests to run; pytest --collect-only shows what is collected"

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Run the tests in shards."""
        option = session.config.option
        if any(getattr(option, name, False) for name in _RUNS_NO_TEST):
            return None
        if session.testsfailed and not option.continue_on_collection_errors:
            return None  # pytest's own says so
        if session.items:
            try:
                self._run(session)
            except ConfigurationError as error:
                raise pytest.UsageError(str(error)) from None
            except Terminated as end:
                pytest.exit(str(end), returncode=end.code)
        return True

    def _run(self, session: pytest.Session) -> None:
        _check_ids(session.items)
        durations = Durations(self._config)
        progress = TerminalProgress(self._config)
        place = chosen(self._profile(), self._settings, self._workers, self._say, progress)
        with (
            place as choice,
            Workplace() as workplace,
            self._sent(session, workplace.path, choice) as (runner, order, digest),
        ):
            wanted = self._settings.shards
            if wanted is None:
                wanted = count_shards(
                    session.items, durations.recorded, runner.width, runner.seconds_worthwhile
                )
            parts = partition(session.items, durations.recorded, wanted, self._image)
            relay = Relay(
                runner,
                Replay(session, durations),
                order,
                expected=shard.versions(digest),
                collected=[item.nodeid for item in session.items],
                retries=min(1, self._settings.infra_retries),
                one_by_one=not self._workers,
                has_errors=session.testsfailed > 0,
            )
            self._say(
                f"{counted(len(session.items), 'test')} in {counted(len(parts), 'shard')}, at most "
                f"{runner.width} at once"
            )
            try:
                with self._shown(lambda: f"sandboxes: {relay.progress}"):
                    relay.run(parts)
            finally:
                durations.save()
                self._has_failed = relay.has_failed
                self._lines += [f"lost: {each}" for each in relay.losses]

    @contextmanager
    def _shown(self, words: Callable[[], str]) -> Iterator[None]:
        """Have a terminal show these words while the shards run."""
        self._status = Status(self._config, words)
        self._config.pluginmanager.register(self._status, "sandboxes-status")
        with closing(self._status):
            self._status.begin()
            yield

    @contextmanager
    def _sent(
        self, session: pytest.Session, folder: Path, choice: Choice
    ) -> Iterator[tuple[Runner, Callable[[str, Sequence[pytest.Item]], Order], str]]:
        """The runner with all that shards need, what makes their orders, and the bundle's digest."""
        root = self._config.rootpath
        configuration = _configuration(self._config)
        if choice.backend is not None:  # a shard would say so as well, on a VM that is paid for
            check_backend_name(
                self._config, choice.backend, f"{self._profile().source('gcp.backend')}, gcp.backend"
            )
        try:
            bundle, environment = self._packed(session, folder, choice, configuration)
        except OSError as error:
            raise ConfigurationError(_cannot_pack(error, folder)) from None
        for note in (*bundle.notes, *environment.notes):
            self._say(note)
        project = Project(bundle.archive, environment.archive, root, self._config.invocation_params.dir)
        runner = choice.make(folder, project)
        narrowed = any(getattr(self._config.option, name, False) for name in _NARROWING)
        digest = None if narrowed else shard.digest(item.nodeid for item in session.items)
        variables = _variables(root, environment.python_path)
        arguments = self._arguments(configuration, choice)

        def order(name: str, items: Sequence[pytest.Item]) -> Order:
            spec = {"nodeids": [item.nodeid for item in items], "digest": digest, "empty": _EMPTY}
            return Order(name, arguments, variables, spec)

        try:
            yield runner, order, bundle.archive.sha256
        finally:
            runner.close()

    def _packed(
        self, session: pytest.Session, folder: Path, choice: Choice, configuration: Path | None
    ) -> tuple[bundles.Bundle, environments.Environment]:
        """What is sent. Raises `ConfigurationError`, and OSError for what cannot be read or written."""
        root = self._config.rootpath
        with TerminalProgress(self._config)("bundle") as update:
            bundle = bundles.build(root, folder / "project.tar", never=self._settings.secrets_file)
            settled = filter(None, [configuration, self._settings.profiles_file])
            files = [*(item.path for item in session.items), *_conftests(self._config), *settled]
            bundles.check_holds(bundle, root, files)
            update(f"{counted(len(bundle.files), 'file')}, {bundles.size(bundle.archive.size)}")
        with TerminalProgress(self._config)("Python environment") as update:
            wheelhouse = self._settings.wheelhouse
            needed = environments.needs(self._backends(session.items, choice), self._workers)
            if wheelhouse is None:
                cache: pytest.Cache | None = getattr(self._config, "cache", None)
                kept = None if cache is None else cache.mkdir("sandboxes-wheels")
                environment = environments.of_this_process(root, folder, kept, needed)
            else:
                environment = environments.of_wheelhouse(
                    wheelhouse, self._settings.source("wheelhouse"), folder, needed
                )
            update(f"{counted(environment.wheels, 'wheel')}, {bundles.size(environment.archive.size)}")
        return bundle, environment

    def _image(self, item: pytest.Item) -> str | None:
        """Stands for what a shard has to have before it can run a test; None if that is nothing."""
        if not is_sandbox_test(item):
            return None
        profile = self._get_run(self._config).requirement(item).profile
        return repr([getattr(profile, name) for name in _OF_IMAGES])

    def _backends(self, items: Sequence[pytest.Item], choice: Choice) -> Sequence[str]:
        """Those that tests use inside the shards."""
        if not any(is_sandbox_test(item) for item in items):
            return ()
        return self._settings.backends if choice.backend is None else (choice.backend,)

    def _arguments(self, configuration: Path | None, choice: Choice) -> list[str]:
        """The command line, and over it what must not be looked for there."""
        config = self._config
        confcutdir = config.getoption("confcutdir") or (
            config.rootpath if configuration is None else configuration.parent
        )
        own = [
            *("-p", "pytest_sandboxes.batch.shard"),
            f"--rootdir={config.rootpath}",
            f"--config-file={_EMPTY if configuration is None else configuration}",
            f"--confcutdir={confcutdir}",
            "--sandbox-mode=interactive",
        ]
        if choice.backend is not None:
            own.append(f"--sandbox-backend={choice.backend}")
        if self._settings.max_sandboxes is not None:
            own.append(f"--sandbox-max-sandboxes={self._settings.max_sandboxes // choice.width}")
        if config.pluginmanager.has_plugin("cacheprovider"):
            own += ["-o", "cache_dir=.pytest_cache"]  # the controller's is its own
        given = [str(each) for each in config.invocation_params.args]
        at = given.index("--") if "--" in given else len(given)
        return [*given[:at], *own, *given[at:]]

    def _say(self, text: str) -> None:
        terminal: Any = self._config.pluginmanager.get_plugin("terminalreporter")
        if self._status is not None:
            self._status.clear()
        if terminal is not None:
            terminal.ensure_newline()
            terminal.write_line(f"sandboxes: {text}")

    # -- the end

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """What shards have done wrong after their last tests is no success of the run."""
        if self._has_failed and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.INTERNAL_ERROR

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Name the shards that were lost."""
        if self._lines:
            terminalreporter.section("shards")
            for line in self._lines:
                terminalreporter.write_line(clean(line))


def _check_ids(items: Sequence[pytest.Item]) -> None:
    seen = set()
    for item in items:
        if item.nodeid in seen:
            raise ConfigurationError(
                f"batch mode: {one_line(item.nodeid)} is there twice, so that nobody can tell which one a shard has "
                "run: name each test once, and drop --keep-duplicates"
            )
        seen.add(item.nodeid)


def _cannot_pack(error: OSError, folder: Path) -> str:
    why = f"batch mode cannot pack what it sends: {error.strerror or error}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"{why}, in {one_line(str(folder.parent))} or in pytest's cache: make room, or name another directory "
            "with TMPDIR"
        )
    return (
        f"{why}: {one_line(str(error.filename))}: have this account read it, or git rm --cached what the tests do not "
        "need"
    )


def _workers(config: pytest.Config) -> int:
    """How many workers of pytest-xdist each shard will have."""
    return len(config.getoption("tx", default=None) or ())


def _configuration(config: pytest.Config) -> Path | None:
    """The configuration file that counts; None where there is none, or nothing in it."""
    path = config.inipath
    if path is None or path == Path(os.devnull):
        return None
    return path


def _conftests(config: pytest.Config) -> list[Path]:
    """Conftest files of the project that were loaded."""
    modules = config.pluginmanager.get_plugins()
    files = [getattr(module, "__file__", None) for module in modules]
    found = [Path(file) for file in files if file and Path(file).name == "conftest.py"]
    return [path for path in found if path.is_relative_to(config.rootpath)]


def _variables(root: Path, python_path: Sequence[Path]) -> dict[str, str]:
    """Variables beside those that a runner lets through: settings, and where else Python finds code of the project."""
    given = [Path(each).absolute() for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each]
    inside = [each for each in (*given, *python_path) if each.is_relative_to(root)]
    return {"PYTHONPATH": os.pathsep.join(map(str, dict.fromkeys(inside)))} if inside else {}
