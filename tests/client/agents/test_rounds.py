"""Three agents through whole jobs, against a server that decides with the real round machine."""

import json

import numpy as np
import pytest

from fedhe.client.checkpoint import open_checkpoint
from fedhe.client.note import open_applied_note, read_note
from fedhe.client.status import read_status
from fedhe.trust import audit_log
from fedhe.trust.sealed import NoteContext, open_note
from fedhe.wire import federation
from fedhe.wire.messages import parse_ready


def state_of(agents, site, job_id="j1"):
    return json.loads((agents.folder(site) / "jobs" / job_id / "state.json").read_text())


async def test_three_sites_train_a_job_to_its_end_and_hold_the_same_model(federate, make_job, phase):
    async with federate() as (server, agents):
        for site in "ABC":
            agents.policy(site, "record_updates: true")
        job = server.add_job(make_job(rounds=3, checkpoint_every=2))
        agents.start()
        state = await server.until_phase(phase.FINISHED, phase.FAILED)
        assert (state.phase, state.version, state.checkpoint) == (phase.FINISHED, 3, 3), state.message
        await server.until(lambda: all(state_of(agents, site)["ended"] for site in "ABC"))
        assert agents.same_model(3)
        assert not np.array_equal(agents.model("A", 2)["net.weight"], agents.model("A", 3)["net.weight"])
        assert len({job.entries[site, 3].model_fingerprint for site in "ABC"}) == 1
        for round_ in (1, 2, 3):
            fields = [agents.record(site, round_, "fields") for site in "ABC"]
            assert all((sum(fields) == agents.record(site, round_, "sum_fields")).all() for site in "ABC")
            assert all(np.abs(each).max() > 100 for each in fields)
        for site in "ABC":
            audit_log.verify(agents.folder(site) / "audit.log")
            kinds = [line["kind"] for line in audit_log.read(agents.folder(site) / "audit.log")]
            assert kinds.count("update-released") == 3
            assert kinds[-1] == "job-ended"
        status = read_status(agents.folder("A"))
        assert status is not None
        assert (status["connection"], status["jobs"][0]["ended"]) == ("stopped", "finished after 3 rounds")
        assert "connected to localhost" in agents.logs["A"].getvalue()


async def test_the_average_is_weighted_by_samples_and_close_to_float_fedavg(federate, make_job, phase):
    async with federate() as (server, agents):
        samples = {"A": 100, "B": 10, "C": 1}
        for site, count in samples.items():
            agents.policy(site, "record_updates: true", SAMPLES=count)
        server.add_job(make_job(rounds=1))
        agents.start()
        await server.until_phase(phase.FINISHED)
        await agents.stop()
        names = sorted(agents.model("A", 0))
        change = {name: agents.model("A", 1)[name].astype("f8") - agents.model("A", 0)[name] for name in names}
        record = json.loads((agents.folder("A") / "jobs" / "j1" / "record" / "round-1" / "record.json").read_text())
        assert record["samples"] == samples
        assert record["weights"]["B"] == pytest.approx(10 / 111)
        flat = np.concatenate([change[name].ravel() for name in record["tensors"]])
        ideal = sum(n / 111 * agents.record(site, 1, "change").astype("f8") for site, n in samples.items())
        assert np.abs(flat - ideal).max() < 4e-6


async def test_the_server_receives_no_sample_count_no_metric_no_weight_and_no_key(federate, make_job, phase):
    async with federate() as (server, agents):
        for site in "ABC":
            agents.policy(site, "record_updates: true", SAMPLES=10**12 + 7)
        job = server.add_job(make_job(rounds=2))
        agents.start()
        await server.until_phase(phase.FINISHED)
        await agents.stop()
        received = b"\0".join(server.payload)
        project = agents.project
        change = agents.record("A", 1, "change")
        assert len(received) > 100_000
        for secret in (
            b"val_mean_dice", b"0.51", str(10**12 + 7).encode(), (10**12 + 7).to_bytes(8, "little"), b"net.weight",
            change[:3].tobytes(), change[:3].astype("f8").tobytes(), agents.record("A", 1, "fields")[:6].tobytes(),
            agents.model("A", 2)["net.bias"].tobytes(), project.group_key.to_bytes()[-32:],
            project.secret_key.to_bytes()[-512:-64],
        ):  # fmt: skip
            assert secret not in received, secret
        # who holds the group key reads all of it
        body = next(e.body for e in job.state.sums[-1].roster.entries if e.site == "A")
        said = parse_ready(body)
        place = NoteContext(project="brain-mri", job_id="j1", round=2, attempt=said.attempt, site="A", nonce=said.nonce)
        note = read_note(open_note(project.group_key, context=place, note=said.sealed_note))
        assert (note.samples, note.metrics, note.main_metric) == (10**12 + 7, {"val_mean_dice": 0.52}, "val_mean_dice")
        last = open_applied_note(project.group_key, "brain-mri", "j1", 2, "A", job.entries["A", 2].sealed_note)
        assert last.metrics == {"val_mean_dice": 0.52}
        chunks = job.objects[federation.OBJECT_KIND_CHECKPOINT, 2, 0]
        layout, vector = open_checkpoint(project.group_key, "j1", 2, [chunks[i] for i in sorted(chunks)], len(chunks))
        place = [tensor.name for tensor in layout.tensors].index("net.bias")
        assert (vector[layout.slices()[place]] == agents.model("B", 2)["net.bias"]).all()


