"""Reads the project's keys from the kit of a site, or of an admin who holds them. The server must never import this."""

from fedhe.errors import TrustError
from fedhe.he.keys import SecretKey
from fedhe.trust.installation import GROUP_KEY_FILE, HE_KEY_FILE, MAX_KIT_FILE_BYTES, Installation
from fedhe.trust.private_files import read_private
from fedhe.trust.sealed import GroupKey


def read_site_keys(installation: Installation) -> tuple[bytes, GroupKey]:
    """The CKKS secret key as its file has it (for `SecretKey.from_bytes`), and the group key. Secret.

    Raises:
        TrustError: the kit holds no keys, others could read them, or they were altered.
    """
    if not installation.holds_key:
        raise TrustError(
            f"the kit of {installation.identity} holds no keys, which opening models and metrics needs",
            "ask the coordinator for a kit with `holds_key: true`",
        )
    he_key = read_private(installation.kit / HE_KEY_FILE, MAX_KIT_FILE_BYTES)
    group_key = GroupKey.from_bytes(read_private(installation.kit / GROUP_KEY_FILE, MAX_KIT_FILE_BYTES))
    return he_key, group_key


def read_secret_key(installation: Installation) -> SecretKey:
    """The CKKS secret key, checked to be the project's. Secret.

    Raises:
        TrustError: as `read_site_keys`, or the key's id is not the project's.
    """
    key = SecretKey.from_bytes(read_site_keys(installation)[0])
    if key.key_id != installation.key_id:
        raise TrustError(
            f"{installation.kit / HE_KEY_FILE}: expected the key with id {installation.key_id.hex()}, "
            f"got {key.key_id.hex()}",
            "install the newest kit with --replace",
        )
    return key
