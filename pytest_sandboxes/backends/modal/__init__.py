"""Backend `modal`: sandboxes of Modal's service, each with slots of its own users."""

from pytest_sandboxes.backends.modal.backend import ModalBackend as ModalBackend
