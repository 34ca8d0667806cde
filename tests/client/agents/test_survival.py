"""Killed agents, cut connections, late and lost sites: the run goes on, to the calm run's model."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from fedhe.rounds.events import SiteGone, Tick
from fedhe.wire import federation

AGENT = """
import asyncio, sys, time
from pathlib import Path
from fedhe.client.agent import serve
from fedhe.client.log_book import LogBook
from fedhe.client.trainer import TrainingProcess
from fedhe.trust.installation import load_installation
folder = Path(sys.argv[1])
installation = load_installation(folder, role_prefix="site", now=time.time())
asyncio.run(serve(installation, LogBook(folder / "logs"), process=TrainingProcess(tuple(sys.argv[2:]))))
"""


@pytest.fixture(scope="module")
def calm():
    """The final model of the run that nothing disturbs, made once by the first test that asks."""
    return {}


@pytest.fixture
def calm_model(calm, federate, make_job, phase):
    async def make():
        if not calm:
            async with federate() as (server, agents):
                server.add_job(make_job(rounds=2, seed=5))
                agents.start()
                await server.until_phase(phase.FINISHED)
                calm.update(agents.model("A", 2))
            shutil.rmtree(agents.home)
        return calm

    return make


def equal(one, other):
    return one.keys() == other.keys() and all((one[name] == other[name]).all() for name in one)


@contextlib.contextmanager
def own_process(agents, site):
    """The agent of a site as a process of its own."""
    agents.policy(site)
    command = [sys.executable, "-c", AGENT, str(agents.folder(site)), *agents.process.command]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def is_about(request, kind):
    reference = getattr(request, "object", request)
    return kind is None or getattr(reference, "kind", None) == kind


UPDATE, SUM, CHECKPOINT, JOB = (
    federation.OBJECT_KIND_UPDATE,
    federation.OBJECT_KIND_SUM,
    federation.OBJECT_KIND_CHECKPOINT,
    federation.OBJECT_KIND_JOB,
)
STEPS = [
    pytest.param("before", "GetChunk", JOB, id="job half fetched"),
    pytest.param("before", "PutChunk", CHECKPOINT, id="seed not stored"),
    pytest.param("after", "FinishUpload", CHECKPOINT, id="seed stored, not acknowledged"),
    pytest.param("before", "Ready", None, id="trained, not ready"),
    pytest.param("after", "Ready", None, id="ready, not acknowledged"),
    pytest.param("before", "PutChunk", UPDATE, id="chunk not stored"),
    pytest.param("after", "PutChunk", UPDATE, id="chunk stored, not acknowledged"),
    pytest.param("after", "FinishUpload", UPDATE, id="upload complete, not acknowledged"),
    pytest.param("before", "GetChunk", SUM, id="sum half fetched"),
    pytest.param("before", "Applied", None, id="applied, not told"),
    pytest.param("after", "Applied", None, id="applied, not acknowledged"),
]


@pytest.mark.parametrize(("when", "method", "kind"), STEPS)
async def test_an_agent_that_ends_at_any_step_goes_on_there(
    federate, make_job, phase, calm_model, tmp_path, when, method, kind
):
    expected = await calm_model()
    async with federate() as (server, agents):
        agents.policy("A", COUNT=str(tmp_path / "count"))
        ended = asyncio.Event()

        async def mischief(site, request, *_reply):
            if site == "A" and is_about(request, kind) and not ended.is_set():
                ended.set()
                agents.running["A"].cancel()
                await asyncio.sleep(600)

        getattr(server, when)[method] = mischief
        server.add_job(make_job(rounds=2, seed=5))
        agents.start()
        await ended.wait()
        await agents.stop("A")
        agents.start("A")
        state = await server.until_phase(phase.FINISHED, phase.FAILED)
        assert state.phase is phase.FINISHED, state.message
        assert equal(agents.model("A", 2), expected)
        assert server.reports == []
        tasks = (tmp_path / "count").read_text().splitlines()
        assert tasks.count("train 1") == tasks.count("train 2") == 1


@pytest.mark.parametrize(("when", "method", "kind"), [STEPS[4], STEPS[6], STEPS[8]])
async def test_an_agent_killed_with_signal_9_goes_on(federate, make_job, phase, calm_model, when, method, kind):
    expected = await calm_model()
    async with federate() as (server, agents):
        killed = asyncio.Event()
        with own_process(agents, "A") as first:

            async def mischief(site, request, *_reply):
                if site == "A" and is_about(request, kind) and not killed.is_set():
                    killed.set()
                    os.kill(first.pid, signal.SIGKILL)
                    await asyncio.sleep(600)

            getattr(server, when)[method] = mischief
            server.add_job(make_job(rounds=2, seed=5))
            agents.start("B", "C")
            await killed.wait()
        with own_process(agents, "A"):
            state = await server.until_phase(phase.FINISHED, phase.FAILED)
            assert state.phase is phase.FINISHED, state.message
            await server.until(lambda: state.versions.get("A") == 2)
        assert equal(agents.model("A", 2), expected)


async def test_a_server_that_goes_away_is_waited_for_visibly(federate, make_job, phase, calm_model):
    expected = await calm_model()
    async with federate() as (server, agents):
        server.add_job(make_job(rounds=2, seed=5))
        away = asyncio.Event()

        async def leave(site, _request):
            if site == "B" and not away.is_set():
                away.set()

        server.before["Ready"] = leave
        agents.start()
        await away.wait()
        await server.stop()
        await server.until(lambda: agents.status("A")["connection"] == "waiting")
        await asyncio.sleep(0.2)
        assert "cannot be reached" in agents.logs["A"].getvalue()
        await server.start()
        await server.until_phase(phase.FINISHED)
        assert equal(agents.model("A", 2), expected)


async def test_calls_that_fail_now_and_then_lose_nothing(federate, make_job, phase, calm_model, monkeypatch):
    monkeypatch.setattr("fedhe.client.session.FIRST_BACKOFF_SECONDS", 0.05)
    expected = await calm_model()
    async with federate() as (server, agents):
        calls = {}

        def flaky(name):
            async def fail(_site, _request, *_reply):
                calls[name] = calls.get(name, 0) + 1
                if calls[name] % 3 == 1:
                    raise Broken

            return fail

        class Broken(Exception):  # noqa: N818 - what a fault of the server's own looks like: status UNKNOWN
            pass

        for name in ("Join", "Ready", "PutChunk", "FinishUpload", "GetChunk", "Applied", "UploadStatus"):
            server.before[name] = flaky(f"before {name}")
            server.after[name] = flaky(f"after {name}")
        server.add_job(make_job(rounds=2, seed=5))
        agents.start()
        await server.until_phase(phase.FINISHED, seconds=60)
        assert equal(agents.model("A", 2), expected)


async def test_a_lost_site_makes_a_new_attempt_in_which_nobody_trains_again(federate, make_job, phase, tmp_path):
    async with federate() as (server, agents):
        for site in "ABC":
            agents.policy(site, "record_updates: true", COUNT=str(tmp_path / f"count-{site}"))
        job = server.add_job(make_job(rounds=1))

        async def lose(site, request):
            if site == "C" and is_about(request, UPDATE):
                server.before.clear()
                server.feed(job, SiteGone("C", "disabled", time.time()))

        server.before["PutChunk"] = lose
        agents.start()
        state = await server.until_phase(phase.FINISHED, phase.FAILED)
        assert (state.phase, state.sums[-1].roster.attempt) == (phase.FINISHED, 2), state.message
        await agents.stop()
        assert state.sums[-1].roster.sites == ("A", "B")
        assert agents.same_model(1, "AB")
        for site in "AB":
            assert (tmp_path / f"count-{site}").read_text().count("train 1") == 1
        fields = agents.record("A", 1, "fields") + agents.record("B", 1, "fields")
        assert (fields == agents.record("A", 1, "sum_fields")).all()


async def test_the_spool_of_an_attempt_that_was_given_up_takes_no_disk(federate, make_job, phase):
    async with federate() as (server, agents):
        job = server.add_job(make_job(rounds=1))
        spools = agents.folder("A") / "jobs" / "j1" / "spool"
        kept = []

        async def lose(site, request):
            if site == "C" and is_about(request, UPDATE) and "C" not in job.state.gone:
                await server.until((spools / "update-1-1").exists)
                server.feed(job, SiteGone("C", "disabled", time.time()))
            if site == "A" and is_about(request, UPDATE) and request.object.attempt == 2:
                kept.append(sorted(path.name for path in spools.iterdir()))

        server.before["PutChunk"] = lose
        agents.start()
        state = await server.until_phase(phase.FINISHED, phase.FAILED)
        assert state.phase is phase.FINISHED, state.message
        assert kept
        assert kept[0] == ["update-1-2"]


async def test_a_new_attempt_does_not_disturb_a_site_that_still_trains(federate, make_job, phase, tmp_path):
    async with federate() as (server, agents):
        agents.policy("A", COUNT=str(tmp_path / "count"), SLOW="1.5")
        job = server.add_job(make_job(rounds=1))

        async def next_attempt(site, _request, *_reply):
            if site == "B" and job.state.attempt == 1:
                from dataclasses import replace

                job.state = replace(job.state, attempt=2, ready=())

        server.after["Ready"] = next_attempt
        agents.start()
        await server.until(lambda: job.state.attempt == 2)
        state = await server.until_phase(phase.FINISHED, phase.FAILED)
        assert state.phase is phase.FINISHED
        assert (tmp_path / "count").read_text().count("train 1") == 1


async def test_a_late_site_loads_the_checkpoint_and_applies_the_sums_since(federate, make_job, phase):
    async with federate() as (server, agents):
        job = server.add_job(make_job(rounds=4, checkpoint_every=2))
        agents.policy("A", SLOW="0.1")
        agents.start("A", "B")

        async def hold(_site, request):
            if parse_round(request) == 4:
                await server.until(lambda: job.state.versions.get("C") == 3)

        def parse_round(request):
            from fedhe.wire.messages import parse_ready

            return parse_ready(request.body).round

        server.before["Ready"] = hold
        deadline = job.state.config.train_deadline
        await server.until(lambda: bool(job.state.ready) or job.state.version == 0)
        while job.state.version < 3:
            if job.state.phase is phase.TRAIN and len(job.state.ready) == 2:
                server.feed(job, Tick(time.time() + deadline + 1))
            await asyncio.sleep(0.05)
        agents.start("C")
        state = await server.until_phase(phase.FINISHED, phase.FAILED)
        assert state.phase is phase.FINISHED, state.message
        assert agents.same_model(4)
        said = agents.logs["C"].getvalue()
        assert "loaded from the sealed checkpoint" in said
        assert "round 3: sum of 2 sites applied" in said


@pytest.mark.parametrize("lost", ["folder", "model", "update", "one bit of the model", "one bit of the update"])
async def test_a_site_that_lost_its_files_is_brought_back(federate, make_job, phase, lost):
    async with federate() as (server, agents):
        job = server.add_job(make_job(rounds=2, checkpoint_every=1))
        broken = asyncio.Event()

        async def lose(site, request):
            if site == "A" and not broken.is_set() and job.state.round == 2:
                broken.set()
                await asyncio.sleep(600)

        server.before["Ready"] = lose
        agents.start()
        await broken.wait()
        await agents.stop("A")
        folder = agents.folder("A") / "jobs" / "j1"
        if lost == "folder":
            shutil.rmtree(folder)
        else:
            path = next(folder.glob("model-1.*" if "model" in lost else "update-2.*"))
            data = path.read_bytes()
            path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]) if "bit" in lost else data[:-3])
        agents.start("A")
        state = await server.until_phase(phase.FINISHED, phase.FAILED)
        assert state.phase is phase.FINISHED, state.message
        assert agents.same_model(2)


async def test_an_update_that_is_lost_after_ready_is_reported_and_trained_again(federate, make_job, phase):
    async with federate() as (server, agents):
        job = server.add_job(make_job(rounds=1))

        async def lose(site, _request):
            if site == "A" and job.state.attempt == 1:
                for path in (agents.folder("A") / "jobs" / "j1").glob("update-1.*"):
                    path.unlink()

        server.after["Ready"] = lambda site, request, _reply: lose(site, request)
        agents.start()
        state = await server.until_phase(phase.FINISHED, phase.FAILED)
        assert state.phase is phase.FINISHED, state.message
        assert [request.problem for _, request in server.reports] == [federation.PROBLEM_UPDATE_LOST]
        await server.until(lambda: job.state.versions.get("A") == 1)  # it may catch up
        assert agents.same_model(1)


async def test_a_full_disk_pauses_and_goes_on_by_itself(federate, make_job, phase, monkeypatch):
    import errno

    from fedhe.trust import private_files

    full = {"left": 0}
    fsync = os.fsync

    def maybe_full(handle):
        if full["left"] > 0:
            full["left"] -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(private_files.os, "fsync", maybe_full)
    async with federate() as (server, agents):
        server.add_job(make_job(rounds=1))

        async def fill(_site, _request, *_reply):
            server.before.pop("UploadStatus", None)
            full["left"] = 2

        server.before["UploadStatus"] = fill
        agents.start()
        state = await server.until_phase(phase.FINISHED, phase.FAILED)
        assert state.phase is phase.FINISHED
        assert "No space left" in "".join(log.getvalue() for log in agents.logs.values())
        assert server.reports == []
