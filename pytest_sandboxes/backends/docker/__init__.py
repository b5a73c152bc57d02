"""Backend `docker`: sandboxes as containers of a Docker Engine, local or remote."""

from pytest_sandboxes.backends.docker.backend import DockerBackend as DockerBackend
