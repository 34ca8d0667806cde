"""`install KIT` of the server, client and admin commands: finds the passphrase and unpacks the kit."""

import os
import sys
from pathlib import Path

from fedhe.cli.passphrase import PASSPHRASE_VARIABLE, read_passphrase
from fedhe.cli.run import report
from fedhe.provisioning.kit import WrongPassphraseError, read_kit
from fedhe.provisioning.unpack import check_role, unpack_kit
from fedhe.trust.installation import Installation, RolePrefix

PROMPT_TRIES = 3


def install_kit(
    kit: Path, role: RolePrefix, home: Path, passphrase_file: Path | None = None, replace: bool = False
) -> Installation:
    """Installs a kit below `home`; asks up to three times where the passphrase is typed.

    Args:
        kit: the kit file.
        role: "server", "site" or "admin": which program installs.
        home: HOME.
        passphrase_file: holds the passphrase; None: environment variable FEDHE_PASSPHRASE, or the keyboard.
        replace: put it in the place of the same project's older kit.

    Raises:
        FedheError: as `unpack_kit` and `read_passphrase`.
    """
    home = home.expanduser()
    label = read_kit(kit)
    check_role(label, role, kit)
    name = label.label.name
    typed = passphrase_file is None and PASSPHRASE_VARIABLE not in os.environ and sys.stdin.isatty()
    for _ in range(PROMPT_TRIES - 1 if typed else 0):
        passphrase = read_passphrase(file=None, prompt=f"Passphrase of {kit.name}", name=name)
        try:
            return unpack_kit(kit, passphrase, home, expected_role=role, replace=replace)
        except WrongPassphraseError as error:
            report(error)
    passphrase = read_passphrase(file=passphrase_file, prompt=f"Passphrase of {kit.name}", name=name)
    return unpack_kit(kit, passphrase, home, expected_role=role, replace=replace)
