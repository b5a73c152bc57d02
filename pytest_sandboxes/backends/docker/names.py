"""The names of a run's containers, each chosen before an Engine is asked for one."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pytest_sandboxes.backends.docker.removal import remove

if TYPE_CHECKING:
    from pytest_sandboxes.backends.docker.engine import Engine


class Names:
    """The Engine may have made a container though its answer got lost, and may still be at it.

    So the name of a start that has failed is that of the next one, which first removes what has it. Should something
    get it after that, the Engine refuses to give it away twice, and the next attempt removes that. There are never more
    containers than starts that have not ended.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._in_doubt: list[str] = []

    @contextmanager
    def take(self, engine: Engine) -> Iterator[str]:
        """A context in which a container is started by a name that nothing else has."""
        with self._lock:
            was_in_doubt = bool(self._in_doubt)
            name = self._in_doubt.pop() if was_in_doubt else f"{self._prefix}-{next(self._numbers)}"
        try:
            if was_in_doubt:
                remove(engine.api(), name)
            yield name
        except BaseException:
            with self._lock:
                self._in_doubt.append(name)
            raise
