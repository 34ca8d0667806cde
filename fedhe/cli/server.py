"""`fedhe-server`: installs the server's kit, runs the server, looks after one that runs on this machine."""

import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from fedhe import __version__
from fedhe.cli import server_backup
from fedhe.cli.audit import HeadsOption, LastOption, show_log, verify_log
from fedhe.cli.output import local_time, print_json, print_table
from fedhe.cli.run import EXIT_CODES_HELP, run
from fedhe.cli.server_options import DEFAULT_HOME, HomeOption, JsonOption, server_folder
from fedhe.errors import ConfigError, StateError, UnavailableError
from fedhe.he.ciphertext import MAX_FORWARDED_SEEDS
from fedhe.server.health import check_health
from fedhe.server.lock_file import Holder, running
from fedhe.server.start import LOCK_FILE, Ended, serve
from fedhe.server.summary import read_summary
from fedhe.trust.audit_log import AUDIT_FILE
from fedhe.trust.installation import load_installation, store_roster
from fedhe.trust.roster import MAX_ROSTER_BYTES

STOP_POLL_SECONDS = 0.1
_UNITS = {"M": 10**6, "G": 10**9, "T": 10**12}

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    help="Run the server of a federation: it sums ciphertexts and holds no key.",
    epilog=EXIT_CODES_HELP,
)

audit_app = typer.Typer(no_args_is_help=True, help="The server's audit log: is it whole, and what is in it.")
app.add_typer(audit_app, name="audit")


def _print_version(*, wanted: bool) -> None:
    if wanted:
        typer.echo(f"fedhe-server {__version__}")
        raise typer.Exit


@app.callback()
def options(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=lambda wanted: _print_version(wanted=wanted), is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Run the server of a federation: it sums ciphertexts and holds no key.

    Begin with:  fedhe-server install server.kit

    Then:  fedhe-server start
    """
    del version  # its callback has printed it


@app.command()
def install(
    kit: Annotated[Path, typer.Argument(metavar="KIT", help="The server's kit file.", show_default=False)],
    *,
    home: HomeOption = DEFAULT_HOME,
    passphrase_file: Annotated[
        Path | None,
        typer.Option(
            "--passphrase-file", metavar="FILE", help="File with the passphrase; or FEDHE_PASSPHRASE; or asked."
        ),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace an installed kit, e.g. by a renewed one.")
    ] = False,
) -> None:
    """Unpack the server's kit with its passphrase; done once.

    Example: fedhe-server install kits/server.kit
    """
    # Only installing needs what opens kits; a server that runs has nothing of it in memory.
    from fedhe.cli.install import install_kit  # noqa: PLC0415

    installed = install_kit(kit, "server", home.expanduser(), passphrase_file, replace)
    typer.echo(f"server of project {installed.project} is installed in {installed.folder}")
    typer.echo("next: fedhe-server start")


@app.command()
def start(
    *,
    home: HomeOption = DEFAULT_HOME,
    listen: Annotated[
        str | None,
        typer.Option(
            "--listen",
            metavar="ADDR:PORT",
            help="Where to listen; port 0 picks a free one. Default: all addresses, the port of the project file.",
            show_default=False,
        ),
    ] = None,
    json_logs: Annotated[bool, typer.Option("--json-logs", help="Log JSON lines instead of text.")] = False,
    forward_seeds: Annotated[
        int,
        typer.Option(
            "--forward-seeds",
            metavar="SITES",
            min=0,
            help="Rounds of up to this many sites halve their download, at some work for the sites (fast engine only).",
        ),
    ] = MAX_FORWARDED_SEEDS,
    disk_budget: Annotated[
        str | None,
        typer.Option(
            "--disk-budget",
            metavar="SIZE",
            help="What ciphertexts and checkpoints may take, such as 500M, 200G or 2T; beyond it sites wait. "
            "Near it, all sealed checkpoints but the newest of each job are dropped.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Run the server until it is stopped; jobs go on where they were.

    Prints `fedhe-server ready on ADDR:PORT` once sites can connect; logs to standard error.

    Example: fedhe-server start --listen 0.0.0.0:8443
    """
    os.umask(0o077)
    ended = serve(
        server_folder(home),
        listen=listen,
        json_logs=json_logs,
        max_forwarded=forward_seeds,
        disk_budget=None if disk_budget is None else _bytes_of("--disk-budget", disk_budget),
    )
    if ended is Ended.RESTART:
        # The same process, started over: a supervisor keeps its hold on it, and new software takes effect.
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 -- our own command line again


def _bytes_of(flag: str, text: str) -> int:
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)([MGT])B?", text.strip(), re.IGNORECASE)
    size = float(match[1]) * _UNITS[match[2].upper()] if match else 0.0
    if size < _UNITS["M"]:
        raise ConfigError(f"{flag}: expected a size of at least 1M, such as 500M, 200G or 2T, got {text[:40]!r}")
    return int(size)


