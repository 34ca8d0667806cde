"""What a site's policy and people allow, and what is told when they do not."""

import json

import pytest

from fedhe.client import approvals
from fedhe.trust import audit_log
from fedhe.wire import federation

APPROVE = "job_code: approve\nmin_sites: 2"


def problems(server):
    return {(site, request.problem) for site, request in server.reports}


async def test_a_job_waits_for_approval_and_runs_once_it_is_given(federate, make_job, phase, tmp_path, monkeypatch):
    monkeypatch.setattr("fedhe.client.job_task.APPROVAL_INTERVAL_SECONDS", 0.05)
    async with federate() as (server, agents):
        spy = tmp_path / "spy.json"
        agents.policy("A", APPROVE, SPY=str(spy))
        archive = make_job(rounds=1)
        job = server.add_job(archive)
        agents.start()
        await server.until(lambda: ("A", federation.PROBLEM_WAITING_FOR_APPROVAL) in problems(server))
        status = agents.status("A")
        assert status["jobs"][0]["activity"] == "waiting for approval"
        assert status["jobs"][0]["message"] == "approve with: fedhe-client jobs approve j1"
        assert not spy.exists()
        assert not (agents.folder("A") / "jobs" / "j1" / "mmar").exists()
        digest = status["jobs"][0]["digest"]
        approvals.decide(agents.folder("A"), digest, "approved", name="tiny", now=1.0, archive=archive)
        state = await server.until_phase(phase.FINISHED, phase.FAILED)
        assert state.phase is phase.FINISHED
        assert "A" in job.entries or ("A", 1) in job.entries or state.versions["A"] == 1
        assert [line["kind"] for line in audit_log.read(agents.folder("A") / "audit.log")].count("approved") >= 1


async def test_approval_of_one_job_is_no_approval_of_a_changed_one(federate, make_job):
    async with federate() as (server, agents):
        agents.policy("A", APPROVE)
        one = make_job("tiny", rounds=1)
        from fedhe.config.job_archive import read_job

        approvals.decide(agents.folder("A"), read_job(one).digest.hex(), "approved", name="tiny", now=1.0, archive=one)
        server.add_job(make_job("tiny", rounds=1, code="WIDTH = 4\n"))
        agents.start("A")
        await server.until(lambda: ("A", federation.PROBLEM_WAITING_FOR_APPROVAL) in problems(server))
        assert not (agents.folder("A") / "jobs" / "j1" / "training").exists()


async def test_a_site_that_denies_code_says_which_and_the_others_go_on(federate, make_job, phase):
    async with federate() as (server, agents):
        agents.policy("B", "job_code: deny\nmin_sites: 2")
        server.add_job(make_job(rounds=1))
        agents.start()
        state = await server.until_phase(phase.FINISHED, phase.FAILED)
        assert state.phase is phase.FINISHED, state.message
        assert state.sums[-1].roster.sites == ("A", "C")
        site, report = server.reports[0]
        assert (site, report.problem) == ("B", federation.PROBLEM_REJECTED)
        assert "runs no job that brings code" in report.message
        assert "BYOC/net.py" in report.message


async def test_people_can_reject_a_job_that_runs(federate, make_job, phase, monkeypatch, tmp_path):
    monkeypatch.setattr("fedhe.client.job_task.APPROVAL_INTERVAL_SECONDS", 0.05)
    async with federate() as (server, agents):
        archive = make_job(rounds=3)
        agents.policy("C", "job_code: allow\nmin_sites: 2")
        job = server.add_job(archive)

        async def reject(site, _request, *_reply):
            if site == "C" and job.state.round == 1:
                from fedhe.config.job_archive import read_job

                digest = read_job(archive).digest.hex()
                approvals.decide(
                    agents.folder("C"), digest, "rejected", name="tiny", now=1.0, archive=archive, reason="enough"
                )

        server.after["Ready"] = reject
        agents.start()
        state = await server.until_phase(phase.FINISHED, phase.FAILED)
        assert state.phase is phase.FINISHED, state.message
        assert "rejected at this site: enough" in state.declined["C"]
        assert state.sums[-1].roster.sites == ("A", "B")


