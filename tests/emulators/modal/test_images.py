"""Images, as the unmodified client has them built."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.emulators.modal.conftest import Service


def test_each_is_built_once(service: Service) -> None:
    import modal

    def image() -> modal.Image:
        return modal.Image.debian_slim().apt_install("git").pip_install("attrs")

    built = image().build(service.app)
    assert service.create(image=image()).poll() is None
    builds = service.control.events("build_started")
    assert [each["commands"][0].split(":")[0] for each in builds] == ["FROM python", "FROM base", "FROM base"]
    assert "RUN python -m pip install attrs" in builds[-1]["commands"]
    assert builds[-1]["image"] == built.object_id


def test_by_id(service: Service) -> None:
    import modal
    from modal.exception import NotFoundError

    built = modal.Image.from_registry("some/image:1").build(service.app)
    again = modal.Image.from_id(built.object_id, client=service.client)
    assert service.create(image=again).poll() is None
    with pytest.raises(NotFoundError):
        service.create(image=modal.Image.from_id("im-nope", client=service.client))


def test_what_a_build_says(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    import modal

    with modal.enable_output():
        modal.Image.from_registry("some/image:1").run_commands("echo hello").build(service.app)
    said = capsys.readouterr().out
    assert "Step 1/1 : FROM some/image:1" in said
    assert "RUN echo hello" in said


def test_one_that_fails(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    import modal
    from modal.exception import ImageBuildError

    service.control.fail_builds("no-such-package", "Could not find no-such-package\n")
    image = modal.Image.debian_slim().pip_install("no-such-package")
    for _ in range(2):
        with (
            modal.enable_output(),
            pytest.raises(ImageBuildError, match="'no-such-package' in it has failed"),
        ):
            image.build(service.app)
        assert "Could not find no-such-package" in capsys.readouterr().out
    failed = service.control.events("build_ended", succeeded=False)
    assert len(failed) == 2  # a failed image is built again when it is asked for again


def test_the_context_of_a_dockerfile(service: Service, tmp_path: Path) -> None:
    import modal

    (tmp_path / "file").write_text("content")
    (tmp_path / "Dockerfile").write_text("FROM some/image\nCOPY file /file\n")
    modal.Image.from_dockerfile(tmp_path / "Dockerfile", context_dir=tmp_path).build(service.app)
    assert service.control.events("call", method="MountPutFile")
    assert any("COPY file /file" in build["commands"] for build in service.control.events("build_started"))