@app.command()
def status(*, home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Show whether the server runs on this machine, and the jobs it keeps; works while it is stopped too.

    Example: fedhe-server status --json
    """
    folder = server_folder(home)
    holder = running(folder / LOCK_FILE)
    summary = read_summary(folder)
    if as_json:
        print_json({"running": holder is not None, **_facts(holder), **summary})
        return
    if holder is None:
        typer.echo("the server is stopped; start it with: fedhe-server start")
    else:
        since = local_time(holder.started_at)
        typer.echo(f"the server runs as process {holder.pid} on {holder.address or '(starting)'} since {since}")
    columns = ("job_id", "name", "phase", "round", "rounds", "message")
    print_table("jobs", columns, [[job[column] for column in columns] for job in summary["jobs"]])


@app.command()
def stop(
    *,
    home: HomeOption = DEFAULT_HOME,
    wait: Annotated[float, typer.Option("--wait", metavar="SECONDS", help="How long to wait until it has ended.")] = 60,
) -> None:
    """Stop the server on this machine cleanly; jobs go on when it is started again.

    Example: fedhe-server stop
    """
    lock = server_folder(home) / LOCK_FILE
    holder = running(lock)
    if holder is None:
        raise StateError("no server runs here", "nothing to stop")
    try:
        os.kill(holder.pid, signal.SIGTERM)
    except OSError as error:
        raise StateError(f"cannot stop process {holder.pid}: {error.strerror}", "run as the server's user") from error
    deadline = time.monotonic() + wait
    while running(lock) is not None:
        if time.monotonic() > deadline:
            raise UnavailableError(
                f"process {holder.pid} was asked to stop and still runs after {wait:g} seconds", "look at its log"
            )
        time.sleep(STOP_POLL_SECONDS)
    typer.echo("the server has stopped")


@app.command("update-roster")
def update_roster(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="roster.signed that fedhe-provision wrote.", show_default=False)
    ],
    *,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Put a newer signed roster in force: sites were added or revoked. A running server takes it up at once.

    Example: fedhe-server update-roster out/roster.signed
    """
    try:
        with file.open("rb") as opened:
            signed = opened.read(MAX_ROSTER_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}", "fedhe-provision writes OUT/roster.signed") from error
    installation = load_installation(server_folder(home), role_prefix="server", now=time.time())
    roster = store_roster(installation, signed).roster
    gone = {entry.name for entry in roster.revoked} - {entry.name for entry in roster.participants}
    typer.echo(
        f"roster version {roster.version} is in force; sites: {', '.join(roster.sites)}; "
        f"revoked: {', '.join(sorted(gone)) or 'nobody'}"
    )


@app.command()
def health(*, home: HomeOption = DEFAULT_HOME) -> None:
    """Ask the running server for its health; exit code 0 if it serves. For supervisors and container engines.

    Example: fedhe-server health
    """
    typer.echo(check_health(server_folder(home)))


@audit_app.command("verify")
def audit_verify(*, home: HomeOption = DEFAULT_HOME, heads: HeadsOption = None, as_json: JsonOption = False) -> None:
    """Check that no line of the audit log was changed, dropped or added; exit code 3 if one was.

    The head that it prints, noted elsewhere, shows later whether the log was cut or written anew.

    Example: fedhe-server audit verify
    """
    verify_log(server_folder(home) / AUDIT_FILE, heads, as_json=as_json)


@audit_app.command("show")
def audit_show(*, home: HomeOption = DEFAULT_HOME, last: LastOption = 20, as_json: JsonOption = False) -> None:
    """Show the newest lines of the audit log.

    Example: fedhe-server audit show --last 50 --json
    """
    show_log(server_folder(home) / AUDIT_FILE, last, as_json=as_json)


app.command()(server_backup.backup)
app.command("restore")(server_backup.restore_backup)
app.command()(server_backup.verify)


def _facts(holder: Holder | None) -> dict[str, Any]:
    if holder is None:
        return {"pid": None, "address": None, "started_at": None}
    return {"pid": holder.pid, "address": holder.address, "started_at": holder.started_at}


def main() -> None:
    """Entry point of `fedhe-server`."""
    run(app)


if __name__ == "__main__":
    main()
