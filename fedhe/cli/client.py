"""`fedhe-client`: runs the agent of a site, and shows and decides what happens there."""

import asyncio
import contextlib
import signal
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from fedhe import __version__
from fedhe.cli import client_jobs
from fedhe.cli.audit import HeadsOption, LastOption, show_log, verify_log
from fedhe.cli.client_place import HomeOption, JsonOption, Place, SiteOption, home_of, installation, site_folder
from fedhe.cli.install import install_kit
from fedhe.cli.output import local_time, print_json, print_table
from fedhe.cli.run import EXIT_CODES_HELP, run
from fedhe.client.agent import serve
from fedhe.client.approvals import printable
from fedhe.client.durable import write_durably
from fedhe.client.log_book import LogBook
from fedhe.client.status import only_agent, read_status
from fedhe.config.policy import POLICY_FILE, example_policy, load_policy, warnings_about
from fedhe.trust.audit_log import AUDIT_FILE
from fedhe.trust.installation import Installation

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    help="Run a site of a federation: training stays here, only encrypted updates leave.",
    epilog=EXIT_CODES_HELP,
)
policy_app = typer.Typer(no_args_is_help=True, help="What this site lets jobs do (policy.yml).")
app.add_typer(client_jobs.app, name="jobs")
app.add_typer(policy_app, name="policy")
audit_app = typer.Typer(no_args_is_help=True, help="This site's audit log: is it whole, and what is in it.")
app.add_typer(audit_app, name="audit")


def _print_version(*, wanted: bool) -> None:
    if wanted:
        typer.echo(f"fedhe-client {__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    *,
    home: Annotated[
        Path | None,
        typer.Option(
            "--home",
            metavar="DIR",
            envvar="FEDHE_HOME",
            help="Folder of what is installed on this computer. Default: ~/.fedhe",
        ),
    ] = None,
    site: Annotated[
        str | None,
        typer.Option("--site", metavar="NAME", envvar="FEDHE_SITE", help="Site, where several are installed."),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=lambda wanted: _print_version(wanted=wanted), is_eager=True)
    ] = False,
) -> None:
    """Run a site of a federation: training stays here, only encrypted updates leave.

    Begin with:  fedhe-client install hospitalA.kit

    Then set data_root in policy.yml, and:  fedhe-client start --site hospitalA

    When a job comes:  fedhe-client jobs approve JOB
    """
    del version  # its callback has printed it
    context.obj = Place(home, site)


@app.command()
def install(
    context: typer.Context,
    kit: Annotated[Path, typer.Argument(metavar="KIT", help="The site's kit file.", show_default=False)],
    *,
    passphrase_file: Annotated[
        Path | None,
        typer.Option(
            "--passphrase-file", metavar="FILE", help="File with the passphrase; or FEDHE_PASSPHRASE; or asked."
        ),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace an installed kit, e.g. by a renewed one.")
    ] = False,
    home: HomeOption = None,
) -> None:
    """Unpack the site's kit with its passphrase, and write a commented policy.yml; done once.

    Example: fedhe-client install kits/hospitalA.kit
    """
    installed = install_kit(kit, "site", home_of(context, home), passphrase_file, replace)
    policy = installed.folder / POLICY_FILE
    if not policy.exists():
        write_durably(policy, example_policy(min(3, installed.roster.min_sites)).encode())
    typer.echo(f"site {installed.name} of project {installed.project} is installed in {installed.folder}")
    typer.echo(f"server: {installed.address}; this site's rules: {policy}")
    typer.echo(f"next: set data_root there, then: fedhe-client start --site {installed.name}")


@app.command()
def start(
    context: typer.Context,
    *,
    site: SiteOption = None,
    json_logs: Annotated[bool, typer.Option("--json-logs", help="One JSON object for each log line.")] = False,
    home: HomeOption = None,
) -> None:
    """Run the site's agent until it is stopped (Ctrl-C or SIGTERM).

    It only dials out, and it goes on where it was, whatever happened.

    Example: fedhe-client start --site hospitalA
    """
    installed = installation(context, home, site)
    load_policy(installed.folder / POLICY_FILE)  # a fault in it is told before anything starts
    with only_agent(installed.folder):
        asyncio.run(_serve(installed, LogBook(installed.folder / "logs", as_json=json_logs)))


