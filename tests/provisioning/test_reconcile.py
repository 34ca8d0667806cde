"""The plan: what a changed project file comes to, and that nothing else is touched."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhe.config.project import Project
from fedhe.errors import ConfigError, NotFoundError
from fedhe.provisioning.carry_out import carry_out
from fedhe.provisioning.kit import pack_kit
from fedhe.provisioning.reconcile import ActionKind, Wishes, reconcile
from fedhe.trust.roster import read_roster

NOW = 1_800_000_000.0
DAY = 86400


def make_project(sites=("A", "B", "C"), admins=None, **changes):
    content = {
        "project": {"name": "brain-mri"},
        "server": {"host": "localhost"},
        "sites": list(sites),
        "admins": admins or [{"name": "lead", "holds_key": True}, {"name": "eye", "role": "observer"}],
    }
    return Project.model_validate(content | changes)


def settle(state):
    """As after a run whose passphrases were shown."""
    return state.model_copy(update={"pending": ()})


@pytest.fixture(scope="module")
def begun():
    project = make_project()
    return settle(carry_out(project, None, reconcile(project, None, Wishes(), NOW), NOW).state)


def plan(project, state, now=NOW, **wishes):
    made = reconcile(project, state, Wishes(**wishes), now)
    return {(str(a.kind), a.name): a for a in made.actions}, made.warnings


def roster_of(state):
    return read_roster(state.signed_roster, state.ca_pem, project=state.project, at_least_version=1)


def test_the_first_plan_makes_everything():
    actions, _ = plan(make_project(), None)
    assert list(actions) == [("create", "brain-mri")] + [("issue", n) for n in ("server", "A", "B", "C", "lead", "eye")]


def test_nothing_changed_means_nothing_to_do(begun):
    assert plan(make_project(), begun) == ({}, ())


def test_a_new_site_gets_a_kit_and_nobody_else_does(begun):
    assert list(plan(make_project("ABCD"), begun)[0]) == [("issue", "D")]


def test_a_removed_site_is_revoked_and_the_coordinator_is_told_about_its_keys(begun):
    actions, warnings = plan(make_project("AB"), begun)
    assert list(actions) == [("revoke", "C"), ("change", "min_sites")]
    assert "keys that C had" in warnings[0]
    assert "rounds of two become possible" in warnings[1]


def test_a_removed_observer_had_no_keys(begun):
    actions, warnings = plan(make_project(admins=[{"name": "lead", "holds_key": True}]), begun)
    assert list(actions) == [("revoke", "eye")]
    assert warnings == ()


@pytest.mark.parametrize(
    ("admin", "revokes"),
    [
        ({"name": "lead", "holds_key": False}, True),
        ({"name": "eye", "role": "lead"}, True),
    ],
)
def test_a_changed_admin_gets_a_new_kit(begun, admin, revokes):
    others = [
        a
        for a in ({"name": "lead", "holds_key": True}, {"name": "eye", "role": "observer"})
        if a["name"] != admin["name"]
    ]
    actions, _ = plan(make_project(admins=[admin, *others]), begun)
    assert list(actions) == [("re-issue", admin["name"])]
    assert actions["re-issue", admin["name"]].revokes_old is revokes


def test_a_moved_server_means_new_kits_for_all_and_no_revocation(begun):
    actions, warnings = plan(make_project(server={"host": "fl.example.org"}), begun)
    assert {kind for kind, _ in actions} == {"re-issue"}
    assert len(actions) == 6
    assert not any(a.revokes_old for a in actions.values())
    assert warnings == ()


def test_another_engine_means_new_kits_for_the_sites_alone(begun):
    """The server and admins do not encrypt, and the key stays the same."""
    actions, warnings = plan(make_project(engine="fast"), begun)
    assert list(actions) == [("re-issue", name) for name in "ABC"]
    assert not any(action.revokes_old for action in actions.values())
    assert "fast engine" in actions["re-issue", "A"].reason
    assert warnings == ()


def test_renewing_keeps_the_old_certificate_and_replacing_revokes_it(begun):
    assert not plan(make_project(), begun, renew=["A"])[0]["re-issue", "A"].revokes_old
    actions, warnings = plan(make_project(), begun, replace=["A"])
    assert actions["re-issue", "A"].revokes_old
    assert "keys that A had" in warnings[0]


def test_only_known_participants_can_be_renewed(begun):
    with pytest.raises(NotFoundError, match="no participant 'Z'") as caught:
        plan(make_project(), begun, renew=["Z"])
    assert "server, A, B, C, lead, eye" in caught.value.hint


def test_rekeying_reaches_all_who_hold_keys_and_nobody_else(begun):
    actions, warnings = plan(make_project(), begun, rekey=True)
    assert list(actions) == [("re-key", "brain-mri")] + [("re-issue", n) for n in ("A", "B", "C", "lead")]
    assert warnings == ()


def test_wider_fields_mean_new_kits_but_another_ring_needs_a_rekey(begun):
    actions, _ = plan(make_project(he={"field_bits": 20}), begun)
    assert [name for _, name in actions] == ["server", "A", "B", "C", "lead", "eye"]
    other_ring = make_project(he={"coeff_modulus_bits": [29, 29]})
    with pytest.raises(ConfigError, match="he: expected the ring") as caught:
        plan(other_ring, begun)
    assert "--rekey" in caught.value.hint
    assert len(plan(other_ring, begun, rekey=True)[0]) == 7


def test_another_project_is_refused(begun):
    with pytest.raises(ConfigError, match="expected project brain-mri, which this folder holds, got liver-ct"):
        plan(make_project(project={"name": "liver-ct"}), begun)


def test_a_new_version_is_only_noted(begun):
    actions, _ = plan(make_project(project={"name": "brain-mri", "version": "2"}), begun)
    assert list(actions) == [("change", "version")]


def test_certificates_that_soon_expire_are_mentioned(begun):
    assert plan(make_project(), begun, now=NOW + 330 * DAY)[1] == ()
    soon = plan(make_project(), begun, now=NOW + 340 * DAY)[1]
    assert len(soon) == 6
    assert any("certificate of A expires on 2028-01-15: --renew A" in text for text in soon)
    assert any("expired on" in text for text in plan(make_project(), begun, now=NOW + 366 * DAY)[1])


def test_kits_whose_passphrases_were_never_shown_are_issued_again(begun):
    actions, _ = plan(make_project(), begun.model_copy(update={"pending": ("A", "eye")}))
    assert list(actions) == [("re-issue", "A"), ("re-issue", "eye")]
    assert all(a.revokes_old for a in actions.values())


def test_after_the_plan_is_carried_out_the_roster_says_it(begun):
    project = make_project("ABD")
    outcome = carry_out(project, begun, reconcile(project, begun, Wishes(renew=["A"], replace=["B"]), NOW + 5), NOW + 5)
    before, after = roster_of(begun), roster_of(outcome.state)
    assert (before.version, after.version) == (1, 2)
    assert (before.sites, after.sites) == (("A", "B", "C"), ("A", "B", "D"))
    assert [r.name for r in after.revoked] == ["C", "B"]
    serials = {
        name: {p.serial for p in roster.participants if p.name == name} for roster in (before,) for name in "ABC"
    }
    listed = {name: {p.serial for p in after.participants if p.name == name} for name in "ABD"}
    assert listed["A"] > serials["A"]
    assert listed["B"].isdisjoint(serials["B"])
    assert {r.serial for r in after.revoked} == serials["B"] | serials["C"]
    assert [kit.name for kit in outcome.kits] == ["A", "B", "D"]
    assert outcome.state.pending == ("A", "B", "D")
    assert outcome.state.key_id == begun.key_id


def test_old_certificates_leave_the_roster_when_they_expire(begun):
    project, state = make_project(), begun
    for year in (0.9, 1.8, 2.7):
        now = NOW + year * 365 * DAY
        state = settle(carry_out(project, state, reconcile(project, state, Wishes(renew=["A"]), now), now).state)
    assert len([p for p in roster_of(state).participants if p.name == "A"]) == 2


def test_no_secret_shows_in_a_repr(begun):
    assert "PRIVATE KEY" not in repr(begun)
    assert "FEDHE-" not in repr(begun)


NAMES = st.lists(st.sampled_from("ABCDEF"), min_size=2, max_size=5, unique=True)


@settings(max_examples=15, deadline=None)
@given(st.lists(NAMES, min_size=1, max_size=4))
def test_whatever_the_history_the_roster_lists_the_file_and_a_second_run_does_nothing(begun, history):
    from unittest import mock

    state = begun
    # Packing costs a tenth of a second a kit, and what is in them is tested elsewhere.
    with mock.patch("fedhe.provisioning.carry_out.pack_kit", wraps=pack_kit, side_effect=lambda *_, **__: b""):
        for sites in history:
            project = make_project(sites)
            made = reconcile(project, state, Wishes(), NOW)
            if not made.actions:
                assert roster_of(state).sites == tuple(sorted(sites))
                continue
            previous, state = state, settle(carry_out(project, state, made, NOW).state)
            roster = roster_of(state)
            assert roster.sites == tuple(sorted(sites))
            assert roster.version == previous.roster_version + 1
            assert not {p.serial for p in roster.participants} & {r.serial for r in roster.revoked}
            assert reconcile(project, state, Wishes(), NOW).actions == ()
            kept = {p.name: p for p in previous.participants}
            for participant in state.participants:
                if participant.name in kept and (str(ActionKind.ISSUE), participant.name) not in {
                    (str(a.kind), a.name) for a in made.actions
                }:
                    assert participant == kept[participant.name]
