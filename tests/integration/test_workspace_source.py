"""`workspace_source`: each fresh workspace has the same files, its own, and a hostile slot changes nobody else's."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import Inner
from tests.integration.docker_images import ImageMaker, volumes

SUITE = """
import pytest

def digest(slot):
    return [(entry.path, entry.type, entry.mode, entry.sha256) for entry in slot.list_files(recursive=True, sha256=True)]

@pytest.mark.parametrize("number", range(3))
def test_it(sandbox, number):
    before = digest(sandbox)
    assert [path for path, _, _, _ in before] == ["big", "bin", "bin/run", "data.txt", "link"]
    assert sandbox.read_text("link") == "data"
    assert [entry for entry in before if entry[0] == "link"][0][1] in ("symlink", "{link}")
    assert sandbox.exec("./bin/run").stdout == "ran\\n"
    assert sandbox.sh("stat -c %u . bin bin/run data.txt link | sort -u; id -u").stdout.split() == [
        sandbox.sh("id -u").stdout.strip()] * 2
    # all that code can do to what it has, and to what it comes from
    hostile = '''
        echo changed > data.txt; rm -rf bin; ln data.txt hard; mkfifo fifo; mkdir -p deep/er; touch link2
        for place in {source} /.pytest-sandboxes-source; do
            echo changed > $place/data.txt; rm -rf $place/*; touch $place/new; chmod 777 $place $place/data.txt
            ln $place/data.txt stolen && echo changed > stolen
            mount -o remount,rw $place
        done
        chmod 000 .
    '''
    sandbox.sh(hostile)
    sandbox.reset()
    assert digest(sandbox) == before
    sandbox.sh(hostile)
