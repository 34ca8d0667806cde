"""Which jobs the people at this site approved or rejected, by the hash of the whole job folder.

One JSON file, written by `fedhe-client jobs approve|reject` and read by the agent; the archives that were approved
are kept beside it, so that the next version of a job can be shown as a difference.
"""

import difflib
import getpass
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from fedhe.client.durable import disk_errors, make_folder, write_durably
from fedhe.config.policy import SitePolicy
from fedhe.errors import PolicyError, StateError

APPROVALS_FILE = "approvals.json"
ARCHIVES_FOLDER = "approved"
MAX_DIFF_LINES = 2000
# Files of these kinds cannot run; all others count as code.
DATA_SUFFIXES = frozenset({".json", ".yml", ".yaml", ".md", ".rst", ".txt", ".csv", ".safetensors"})

Decision = Literal["approved", "rejected"]


@dataclass(frozen=True)
class Approval:
    """One decision of a person at this site.

    Attributes:
        digest: hex SHA-256 of the job archive.
        decision: approved or rejected.
        name: the job's name, by which the next version of it is recognised.
        who: the account that decided.
        when: seconds since 1970 UTC.
        reason: why it was rejected; empty for an approval.
    """

    digest: str
    decision: Decision
    name: str
    who: str
    when: float
    reason: str = ""


_APPROVALS = TypeAdapter(list[Approval])


def read_approvals(site_folder: Path) -> dict[str, Approval]:
    """All decisions, by the digest of the archive they are about.

    Raises:
        StateError: the file is damaged.
    """
    path = site_folder / APPROVALS_FILE
    if not path.exists():
        return {}
    try:
        with disk_errors(path):
            data = path.read_bytes()
        return {approval.digest: approval for approval in _APPROVALS.validate_json(data)}
    except ValidationError as error:
        raise StateError(
            f"{path}: not a list of approvals ({error.error_count()} faults)", "move it away and approve again"
        ) from error


def decide(
    site_folder: Path, digest: str, decision: Decision, *, name: str, now: float, archive: bytes, reason: str = ""
) -> Approval:
    """Records a decision, replacing an earlier one about the same archive.

    Raises:
        StateError: the file is damaged.
        ResourceError: disk full or read-only.
    """
    approvals = read_approvals(site_folder)
    approval = Approval(digest, decision, name, _account(), now, reason)
    approvals[digest] = approval
    if decision == "approved":
        folder = make_folder(site_folder / ARCHIVES_FOLDER)
        write_durably(folder / f"{digest}.zip", archive)
    lines = json.dumps([asdict(entry) for entry in approvals.values()], indent=1)
    write_durably(site_folder / APPROVALS_FILE, lines.encode())
    return approval


def _account() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number that no name belongs to
        return f"uid {os.getuid()}"


def last_approved(site_folder: Path, name: str) -> tuple[Approval, bytes] | None:
    """The latest approved archive of a job of this name, if one is kept.

    Raises:
        StateError: the file of approvals is damaged.
    """
    entries = [e for e in read_approvals(site_folder).values() if e.decision == "approved" and e.name == name]
    for entry in sorted(entries, key=lambda e: e.when, reverse=True):
        path = site_folder / ARCHIVES_FOLDER / f"{entry.digest}.zip"
        if path.exists():
            with disk_errors(path):
                return entry, path.read_bytes()
    return None


def code_files(files: dict[str, bytes]) -> list[str]:
    """Names of the job's files that could run, sorted."""
    return sorted(name for name in files if Path(name).suffix.lower() not in DATA_SUFFIXES)


def permission(policy: SitePolicy, approval: Approval | None, files: dict[str, bytes]) -> Literal["granted", "waiting"]:
    """Whether the job may run here now, or waits for somebody to approve it.

    Raises:
        PolicyError: policy or people refuse the job.
    """
    code = code_files(files)
    if policy.job_code == "deny" and code:
        shown = ", ".join(code[:3]) + (f" and {len(code) - 3} more" if len(code) > 3 else "")
        raise PolicyError(
            f"this site runs no job that brings code (policy job_code: deny); the job brings {shown}",
            "submit a job of configuration only, or talk to the site",
        )
    if approval is not None and approval.decision == "rejected":
        because = f": {approval.reason}" if approval.reason else ""
        raise PolicyError(f"the job was rejected at this site{because}", "talk to the site")
    if policy.job_code == "allow" or approval is not None:
        return "granted"
    return "waiting"


def describe_change(before: dict[str, bytes], after: dict[str, bytes]) -> list[str]:
    """What changed between two job folders: a list of files, then a unified diff of those that are text."""
    lines = []
    for name in sorted(before.keys() | after.keys()):
        if name not in after:
            lines.append(f"- removed  {name}")
        elif name not in before:
            lines.append(f"+ added    {name} ({len(after[name])} bytes)")
        elif before[name] != after[name]:
            lines.append(f"~ changed  {name} ({len(before[name])} -> {len(after[name])} bytes)")
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name, b""), after.get(name, b"")
        if old == new:
            continue
        try:
            texts = old.decode().splitlines(), new.decode().splitlines()
        except UnicodeDecodeError:
            lines.append(f"  {name}: binary, not shown")
            continue
        lines.extend(difflib.unified_diff(*texts, f"approved/{name}", f"new/{name}", lineterm=""))
    if len(lines) > MAX_DIFF_LINES:
        lines = [*lines[:MAX_DIFF_LINES], f"… {len(lines) - MAX_DIFF_LINES} more lines; see the job's mmar folder"]
    return [printable(line) for line in lines]


def printable(text: str) -> str:
    """The text with control characters shown as codes: a job must not steer the terminal of who reviews it."""
    return "".join(c if c.isprintable() or c == "\t" else f"\\x{ord(c):02x}" for c in text)
