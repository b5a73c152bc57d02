"""pytest's hooks: options, marker, fixtures, header, summary. Imported in every run, so it imports next to nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from pytest_sandboxes.errors import ConfigurationError
from pytest_sandboxes.settings import settings as settings_module
from pytest_sandboxes.settings.settings import Settings, read_settings

if TYPE_CHECKING:
    from pytest_sandboxes.batch.controller import Batch
    from pytest_sandboxes.pool.pool import Pool
    from pytest_sandboxes.run import Run
    from pytest_sandboxes.sharing.hooks import Sharing
    from pytest_sandboxes.sharing.shared_pool import SharedPool, SharedSupply
    from pytest_sandboxes.slot import Slot
    from pytest_sandboxes.supply import Supply

__tracebackhide__ = True  # a failing test shows its own line, not ours

_settings = pytest.StashKey[Settings]()
_run = pytest.StashKey["Run"]()
_sharing: pytest.StashKey[Sharing] = pytest.StashKey()
_batch: pytest.StashKey[Batch] = pytest.StashKey()
_failed = pytest.StashKey[bool]()

_REFUSAL = "sandboxes_refusal"
_CHANNEL, _PROFILES = (
    "sandboxes_channel",
    "sandboxes_profiles",
)  # keys of what each worker of pytest-xdist is given
_RUNS_NOTHING = ("collectonly", "setupplan", "showfixtures", "show_fixtures_per_test")
_IN_ORDER = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)

MARKER = (
    "sandbox(profile, slots, exec_timeout, retry_safe, **fields): what a test asks for of its sandbox: a profile by "
    "name, how many slots at once, the seconds that a command may take, whether the test may be repeated after it lost "
    "its sandbox, and any field of a profile"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    settings_module.add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Add the hooks that others can implement."""
    from pytest_sandboxes import hooks

    pluginmanager.add_hookspecs(hooks)


def pytest_configure(config: pytest.Config) -> None:
    """Read and check the settings; a mistake ends the run here."""
    config.addinivalue_line("markers", MARKER)
    if config.option.help:
        return
    try:
        settings = config.stash[_settings] = read_settings(config)
        if settings.is_batch and not hasattr(config, "workerinput"):
            _prepare_batch(config, settings)
        if settings.sources or settings.profile_variables:  # something was set: check it all, used or not
            _get_run(config)
    except ConfigurationError as error:
        raise pytest.UsageError(str(error)) from None


def _prepare_batch(config: pytest.Config, settings: Settings) -> None:
    from pytest_sandboxes.batch import controller

    controller.check_options(config, settings)
    batch = config.stash[_batch] = controller.Batch(config, settings, _get_run)
    config.pluginmanager.register(batch, "sandboxes-batch")


def _get_run(config: pytest.Config) -> Run:
    """The session's run, made when it is needed first."""
    run = config.stash.get(_run, None)
    if run is None:
        run = config.stash[_run] = _make_run(config)
    return run


def _make_run(config: pytest.Config) -> Run:
    from pytest_sandboxes.profiles.catalog import load_profiles
    from pytest_sandboxes.run import Run

    settings = config.stash[_settings]
    supply: Supply | SharedSupply
    worker = getattr(config, "workerinput", {})
    if _CHANNEL not in worker:
        from pytest_sandboxes.reporting.redaction import Redaction
        from pytest_sandboxes.reporting.status import Status, Waiting
        from pytest_sandboxes.supply import Supply, make_backends, make_secrets

        secrets = make_secrets(settings)
        config.pluginmanager.register(Redaction(secrets), "sandboxes-redaction")
        backends = make_backends(config, settings, secrets)
        profiles = load_profiles(settings)
        supply = Supply(backends, settings, profiles, config.rootpath)
        if _batch not in config.stash:  # which shows how far its shards are
            status = Status(config, Waiting(supply.pool.statistics))
            config.pluginmanager.register(status, "sandboxes-status")
    else:  # in a worker of pytest-xdist
        from pytest_sandboxes.sharing.messages import unpack_profiles
        from pytest_sandboxes.sharing.shared_pool import SharedSupply

        known = worker.get(_PROFILES)  # the controller's, where anything sets them
        profiles = load_profiles(Settings()) if known is None else unpack_profiles(known)
        supply = SharedSupply(worker[_CHANNEL], profiles)
    run = Run(config, settings, profiles, supply)
    if (
        _sharing not in config.stash and _batch not in config.stash
    ):  # else the tests run in workers, or in shards
        from pytest_sandboxes.reporting.outcomes import Outcomes

        config.pluginmanager.register(_Phases(run), "sandboxes-phases")
        config.pluginmanager.register(Outcomes(run), "sandboxes-outcomes")
    return run


