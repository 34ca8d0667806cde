"""The context of a sealed roster: one hash that ties every ciphertext of a round's attempt to who took part."""

import hashlib
from collections.abc import Sequence
from typing import Final

CONTEXT_LABEL: Final = b"fedhe/v1/context\0"
CONTEXT_BYTES: Final = 32


def context_of(bodies: Sequence[bytes]) -> bytes:
    """SHA-256 over the label and, for each READY body in the roster's order, its length (4 bytes, big endian), bytes.

    Args:
        bodies: serialised `ReadyBody` messages as they were signed, sorted by site.

    Returns:
        32 bytes.
    """
    digest = hashlib.sha256(CONTEXT_LABEL)
    for body in bodies:
        digest.update(len(body).to_bytes(4, "big"))
        digest.update(body)
    return digest.digest()
