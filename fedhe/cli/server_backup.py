"""`fedhe-server backup`, `restore` and `verify`."""

import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from fedhe.cli.admin_format import count_of, size
from fedhe.cli.output import local_time, print_json
from fedhe.cli.server_options import DEFAULT_HOME, HomeOption, JsonOption, server_folder
from fedhe.server.backup import make_backup
from fedhe.server.restore import Checked, check_backup, check_folder, restore


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The backup to write.", show_default=False)],
    *,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Write the server's state into one file, while the server runs: database, ciphertexts, audit log.

    The state is that of one moment. The file holds no key, and not the kit; keep `server.kit` and its passphrase too. A
    file that exists is not overwritten.

    Example: fedhe-server backup /backups/fedhe-2026-11-25.tar
    """
    os.umask(0o077)
    made = make_backup(server_folder(home), file, time.time)
    if as_json:
        facts = {"file": str(file), "created_at": made.created_at, "objects": made.objects, "bytes": made.bytes}
        print_json({**facts, "file_bytes": file.stat().st_size})
        return
    typer.echo(f"{file}: {count_of(made.objects, 'object')}, {size(file.stat().st_size)}")
    typer.echo(f"check it with: fedhe-server verify {file}")


def restore_backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `fedhe-server backup` wrote.", show_default=False)],
    *,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Put a backup into a server's folder that has nothing but the kit, after all of it was checked.

    Jobs that ran are paused: sites may be further than the backup. See what each holds with `fedhe-admin jobs show`,
    then `fedhe-admin jobs resume`, which is refused while a site holds a later model than this server knows.

    Example: fedhe-server install server.kit && fedhe-server restore /backups/fedhe-2026-11-25.tar
    """
    os.umask(0o077)
    checked = restore(server_folder(home), file, time.time())
    if as_json:
        print_json(_facts(checked))
        return
    typer.echo(f"restored the state of {local_time(checked.created_at or 0)}: {_words(checked)}")
    typer.echo(
        "jobs that ran are paused; next: fedhe-server start, fedhe-admin jobs show JOB, fedhe-admin jobs resume JOB"
    )


def verify(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="A backup; default: this server.", show_default=False)
    ] = None,
    *,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Check every digest of a backup, or of the server on this machine, which may run; changes nothing.

    Reads all stored objects, and the chain of the audit log.

    Example: fedhe-server verify /backups/fedhe-2026-11-25.tar
    """
    checked = check_folder(server_folder(home)) if file is None else check_backup(file)
    if as_json:
        print_json(_facts(checked))
        return
    typer.echo(f"{file or server_folder(home)} is whole: {_words(checked)}")


def _words(checked: Checked) -> str:
    objects = f"{count_of(checked.objects, 'object')} of {size(checked.bytes)}"
    return f"{objects}, {count_of(checked.audit_lines, 'line')} of the audit log"


def _facts(checked: Checked) -> dict[str, Any]:
    facts = {"objects": checked.objects, "bytes": checked.bytes, "audit_lines": checked.audit_lines}
    return {**facts, "created_at": checked.created_at}
