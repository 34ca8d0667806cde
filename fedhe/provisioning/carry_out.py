"""Carries a plan out: makes keys, certificates, roster and kits, and puts them on the disk so that no crash hurts.

Order on the disk: kits under temporary names; the state, which names every kit as pending; the kits under their own
names; the roster; the passphrases, by the caller; the state with nothing pending. A run that is cut before the state
changed nothing. One that is cut after it is repaired by the next run, which issues the pending kits again.
"""

from dataclasses import dataclass, field
from pathlib import Path

from fedhe.config.project import Project
from fedhe.errors import StateError
from fedhe.he.keys import SecretKey
from fedhe.he.params import CkksParams
from fedhe.provisioning.issue import Issued, issue_certificate, make_authority, server_hosts
from fedhe.provisioning.kit import KIT_SUFFIX, make_passphrase, pack_kit
from fedhe.provisioning.reconcile import Action, ActionKind, Plan, Wanted
from fedhe.provisioning.state import (
    KITS_FOLDER,
    ROSTER_FILE,
    Certificate,
    IssuedParticipant,
    RevokedCertificate,
    State,
    save_state,
)
from fedhe.trust import installation as kit_files
from fedhe.trust.certificates import SERVER
from fedhe.trust.private_files import file_error, fsync_folder, make_private_folder, write_private
from fedhe.trust.roster import (
    MAX_PARTICIPANTS,
    MAX_REVOCATIONS,
    MAX_ROSTER_BYTES,
    Participant,
    Revocation,
    Roster,
    sign_roster,
)
from fedhe.trust.sealed import GroupKey
from fedhe.trust.signatures import parse_private_key


@dataclass(frozen=True)
class NewKit:
    """A kit that a participant is to be given.

    Attributes:
        passphrase: opens it; secret, kept nowhere.
    """

    name: str
    role: str
    data: bytes = field(repr=False)
    passphrase: str = field(repr=False)


@dataclass(frozen=True)
class Outcome:
    """What a plan comes to, before anything is written."""

    state: State
    kits: tuple[NewKit, ...]


def carry_out(project: Project, state: State | None, plan: Plan, now: float) -> Outcome:
    """Makes everything that a plan asks for, in memory.

    Args:
        project: the project file that was planned for.
        state: the state that was planned from.
        plan: of `reconcile`, not empty.
        now: seconds since 1970 UTC.

    Raises:
        TrustError: the authority has expired.
        StateError: more certificates are to be listed or revoked than a roster can hold.
    """
    begun = _begin(project, now) if state is None else _take_settings(project, state)
    if any(action.kind is ActionKind.REKEY for action in plan.actions):
        begun = begun.model_copy(update=_new_keys(project))
    authority = _authority(begun)
    issued: dict[str, Issued] = {}
    for action in plan.actions:
        if action.wanted is not None:
            want = action.wanted
            issued[want.name] = issue_certificate(
                authority,
                project=begun.project,
                role=want.role,
                name=want.name,
                hosts=server_hosts(begun.host) if want.role == SERVER else (),
                days=project.certificates.days,
                now=now,
            )
        begun = _apply(begun, action, issued.get(action.name), now)
    pending = tuple(sorted({*begun.pending, *issued} & {p.name for p in begun.participants}))
    done = _sign(begun.model_copy(update={"pending": pending}), authority, now)
    wanted = [action.wanted for action in plan.actions if action.wanted is not None]
    return Outcome(done, tuple(_kit(done, want, issued[want.name]) for want in wanted))


def _begin(project: Project, now: float) -> State:
    authority = make_authority(project.project.name, days=project.certificates.ca_days, now=now)
    fresh = State(
        project=project.project.name,
        project_version=project.project.version,
        host=project.server.host,
        port=project.server.port,
        he=project.he,
        engine=project.engine,
        min_sites=project.smallest_round,
        ca_pem=authority.certificate_pem,
        ca_key_pem=authority.key_pem,
        ca_serial=authority.serial,
        ca_not_after=authority.not_after,
        he_key=b"",
        group_key=b"",
        key_id=b"",
        roster_version=0,
        signed_roster=b"",
        participants=(),
    )
    return fresh.model_copy(update=_new_keys(project))


def _new_keys(project: Project) -> dict[str, object]:
    secret_key = SecretKey.generate(CkksParams.from_literal(project.he.to_literal()))
    return {
        "he_key": secret_key.to_bytes(),
        "group_key": GroupKey.generate().to_bytes(),
        "key_id": secret_key.key_id,
    }


def _take_settings(project: Project, state: State) -> State:
    return state.model_copy(
        update={
            "project_version": project.project.version,
            "host": project.server.host,
            "port": project.server.port,
            "min_sites": project.smallest_round,
            "he": project.he,
            "engine": project.engine,
        }
    )


def _authority(state: State) -> Issued:
    return Issued(state.ca_pem, state.ca_key_pem, state.ca_serial, state.ca_not_after)


