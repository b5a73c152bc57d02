"""Which authorities the client believes: its own, and whichever this machine does.

Companies inspect TLS, and their authority is where their machines have it: in the system's store, or where
SSL_CERT_FILE, SSL_CERT_DIR or REQUESTS_CA_BUNDLE point. The client believes the authorities of certifi alone for the
control plane, and those of the system for the command routers, and has no setting for either.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import threading
import weakref
from pathlib import Path
from typing import Any

from pytest_sandboxes.backends.modal.reach import note_attempts

_lock = threading.Lock()
_extended: weakref.WeakSet[ssl.SSLContext] = weakref.WeakSet()
_is_installed = False


def extend() -> None:
    """Have every channel that the client opens in this process believe the machine's authorities, and be watched.

    The hook is on the channels of grpclib, of which the client's are subclasses: it adds authorities to contexts that
    verify, and takes nothing away. Channels of others are left alone.
    """
    global _is_installed  # noqa: PLW0603 - as the class that it changes, it is the process's
    import grpclib.client

    with _lock:
        if _is_installed:
            return
        _is_installed = True
        make = grpclib.client.Channel.__init__

        def make_with_trust(self: grpclib.client.Channel, *arguments: Any, **options: Any) -> None:
            make(self, *arguments, **options)
            if type(self).__module__.partition(".")[0] != "modal":
                return
            note_attempts(self)
            context = getattr(self, "_ssl", None)
            if isinstance(context, ssl.SSLContext):
                _add(context)

        grpclib.client.Channel.__init__ = make_with_trust  # type: ignore[method-assign]


def context() -> ssl.SSLContext:
    """A context that believes what the client's will: to see beforehand whether a server is to be believed."""
    import certifi

    made = ssl.create_default_context(cafile=certifi.where())
    made.set_alpn_protocols(["h2"])
    _add(made)
    return made


def _add(context: ssl.SSLContext) -> None:
    """Add the machine's authorities to a context that verifies, once: to read them takes milliseconds."""
    with _lock:
        if context.verify_mode == ssl.CERT_NONE or context in _extended:
            return
        _extended.add(context)
    context.load_default_certs()  # which looks at SSL_CERT_FILE and SSL_CERT_DIR
    bundle = os.environ.get("REQUESTS_CA_BUNDLE")
    if bundle:
        with contextlib.suppress(OSError):  # requests would fail for it; here it is one place of several
            context.load_verify_locations(**{"capath" if Path(bundle).is_dir() else "cafile": bundle})
