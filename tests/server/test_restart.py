"""Whatever stops the server, the job goes on where it was."""

import signal
import time

import numpy as np
import psutil
import pytest

from fedhe.errors import RemoteProtocolError
from fedhe.server import records
from fedhe.server.database import sqlite_url
from fedhe.server.store import open_store
from fedhe.trust import audit_log
from fedhe.wire import admin
from fedhe.wire.chunking import bitmap_indices


def uploading(world, **keys):
    """A job in which all sites were asked to upload; returns its id and the roster."""
    job = world.submit(rounds=1, **keys)
    world.run(job, {"upload"})
    return job, world.sites[0].instruction(job).upload.roster


def is_exact(world, job, sites=None):
    world.run(job, sites=sites)
    assert world.lead.phase(job) == "finished"
    wanted = world.expected_sum(sites or world.sites, 1)
    for site in sites or world.sites:
        assert all(np.array_equal(*pair) for pair in zip(site.sums[1], wanted, strict=True))
    assert audit_log.verify(world.server.folder / "audit.log").torn_bytes == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_upload_goes_on_at_the_missing_chunk(world, number):
    job, roster = uploading(world)
    first, second, third = world.sites
    first.upload(first.update_ref(roster), [first.encrypted(roster, chunk) for chunk in range(2)])
    second.put(second.update_ref(roster), 1, second.encrypted(roster, 1))
    world.server.restart(number)
    for site, stored, finished in ((first, [0, 1], True), (second, [1], False), (third, [], False)):
        status = site.call(site.federation.UploadStatus, site.update_ref(roster))
        assert (bitmap_indices(status.received, 2), status.finished) == (stored, finished)
    is_exact(world, job)


def test_the_server_may_be_killed_after_every_step_of_a_job(world):
    job = world.submit(rounds=1)
    kinds = []
    for step in range(40):
        site = world.sites[step % 3]
        kinds.append(site.work(job))
        if kinds[-1] not in {"wait", "stop"} and kinds.count(kinds[-1]) == 1:
            world.server.restart(signal.SIGKILL)
        if world.lead.phase(job) == "finished":
            break
        if kinds[-3:] == ["wait"] * 3:
            time.sleep(0.2)
    assert {"seed", "load_checkpoint", "train", "upload", "apply", "seal"} <= set(kinds)
    is_exact(world, job)


def test_a_sum_that_was_cut_is_completed_after_the_restart(world):
    job, roster = uploading(world)
    for site in world.sites:
        site.put(site.update_ref(roster), 0, site.encrypted(roster, 0))
    sums = world.server.folder / "blobs" / job / "sum" / "1-1"
    while not any(sums.glob("00000000-*")):  # chunk 0 of the sum is made before any upload is complete
        time.sleep(0.02)
    for site in world.sites:
        site.put(site.update_ref(roster), 1, site.encrypted(roster, 1))
    world.server.end(signal.SIGKILL)
    for path in sums.iterdir():
        path.unlink()
    world.server.start()
    is_exact(world, job)


def test_a_killed_worker_process_costs_nothing(world):
    job, roster = uploading(world)
    for site in world.sites:
        site.put(site.update_ref(roster), 0, site.encrypted(roster, 0))
    sums = world.server.folder / "blobs" / job / "sum" / "1-1"
    while not any(sums.glob("00000000-*")):
        time.sleep(0.02)
    for child in psutil.Process(world.server.process.pid).children(recursive=True):
        assert "fedhe.he.seal_expander" in child.cmdline()
        child.kill()
    is_exact(world, job)


def test_worker_processes_end_with_a_killed_server(world):
    job, _ = uploading(world)
    world.run(job, {"apply", "stop"})
    children = psutil.Process(world.server.process.pid).children(recursive=True)
    assert children
    world.server.end(signal.SIGKILL)
    _, alive = psutil.wait_procs(children, timeout=30)
    assert alive == []


def test_sigterm_ends_the_server_cleanly_while_sites_poll(world):
    job = world.submit(rounds=1, start=False)
    site = world.sites[0]
    told = site.poll(job).instructions[0].id
    request = site.request(job, wait=30.0, working_on=told)
    pending = site.federation.Poll.future(request, timeout=60, wait_for_ready=True)
    time.sleep(0.3)
    assert world.server.end(signal.SIGTERM) == 0
    assert [one.id for one in pending.result().instructions] == [told]
    assert "Traceback" not in world.server.stderr()
    assert not (world.server.folder / "health.sock").exists()


def test_a_site_that_was_being_disabled_when_the_server_died_is_out_after_the_restart(world):
    job, _ = uploading(world, min_sites=2)
    world.server.end(signal.SIGKILL)
    store = open_store(sqlite_url(world.server.folder / "server.db"))
    with store.write() as connection:  # as far as it came: the site's row, and not yet the job
        records.put_site(connection, records.SiteRow("hospitalC", enabled=False))
    store.close()
    world.server.start()
    assert world.sites[2].work(job) == "wait"
    is_exact(world, job, world.sites[:2])


def test_an_admin_restarts_the_server_in_place(world):
    world.server.restart()  # now on a port that is named, not picked
    job, _ = uploading(world)
    pid = world.server.process.pid
    world.lead.call(world.lead.admin.Shutdown, admin.ShutdownRequest(restart=True))
    assert world.server.process.stdout.readline().startswith("fedhe-server ready on")
    assert world.server.process.pid == pid
    is_exact(world, job)
    world.lead.call(world.lead.admin.Shutdown, admin.ShutdownRequest())
    assert world.server.process.wait(60) == 0
    world.server.start()


def test_what_was_stored_before_a_kill_is_not_replaced_after_it(world):
    job, roster = uploading(world)
    site = world.sites[0]
    site.put(site.update_ref(roster), 0, site.encrypted(roster, 0))
    world.server.restart(signal.SIGKILL)
    other = site.engine.encrypt(site.coefficients(1, 0), roster.context, 0)
    with pytest.raises(RemoteProtocolError, match="expected the bytes stored before"):
        site.put(site.update_ref(roster), 0, other)
    is_exact(world, job)
