"""A server, an admin or a site that does not play by the rules: nothing leaves this site, and somebody is told."""

import pytest

from fedhe.errors import TrustError
from fedhe.rounds.context import context_of
from fedhe.trust.sealed import GroupKey
from fedhe.wire import federation
from fedhe.wire.chunking import digest_of

UPDATE, SUM = federation.OBJECT_KIND_UPDATE, federation.OBJECT_KIND_SUM


def change_roster(change):
    """Changes the roster of every instruction to site A; returns a hook for the end of Poll."""

    async def after(site, _request, reply):
        for instruction in reply.instructions:
            if site == "A" and instruction.WhichOneof("work") == "upload":
                change(instruction.upload.roster)
        return reply

    return after


def drop_c(roster):
    del roster.ready[2]
    roster.context = context_of([bytes(ready.body) for ready in roster.ready])


def drop_a(roster):
    del roster.ready[0]
    roster.context = context_of([bytes(ready.body) for ready in roster.ready])


def repeat_c(roster):
    roster.ready.append(roster.ready[2])
    roster.context = context_of([bytes(ready.body) for ready in roster.ready])


def other_context(roster):
    roster.context = bytes(32)


def other_signature(roster):
    roster.ready[1].signature = roster.ready[2].signature


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (drop_a, "is not on the roster"),
        (repeat_c, "each site once"),
        (other_context, "expected roster context"),
        (other_signature, "signature"),
    ],
)
async def test_a_roster_that_the_server_altered_gets_no_update(federate, make_job, phase, change, said):
    async with federate() as (server, agents):
        job = server.add_job(make_job(rounds=1))
        server.after["Poll"] = change_roster(change)
        agents.start()
        await server.until(lambda: bool(server.reports))
        site, report = server.reports[0]
        assert (site, report.problem) == ("A", federation.PROBLEM_CHECK_FAILED)
        assert said in report.message
        assert not job.objects[UPDATE, 1, 1, "A"]
        assert "update-released" not in (agents.folder("A") / "audit.log").read_text()


async def test_a_second_roster_for_the_same_attempt_gets_no_update(federate, make_job):
    """A server that shows two rosters for one READY would learn the difference of two sums."""
    async with federate() as (server, agents):
        job = server.add_job(make_job(rounds=1))
        seen = []

        async def hold(site, request):
            if site == "A" and request.object.kind == UPDATE and not seen:
                seen.append(request)
                server.after["Poll"] = show_another
                raise TrustError("come back later")

        async def show_another(site, _request, reply):
            for instruction in reply.instructions:
                if site == "A" and instruction.WhichOneof("work") == "upload":
                    drop_c(instruction.upload.roster)
                    instruction.id = "upload/1/1/again"
            return reply

        server.before["PutChunk"] = hold
        agents.start()
        await server.until(lambda: bool(server.reports))
        assert "already gave its update for roster" in server.reports[0][1].message
        assert not job.objects[UPDATE, 1, 1, "A"]


async def test_a_sum_that_the_server_altered_is_not_applied(federate, make_job, phase):
    async with federate() as (server, agents):
        job = server.add_job(make_job(rounds=1))

        async def alter(_site, request):
            key = (SUM, 1, 1)
            if request.kind == SUM and not getattr(job, "altered", False):
                job.altered = True
                chunk = bytearray(job.objects[key][0])
                chunk[-2000] ^= 0x10
                server._store(job, key, [bytes(chunk)])

        server.before["DescribeObject"] = alter
        agents.start()
        state = await server.until_phase(phase.FAILED, phase.FINISHED)
        assert state.phase is phase.FAILED
        assert "does not accept the sum of round 1" in state.message
        for site in "ABC":
            assert not (agents.folder(site) / "jobs" / "j1" / "model-1.safetensors").exists()


