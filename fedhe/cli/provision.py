"""`fedhe-provision`: from a project file to certificates, keys and kits; run again, it does what changed."""

import json
import sys
import time
from importlib.metadata import version as installed_version
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from fedhe.cli.output import local_time, print_json, print_table
from fedhe.cli.run import EXIT_CODES_HELP, run
from fedhe.config.project import load_project
from fedhe.errors import ConfigError, StateError
from fedhe.provisioning.carry_out import (
    NewKit,
    Outcome,
    carry_out,
    confirm_shown,
    kit_path,
    repair_roster,
    write_outcome,
)
from fedhe.provisioning.kit import KIT_SUFFIX
from fedhe.provisioning.reconcile import Action, ActionKind, Plan, Wishes, reconcile
from fedhe.provisioning.state import KITS_FOLDER, ROSTER_FILE, State, load_state, locked
from fedhe.trust.private_files import make_private_folder, read_private, write_private

MAX_PASSPHRASES_BYTES = 1024 * 1024
DEFAULT_PROJECT_FILE = Path("project.yml")

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", pretty_exceptions_show_locals=False)


def main() -> None:
    """Entry point of the command."""
    run(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fedhe-provision {installed_version('fedhe')}")
        raise typer.Exit


@app.command(no_args_is_help=True, epilog=EXIT_CODES_HELP)
def provision(
    project_file: Annotated[
        Path | None, typer.Argument(metavar="PROJECT.yml", help="The project file.", show_default=False)
    ] = None,
    *,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="The coordinator's folder: kits to hand over, roster, and private/ with all keys. "
            "Default: a folder named after the project, beside the project file.",
            show_default=False,
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before changing what was provisioned.")] = False,
    plan_only: Annotated[bool, typer.Option("--plan", help="Show what would be done, and do nothing.")] = False,
    renew: Annotated[
        list[str] | None,
        typer.Option(
            "--renew",
            metavar="NAME",
            help="New certificate and kit for this participant; the old certificate holds until it expires. "
            "May be given several times.",
        ),
    ] = None,
    replace: Annotated[
        list[str] | None,
        typer.Option(
            "--replace",
            metavar="NAME",
            help="New certificate and kit for this participant whose kit was lost or stolen; the old one is revoked. "
            "May be given several times.",
        ),
    ] = None,
    rekey: Annotated[
        bool, typer.Option("--rekey", help="New CKKS and group keys, and new kits for all who hold them.")
    ] = False,
    passphrases: Annotated[
        Path | None,
        typer.Option(
            "--passphrases",
            metavar="FILE",
            help="Write the new kits' passphrases to this file (mode 0600, JSON) instead of showing them. "
            "For automation; keep it apart from the kits.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON; with passphrases, unless --passphrases is given.")
    ] = False,
    init: Annotated[
        bool, typer.Option("--init", help="Write a commented example project file (project.yml if none is named).")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Make or change a federation: authority, certificates, keys, signed roster, and one kit per participant.

    Begin with:  fedhe-provision --init project.yml

    Edit it, then:  fedhe-provision project.yml

    After adding or removing a site:  fedhe-provision project.yml   (shows a plan, asks, does only what changed)

    Before a certificate expires:  fedhe-provision project.yml --renew hospitalA
    """
    del version  # its callback has printed it
    if init:
        _write_example(project_file or DEFAULT_PROJECT_FILE)
        return
    if project_file is None:
        raise ConfigError("expected a project file, got none", "fedhe-provision --init writes an example project.yml")
    project = load_project(project_file)
    folder = out if out is not None else project_file.parent / project.project.name
    known = _read_passphrases(passphrases)
    wishes = Wishes(renew=tuple(renew or ()), replace=tuple(replace or ()), rekey=rekey)
    if plan_only:
        _show_plan(reconcile(project, load_state(folder), wishes, time.time()), folder, as_json=as_json)
        return
    load_state(folder)  # what is wrong with it is said before anything is made in the folder
    with locked(folder):
        if passphrases is not None:  # before any kit is made that only a passphrase opens
            make_private_folder(passphrases.parent)
        state, now = load_state(folder), time.time()
        plan = reconcile(project, state, wishes, now)
        if not as_json:
            _show_plan(plan, folder, as_json=False)
        if not plan.actions:
            if state is not None:
                repair_roster(folder, state)
            if as_json:
                print_json(_result(folder, plan, state, (), None))
            return
        if state is not None and not yes:
            _confirm()
        outcome = carry_out(project, state, plan, now)
        write_outcome(folder, outcome)
        _hand_over(folder, plan, outcome, passphrases, known, as_json=as_json)
        confirm_shown(folder, outcome.state)


def _write_example(path: Path) -> None:
    if path.exists():
        raise StateError(
            f"{path}: is there already; nothing was written", "name another file: fedhe-provision --init FILE"
        )
    text = files("fedhe.provisioning").joinpath("example.yml").read_bytes()
    write_private(path, text)
    typer.echo(f"wrote {path}; edit it, then run: fedhe-provision {path}")


def _confirm() -> None:
    if not sys.stdin.isatty():
        raise ConfigError("expected an answer whether to go ahead, but there is no terminal to ask at", "add --yes")
    typer.confirm("Go ahead?", abort=True)


def _read_passphrases(file: Path | None) -> dict[str, str]:
    """What a passphrase file of an earlier run holds; checked before anything is made."""
    if file is None:
        return {}
    if not file.exists():
        return {}
    try:
        known = json.loads(read_private(file, MAX_PASSPHRASES_BYTES))
    except ValueError as error:
        raise ConfigError(f"{file}: expected passphrases that an earlier run wrote, got something else") from error
    if not isinstance(known, dict):
        raise ConfigError(f"{file}: expected passphrases that an earlier run wrote, got something else")
    return known


def _show_plan(plan: Plan, folder: Path, *, as_json: bool) -> None:
    if as_json:
        print_json({"out": str(folder), "plan": _plan_rows(plan.actions), "warnings": list(plan.warnings)})
        return
    if plan.actions:
        rows = [[action.kind, action.name, action.reason] for action in plan.actions]
        print_table(f"Plan for {folder}", ["do", "what", "why"], rows)
    else:
        typer.echo(f"{folder}: nothing to do, all is as the project file says")
    for warning in plan.warnings:
        Console(stderr=True, soft_wrap=True, highlight=False).print(f"[yellow]note:[/] {escape(warning)}")


def _plan_rows(actions: tuple[Action, ...]) -> list[dict[str, Any]]:
    return [{"do": str(a.kind), "name": a.name, "why": a.reason, "revokes_old": a.revokes_old} for a in actions]


def _hand_over(
    folder: Path, plan: Plan, outcome: Outcome, file: Path | None, known: dict[str, str], *, as_json: bool
) -> None:
    """Gives the coordinator the passphrases, which nothing keeps, and says what to do with the rest."""
    if file is not None:
        write_private(file, json.dumps(known | {kit.name: kit.passphrase for kit in outcome.kits}, indent=1).encode())
    if as_json:
        print_json(_result(folder, plan, outcome.state, outcome.kits, file))
        sys.stdout.flush()
        return
    if outcome.kits and file is None:
        # Plain lines: a table would break a passphrase where the terminal is narrow.
        width = max(len(kit.name) for kit in outcome.kits) + len(KIT_SUFFIX)
        typer.echo(f"\nNew kits are in {folder / KITS_FOLDER}. Their passphrases are shown now and never again:\n")
        for kit in outcome.kits:
            typer.echo(f"  {kit.name + KIT_SUFFIX:<{width}}  {kit.passphrase}")
        typer.echo("\nHand kit and passphrase over by different ways, each to its participant only.")
    elif outcome.kits:
        typer.echo(f"{len(outcome.kits)} new kits are in {folder / KITS_FOLDER}, their passphrases in {file}")
    if not any(action.kind is ActionKind.CREATE for action in plan.actions):
        typer.echo(
            f"Roster version {outcome.state.roster_version} takes effect at the server with: "
            f"fedhe-admin roster update {folder / ROSTER_FILE}"
        )
    typer.echo(f"Back up {folder / 'private'} where nobody else can read it: it can decrypt and certify everything.")
    sys.stdout.flush()


def _result(
    folder: Path, plan: Plan, state: State | None, kits: tuple[NewKit, ...], file: Path | None
) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    for kit in kits:
        row: dict[str, Any] = {"name": kit.name, "role": kit.role, "file": str(kit_path(folder, kit.name))}
        rows.append(row if file is not None else row | {"passphrase": kit.passphrase})
    participants = state.participants if state else ()
    return {
        "out": str(folder),
        "project": state.project if state else None,
        "plan": _plan_rows(plan.actions),
        "warnings": list(plan.warnings),
        "kits": rows,
        "passphrases": str(file) if file and kits else None,
        "roster": str(folder / ROSTER_FILE),
        "roster_version": state.roster_version if state else None,
        "key_id": state.key_id.hex() if state else None,
        "participants": [
            {
                "name": p.name,
                "role": p.role,
                "holds_key": p.holds_key,
                "expires": local_time(p.certificate.not_after),
            }
            for p in participants
        ],
    }
