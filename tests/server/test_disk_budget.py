"""A disk budget that is used up makes jobs wait; old checkpoints give way to it, and nothing that a site needs."""

import signal
import time

import grpc
import pytest

from fedhe.errors import ResourceError
from fedhe.server.disk_budget import DiskBudget
from fedhe.wire import admin


def test_a_budget_admits_what_fits_and_counts_it():
    budget = DiskBudget(100)
    budget.admit(60)
    with pytest.raises(ResourceError, match="disk budget of 100 bytes is used up: 60 bytes are stored"):
        budget.admit(41)
    budget.admit(40)
    assert budget.short
    budget.found(10)
    assert not budget.short
    budget.admit(90)
    DiskBudget().admit(10**15)


def send_first_chunk(site, job):
    roster = site.instruction(job).upload.roster
    site.put(site.update_ref(roster), 0, site.encrypted(roster, 0))


def test_uploads_wait_for_a_budget_and_are_there_when_it_is_larger(world):
    job = world.submit(rounds=1)
    world.run(job, {"upload"})
    world.server.restart(signal.SIGTERM, "--disk-budget", "1M")
    first, second, third = world.sites
    send_first_chunk(first, job)
    send_first_chunk(second, job)
    with pytest.raises(ResourceError, match="disk budget of 1000000 bytes is used up"):
        send_first_chunk(third, job)
    assert third.last_code is grpc.StatusCode.RESOURCE_EXHAUSTED
    state = world.lead.call(world.lead.admin.GetStatus, admin.GetStatusRequest())
    assert state.disk_budget_bytes == 10**6
    assert state.disk_used_bytes <= 10**6
    assert world.lead.phase(job) == "upload"
    world.server.restart(signal.SIGTERM, "--disk-budget", "1G")
    world.run(job)
    assert world.lead.rounds(job)[-1].attempts == 1
    assert world.lead.phase(job) == "finished"


def test_old_checkpoints_give_way_and_the_newest_stays(world):
    job = world.submit(rounds=2, checkpoint_every=1)
    world.run(job)
    assert list(world.lead.show(job).checkpoints) == [0, 1, 2]
    world.server.end()
    ballast = world.server.folder / "blobs" / "ballast"
    ballast.write_bytes(bytes(990_000))
    world.server.start("--disk-budget", "1M")
    ends = time.monotonic() + 60
    while (left := list(world.lead.show(job).checkpoints)) != [2]:
        assert time.monotonic() < ends, left
        time.sleep(0.1)
    site = world.sites[0]
    assert len(site.fetch(site.checkpoint_ref(job, 2))) == 3
    assert not (world.server.folder / "blobs" / job / "checkpoint" / "1").exists()
    dropped = [said["version"] for kind, said in world.audit(job) if kind == "checkpoint-dropped"]
    assert dropped == [0, 1]
    ballast.unlink()
    world.server.restart(signal.SIGKILL)
    assert list(world.lead.show(job).checkpoints) == [2]


def test_checkpoints_stay_while_there_is_room(world):
    job = world.submit(rounds=2, checkpoint_every=1)
    world.run(job)
    world.server.restart(signal.SIGTERM, "--disk-budget", "1G")
    time.sleep(3)
    assert list(world.lead.show(job).checkpoints) == [0, 1, 2]


@pytest.mark.parametrize("text", ["200", "0M", "much", "-1G", "1e9", "10K"])
def test_a_size_that_is_none_is_one_line(fedhe_server, tmp_path, text):
    done = fedhe_server("start", "--home", str(tmp_path), f"--disk-budget={text}")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "--disk-budget: expected a size of at least 1M" in done.stderr
