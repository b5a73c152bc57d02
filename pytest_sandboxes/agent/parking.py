"""How an agent that waits without a controller, and whoever comes to take it over, prove themselves to each other.

Both have a key, which the agent is given when it is parked and which serves once. Whoever comes says the watchword,
which only who has the key can know, and a nonce; the agent answers with a proof made of key, nonce and what it was told
that it is. The proof of one sandbox is none for another, and that of yesterday none for today.

BLAKE2 with a key is a message authentication code by itself (RFC 7693), and comes without the OpenSSL of `hashlib`.
"""

from __future__ import annotations

KEY_SIZE = 32
NONCE_SIZE = 32
PROOF_SIZE = 32


def watchword(key: bytes) -> bytes:
    """What a parked agent waits for. All that comes before it, such as the rest of a frame, is for nobody."""
    return _code(key, b"watchword")


def proof(key: bytes, nonce: bytes, identity: bytes) -> bytes:
    """What a parked agent answers to a nonce of `NONCE_SIZE` bytes."""
    return _code(key, b"proof" + nonce + identity)


def _code(key: bytes, message: bytes) -> bytes:
    import _blake2  # only those that are parked need it

    return _blake2.blake2b(message, digest_size=PROOF_SIZE, key=key).digest()