"""


def project(inner: Inner, source: str = "data", link: str = "symlink", **fields: object) -> None:
    data = inner.path / "data"
    (data / "bin").mkdir(parents=True, exist_ok=True)
    (data / "bin/run").write_text("#!/bin/sh\necho ran\n")
    (data / "bin/run").chmod(0o700)
    (data / "data.txt").write_text("data")
    (data / "big").write_bytes(os.urandom(1 << 20))
    for name, target in (("link", "data.txt"), ("out", "/etc/passwd")):
        if not (data / name).is_symlink():
            (data / name).symlink_to(target)
    (data / ".env").write_text("KEY=secret")
    profile = {"workspace_source": source, "buffer_sandboxes": 0, **fields}
    inner.write("sandboxes.yaml", json.dumps({"profiles": {"default": profile}}))
    inner.write("test_it.py", SUITE.replace("{source}", source).replace("{link}", link))


LEFT_OUT = "sandboxes: profile default: workspace_source leaves out .env (may hold a secret), out (a link that leads out)"


class TestLocal:
    def test_each_has_its_own(self, inner: Inner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        scratch = tmp_path / "scratch"
        scratch.mkdir(mode=0o700)
        monkeypatch.setenv("TMPDIR", str(scratch))
        project(inner)
        ran = inner.run_apart()
        assert ran.counts == {"passed": 3}, ran.stdout
        assert ran.stdout.count(LEFT_OUT) == 1
        assert [path for path in scratch.iterdir() if path.name.startswith("pytest-sandboxes-")] == []

    def test_in_workers(self, inner: Inner) -> None:
        project(inner)
        assert inner.run_apart("-n", "2").counts == {"passed": 3}

    def test_the_project_stays_as_it_is_without_isolation(self, inner: Inner) -> None:
        project(inner)
        inner.write(
            "test_it.py",
            """
            def test_it(sandbox):
                assert sandbox.read_text("link") == "data"
                sandbox.write_text("data.txt", "changed")
            """,
        )
        assert inner.run("--sandbox-isolation=none").counts == {"passed": 1}
        assert (inner.path / "data/data.txt").read_text() == "data"

    def test_before_setup(self, inner: Inner) -> None:
        project(inner, setup=["./bin/run > said"])
        inner.write("test_it.py", "def test_it(sandbox): assert sandbox.read_text('said') == 'ran\\n'")
        assert inner.run().counts == {"passed": 1}

    @pytest.mark.parametrize(
        ("source", "fields", "complaint"),
        [
            ("/opt", {}, "cannot be kept: backend local has no images: name a directory of the project"),
            (
                "missing",
                {},
                "is 'missing', but the rootdir .* has no such directory: correct the path or make it",
            ),
            (
                "data",
                {"disk": 1},
                r"is 'data', which holds 1 MB, and disk is 1 \(sandboxes.yaml:1\): raise it",
            ),
            ("empty", {}, "is 'empty', but that directory has no files: put some there"),
        ],
    )
    def test_what_cannot_be(self, inner: Inner, source: str, fields: dict[str, Any], complaint: str) -> None:
        project(inner, source, **fields)
        (inner.path / "empty").mkdir()
        ran = inner.run()
        assert ran.exit_code == pytest.ExitCode.USAGE_ERROR
        ran.result.stderr.re_match_lines(
            [rf"ERROR: sandboxes.yaml:1: workspace_source of profile 'default' {complaint}"]
        )

    def test_a_full_workspace_is_no_verdict(self, inner: Inner) -> None:
        """What fits by its bytes may not by its blocks."""
        project(inner, disk=1)
        (inner.path / "data/big").unlink()
        for number in range(1000):
            (inner.path / f"data/{number}").write_text("x")
        ran = inner.run("--sandbox-infra-retries=0", "-k", "0")
        assert ran.counts == {"errors": 1, "deselected": 2}
        assert "raise disk of profile 'default' for its workspace_source" in ran.stdout


class TestDocker:
    @pytest.fixture(autouse=True)
    def on_docker(self, inner: Inner, engine: Any) -> None:
        inner.write("pytest.ini", "[pytest]\nsandbox_backend = docker\n")

    @pytest.mark.parametrize(
        "fields", [{}, {"slots_per_sandbox": 2}, {"isolation": "sandbox"}], ids=["slot", "shared", "sandbox"]
    )
    def test_of_the_project(
        self, inner: Inner, engine: Any, python_image: str, testbed_image: str, fields: dict[str, Any]
    ) -> None:
        image = python_image
        if "isolation" in fields:
            image = _with_workdir(engine, testbed_image)
        project(inner, image=image, **fields)
        try:
            ran = inner.run()
        finally:
            if "isolation" in fields:
                engine.api.remove_image(image, force=True)
        assert ran.counts == {"passed": 3}, ran.stdout
        assert ran.stdout.count(LEFT_OUT) == 1
        assert volumes(engine) == set()

    def test_of_the_image(self, inner: Inner, make_image: ImageMaker, python_image: str) -> None:
        files = {"bin/run": "#!/bin/sh\necho ran\n", "data.txt": "data", "link": "data", "big": "x" * 5000}
        image = make_image(python_image, {f"/opt/task/{name}": text for name, text in files.items()})
        project(inner, "/opt/task", link="file", image=image)
        ran = inner.run_apart()
        assert ran.counts == {"passed": 3}, ran.stdout

    @pytest.mark.parametrize("source", ["/", "/workspace/x"])
    def test_one_that_holds_the_workspace_or_lies_in_it(
        self, inner: Inner, python_image: str, source: str
    ) -> None:
        project(inner, source, image=python_image)
        ran = inner.run()
        assert ran.exit_code == pytest.ExitCode.USAGE_ERROR
        assert (
            f"sandboxes.yaml:1: workspace_source of profile 'default' is '{source}', but the work"
            in ran.stderr
        )

    @pytest.mark.parametrize("source", ["/missing", "/etc/passwd", "/bin/sh"])
    @pytest.mark.parametrize("isolation", ["slot", "sandbox"])
    def test_one_that_the_image_does_not_have(
        self, inner: Inner, python_image: str, source: str, isolation: str
    ) -> None:
        project(inner, source, image=python_image, isolation=isolation)
        ran = inner.run()
        assert ran.exit_code == pytest.ExitCode.USAGE_ERROR
        assert (
            f"ERROR: sandboxes.yaml:1: workspace_source of profile 'default' is '{source}', but image {python_image} "
            "has no such directory: correct the path, or name another image\n"
        ) in ran.stderr

    def test_one_that_the_image_has_a_link_to(self, inner: Inner, python_image: str) -> None:
        project(inner, "/bin", image=python_image)
        inner.write(
            "test_it.py", "def test_it(sandbox): assert sandbox.exec('./sh', '-c', 'exit 3').returncode == 3"
        )
        assert inner.run().counts == {"passed": 1}

    def test_a_volume_that_is_gone_is_no_empty_workspace(
        self, inner: Inner, engine: Any, python_image: str
    ) -> None:
        project(inner, image=python_image, max_sandboxes=1)
        inner.write(
            "test_it.py",
            """
            import docker
            from pytest_sandboxes.backends.docker import janitor

            def test_first(sandbox, sandbox_pool):
                api = docker.from_env().api
                process = janitor.labels("")["pytest-sandboxes.process"]
                ours = {"label": [f"pytest-sandboxes.process={process}"]}
                for container in api.containers(filters=ours):
                    api.remove_container(container["Id"], force=True)
                for volume in api.volumes(filters=ours)["Volumes"]:
                    api.remove_volume(volume["Name"])

            def test_second(sandbox):
                raise AssertionError("it has a sandbox")
            """,
        )
        ran = inner.run_apart("--sandbox-infra-retries=0", "-W", "ignore")
        assert ran.verdicts["test_second"] == "error"
        assert "its workspace has 0 files of 4" in ran.cases["test_second"].text


def _with_workdir(engine: Any, base: str) -> str:
    container = engine.api.create_container(base, entrypoint=["none"])["Id"]
    try:
        made: str = engine.api.commit(container, conf={"WorkingDir": "/fresh/work", "User": "root"})["Id"]
    finally:
        engine.api.remove_container(container)
    return made
