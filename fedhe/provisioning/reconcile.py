"""PURE: compares a project file with what was issued, and says what is to be done; does nothing itself."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from fedhe.config.project import SERVER_NAME, Project
from fedhe.errors import ConfigError, NotFoundError
from fedhe.provisioning.state import IssuedParticipant, State
from fedhe.trust.certificates import ADMIN_LEAD, ADMIN_OBSERVER, SERVER, SITE

EXPIRY_WARNING_SECONDS = 30 * 86400
"""From when on a plan mentions that a certificate expires."""


class ActionKind(StrEnum):
    """What can be done; in the order in which it is done."""

    CREATE = "create"
    REKEY = "re-key"
    REVOKE = "revoke"
    ISSUE = "issue"
    REISSUE = "re-issue"
    CHANGE = "change"


@dataclass(frozen=True)
class Wanted:
    """A participant as the project file wants it; `role` as in the certificate."""

    name: str
    role: str
    holds_key: bool


@dataclass(frozen=True)
class Action:
    """One thing to do.

    Attributes:
        name: the participant's, or what is concerned otherwise.
        reason: for people: why.
        wanted: of ISSUE and REISSUE.
        revokes_old: whether the certificates that the participant has stop being good.
    """

    kind: ActionKind
    name: str
    reason: str
    wanted: Wanted | None = None
    revokes_old: bool = False


@dataclass(frozen=True)
class Wishes:
    """What the command line asks for beyond the project file.

    Attributes:
        renew: participants who get a new certificate; their old one stays good until it expires.
        replace: participants whose kit was lost or stolen; their old certificate is revoked.
        rekey: make new CKKS and group keys.
    """

    renew: Collection[str] = ()
    replace: Collection[str] = ()
    rekey: bool = False


@dataclass(frozen=True)
class Plan:
    """What to do, in order, and what the coordinator should know."""

    actions: tuple[Action, ...]
    warnings: tuple[str, ...]


def wanted_participants(project: Project) -> tuple[Wanted, ...]:
    """The server, the sites and the admins of a project file."""
    roles = {"lead": ADMIN_LEAD, "observer": ADMIN_OBSERVER}
    return (
        Wanted(SERVER_NAME, SERVER, holds_key=False),
        *(Wanted(site.name, SITE, holds_key=True) for site in project.sites),
        *(Wanted(admin.name, roles[admin.role], holds_key=admin.holds_key) for admin in project.admins),
    )


def reconcile(project: Project, state: State | None, wishes: Wishes, now: float) -> Plan:
    """Plans the way from what was issued to what the project file wants; an empty plan if nothing differs.

    Args:
        project: the project file.
        state: what was issued; None before the first run.
        wishes: what the command line asks for.
        now: seconds since 1970 UTC.

    Raises:
        ConfigError: the folder belongs to another project, or the HE ring changed without a wish to re-key.
        NotFoundError: a participant to renew or replace is not in the project file.
    """
    wanted = wanted_participants(project)
    names = [w.name for w in wanted]
    for name in (*wishes.renew, *wishes.replace):
        if name not in names:
            raise NotFoundError(f"no participant {name!r} in the project file", f"known: {', '.join(names)}")
    if state is None:
        create = Action(ActionKind.CREATE, project.project.name, "authority, CKKS key, group key and roster")
        return Plan((create, *(Action(ActionKind.ISSUE, w.name, w.role, w) for w in wanted)), ())
    _check_same_project(project, state, wishes)
    actions: list[Action] = []
    if wishes.rekey:
        actions.append(Action(ActionKind.REKEY, project.project.name, "new CKKS and group keys; running jobs end"))
    issued = {p.name: p for p in state.participants}
    gone = [p for name, p in issued.items() if name not in names]
    actions += [Action(ActionKind.REVOKE, p.name, "not in the project file any more", revokes_old=True) for p in gone]
    for want in wanted:
        if want.name not in issued:
            actions.append(Action(ActionKind.ISSUE, want.name, want.role, want))
        elif action := _reissue(want, issued[want.name], project, state, wishes):
            actions.append(action)
    actions += _changes(project, state)
    return Plan(tuple(actions), (*_warnings(actions, issued, wishes, now), *_small_rounds(project, state)))


def _check_same_project(project: Project, state: State, wishes: Wishes) -> None:
    if project.project.name != state.project:
        raise ConfigError(
            f"expected project {state.project}, which this folder holds, got {project.project.name}",
            "give every project a folder of its own (--out DIR)",
        )
    if _ring(project) != _ring(state) and not wishes.rekey:
        raise ConfigError(
            f"he: expected the ring that the project's key was made for, {_ring(state)}, got {_ring(project)}",
            "undo that change, or make new keys and kits for everybody with --rekey",
        )


def _ring(settings: Project | State) -> tuple[int, tuple[int, ...]]:
    """What a key depends on; scale and field widths may change without a new key."""
    return settings.he.poly_modulus_degree, settings.he.coeff_modulus_bits


def _reissue(want: Wanted, has: IssuedParticipant, project: Project, state: State, wishes: Wishes) -> Action | None:
    """The first reason, gravest first, to give a participant a new kit; None if its kit is as it must be."""
    reasons = (
        (has.role != want.role, f"role was {has.role}, is {want.role}", True),
        (has.holds_key and not want.holds_key, "shall not hold the keys any more", True),
        (want.name in wishes.replace, "its kit is replaced, the old one revoked", True),
        (wishes.rekey and want.holds_key, "new keys", True),
        (want.name in state.pending, "the last run ended before its passphrase was shown", True),
        (want.holds_key and not has.holds_key, "shall hold the keys", False),
        (project.he != state.he, "new HE parameters", False),
        (
            project.engine != state.engine and want.role == SITE,
            f"encrypts with the {project.engine} engine from now on, not with {state.engine}",
            False,
        ),
        (
            (project.server.host, project.server.port) != (state.host, state.port),
            f"the server moved from {state.host}:{state.port} to {project.server.host}:{project.server.port}",
            False,
        ),
        (want.name in wishes.renew, "its certificate is renewed, the old one holds until it expires", False),
    )
    for applies, reason, revokes in reasons:
        if applies:
            return Action(ActionKind.REISSUE, want.name, reason, want, revokes_old=revokes)
    return None


def _changes(project: Project, state: State) -> list[Action]:
    pairs = (
        ("min_sites", state.min_sites, project.smallest_round, "in a new roster"),
        ("version", state.project_version, project.project.version, "in kits from now on"),
    )
    return [
        Action(ActionKind.CHANGE, what, f"{old} to {new}, {where}") for what, old, new, where in pairs if old != new
    ]


def _small_rounds(project: Project, state: State) -> list[str]:
    if project.smallest_round >= state.min_sites or project.smallest_round > 2:
        return []
    return ["a sum over two sites tells each of them the other's update: rounds of two become possible"]


def _warnings(actions: list[Action], issued: dict[str, IssuedParticipant], wishes: Wishes, now: float) -> list[str]:
    texts = []
    losing = sorted(
        a.name for a in actions if a.kind is not ActionKind.ISSUE and a.revokes_old and issued[a.name].holds_key
    )
    if losing and not wishes.rekey:
        texts.append(
            f"the keys that {', '.join(losing)} had still open this project's models and updates: "
            "re-key (--rekey) if they must not"
        )
    replaced = {a.name for a in actions if a.revokes_old or a.kind is ActionKind.REISSUE}
    for name, participant in sorted(issued.items()):
        left = participant.certificate.not_after - now
        if name not in replaced and left < EXPIRY_WARNING_SECONDS:
            day = datetime.fromtimestamp(participant.certificate.not_after, UTC).strftime("%Y-%m-%d")
            verb = "expires" if left > 0 else "expired"
            texts.append(f"the certificate of {name} {verb} on {day}: --renew {name}")
    return texts