def pytest_report_header(config: pytest.Config) -> str:
    """Say where sandboxes would run."""
    settings = config.stash[_settings]
    places = [] if settings.profiles_file is None else [str(settings.profiles_file)]
    if settings.profile_variables:
        places.append("the environment")
    profiles = f", profiles from {' and '.join(places)}" if places else ""
    isolation = "" if settings.isolation is None else f", isolation {settings.isolation}"
    mode = f", batch mode on runner {settings.runner}" if settings.is_batch else ""
    return f"sandboxes: backend {', '.join(settings.backends)}, profile {settings.profile}{profiles}{isolation}{mode}"


def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """List the profiles instead of running tests, where asked to."""
    try:
        if config.option.help or config.option.version or not read_settings(config).list_profiles:
            return None
    except ConfigurationError:
        return None  # `pytest_configure` says so
    config._do_configure()
    try:
        from pytest_sandboxes.profiles.listing import describe

        print(describe(_get_run(config).pool.profiles()))  # noqa: T201 - this is what was asked for
    finally:
        config._ensure_unconfigure()
    return 0


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark a test with what its task asks for."""
    tasks = sys.modules.get("pytest_sandboxes.tasks")
    if tasks is not None:  # else nobody has loaded any
        tasks.mark_item(item)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """With several backends, run each sandbox test on each."""
    backends = metafunc.config.stash[_settings].backends
    if len(backends) > 1 and "sandbox_backend" in metafunc.fixturenames:
        metafunc.parametrize("sandbox_backend", backends, indirect=True, scope="session")


@pytest.hookimpl(tryfirst=True)  # before the terminal asks for `pytest_report_collectionfinish`
def pytest_collection_finish(session: pytest.Session) -> None:
    """Check what the collected tests ask for, and have the first sandboxes started while the first tests run."""
    items = [item for item in session.items if _is_concerned(item)]
    if not items:
        return
    try:
        batch = session.config.stash.get(_batch, None)
        if batch is not None:
            batch.check(items)
            return
        run = _get_run(session.config)
        if any(session.config.getoption(option, default=False) for option in _RUNS_NOTHING):
            for item in items:
                run.requirement(item)
        else:
            run.prepare(items)
    except ConfigurationError as error:
        _refuse(session.config, error)


def _is_concerned(item: pytest.Item) -> bool:
    fixtures = getattr(item, "fixturenames", ())
    if "sandbox_backend" in fixtures or "sandbox_pool" in fixtures:
        return True
    # the keywords are quick to look at, but a directory's name is one, too
    return "sandbox" in item.keywords and item.get_closest_marker("sandbox") is not None


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """End the run where a module runs into a mistake of configuration, such as a malformed file of tasks."""
    report = yield
    call: pytest.CallInfo[Any] | None = getattr(report, "call", None)
    if call is not None and call.excinfo is not None:
        error = call.excinfo.value
        error = getattr(error, "cause", error)  # what kept a conftest file from being imported
        if isinstance(error, ConfigurationError):
            _refuse(collector.config, error)
    return report


def _refuse(config: pytest.Config, error: ConfigurationError) -> NoReturn:
    """End the run with one sentence and exit code 4. A worker of pytest-xdist has its controller do it."""
    output = getattr(config, "workeroutput", None)
    if output is None:
        raise pytest.UsageError(str(error)) from None
    output[_REFUSAL] = str(error)
    pytest.exit(str(error), returncode=pytest.ExitCode.USAGE_ERROR)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Give a worker of pytest-xdist, which is about to be started, a way to this process's pool."""
    sharing = node.config.stash.get(_sharing, None)
    if sharing is None:
        from pytest_sandboxes.sharing import hooks

        sharing = node.config.stash[_sharing] = hooks.Sharing(node.config, _get_run)
        node.config.pluginmanager.register(sharing, "sandboxes-sharing")
    node.workerinput[_CHANNEL] = sharing.admit(node)
    run = node.config.stash.get(_run, None)
    if run is not None:
        from pytest_sandboxes.sharing.messages import pack_profiles

        node.workerinput[_PROFILES] = pack_profiles(run.profiles)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Say what a worker of pytest-xdist has refused."""
    refusal = getattr(node, "workeroutput", {}).get(_REFUSAL)
    if refusal is not None:
        raise pytest.UsageError(refusal)


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    """Name what a backend does not make of its profiles."""
    run = config.stash.get(_run, None)
    return [] if run is None else [f"sandboxes: {note}" for note in run.supply.take_notes()]


class _Phases:
    """A plugin of its own, because in runs without sandboxes it would cost each test as much as all the rest here."""

    def __init__(self, run: Run) -> None:
        self._run = run

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Tell `sandbox_factory` whose function it is called in."""
        self._run.calling = item
        try:
            return (yield)
        finally:
            self._run.calling = None

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Remember for the fixture's end whether its test has failed."""
        report = yield
        if call.when == "setup":  # a test may be run again
            item.stash[_failed] = False
        if report.failed and call.when != "teardown":
            item.stash[_failed] = True
        return report


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> Generator[None, object, object]:
    """End all sandboxes, once the last fixture has been torn down."""
    try:
        return (yield)
    finally:
        _close(session.config, in_order=exitstatus in _IN_ORDER)