async def test_a_sum_whose_chunks_are_not_those_that_were_announced_is_not_applied(federate, make_job, phase):
    async with federate() as (server, agents):
        server.add_job(make_job(rounds=1))

        async def announce(_site, request, reply):
            if request.kind == SUM:
                return federation.ObjectInfo(chunks=reply.chunks, size=reply.size, digest=bytes(32))
            return reply

        server.after["DescribeObject"] = announce
        agents.start()
        state = await server.until_phase(phase.FAILED, phase.FINISHED)
        assert state.phase is phase.FAILED
        assert "sum 1: expected digest 0000" in state.message


async def test_a_sum_with_another_number_of_chunks_is_refused_before_it_is_fetched(federate, make_job, phase):
    async with federate() as (server, agents):
        server.add_job(make_job(rounds=1))

        async def announce(_site, request, reply):
            if request.kind == SUM:
                return federation.ObjectInfo(chunks=2, size=reply.size, digest=reply.digest)
            return reply

        server.after["DescribeObject"] = announce
        agents.start()
        state = await server.until_phase(phase.FAILED, phase.FINISHED)
        assert "expected 1 chunks, the server has 2" in state.message


async def test_a_chunk_damaged_on_the_way_is_fetched_again(federate, make_job, phase):
    async with federate() as (server, agents):
        server.add_job(make_job(rounds=1))
        damaged = set()

        async def damage(site, request, reply):
            place = (site, request.object.kind)
            if place not in damaged:
                damaged.add(place)
                return federation.Chunk(index=reply.index, data=reply.data[:-1] + b"!", digest=reply.digest)
            return reply

        server.after["GetChunk"] = damage
        agents.start()
        state = await server.until_phase(phase.FINISHED, phase.FAILED)
        assert state.phase is phase.FINISHED
        assert len(damaged) >= 6


@pytest.mark.parametrize(
    ("signer", "said"), [("observer", "lead admin"), ("A", "lead admin"), ("server", "lead admin"), ("gone", "revoked")]
)
async def test_a_job_that_no_lead_admin_signed_is_refused(federate, make_project, make_job, signer, said):
    project = make_project()
    project.issue("admin-observer", "observer")
    project.issue("admin-lead", "gone")
    project.revoked.append("gone")
    async with federate(project=project) as (server, agents):
        server.add_job(make_job(rounds=1), signer=signer)
        agents.start("A")
        await server.until(lambda: bool(server.reports))
        assert server.reports[0][1].problem == federation.PROBLEM_CHECK_FAILED
        assert said in server.reports[0][1].message
        assert not (agents.folder("A") / "jobs" / "j1" / "job.signed").exists()


async def test_a_job_whose_archive_was_altered_is_refused(federate, make_job):
    async with federate() as (server, agents):
        archive = make_job(rounds=1)
        job = server.add_job(archive)
        signed = federation.SignedReady.FromString(server.project.sign_job(archive))
        assert signed is not None
        from fedhe.wire import admin

        message = admin.SubmitJobRequest.FromString(server.project.sign_job(archive))
        message.archive = make_job(rounds=1, code="evil = 1\n")
        server._store(job, (federation.OBJECT_KIND_JOB, 0, 0), [message.SerializeToString()])
        agents.start("A")
        await server.until(lambda: bool(server.reports))
        assert "signature" in server.reports[0][1].message


async def test_a_site_with_another_group_key_cannot_open_what_the_others_seal(federate, make_job, phase):
    async with federate() as (server, agents):
        agents.policy("B")
        (agents.folder("B") / "kit" / "group.key").write_bytes(GroupKey.generate().to_bytes())
        server.add_job(make_job(rounds=1))
        agents.start("A", "C")
        await server.until(lambda: server.jobs["j1"].state.version == 0)
        agents.start("B")
        await server.until(lambda: bool(server.reports))
        site, report = server.reports[0]
        assert (site, report.problem) == ("B", federation.PROBLEM_CHECK_FAILED)
        assert "does not open" in report.message
        state = await server.until_phase(phase.FINISHED, phase.FAILED)
        assert state.sums[-1].roster.sites == ("A", "C")


