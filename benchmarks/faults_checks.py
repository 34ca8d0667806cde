"""What must hold after a run, whatever happened in it, read from the records of the server and of each site."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults_federation import Laboratory
from faults_schedule import ROUNDS, SERVER, SITES

from fedhe.errors import FedheError
from fedhe.server import places, records
from fedhe.server.blobs import BlobStore
from fedhe.server.database import DATABASE_FILE, sqlite_url
from fedhe.server.start import BLOBS_FOLDER
from fedhe.server.store import look_into
from fedhe.trust import audit_log
from fedhe.trust.audit_log import AUDIT_FILE

_FAULTS_OF_OURS = ("Traceback", "bug in", "fault in fedhe")  # what the programs say when they meet one


@dataclass
class Outcome:
    """What a run left.

    Attributes:
        digests: SHA-256 of the last model's values at each site.
        rosters: the sites that each round summed.
        lost: updates that were sent and not summed, or summed and not sent.
        doubled: updates that could have counted twice.
        faults: what must not be.
    """

    digests: dict[str, str] = field(default_factory=dict)
    rosters: dict[int, tuple[str, ...]] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def read_outcome(laboratory: Laboratory) -> Outcome:
    """Reads and checks what the stopped programs left."""
    outcome = Outcome()
    store = look_into(sqlite_url(laboratory.server_folder / DATABASE_FILE))
    try:
        with store.read() as connection:
            (job,) = records.jobs(connection)
            rounds = records.rounds(connection, job.job_id)
            parts = records.contributions(connection, job.job_id)
            objects = records.objects(connection)
            undelivered = records.undelivered(connection)
    finally:
        store.close()
    logs = {site: list(_lines(laboratory.home_of(site) / "audit.log", outcome)) for site in SITES}
    list(_lines(laboratory.server_folder / AUDIT_FILE, outcome))
    if undelivered:
        outcome.faults.append(f"{len(undelivered)} audit lines of the server were decided and not written")
    _check_rounds(outcome, json.loads(job.state), rounds, parts)
    _check_contributions(outcome, parts, logs)
    _check_objects(outcome, BlobStore(laboratory.server_folder / BLOBS_FOLDER), objects)
    for site in SITES:
        record = json.loads((laboratory.home_of(site) / "jobs" / job.job_id / "state.json").read_text())
        outcome.digests[site] = record["model_digests"].get(str(ROUNDS), f"none, but version {record['version']}")
    for name in (SERVER, *SITES):
        printed = laboratory.printed(name)
        outcome.faults += [f"{name} printed {word!r}" for word in _FAULTS_OF_OURS if word in printed]
        outcome.faults += [f"left over: {path}" for path in _leftovers(laboratory.home_of(name))]
    outcome.faults += [f"a process outlived its programs: {line}" for line in laboratory.strays()]
    outcome.faults += outcome.lost + outcome.doubled
    return outcome


def _lines(path: Path, outcome: Outcome) -> Iterator[dict[str, Any]]:
    try:
        audit_log.verify(path)
        yield from map(dict, audit_log.read(path))
    except FedheError as error:
        outcome.faults.append(f"{path.name}: {error.message}")


def _check_rounds(
    outcome: Outcome, state: dict[str, Any], rounds: list[records.RoundRow], parts: list[records.ContributionRow]
) -> None:
    """The history is whole, in order, and says the same as the state machine."""
    if (state["phase"], state["round"], state["version"]) != ("finished", ROUNDS, ROUNDS):
        outcome.faults.append(
            f"the job ended in {state['phase']} of round {state['round']}, version {state['version']}"
        )
    rounds = [row for row in rounds if row.round > 0]  # there may be a row of the seeding
    if [row.round for row in rounds] != list(range(1, ROUNDS + 1)):
        outcome.faults.append(f"expected rounds 1 to {ROUNDS}, the server has {[row.round for row in rounds]}")
    for row in rounds:
        mine = [part for part in parts if part.round == row.round]
        outcome.rosters[row.round] = tuple(sorted(part.site for part in mine if part.sealed))
        if len({part.model_fingerprint for part in mine}) != 1 or not all(part.model_fingerprint for part in mine):
            outcome.faults.append(f"round {row.round}: expected one fingerprint of all sites, got others")
        if not (row.context and row.sum_digest and row.ended_at):
            outcome.faults.append(f"round {row.round} has no context, sum or end")


def _check_contributions(
    outcome: Outcome, parts: list[records.ContributionRow], logs: dict[str, list[dict[str, Any]]]
) -> None:
    """Each site's update of each round is in the sum once: what it says that it sent is what the server summed."""
    for site, lines in logs.items():
        released: dict[tuple[int, int], set[str]] = {}
        for line in lines:
            said = line["fields"]
            if line["kind"] == "update-released":
                released.setdefault((said["round"], said["attempt"]), set()).add(said["context"])
        outcome.doubled += [
            f"{site} gave its update of round {where[0]}, attempt {where[1]} for {len(contexts)} rosters"
            for where, contexts in released.items()
            if len(contexts) > 1
        ]
        applied = Counter(line["fields"]["round"] for line in lines if line["kind"] == "sum-applied")
        outcome.doubled += [f"{site} applied sum {round_} {n} times" for round_, n in applied.items() if n > 1]
        for round_ in range(1, ROUNDS + 1):
            part = next((one for one in parts if (one.round, one.site) == (round_, site)), None)
            if part is None or not part.sealed or not part.upload_digest:
                outcome.lost.append(f"round {round_}: nothing of {site} is in the sum")
                continue
            sent = {line["fields"]["upload"] for line in lines if _is(line, "update-sent", round_)}
            # A site that is killed between the server's answer and its own line does not have the line.
            if sent and part.upload_digest.hex() not in sent:
                outcome.lost.append(f"round {round_}: the server summed another update of {site} than it sent")


def _is(line: dict[str, Any], kind: str, round_: int) -> bool:
    return bool(line["kind"] == kind and line["fields"].get("round") == round_)


def _check_objects(outcome: Outcome, blobs: BlobStore, objects: list[records.ObjectRow]) -> None:
    """All that the database says is complete is on the disk, whole, and nothing of the updates is left."""
    for row in objects:
        place = places.place(row.job_id, row.kind, row.number, row.attempt, row.owner)
        try:
            info = blobs.describe(place, row.chunks)
        except FedheError as error:
            outcome.faults.append(f"{place}: {error.message}")
            continue
        if info.digest != row.digest or info.size != row.size:
            outcome.faults.append(f"{place}: another digest or size than was noted")
        for index in range(row.chunks):
            path, chunk = blobs.locate(place, index)
            if hashlib.sha256(path.read_bytes()).digest() != chunk.digest:
                outcome.faults.append(f"{place}: chunk {index} is damaged")
        if row.kind == places.UPDATE:
            outcome.faults.append(f"{place}: an update is kept beyond its round")


def _leftovers(home: Path) -> list[str]:
    """Temporary files, spools, and marks of what is not complete."""
    found = []
    for folder, names, files in os.walk(home):
        found += [
            str(Path(folder, name).relative_to(home))
            for name in (*names, *files)
            if name.endswith(".tmp") or name.startswith(".writing-") or name in {".incomplete", "spool"}
        ]
    return found
