"""Who may call what: certificates, roster and roles are looked at for every call."""

import asyncio
import time
from types import SimpleNamespace

import grpc
import pytest

from fedhe.errors import RemoteProtocolError, StateError, TrustError
from fedhe.provisioning.reconcile import Wishes
from fedhe.server.access import ADMINS, MAX_POLL_BYTES, RULES, SITES, Gate
from fedhe.server.roster_file import RosterFile
from fedhe.wire import AdminStub, FederationStub, admin, federation

REQUESTS = {
    "Join": federation.JoinRequest,
    "Poll": federation.PollRequest,
    "Ready": federation.SignedReady,
    "UploadStatus": federation.ObjectRef,
    "PutChunk": federation.PutChunkRequest,
    "FinishUpload": federation.FinishUploadRequest,
    "DescribeObject": federation.ObjectRef,
    "GetChunk": federation.GetChunkRequest,
    "Applied": federation.AppliedRequest,
    "Report": federation.ReportRequest,
    "PushLog": federation.PushLogRequest,
    "GetStatus": admin.GetStatusRequest,
    "ListSites": admin.ListSitesRequest,
    "SetSite": admin.SetSiteRequest,
    "UpdateRoster": admin.UpdateRosterRequest,
    "SubmitJob": admin.SubmitJobRequest,
    "ListJobs": admin.ListJobsRequest,
    "ShowJob": admin.JobRef,
    "StartJob": admin.JobRef,
    "AbortJob": admin.AbortJobRequest,
    "PauseJob": admin.PauseJobRequest,
    "ResumeJob": admin.JobRef,
    "ChangeJob": admin.ChangeJobRequest,
    "DeleteJob": admin.JobRef,
    "ListRounds": admin.JobRef,
    "WatchJob": admin.JobRef,
    "ReadLog": admin.ReadLogRequest,
    "SetDrain": admin.SetDrainRequest,
    "Shutdown": admin.ShutdownRequest,
}


def methods(service):
    return [name.rpartition("/")[2] for name in RULES if f".{service}/" in name]


def refused(caller, stub, method):
    """The status of a call, read to its end."""
    try:
        request = iter([REQUESTS[method]()]) if method == "SubmitJob" else REQUESTS[method]()
        reply = getattr(stub, method)(request, timeout=30, wait_for_ready=True)
        if hasattr(reply, "__iter__"):
            list(reply)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def test_every_method_of_both_services_has_a_rule():
    for stub in (FederationStub, AdminStub):
        with grpc.insecure_channel("localhost:1") as channel:
            service = stub.__name__.removesuffix("Stub")
            assert {name for name in vars(stub(channel)) if name[0].isupper()} == set(methods(service))


def test_sites_may_not_administer(shared_world):
    site = shared_world.sites[0]
    for method in methods("Admin"):
        assert refused(site, site.admin, method) is grpc.StatusCode.PERMISSION_DENIED, method


def test_admins_may_not_act_as_sites(shared_world):
    for caller in (shared_world.lead, shared_world.observer):
        for method in methods("Federation"):
            assert refused(caller, caller.federation, method) is grpc.StatusCode.PERMISSION_DENIED, method


def test_observers_may_read_and_not_change(shared_world):
    observer = shared_world.observer
    for method in methods("Admin"):
        changes = RULES[f"/fedhe.v1.Admin/{method}"].roles != ADMINS
        denied = refused(observer, observer.admin, method) is grpc.StatusCode.PERMISSION_DENIED
        assert denied == changes, method


def test_every_site_method_is_for_sites_alone():
    assert {RULES[f"/fedhe.v1.Federation/{method}"].roles for method in methods("Federation")} == {SITES}


def test_refusals_say_what_is_allowed_and_are_audited(shared_world):
    observer = shared_world.observer
    with pytest.raises(TrustError, match=r"Admin/SetSite is for admin-lead; eve@x is admin-observer"):
        observer.call(observer.admin.SetSite, admin.SetSiteRequest(name="hospitalA", enabled=False))
    assert ("eve@x", "Admin/SetSite") in [
        (said["who"], said["method"]) for kind, said in shared_world.audit() if kind == "call-refused"
    ]


