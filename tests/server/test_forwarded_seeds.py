"""Uploads of the fast engine: the server hands their seeds on for as many sites as it was told, without SEAL."""

import numpy as np
import psutil
import pytest

from fedhe.he.ciphertext import C1Form, ChunkKind, Expectation, read_chunk
from fedhe.he.fast_engine import FastEngine
from fedhe.wire import federation


def form_of_the_sum(site, job, roster):
    """How c1 is there in the first chunk of round 1's sum, as a site fetches it."""
    params = site.installation.params
    expect = Expectation(ChunkKind.SUM, site.secret_key.key_id, params.params_id, roster.context, 0)
    ref = federation.ObjectRef(job_id=job, kind=federation.OBJECT_KIND_SUM, number=1)
    return read_chunk(site.fetch(ref)[0], expect=expect, params=params).header.c1


@pytest.mark.parametrize(
    ("options", "form"),
    [((), C1Form.AES_SEEDS), (("--forward-seeds", "3"), C1Form.AES_SEEDS), (("--forward-seeds", "2"), C1Form.WHOLE)],
    ids=["default", "as many as there are", "fewer"],
)
def test_seeds_are_handed_on_for_as_many_sites_as_the_server_was_told(world, options, form):
    world.server.end()
    world.server.start(*options)
    for site in world.sites:
        site.engine = FastEngine(site.installation.params, site.secret_key)
    job = world.submit(rounds=1)
    world.run(job, {"upload", "stop"})
    roster = world.sites[0].instruction(job).upload.roster
    world.run(job, {"apply", "stop"})
    assert form_of_the_sum(world.sites[0], job, roster) is form
    world.run(job)
    assert world.lead.phase(job) == "finished"
    wanted = world.expected_sum(world.sites, 1)
    for site in world.sites:
        assert all(np.array_equal(*pair) for pair in zip(site.sums[1], wanted, strict=True))
    assert psutil.Process(world.server.process.pid).children() == [], "only SEAL needs worker processes"