def _apply(state: State, action: Action, issued: Issued | None, now: float) -> State:
    """The state after one action: old certificates revoked or kept beside the new one."""
    old = next((p for p in state.participants if p.name == action.name), None)
    if old is None and action.wanted is None:
        return state
    others = tuple(p for p in state.participants if p.name != action.name)
    held = (*old.older, old.certificate) if old else ()
    revoked = state.revoked
    if action.revokes_old:
        revoked += tuple(
            RevokedCertificate(name=action.name, serial=c.serial, when=now, reason=action.reason) for c in held
        )
        held = ()
    if action.wanted is None or issued is None:
        return state.model_copy(update={"participants": others, "revoked": revoked})
    participant = IssuedParticipant(
        name=action.name,
        role=action.wanted.role,
        holds_key=action.wanted.holds_key,
        certificate=Certificate(serial=issued.serial, not_after=issued.not_after),
        older=tuple(c for c in held if c.not_after > now),
    )
    ordered = tuple(sorted((*others, participant), key=lambda p: p.name))
    return state.model_copy(update={"participants": ordered, "revoked": revoked})


def _sign(state: State, authority: Issued, now: float) -> State:
    roster = Roster(
        project=state.project,
        version=state.roster_version + 1,
        issued_at=now,
        key_id=state.key_id,
        min_sites=state.min_sites,
        participants=tuple(
            Participant(p.name, p.role, c.serial, c.not_after)
            for p in state.participants
            for c in (p.certificate, *p.older)
        ),
        revoked=tuple(Revocation(r.name, r.serial, r.when, r.reason) for r in state.revoked),
    )
    signed = sign_roster(roster, parse_private_key(authority.key_pem, "key of the authority"))
    sizes = (len(roster.participants), len(roster.revoked), len(signed))
    if any(
        size > most for size, most in zip(sizes, (MAX_PARTICIPANTS, MAX_REVOCATIONS, MAX_ROSTER_BYTES), strict=True)
    ):
        raise StateError(
            f"roster: expected at most {MAX_PARTICIPANTS} certificates, {MAX_REVOCATIONS} revoked ones and "
            f"{MAX_ROSTER_BYTES} bytes, got {sizes[0]}, {sizes[1]} and {sizes[2]}",
            "nobody could read it; begin a new federation in an empty folder (--out DIR)",
        )
    return state.model_copy(update={"roster_version": roster.version, "signed_roster": signed})


def _kit(state: State, want: Wanted, issued: Issued) -> NewKit:
    document = kit_files.KitDocument(
        project=state.project,
        project_version=state.project_version,
        name=want.name,
        role=want.role,
        host=state.host,
        port=state.port,
        he=state.he,
        engine=state.engine,
        key_id=state.key_id.hex() if want.holds_key else None,
    )
    files = {
        kit_files.KIT_JSON: document.model_dump_json(indent=1).encode(),
        kit_files.CA_FILE: state.ca_pem,
        kit_files.CERTIFICATE_FILE: issued.certificate_pem,
        kit_files.KEY_FILE: issued.key_pem,
        kit_files.ROSTER_FILE: state.signed_roster,
    }
    if want.holds_key:
        files |= {kit_files.HE_KEY_FILE: state.he_key, kit_files.GROUP_KEY_FILE: state.group_key}
    passphrase = make_passphrase()
    data = pack_kit(files, passphrase, project=state.project, role=want.role, name=want.name)
    return NewKit(want.name, want.role, data, passphrase)


def kit_path(out: Path, name: str) -> Path:
    """Where a participant's newest kit lies until it was handed over."""
    return out / KITS_FOLDER / f"{name}{KIT_SUFFIX}"


def write_outcome(out: Path, outcome: Outcome) -> None:
    """Puts an outcome on the disk; the passphrases are still to be shown, then call `confirm_shown`.

    Raises:
        ResourceError: the disk does not take it; what was provisioned before is untouched.
    """
    make_private_folder(out / KITS_FOLDER)
    staged = [(kit_path(out, kit.name).with_name(f".{kit.name}{KIT_SUFFIX}.new"), kit) for kit in outcome.kits]
    try:
        for path, kit in staged:
            write_private(path, kit.data)
        save_state(out, outcome.state)
        for path, kit in staged:
            path.replace(kit_path(out, kit.name))
        fsync_folder(out / KITS_FOLDER)
    except OSError as error:
        raise file_error(error, out / KITS_FOLDER) from error
    finally:
        for path, _ in staged:
            path.unlink(missing_ok=True)
    names = {participant.name for participant in outcome.state.participants}
    for revoked in outcome.state.revoked:
        if revoked.name not in names:
            kit_path(out, revoked.name).unlink(missing_ok=True)
    repair_roster(out, outcome.state)


def repair_roster(out: Path, state: State) -> None:
    """Has `OUT/roster.signed` be the newest roster, also where a run was cut before it was written.

    Raises:
        ResourceError: the disk does not take it.
    """
    path = out / ROSTER_FILE
    try:
        same = path.read_bytes() == state.signed_roster
    except FileNotFoundError:
        same = False
    except OSError as error:
        raise file_error(error, path) from error
    if not same:
        write_private(path, state.signed_roster)


def confirm_shown(out: Path, state: State) -> None:
    """Notes that the coordinator has every passphrase.

    Raises:
        ResourceError: the disk does not take it; the next run issues the kits again.
    """
    if state.pending:
        save_state(out, state.model_copy(update={"pending": ()}))