async def test_a_round_below_the_sites_own_minimum_gets_no_update(federate, make_job, phase):
    async with federate() as (server, agents):
        agents.policy("A", "job_code: allow\nmin_sites: 3")
        agents.policy("C", "job_code: deny\nmin_sites: 2")
        job = server.add_job(make_job(rounds=1))
        agents.start()
        state = await server.until_phase(phase.FAILED, phase.FINISHED)
        assert state.phase is phase.FAILED
        assert "expected at least 3 sites, the roster has 2" in state.message
        assert not job.objects[federation.OBJECT_KIND_UPDATE, 1, 1, "A"]


async def test_job_code_sees_the_sites_values_no_keys_and_no_agent_environment(
    federate, make_job, phase, tmp_path, monkeypatch
):
    monkeypatch.setenv("FEDHE_PASSPHRASE", "secret")
    async with federate() as (server, agents):
        spy = tmp_path / "spy.json"
        agents.policy("A", "gpus: none\ndata_root: /data/site-a", SPY=str(spy))
        server.add_job(make_job(rounds=1, local_epochs=4, seed=9, exclude=["head.*"], statistics="local"))
        agents.start()
        await server.until_phase(phase.FINISHED)
        seen = json.loads(spy.read_text())
        assert seen["request"]["overrides"]["DATA_ROOT"] == "/data/site-a"
        wanted = {"seed": 9, "gpus": [], "exclude": ["head.*"], "share_statistics": False, "epochs": 4}
        assert {name: seen["request"][name] for name in wanted} == wanted
        assert seen["environment"]["CUDA_VISIBLE_DEVICES"] == ""
        text = json.dumps(seen)
        assert "secret" not in text
        assert "kit" not in text
        assert agents.project.group_key.to_bytes().hex() not in text


async def test_code_that_changed_on_the_sites_disk_never_runs(federate, make_job, phase, tmp_path):
    """Job code runs as it was signed and approved, whatever an earlier run of it wrote over itself."""
    async with federate() as (server, agents):
        spy = tmp_path / "spy.json"
        agents.policy("A", SPY=str(spy))
        server.add_job(make_job(rounds=2))

        async def tamper(site, _request, *_reply):
            if site == "A":
                (agents.folder("A") / "jobs" / "j1" / "mmar" / "BYOC" / "net.py").write_text("evil = 1\n")

        server.after["Ready"] = tamper
        agents.start()
        await server.until_phase(phase.FINISHED)
        assert json.loads(spy.read_text())["code"] == "WIDTH = 3\n"


async def test_failing_job_code_is_reported_with_its_last_lines_where_the_policy_shares_logs(federate, make_job, phase):
    async with federate() as (server, agents):
        agents.policy("A", "share_metrics: true", FAIL="/data/A")
        agents.policy("B", "share_logs: false", FAIL="/data/B")
        server.add_job(make_job(rounds=1))
        agents.start()
        state = await server.until_phase(phase.FAILED, phase.FINISHED)
        assert state.phase is phase.FAILED
        await server.until(lambda: len(server.reports) >= 2)
        reports = dict(server.reports)
        assert "data folder is empty: expected images below /data/A" in reports["A"].message
        assert "reading patient 17" in reports["A"].lines
        assert "does not share why" in reports["B"].message
        assert list(reports["B"].lines) == []
        assert b"/data/B" not in b"".join(server.payload)
        assert not any(site == "B" for site, _ in server.lines)


async def test_what_failing_job_code_printed_stays_here_unless_the_site_shares_metrics(federate, make_job, phase):
    async with federate() as (server, agents):
        agents.policy("A", FAIL="/data/A")
        server.add_job(make_job(rounds=1))
        agents.start()
        state = await server.until_phase(phase.FINISHED, phase.FAILED)
        assert state.phase is phase.FINISHED, state.message
        await server.until(lambda: server.reports)
        (site, report), *_ = server.reports
        assert site == "A"
        assert "data folder is empty: expected images below /data/A" in report.message
        assert list(report.lines) == []
        assert b"reading patient 17" not in b"".join(server.payload)


