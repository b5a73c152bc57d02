"""Nothing is imported before it is used: pytest loads the plugin in every run of everybody who has it installed."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import pytest_sandboxes

PACKAGE = Path(pytest_sandboxes.__file__).parent
LOADED = "import json, sys; print(json.dumps(sorted(sys.modules)), file=sys.stderr)"


def modules_after(code: str, cwd: Path) -> set[str]:
    ran = subprocess.run(
        [sys.executable, "-c", f"{code}\n{LOADED}"],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},  # the one under test
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return set(json.loads(ran.stderr.splitlines()[-1]))


def of_this_package(modules: set[str]) -> set[str]:
    return {
        name.removeprefix("pytest_sandboxes.") for name in modules if name.startswith("pytest_sandboxes.")
    }


def test_importing_the_package_imports_nothing_else(tmp_path: Path) -> None:
    assert of_this_package(modules_after("import pytest_sandboxes", tmp_path)) == set()


@pytest.mark.parametrize("arguments", [["--help"], ["--collect-only", "test_plain.py"], ["test_plain.py"]])
def test_a_run_without_sandboxes_loads_next_to_nothing(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "test_plain.py").write_text("def test_plain(): pass\n")
    plugins = ["-p", "no:cacheprovider", "-p", "no:anyio", "-p", "no:asyncio", "-p", "no:hypothesispytest"]
    loaded = modules_after(f"import pytest; assert pytest.main({[*plugins, *arguments]}) == 0", tmp_path)
    settings = {"settings", "settings.settings", "settings.sources", "settings.values"}
    assert of_this_package(loaded) == {"plugin", "errors", "wording", "display", "hooks", *settings}
    assert loaded.isdisjoint({"docker", "modal", "google", "msgspec", "yaml", "asyncio", "ctypes"})


def test_every_public_name_can_be_imported() -> None:
    for name in pytest_sandboxes.__all__:
        found = getattr(pytest_sandboxes, name)
        assert found.__name__ == name
        assert found.__module__.startswith("pytest_sandboxes.")
    assert sorted(pytest_sandboxes.__all__) == dir(pytest_sandboxes)


def test_type_checkers_see_the_public_names_where_they_are() -> None:
    """The imports that only they read say the same as what is imported on demand."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text("utf-8"))
    seen = {
        name.name: statement.module
        for statement in ast.walk(tree)
        if isinstance(statement, ast.ImportFrom) and (statement.module or "").startswith("pytest_sandboxes.")
        for name in statement.names
    }
    assert seen == {name: getattr(pytest_sandboxes, name).__module__ for name in pytest_sandboxes.__all__}


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"'pytest_sandboxes' has no attribute 'Slots'"):
        pytest_sandboxes.Slots  # noqa: B018 - looking at it is the test
