"""The account's token, and the short-lived ones that the services hand out."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
import time
from typing import Any

from grpclib import GRPCError, Status

TOKEN_ID = "ak-emulated"
TOKEN_SECRET = "as-emulated"


class Tokens:
    """Issues tokens, and knows its own."""

    def __init__(self, lifetime: float) -> None:
        self._key = secrets.token_bytes(32)
        self._lifetime = lifetime
        self.account_is_valid = True

    def issue(self, purpose: str) -> str:
        """A signed token of three parts, whose second says when it expires (modal/_utils/auth_token_manager.py)."""
        claims = {"purpose": purpose, "exp": time.time() + self._lifetime}
        signed = f"{_encode(b'{}')}.{_encode(json.dumps(claims).encode())}"
        return f"{signed}.{_encode(self._sign(signed))}"

    def check_account(self, token_id: str, token_secret: str) -> None:
        """Raise UNAUTHENTICATED unless this is the account's token (modal/client.py, `_get_metadata`)."""
        known = (token_id, token_secret) == (TOKEN_ID, TOKEN_SECRET)
        if not known or not self.account_is_valid:
            raise GRPCError(Status.UNAUTHENTICATED, "Token validation failed")

    def check(self, token: str, purpose: str) -> None:
        """Raise UNAUTHENTICATED unless this token was issued for this purpose and has not expired."""
        signed, _, signature = token.rpartition(".")
        if not hmac.compare_digest(_encode(self._sign(signed)), signature):
            raise GRPCError(Status.UNAUTHENTICATED, "The token is not one of this service")
        claims = _decode(signed.partition(".")[2])
        if claims["purpose"] != purpose:
            raise GRPCError(Status.UNAUTHENTICATED, "The token is for something else")
        if claims["exp"] < time.time():
            raise GRPCError(Status.UNAUTHENTICATED, "The token has expired")

    def _sign(self, text: str) -> bytes:
        return hmac.digest(self._key, text.encode(), hashlib.sha256)


def _encode(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _decode(part: str) -> dict[str, Any]:
    try:
        claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (ValueError, binascii.Error) as error:
        raise GRPCError(Status.UNAUTHENTICATED, "The token cannot be read") from error
    return claims
