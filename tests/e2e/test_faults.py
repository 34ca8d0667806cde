"""The fault laboratory: whatever ends or cuts the real programs, the model has the bytes of a calm run's."""

import json
import shutil
import sqlite3
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from faults import Laboratories
from faults_checks import read_outcome
from faults_federation import Laboratory
from faults_run import Calm, carry_out
from faults_schedule import SITES, Fault, Schedule, When, draw

pytestmark = pytest.mark.timeout(900)  # so that a run that is stuck is told by the laboratory, with its reason
ENGINE = "fast"
SHORT = {
    "all three programs are killed while updates move": (
        Fault("kill", "server", When("phase", "upload", 1), seconds=0.2),
        Fault("kill", "site002", When("line", "update-released", 1), seconds=0.2),
        Fault("kill-trainer", "site003", When("training", round=2)),
        Fault("kill", "server", When("phase", "apply", 2), seconds=0.2),
        Fault("kill", "site001", When("line", "sum-applied", 3), seconds=0.2),
    ),
    "the power fails in the middle of a change, and the network is cut and short of breath": (
        Fault("short-streams", "network", When("phase", "seeding"), seconds=60.0, amount=1.0),
        Fault("power", "server", When("change", part=0.4, parts=(0.1,)), seconds=0.2),
        Fault("power", "site001", When("change", part=0.5), seconds=0.2),
        Fault("cut", "network", When("phase", "apply", 2)),
        Fault("refuse", "network", When("phase", "upload", 3), seconds=1.0),
    ),
}


@pytest.fixture(scope="module")
def laboratories(tmp_path_factory):
    return Laboratories(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def calm(laboratories):
    """A run without faults, whose folder is kept; and that folder."""
    folder = laboratories.folder / "calm"
    folder.mkdir()
    run = carry_out(Schedule(0, ENGINE, ()), laboratories.template(ENGINE), folder, None)
    assert run.trouble == []
    laboratories.know(ENGINE, Calm(run.seconds, run.changes, run.descriptors, run.outcome))
    return run, folder


def test_a_calm_run_ends_with_one_model_and_full_rosters(calm):
    run, _ = calm
    assert len(set(run.outcome.digests.values())) == 1
    assert run.outcome.rosters == dict.fromkeys((1, 2, 3), SITES)
    assert min(run.changes.values()) > 50


@pytest.mark.parametrize("number", range(len(SHORT)), ids=SHORT)
def test_a_run_under_faults_ends_as_calm(laboratories, calm, number):
    schedule = Schedule(number, ENGINE, tuple(SHORT.values())[number])
    run = laboratories.run(schedule)
    assert run.trouble == []
    assert {fault for fault, _ in run.done} >= {fault for fault in schedule.faults if fault.when.kind != "change"}
    assert sum(fault.is_kill for fault, _ in run.done) >= 2


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(1, 9))
def test_drawn_schedules_end_as_calm(laboratories, seed):
    assert laboratories.run(draw(seed)).trouble == []


def spoil_database(folder, statement):
    with sqlite3.connect(folder / "server-home" / "server" / "server.db") as database:
        assert database.execute(statement).rowcount > 0


def spoil_audit(folder):
    path = folder / "site-homes" / "sites" / "site001" / "audit.log"
    path.write_text(path.read_text().replace('"kind":"trained"', '"kind":"retired"', 1))


def apply_again(folder):
    from fedhe.trust import audit_log

    path = folder / "site-homes" / "sites" / "site001" / "audit.log"
    (line,) = [one for one in audit_log.read(path) if one["kind"] == "sum-applied" and one["fields"]["round"] == 2]
    audit_log.append(path, line["kind"], line["fields"], line["time"])


def lose_chunk(folder):
    next((folder / "server-home" / "server" / "blobs").glob("*/checkpoint/*/*/00000000-*")).unlink()


def leave_spool(folder):
    (next((folder / "site-homes" / "sites" / "site002" / "jobs").iterdir()) / "spool").mkdir()


def forget_model(folder):
    file = next((folder / "site-homes" / "sites" / "site003" / "jobs").glob("*/state.json"))
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_digests": {"3": "00"}}))


SPOILT = {
    "nothing of site001 is in the sum": lambda folder: spoil_database(
        folder, "update contributions set sealed = 0 where round = 2 and site = 'site001'"
    ),
    "summed another update of site002": lambda folder: spoil_database(
        folder, "update contributions set upload_digest = x'00' where round = 1 and site = 'site002'"
    ),
    "expected one fingerprint": lambda folder: spoil_database(
        folder, "update contributions set model_fingerprint = x'00' where round = 3 and site = 'site003'"
    ),
    "expected rounds 1 to 3": lambda folder: spoil_database(folder, "delete from rounds where round = 2"),
    "the log was altered": spoil_audit,
    "applied sum 2 2 times": apply_again,
    "missing 0": lose_chunk,
    "left over: jobs": leave_spool,
}


@pytest.mark.parametrize("found", SPOILT)
def test_the_checks_notice(calm, tmp_path, found):
    shutil.copytree(calm[1], tmp_path / "run", ignore=shutil.ignore_patterns("*.sock"))
    SPOILT[found](tmp_path / "run")
    outcome = read_outcome(Laboratory(tmp_path / "run", ENGINE, len(SITES), 0))
    assert any(found in fault for fault in outcome.faults), outcome.faults


def test_another_model_at_one_site_is_noticed(calm, tmp_path):
    shutil.copytree(calm[1], tmp_path / "run", ignore=shutil.ignore_patterns("*.sock"))
    forget_model(tmp_path / "run")
    assert read_outcome(Laboratory(tmp_path / "run", ENGINE, len(SITES), 0)).digests != calm[0].outcome.digests