async def test_an_update_costs_at_most_2_75_bytes_a_value_up_and_5_5_down(federate, make_job, phase):
    async with federate() as (server, agents):
        for site in "ABC":
            agents.policy(site, SIZE=130_000)
        job = server.add_job(make_job(rounds=1))
        agents.start()
        await server.until_phase(phase.FINISHED)
        values = 3 * 130_000 + 7
        up = job.finished[federation.OBJECT_KIND_UPDATE, 1, 1, "A"]
        down = job.finished[federation.OBJECT_KIND_SUM, 1, 1]
        assert up.chunks == 2
        assert up.size / values <= 2.75
        assert down.size / values <= 5.5


async def test_two_jobs_run_at_once_and_do_not_mix(federate, make_job, phase):
    async with federate() as (server, agents):
        server.add_job(make_job("one", rounds=1, seed=1), "j1")
        server.add_job(make_job("two", rounds=1, seed=2), "j2")
        agents.start()
        await server.until_phase(phase.FINISHED, job_id="j1")
        await server.until_phase(phase.FINISHED, job_id="j2")
        assert agents.same_model(1, job_id="j1")
        assert agents.same_model(1, job_id="j2")
        assert not np.array_equal(agents.model("A", 1, "j1")["net.bias"], agents.model("A", 1, "j2")["net.bias"])


async def test_polls_during_the_last_validation_do_not_make_the_server_think_it_was_told(
    federate, make_job, phase, monkeypatch
):
    """A version counts at the server once its fingerprint came, not once a poll names it: else nobody would send it."""
    monkeypatch.setattr("fedhe.client.job_task.BUSY_POLL_SECONDS", 0.1)
    async with federate() as (server, agents):
        for site in "ABC":
            agents.policy(site, SLOW=1.0, SLOW_TASK="validate")
        job = server.add_job(make_job(rounds=1))
        agents.start()
        await server.until_phase(phase.FINISHED)
        assert {site for site, version in job.entries if version == 1} == {"A", "B", "C"}
        assert all(job.entries[site, 1].sealed_note for site in "ABC")


async def test_a_deleted_job_ends_at_the_site_and_keeps_its_model(federate, make_job, phase):
    async with federate() as (server, agents):
        agents.policy("A", SLEEP=str(agents.home / "pid"))
        server.add_job(make_job())
        agents.start()
        await server.until((agents.home / "pid").exists)
        del server.jobs["j1"]
        await server.until(lambda: bool(state_of(agents, "A")["ended"]))
        assert state_of(agents, "A")["ended"] == "the server no longer names this job"
        assert agents.model("A", 0)
        assert not (agents.folder("A") / "jobs" / "j1" / "training").exists()


async def test_statistics_get_wider_fields_and_local_tensors_never_leave(federate, make_job, phase):
    async with federate() as (server, agents):
        agents.policy("A", "record_updates: true")
        server.add_job(make_job(rounds=1, precision={"field_bits": 12, "statistics_bits": 26}))
        agents.start()
        await server.until_phase(phase.FINISHED)
        await agents.stop()
        layout = json.loads((agents.folder("A") / "jobs" / "j1" / "layout.json").read_text())
        bits = {tensor["name"]: tensor["field_bits"] for tensor in layout["tensors"]}
        assert bits == {"net.weight": 12, "net.bias": 12, "bn.running_mean": 26, "scale": 12}
