"""Installs a kit: opens it, checks all it holds, and puts it into its place in one step."""

import contextlib
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from fedhe.errors import StateError, TrustError
from fedhe.provisioning.kit import Sealed, open_kit, read_kit
from fedhe.trust.certificates import SERVER, SITE
from fedhe.trust.installation import (
    CA_FILE,
    KIT_FOLDER,
    ROSTER_FILE,
    Installation,
    RolePrefix,
    assert_no_key_material,
    load_installation,
    read_kit_folder,
)
from fedhe.trust.private_files import (
    FOLDER_MODE,
    check_private,
    file_error,
    fsync_folder,
    make_private_folder,
    read_limited,
    write_private,
)
from fedhe.trust.roster import MAX_ROSTER_BYTES, read_roster

_STAGING = ".kit-"

PROGRAMS = {"server": "fedhe-server", "site": "fedhe-client", "admin": "fedhe-admin"}


def participant_folder(home: Path, role: str, name: str) -> Path:
    """Where a participant lives below `home`; `role` may be the whole role or its first word."""
    if role == SERVER:
        return home / "server"
    return home / ("sites" if role == SITE else "admins") / name


def check_role(sealed: Sealed, expected_role: str, path: Path) -> None:
    """Refuses a kit that is for another program, before its passphrase is asked for.

    Raises:
        TrustError: the kit is for another role; the hint names the program.
    """
    prefix = sealed.label.role.split("-")[0]
    if prefix != expected_role:
        raise TrustError(
            f"{path}: expected a kit of role {expected_role}, got one for {sealed.label.role} {sealed.label.name}",
            f"{PROGRAMS[prefix]} install '{path}'" if prefix in PROGRAMS else "ask the coordinator for the right kit",
        )


def unpack_kit(
    kit_file: Path, passphrase: str, home: Path, *, expected_role: RolePrefix, replace: bool = False
) -> Installation:
    """Installs a kit below `home`; everything is checked before anything that is there is touched.

    Args:
        kit_file: the kit.
        passphrase: as the coordinator was shown it.
        home: HOME; the kit goes to `HOME/server/kit`, `HOME/sites/NAME/kit` or `HOME/admins/NAME/kit`.
        expected_role: which program installs.
        replace: put it in the place of the same project's older kit.

    Raises:
        NotFoundError: there is no such file.
        TrustError: not a kit, cut, wrong passphrase, of another role, expired, or its files do not belong together.
        StateError: a kit is installed there already, or that of another project.
        ResourceError: the disk does not take it.
    """
    sealed = read_kit(kit_file)
    check_role(sealed, expected_role, kit_file)
    files = open_kit(sealed, passphrase)
    name = sealed.label.name
    folder = participant_folder(home, sealed.label.role, name)
    present = folder / KIT_FOLDER
    if present.exists():
        _check_replaceable(present, files, sealed, replace=replace)
    make_private_folder(folder)
    check_private(folder)
    for leftover in folder.glob(f"{_STAGING}*"):  # of an installation that was cut; it holds keys
        shutil.rmtree(leftover, ignore_errors=True)
    with _staged(folder) as staging:
        for file, data in files.items():
            write_private(staging / file, data)
        now = time.time()
        checked = read_kit_folder(staging, folder, role_prefix=expected_role, now=now)
        if (checked.project, checked.role, checked.name) != (sealed.label.project, sealed.label.role, name):
            raise TrustError(
                f"{kit_file}: labelled {sealed.label.role} {name}, but its certificate is of {checked.identity}"
            )
        if expected_role == SERVER:
            assert_no_key_material(staging.parent)
        _keep_newer_roster(present, staging, checked)
        read_kit_folder(staging, folder, role_prefix=expected_role, now=now)
        _put_in_place(staging, present)
    return load_installation(folder, role_prefix=expected_role, now=now)


def _check_replaceable(present: Path, files: dict[str, bytes], sealed: Sealed, *, replace: bool) -> None:
    try:
        same = read_limited(present / CA_FILE, MAX_ROSTER_BYTES) == files[CA_FILE]
    except StateError:  # what is there is no whole kit; it may be replaced, but only if asked to
        same = True
    if not same:
        raise StateError(
            f"{present}: the kit of another project is installed here, got one of project {sealed.label.project}",
            "install into another folder (--home DIR), or move that one away",
        )
    if not replace:
        raise StateError(
            f"{present}: a kit of this project is installed here already", "add --replace to put this one there"
        )


def _keep_newer_roster(present: Path, staging: Path, checked: Installation) -> None:
    """A roster that came since the kit was packed may know of more revocations; it stays."""
    path = present / ROSTER_FILE
    if not path.exists():
        return
    with contextlib.suppress(TrustError):
        signed = read_limited(path, MAX_ROSTER_BYTES)
        newer = checked.roster.version + 1
        read_roster(signed, checked.ca_pem, project=checked.project, at_least_version=newer)
        write_private(staging / ROSTER_FILE, signed)


@contextlib.contextmanager
def _staged(folder: Path) -> Iterator[Path]:
    staging = folder / f"{_STAGING}{secrets.token_hex(8)}"
    try:
        staging.mkdir(mode=FOLDER_MODE)
    except OSError as error:
        raise file_error(error, staging) from error
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _put_in_place(staging: Path, present: Path) -> None:
    old = staging.with_name(f"{staging.name}-old")
    try:
        if present.exists():
            present.rename(old)
        staging.rename(present)
        fsync_folder(present.parent)
    except OSError as error:
        raise file_error(error, present) from error
    shutil.rmtree(old, ignore_errors=True)
