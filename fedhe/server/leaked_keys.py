"""Keeps keys that decrypt off the server's disk, whoever sends them."""

from fedhe.errors import TrustError
from fedhe.trust.installation import KEY_MAGICS


def refuse_keys(data: bytes, what: str) -> None:
    """Refuses bytes that hold a CKKS secret key or a group key as fedhe writes them.

    Args:
        data: what came.
        what: names it in the error.

    Raises:
        TrustError: a key is in it.
    """
    for kind, magic in KEY_MAGICS.items():
        if magic in data:
            raise TrustError(
                f"{what}: expected no key, found a {kind}; it must never reach the server",
                "take it out, and have the coordinator re-key (fedhe-provision --rekey): it has left its site",
            )