def gate_of(provisioned, *, now=None):
    """A gate that goes by the server's installed roster."""
    state = provisioned.state
    roster = RosterFile(
        provisioned.home / "server" / "kit" / "roster.signed", state.ca_pem, project=state.project, at_least_version=1
    )
    return Gate(state.ca_pem, roster, None, None, lambda: time.time() if now is None else now())


@pytest.mark.parametrize("method", RULES)
def test_what_is_too_large_for_a_method_is_not_parsed(provisioned, method):
    parsed = []
    handler = grpc.unary_unary_rpc_method_handler(lambda *_: None, parsed.append)

    async def find(_details):
        return handler

    wrapped = asyncio.run(gate_of(provisioned).intercept_service(find, SimpleNamespace(method=method)))
    most = RULES[method].max_bytes
    assert wrapped.request_deserializer(bytes(most + 1)).size == most + 1
    assert parsed == []
    wrapped.request_deserializer(bytes(most))
    assert parsed == [bytes(most)]


def test_a_poll_of_very_many_empty_entries_is_refused_by_its_size(shared_world):
    site = shared_world.sites[0]
    poll = site.channel.unary_unary("/fedhe.v1.Federation/Poll", response_deserializer=federation.PollReply.FromString)
    empty = federation.PollRequest(jobs=[federation.JobProgress()]).SerializeToString()
    too_much = empty * (MAX_POLL_BYTES // len(empty) + 1)
    with pytest.raises(
        RemoteProtocolError, match=f"Poll: expected at most {MAX_POLL_BYTES} bytes, got {len(too_much)}"
    ):
        site.call(poll, too_much)
    observer = shared_world.observer
    poll = observer.channel.unary_unary("/fedhe.v1.Federation/Poll")
    with pytest.raises(TrustError, match="Poll is for site"):
        observer.call(poll, too_much)


@pytest.mark.parametrize("method", RULES)
def test_bytes_that_are_no_message_are_refused_with_a_documented_status(shared_world, method):
    caller = shared_world.sites[0] if "Federation" in method else shared_world.lead
    streams = method.endswith(("WatchJob", "ReadLog", "Watch"))
    call = (caller.channel.unary_stream if streams else caller.channel.unary_unary)(method)
    with pytest.raises(RemoteProtocolError, match="expected a message, got 3 bytes"):
        caller.call(lambda request, **options: list(call(request, **options)), b"\xff\xff\xff")


def test_a_certificate_that_expires_while_the_server_runs_is_refused_from_then_on(provisioned):
    certificate = provisioned.installation("hospitalA").certificate_pem
    expires = provisioned.installation("hospitalA").identity.not_after
    clock = [time.time()]
    gate = gate_of(provisioned, now=lambda: clock[0])
    assert gate.identify(certificate).name == "hospitalA"
    clock[0] = expires
    with pytest.raises(TrustError, match="expired on"):
        gate.identify(certificate)


def channel_with(world, issued, ca_pem=None):
    ca_pem = ca_pem or world.provisioned.state.ca_pem
    credentials = grpc.ssl_channel_credentials(ca_pem, issued.key_pem, issued.certificate_pem)
    return grpc.secure_channel(f"localhost:{world.server.port}", credentials)


def join_with(channel):
    with channel:
        try:
            FederationStub(channel).Join(federation.JoinRequest(), timeout=10)
        except grpc.RpcError as error:
            return error.code(), error.details()
    return grpc.StatusCode.OK, ""


def test_a_certificate_of_another_authority_gets_no_connection(shared_world, foreign, bare_certificate):
    issued = bare_certificate("hospitalA", authority=foreign)
    assert join_with(channel_with(shared_world, issued))[0] is grpc.StatusCode.UNAVAILABLE


def test_sites_of_another_project_do_not_trust_this_server(shared_world, foreign):
    site = shared_world.caller("hospitalA", source=foreign)
    with pytest.raises(grpc.RpcError) as error:
        site.federation.Join(federation.JoinRequest(), timeout=10)
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE


def test_no_certificate_gets_no_connection(shared_world):
    credentials = grpc.ssl_channel_credentials(shared_world.provisioned.state.ca_pem)
    channel = grpc.secure_channel(f"localhost:{shared_world.server.port}", credentials)
    assert join_with(channel)[0] is grpc.StatusCode.UNAVAILABLE
    plain = grpc.insecure_channel(f"localhost:{shared_world.server.port}")
    assert join_with(plain)[0] is grpc.StatusCode.UNAVAILABLE


def test_an_expired_certificate_gets_no_connection(shared_world, bare_certificate):
    shared = shared_world.provisioned
    issued = bare_certificate("hospitalA", now=time.time() - 366 * 86400, authority=shared)
    assert join_with(channel_with(shared_world, issued))[0] is grpc.StatusCode.UNAVAILABLE


def test_a_certificate_that_is_on_no_roster_is_refused(shared_world, bare_certificate):
    issued = bare_certificate("hospitalA", authority=shared_world.provisioned)
    code, details = join_with(channel_with(shared_world, issued))
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert "not on roster version 1" in details


def test_a_revoked_site_is_out_at_its_next_call_and_the_round_goes_on_without_it(world, make_project, tmp_path):
    first, second, third = world.sites
    job = world.submit(rounds=1, min_sites=2)
    world.run(job, {"upload"})
    roster = third.instruction(job).upload.roster
    third.put(third.update_ref(roster), 0, third.encrypted(roster, 0))
    signed = world.provisioned.change(make_project(sites=("hospitalA", "hospitalB")))
    (tmp_path / "roster.signed").write_bytes(signed)
    told = world.server.command("update-roster", str(tmp_path / "roster.signed")).stdout
    assert "roster version 2 is in force; sites: hospitalA, hospitalB; revoked: hospitalC" in told
    with pytest.raises(TrustError, match="revoked on"):
        third.put(third.update_ref(roster), 1, third.encrypted(roster, 1))
    while first.instruction(job).id != "train/1/2":  # the server's next look at its roster gives the attempt up
        time.sleep(0.02)
    world.run(job, sites=[first, second])
    (round_,) = world.lead.rounds(job)
    assert (round_.attempts, [part.site for part in round_.contributions]) == (2, ["hospitalA", "hospitalB"])
    listed = {
        site.name: site.revoked for site in world.lead.call(world.lead.admin.ListSites, admin.ListSitesRequest()).sites
    }
    assert listed == {"hospitalA": False, "hospitalB": False, "hospitalC": True}


@pytest.mark.parametrize("knows", [1, 10**6])
def test_a_site_that_is_revoked_while_it_polls_gets_no_more_instructions(world, make_project, knows):
    job = world.submit(rounds=1)
    world.run(job, {"upload"})
    site = world.sites[0]
    told = site.instruction(job).id
    request = site.request(job, wait=30.0, working_on=told, roster_version=knows)
    pending = site.federation.Poll.future(request, timeout=60, wait_for_ready=True)
    time.sleep(0.3)
    signed = world.provisioned.change(make_project(), wishes=Wishes(replace=["hospitalA"]))
    world.lead.call(world.lead.admin.UpdateRoster, admin.UpdateRosterRequest(roster=signed))
    if knows == 1:
        assert pending.result() == federation.PollReply(roster=signed)
    else:
        assert pending.exception().code() is grpc.StatusCode.PERMISSION_DENIED


def test_an_admin_who_left_is_no_revoked_site_and_one_with_a_new_kit_is_not_revoked(world, make_project, tmp_path):
    project = make_project(sites=("hospitalA", "hospitalB"))
    signed = world.provisioned.change(project.model_copy(update={"admins": project.admins[:1]}))
    world.lead.call(world.lead.admin.UpdateRoster, admin.UpdateRosterRequest(roster=signed))
    world.server.restart()
    signed = world.provisioned.change(
        project.model_copy(update={"admins": project.admins[:1]}), wishes=Wishes(replace=["hospitalA"])
    )
    (tmp_path / "roster.signed").write_bytes(signed)
    told = world.server.command("update-roster", str(tmp_path / "roster.signed")).stdout
    assert told.endswith("sites: hospitalA, hospitalB; revoked: eve@x, hospitalC\n")
    sites = world.lead.call(world.lead.admin.ListSites, admin.ListSitesRequest()).sites
    assert [(site.name, site.revoked) for site in sites] == [
        ("hospitalA", False),
        ("hospitalB", False),
        ("hospitalC", True),
    ]


def test_a_revoked_admin_loses_a_stream_that_is_under_way(world, make_project):
    job = world.submit(rounds=1)
    stream = world.observer.admin.WatchJob(admin.JobRef(job_id=job), timeout=60)
    assert next(stream).job.phase == "seeding"
    signed = world.provisioned.change(make_project(), wishes=Wishes(replace=["eve@x"]))
    world.lead.call(world.lead.admin.UpdateRoster, admin.UpdateRosterRequest(roster=signed))
    world.lead.call(world.lead.admin.AbortJob, admin.AbortJobRequest(job_id=job))
    with pytest.raises(grpc.RpcError) as error:
        list(stream)
    assert error.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_an_older_or_foreign_roster_is_refused_and_the_newest_stays(world, make_project, foreign):
    old = world.provisioned.state.signed_roster
    new = world.provisioned.change(make_project(sites=("hospitalA", "hospitalB", "hospitalC", "hospitalD")))
    world.lead.call(world.lead.admin.UpdateRoster, admin.UpdateRosterRequest(roster=new))
    world.lead.call(world.lead.admin.UpdateRoster, admin.UpdateRosterRequest(roster=new))  # again is fine
    with pytest.raises(StateError, match="expected a roster newer than version 2, got version 1"):
        world.lead.call(world.lead.admin.UpdateRoster, admin.UpdateRosterRequest(roster=old))
    with pytest.raises(TrustError):
        world.lead.call(world.lead.admin.UpdateRoster, admin.UpdateRosterRequest(roster=foreign.state.signed_roster))
    with pytest.raises(TrustError):
        world.lead.call(world.lead.admin.UpdateRoster, admin.UpdateRosterRequest(roster=new[:-9] + b"AAAAAAAA\n"))
    assert world.sites[0].poll(roster_version=1).roster == new
    assert world.sites[0].join(roster_version=1).roster == new
    assert world.sites[0].join(roster_version=2).roster == b""


def test_a_site_that_is_added_takes_part_in_a_running_job(world, make_project):
    job = world.submit(rounds=1, min_sites=3)
    world.run(job, {"train"})
    signed = world.provisioned.change(make_project(sites=("hospitalA", "hospitalB", "hospitalC", "hospitalD")))
    world.lead.call(world.lead.admin.UpdateRoster, admin.UpdateRosterRequest(roster=signed))
    fourth = world.caller("hospitalD")
    fourth.join()
    world.run(job, sites=[*world.sites, fourth])
    (round_,) = world.lead.rounds(job)
    assert [part.site for part in round_.contributions] == ["hospitalA", "hospitalB", "hospitalC", "hospitalD"]


def test_rekeying_the_project_ends_running_jobs(world, make_project):
    job = world.submit(rounds=1)
    world.run(job, {"train"})
    signed = world.provisioned.change(make_project(), wishes=Wishes(rekey=True))
    lead = world.caller("lead@x")
    lead.call(lead.admin.UpdateRoster, admin.UpdateRosterRequest(roster=signed))
    assert lead.wait_for(job, "aborted") == "aborted"
    assert "re-keyed" in lead.show(job).job.message
