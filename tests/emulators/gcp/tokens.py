"""Access tokens: whose they are, how long they are good, and that of the metadata server before it runs out."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass

from tests.emulators.gcp import errors

_RENEWED_BEFORE = 300
"""Seconds before its end at which the metadata server no longer hands a token out, or a tenth of its life if that is less."""


@dataclass(frozen=True)
class Token:
    """What a caller shows."""

    value: str
    account: str
    expires: float
    """Seconds of Unix time."""


class Tokens:
    """Those that are out. Belongs to the emulator's loop."""

    def __init__(self, lifetime: float, owner: str) -> None:
        """`owner` is who calls without a token."""
        self._lifetime = lifetime
        self._owner = owner
        self._tokens: dict[str, Token] = {}
        self._current: dict[str, Token] = {}

    def of(self, account: str) -> Token:
        """A good one for this account: the same again, until that has little time left."""
        token = self._current.get(account)
        reserve = min(_RENEWED_BEFORE, self._lifetime / 10)
        if token is None or token.value not in self._tokens or token.expires < time.time() + reserve:
            token = Token(f"ya29.{secrets.token_hex(16)}", account, time.time() + self._lifetime)
            self._tokens[token.value] = self._current[account] = token
        return token

    def revoke(self) -> None:
        """Accept none of those that are out."""
        self._tokens.clear()

    def caller(self, authorization: str | None) -> str:
        """The account of a caller, the owner for one without a token. Raises `ServiceError`, 401, for a bad one.

        Without any is how the Storage client comes to an emulator (google/cloud/storage/client.py, STORAGE_EMULATOR_HOST),
        and the Batch client with `AnonymousCredentials`.
        """
        if authorization is None:
            return self._owner
        token = self._tokens.get(authorization.removeprefix("Bearer "))
        if token is None or token.expires < time.time():
            raise errors.unauthenticated()
        return token.account