async def test_a_training_process_that_was_killed_is_started_again(federate, make_job, phase, tmp_path):
    async with federate() as (server, agents):
        agents.policy("A", KILLED_ONCE=str(tmp_path / "flag"))
        server.add_job(make_job(rounds=1))
        agents.start()
        state = await server.until_phase(phase.FINISHED, phase.FAILED)
        assert state.phase is phase.FINISHED
        assert "starting it again" in agents.logs["A"].getvalue()
        assert server.reports == []


async def test_an_update_with_nan_never_leaves_the_site(federate, make_job, phase):
    async with federate() as (server, agents):
        agents.policy("B", NAN=1)
        server.add_job(make_job(rounds=1))
        agents.start()
        state = await server.until_phase(phase.FINISHED, phase.FAILED)
        assert state.phase is phase.FINISHED, state.message
        assert state.sums[-1].roster.sites == ("A", "C")
        (site, report), *_ = server.reports
        assert (site, report.problem) == ("B", federation.PROBLEM_TRAINING_FAILED)
        assert "net.bias" in report.message
        assert "finite" in report.message


async def test_a_model_with_other_tensors_is_one_line_that_names_the_first(federate, make_job, phase):
    async with federate() as (server, agents):
        agents.policy("B", CHANNELS=4)
        server.add_job(make_job(rounds=1))
        agents.start("A", "C")
        await server.until(lambda: server.jobs["j1"].state.version == 0)
        agents.start("B")
        state = await server.until_phase(phase.FINISHED, phase.FAILED)
        assert state.sums[-1].roster.sites == ("A", "C")
        (site, report), *_ = server.reports
        assert site == "B"
        assert "tensor 'net.weight': shape is (4, 40) here and (3, 40) there" in report.message


async def test_metrics_stay_out_of_progress_unless_the_site_shares_them(federate, make_job, phase, monkeypatch):
    monkeypatch.setattr("fedhe.client.job_task.BUSY_POLL_SECONDS", 0.1)
    async with federate() as (server, agents):
        agents.policy("A", SLOW=1.0)
        agents.policy("B", "share_metrics: true", SLOW=1.0)
        server.add_job(make_job(rounds=1))
        details = {"A": set(), "B": set(), "C": set()}

        async def look(site, request):
            details[site] |= {progress.detail for progress in request.jobs}

        server.before["Poll"] = look
        agents.start()
        await server.until_phase(phase.FINISHED)
        assert "epoch 1 of 2" in details["A"]
        assert "epoch 1 of 2, loss 0.25" in details["B"]
        assert not any("loss" in detail for detail in details["A"])


async def test_log_lines_reach_the_server_where_the_policy_shares_them(federate, make_job, phase):
    async with federate() as (server, agents):
        agents.policy("B", "share_logs: false")
        server.add_job(make_job(rounds=1))
        agents.start()
        await server.until_phase(phase.FINISHED)
        await server.until(lambda: any("sum of 3 sites applied" in line.message for _, line in server.lines))
        assert {site for site, _ in server.lines} <= {"A", "C"}
        assert all(line.job_id == "j1" for _, line in server.lines)


async def test_a_policy_that_breaks_while_the_agent_runs_pauses_the_job_and_says_why(federate, make_job, phase):
    async with federate() as (server, agents):
        policy = agents.policy("A").folder / "policy.yml"
        good = policy.read_text()
        server.add_job(make_job(rounds=1))

        async def spoil(site, _request, *_reply):
            if site == "A" and "min_sites" in policy.read_text():
                policy.write_text("min_site: 3\n")

        server.after["Join"] = spoil
        agents.start()
        await server.until(lambda: "unknown key 'min_site'" in agents.logs["A"].getvalue())
        server.after.clear()
        policy.write_text(good)
        state = await server.until_phase(phase.FINISHED, phase.FAILED)
        assert state.phase is phase.FINISHED


async def test_an_aborted_job_ends_its_training_process(federate, make_job, tmp_path):
    import os
    import time

    from fedhe.rounds.events import Abort

    async with federate() as (server, agents):
        agents.policy("A", SLEEP=str(tmp_path / "pid"))
        job = server.add_job(make_job(rounds=1))
        agents.start()
        await server.until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
        pid = int((tmp_path / "pid").read_text())
        server.feed(job, Abort("enough", time.time()))
        await server.until(lambda: "job ended: aborted: enough" in agents.logs["A"].getvalue())
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
