"""A full disk pauses; it loses nothing and breaks nothing."""

import os
import resource
import time

import grpc
import numpy as np
import pytest

from fedhe.errors import ResourceError
from fedhe.server.durable import TEMPORARY
from fedhe.trust import audit_log
from fedhe.wire import admin
from fedhe.wire.chunking import bitmap_indices

UNLIMITED = resource.RLIM_INFINITY
FULL = 100_000
"""Largest file that the server may write while its disk counts as full, bytes; a chunk has five times as many."""


def fill_disk(server, largest=FULL):
    """The system refuses the server's writes beyond this from now on, as a full disk does."""
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (largest, UNLIMITED))


def free_disk(server):
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (UNLIMITED, UNLIMITED))


def partial_files(server):
    return [name for _, _, names in os.walk(server.folder / "blobs") for name in names if name.startswith(TEMPORARY)]


@pytest.fixture(scope="module")
def world(module_world):
    """One server for all tests here; each frees its disk again."""
    return module_world


def is_exact(world, job):
    world.run(job)
    assert world.lead.phase(job) == "finished"
    wanted = world.expected_sum(world.sites, 1)
    for site in world.sites:
        assert all(np.array_equal(*pair) for pair in zip(site.sums[1], wanted, strict=True))
    assert audit_log.verify(world.server.folder / "audit.log").torn_bytes == 0
    assert "Traceback" not in world.server.stderr()


def test_an_upload_pauses_and_goes_on_when_there_is_space_again(world):
    job = world.submit(rounds=1)
    world.run(job, {"upload"})
    site = world.sites[0]
    roster = site.instruction(job).upload.roster
    ref = site.update_ref(roster)
    site.put(ref, 1, site.encrypted(roster, 1))
    fill_disk(world.server)
    with pytest.raises(ResourceError, match="the server's disk is full"):
        site.put(ref, 0, site.encrypted(roster, 0))
    assert site.last_code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert partial_files(world.server) == []
    status = site.call(site.federation.UploadStatus, ref)
    assert bitmap_indices(status.received, 2) == [1]
    free_disk(world.server)
    site.put(ref, 0, site.encrypted(roster, 0))
    is_exact(world, job)


def test_a_sum_pauses_and_goes_on_when_there_is_space_again(world):
    job = world.submit(rounds=1)
    world.run(job, {"upload"})
    for site in world.sites[:2]:
        site.work(job)
    last = world.sites[2]
    roster = last.instruction(job).upload.roster
    fill_disk(world.server, 700_000)  # a chunk of an upload fits, a chunk of a sum does not
    last.put(last.update_ref(roster), 0, last.encrypted(roster, 0))
    while "chunk 0 of the sum" not in world.server.stderr():
        time.sleep(0.05)
    assert partial_files(world.server) == []
    free_disk(world.server)
    is_exact(world, job)


def test_nothing_can_be_submitted_to_a_full_disk_and_nothing_of_it_stays(world):
    folder = world.job_folder(rounds=1)
    (folder / "weights.bin").write_bytes(os.urandom(3_000_000))
    lead = world.lead
    fill_disk(world.server)
    with pytest.raises(ResourceError, match="disk"):
        lead.submit(folder)
    stored = {path.name for path in (world.server.folder / "blobs").iterdir()}
    free_disk(world.server)
    assert stored == {job.job_id for job in lead.call(lead.admin.ListJobs, admin.ListJobsRequest()).jobs}
    (folder / "weights.bin").unlink()
    is_exact(world, lead.submit(folder))


def test_reading_and_listing_go_on_while_the_disk_is_full(world):
    job = world.submit(rounds=1)
    fill_disk(world.server)
    assert world.lead.phase(job) == "seeding"
    assert world.observer.call(world.observer.admin.GetStatus, admin.GetStatusRequest()).jobs_running == 1
    free_disk(world.server)
    is_exact(world, job)


def test_a_site_is_enabled_as_before_when_the_disk_does_not_take_the_change(world):
    def enabled():
        sites = world.lead.call(world.lead.admin.ListSites, admin.ListSitesRequest()).sites
        return {site.name: site.enabled for site in sites}

    before = enabled()
    assert before["hospitalA"]
    fill_disk(world.server, 0)
    for asked in (True, False):
        with pytest.raises(ResourceError):
            world.lead.call(world.lead.admin.SetSite, admin.SetSiteRequest(name="hospitalA", enabled=asked))
        assert enabled() == before
    free_disk(world.server)
    is_exact(world, world.submit(rounds=1))