async def _serve(installed: Installation, log: LogBook) -> None:
    """Runs the agent; SIGTERM and SIGINT end it cleanly."""
    loop, agent = asyncio.get_running_loop(), asyncio.ensure_future(serve(installed, log))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, agent.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await agent
    log.write("info", "stopped; the work goes on here when the agent is started again")


@app.command()
def status(
    context: typer.Context, *, as_json: JsonOption = False, home: HomeOption = None, site: SiteOption = None
) -> None:
    """Show whether the agent runs, how its connection is, and what each job does.

    Example: fedhe-client status --json
    """
    folder = site_folder(context, home, site)
    state = read_status(folder)
    if state is None:
        state = {
            "site": folder.name, "running": False, "connection": "stopped",
            "message": "the agent never ran here", "jobs": [],
        }  # fmt: skip
    if as_json:
        print_json(state)
        return
    running = state["running"]
    facts: list[tuple[str, Any]] = [
        ("agent", f"running (process {state.get('pid')})" if running else "not running"),
        ("connection", state["connection"]),
        ("server", state.get("server")),
    ]
    if running and state.get("since"):
        facts.append(("since", local_time(state["since"])))
    if state.get("message"):
        facts.append(("message", printable(state["message"])))
    if running and (due := state.get("next_try_at")):
        facts.append(("next try", f"in {max(0, round(due - time.time()))} s"))
    print_table(f"site {state['site']}", ("", ""), facts)
    rows = [
        (
            job["job_id"],
            printable(job["name"]),
            f"{job['round']}/{job['rounds']}",
            f"ended: {printable(job['ended'])}" if job["ended"] else job["activity"],
            f"{100 * job['fraction']:.0f} %" if job["fraction"] else "",
            printable(job["message"] or job["detail"]),
        )
        for job in state["jobs"]
    ]
    print_table("jobs", ("job", "name", "round", "state", "done", "detail"), rows)


@policy_app.command("show")
def policy_show(
    context: typer.Context, *, as_json: JsonOption = False, home: HomeOption = None, site: SiteOption = None
) -> None:
    """Show the policy that is in force, defaults included.

    Example: fedhe-client policy show
    """
    path = site_folder(context, home, site) / POLICY_FILE
    values = load_policy(path).model_dump(mode="json")
    if as_json:
        print_json(values)
        return
    print_table(f"policy {path}", ("key", "value"), [(key, printable(str(value))) for key, value in values.items()])


@policy_app.command("check")
def policy_check(context: typer.Context, *, home: HomeOption = None, site: SiteOption = None) -> None:
    """Check policy.yml: exit code 2 with file and line if it is not well-formed; warns of what may surprise.

    Example: fedhe-client policy check
    """
    path = site_folder(context, home, site) / POLICY_FILE
    policy = load_policy(path)
    for line in warnings_about(policy):
        typer.echo(f"warning: {line}")
    typer.echo(f"{path}: well-formed")


@audit_app.command("verify")
def audit_verify(
    context: typer.Context,
    *,
    heads: HeadsOption = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
    site: SiteOption = None,
) -> None:
    """Check that no line of the audit log was changed, dropped or added; exit code 3 if one was.

    The head that it prints, noted elsewhere, shows later whether the log was cut or written anew.

    Example: fedhe-client audit verify
    """
    verify_log(site_folder(context, home, site) / AUDIT_FILE, heads, as_json=as_json)


@audit_app.command("show")
def audit_show(
    context: typer.Context,
    *,
    last: LastOption = 20,
    as_json: JsonOption = False,
    home: HomeOption = None,
    site: SiteOption = None,
) -> None:
    """Show the newest lines of the audit log.

    Example: fedhe-client audit show --last 50 --json
    """
    show_log(site_folder(context, home, site) / AUDIT_FILE, last, as_json=as_json)


def main() -> None:
    """Entry point of `fedhe-client`."""
    run(app)