async def test_a_server_with_a_certificate_of_another_project_is_not_talked_to(federate, make_project, make_job):
    stranger = make_project()
    async with federate(project=stranger) as (server, agents):
        server.add_job(make_job())
        agents.project = make_project()
        agents.project.port = server.port
        agents.start("A")
        await server.until(lambda: "this project's CA" in agents.logs["A"].getvalue())
        assert server.calls == []
        assert agents.status("A")["connection"] == "waiting"


async def test_a_newer_list_of_participants_is_taken_and_an_older_or_forged_one_is_not(
    federate, make_project, make_job, phase
):
    async with federate() as (server, agents):
        project = server.project
        server.add_job(make_job(rounds=1), start=False)
        old = project.signed_roster()
        agents.start("A")
        await server.until(lambda: ("A", "Poll") in server.calls)
        project.version, project.revoked = 5, ["C"]
        server.roster = project.signed_roster()
        await server.until(lambda: "took version 5" in agents.logs["A"].getvalue())
        server.roster = old
        await server.until(lambda: "is refused: roster: expected version 5" in agents.logs["A"].getvalue())
        server.roster = make_project().signed_roster()
        await server.until(lambda: "signature" in agents.logs["A"].getvalue())
        await agents.stop("A")
        assert project.installed_site(agents.home, "A").roster.version == 5


async def test_an_agent_whose_own_certificate_was_revoked_stops_and_says_so(federate):
    async with federate() as (server, agents):
        agents.start("A")
        await server.until(lambda: ("A", "Poll") in server.calls)
        server.project.version, server.project.revoked = 2, ["A"]
        server.roster = server.project.signed_roster()
        await server.until(agents.running["A"].done)
        (ended,) = await agents.stop("A")
        assert isinstance(ended, TrustError)
        assert "revoked" in ended.message


async def test_a_site_that_the_server_refuses_says_why_and_keeps_trying(federate, monkeypatch):
    monkeypatch.setattr("fedhe.client.session.FIRST_BACKOFF_SECONDS", 0.05)
    async with federate() as (server, agents):
        refused = TrustError("expected key id 00, got 11", "install the newest kit")

        async def refuse(_site, _request):
            raise refused

        server.before["Join"] = refuse
        agents.start("A")
        await server.until(lambda: server.calls.count(("A", "Join")) > 1)
        assert "the server refuses this site: expected key id 00" in agents.logs["A"].getvalue()
        status = agents.status("A")
        assert (status["connection"], status["message"]) == (
            "refused",
            "expected key id 00, got 11; install the newest kit",
        )
        del server.before["Join"]
        await server.until(lambda: ("A", "Poll") in server.calls)
        assert agents.status("A")["connection"] == "connected"


@pytest.mark.parametrize("job_id", ["../../evil", "", "a/b", "."])
async def test_a_job_id_that_is_no_name_makes_no_folder(federate, job_id):
    async with federate() as (server, agents):

        async def after(_site, _request, reply):
            reply.instructions.append(
                federation.Instruction(id="wait", job_id=job_id, wait=federation.Wait(reason="come in"))
            )
            return reply

        server.after["Poll"] = after
        agents.start("A")
        await server.until(lambda: "job id" in agents.logs["A"].getvalue() or agents.running["A"].done())
        assert not agents.running["A"].done()
        assert list((agents.folder("A") / "jobs").iterdir()) == []


async def test_an_object_of_absurd_size_is_refused_before_it_is_fetched(federate, make_job):
    async with federate() as (server, agents):
        job = server.add_job(make_job())
        job.finished[federation.OBJECT_KIND_JOB, 0, 0] = federation.ObjectInfo(
            chunks=60_000, size=2**40, digest=digest_of(b"")
        )
        agents.start("A")
        await server.until(lambda: bool(server.reports))
        assert "the server has 60000" in server.reports[0][1].message
        assert ("A", "GetChunk") not in server.calls
