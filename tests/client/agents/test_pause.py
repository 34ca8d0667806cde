"""What a site does while its job is paused, when its server was set back, and when more is asked than was signed."""

import json
import time
from dataclasses import replace

import pytest

from fedhe.rounds.events import Continue, Pause
from fedhe.trust import audit_log
from fedhe.wire import federation


def trained(path):
    return path.read_text().splitlines() if path.exists() else []


def activity(agents):
    path = agents.folder("A") / "status.json"
    jobs = json.loads(path.read_text())["jobs"] if path.exists() else []
    return jobs[0]["activity"] if jobs else None


async def test_training_that_is_under_way_goes_on_while_the_job_is_paused_and_is_not_done_again(
    federate, make_job, phase, tmp_path
):
    count = tmp_path / "count"
    async with federate() as (server, agents):
        agents.policy("A", COUNT=str(count), SLOW="3.0")
        job = server.add_job(make_job(rounds=1))
        agents.start()
        await server.until(lambda: activity(agents) == "training")
        server.feed(job, Pause("upgrade", after_round=False, now=time.time()))
        record = agents.folder("A") / "jobs" / "j1" / "state.json"
        await server.until(lambda: agents.status("A")["jobs"][0]["message"] == "the job is paused: upgrade")
        await server.until(lambda: (json.loads(record.read_text())["update"] or {}).get("round") == 1)
        assert ("A", "Ready") not in server.calls
        server.feed(job, Continue(time.time()))
        state = await server.until_phase(phase.FINISHED, phase.FAILED)
        assert state.phase is phase.FINISHED, state.message
        assert state.sums[-1].roster.sites == ("A", "B", "C")
        assert trained(count).count("train 1") == 1


async def test_a_site_trains_no_round_beyond_those_of_the_signed_job(federate, make_job):
    async with federate() as (server, agents):
        job = server.add_job(make_job(rounds=1))
        job.state = replace(job.state, config=replace(job.state.config, rounds=2))
        agents.start()
        await server.until(lambda: job.state.phase.ended)
        assert job.state.version == 1
        assert {report.problem for _, report in server.reports} == {federation.PROBLEM_REJECTED}
        assert "round 2: the signed job has 1 rounds" in job.state.message


@pytest.mark.parametrize("with_checkpoint", [False, True])
async def test_a_server_that_was_set_back_is_noticed_and_leads_no_site_a_second_way(
    federate, make_job, phase, with_checkpoint
):
    """The server forgets a round and hides that from the machine, as a forger of histories would."""
    async with federate() as (server, agents):
        job = server.add_job(make_job(rounds=3, checkpoint_every=1))
        agents.start()
        await server.until(lambda: job.state.version == 1 and job.state.phase is phase.TRAIN)
        old = job.state
        await server.until(lambda: all(job.state.versions.get(site) == 2 for site in "ABC"))
        await agents.stop()
        fingerprints = {site: agents.model(site, 2) for site in "ABC"}

        async def forget(_site, request):
            for progress in request.jobs:
                progress.model_version = 0 if with_checkpoint else 1

        server.before["Poll"] = forget
        job.state = replace(old, versions={}, ready=(), checkpoint=1, sums=() if with_checkpoint else old.sums)
        sent = len(server.calls)
        agents.start()
        await server.until(lambda: all("it was set back" in told(agents, site) for site in "ABC"))
        assert not {"Ready", "PutChunk", "Applied"} & {method for _, method in server.calls[sent:]}
        assert job.state.round == old.round
        for site in "ABC":
            assert all((agents.model(site, 2)[name] == value).all() for name, value in fingerprints[site].items())
            kinds = [line["kind"] for line in audit_log.read(agents.folder(site) / "audit.log")]
            assert kinds.count("server-set-back") == 1


def told(agents, site):
    return agents.status(site)["jobs"][0]["message"]