def pytest_unconfigure(config: pytest.Config) -> None:
    """End all sandboxes, however the session ended."""
    _close(config)


def _close(config: pytest.Config, *, in_order: bool = False) -> None:
    run, sharing = config.stash.get(_run, None), config.stash.get(_sharing, None)
    if sharing is not None:
        sharing.close()
    if run is not None:
        run.close(in_order=in_order)
    if sharing is not None:
        sharing.join()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what the run has used, if anything."""
    run = config.stash.get(_run, None)
    if run is None:
        return
    from pytest_sandboxes.reporting.summary import lines

    said = lines(run.pool.statistics(), run.supply.kept, run.supply.take_notes(), run.settings.keep)
    if said:
        terminalreporter.section("sandboxes")
        for line in said:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def sandbox_backend(request: pytest.FixtureRequest) -> str:
    """Name of the backend that the test runs on."""
    backends = request.config.stash[_settings].backends
    return str(getattr(request, "param", backends[0]))


@pytest.fixture
def sandbox(request: pytest.FixtureRequest, sandbox_backend: str) -> Iterator[Slot | tuple[Slot, ...]]:
    """An isolated workspace of the test's own, always fresh: a `Slot`, or a tuple of them with `sandbox(slots=N)`."""
    from pytest_sandboxes.run import slots_of

    run = _get_run(request.config)
    item = request.node
    lease = run.lease(sandbox_backend, run.requirement(item), item.nodeid)
    try:
        yield slots_of(lease)
        if run.settings.keep_failed and item.stash.get(_failed, False):
            run.supply.keep(lease, item.nodeid)
    finally:
        run.release(lease)


@pytest.fixture(scope="session")
def sandbox_factory(
    request: pytest.FixtureRequest, sandbox_backend: str
) -> Callable[..., AbstractContextManager[Slot | tuple[Slot, ...]]]:
    """Leases slots for a `with` block: a profile's with `profile="gpu"`, a tuple of two with `slots=2`.

    Takes the arguments of the marker `sandbox`; in a test's own function, the profile and fields of the test's marker
    are the default. A test that needs several slots asks for them in one call.
    """
    run = _get_run(request.config)

    def lease(**arguments: object) -> AbstractContextManager[Slot | tuple[Slot, ...]]:
        return run.factory(sandbox_backend, arguments)

    return lease


@pytest.fixture(scope="session")
def sandbox_pool(request: pytest.FixtureRequest) -> Pool | SharedPool:
    """The session's pool: `statistics()` tells what it has done."""
    return _get_run(request.config).pool
