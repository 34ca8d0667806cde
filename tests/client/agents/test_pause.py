"""What a site does while its job is paused, and that a server cannot have it train longer than was signed."""

import json
import time
from dataclasses import replace

from fedhe.rounds.events import Continue, Pause
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
        refused = {(site, report.problem) for site, report in server.reports}
        assert ("A", federation.PROBLEM_REJECTED) in refused
        assert "round 2: the signed job has 1 rounds" in job.state.message
