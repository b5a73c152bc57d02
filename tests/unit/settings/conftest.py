"""Settings of runs that have the options, and nothing else of the plugin."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_sandboxes.settings.settings import _OPTIONS, Settings, add_options, read_settings

Configure = Callable[..., pytest.Config]
Read = Callable[..., Settings]

native_toml = pytest.mark.skipif(pytest.version_tuple < (9, 0), reason="native TOML came with pytest 9")


class OnlyOptions:
    """A plugin that registers the options and does nothing else."""

    @staticmethod
    def pytest_addoption(parser: pytest.Parser) -> None:
        add_options(parser)


@pytest.fixture(autouse=True)
def _nothing_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # an installed copy would add the options twice
    for option in _OPTIONS:
        monkeypatch.delenv(option.variable, raising=False)


@pytest.fixture
def configure(pytester: pytest.Pytester) -> Configure:
    """The configuration of a run with the given command line."""

    def run(*args: str) -> pytest.Config:
        pytester.plugins = [OnlyOptions()]
        return pytester.parseconfig(*args)

    return run


@pytest.fixture
def settings(configure: Configure) -> Read:
    """The settings of a run with the given command line."""
    return lambda *args: read_settings(configure(*args))


def variable(name: str) -> str:
    return "PYTEST_SANDBOXES_" + name.upper().replace("-", "_")


def value_of(settings: Settings, name: str) -> tuple[object, str]:
    setting = {option.name: option.setting for option in _OPTIONS}[name]
    return getattr(settings, setting), settings.source(setting)
