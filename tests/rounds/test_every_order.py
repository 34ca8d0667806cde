"""Honest sites and a server in any order of events, with losses, repeats, delays and faults, against stated invariants.

The sites here do what instructions say with models that are hashes: a site that applies a sum mixes the round's context
into its model. So two sites hold the same model if and only if they applied the same sums to the same seed.
"""

import hashlib
from dataclasses import dataclass, field
from itertools import pairwise

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from pydantic import TypeAdapter

from fedhe.errors import RemoteProtocolError, StateError
from fedhe.rounds.context import context_of
from fedhe.rounds.directive import Work, instruction_for, site_state
from fedhe.rounds.effects import DropSums, DropUploads, StartSum
from fedhe.rounds.events import (
    Abort,
    CheckpointFinished,
    Continue,
    Pause,
    Problem,
    Resumed,
    SiteApplied,
    SiteBack,
    SiteGone,
    SiteProblem,
    SiteReady,
    SiteSeen,
    Start,
    SumFinished,
    Tick,
    UploadFinished,
)
from fedhe.rounds.machine import step
from fedhe.rounds.state import NO_VERSION, JobState, Phase, ReadyEntry, RoundConfig

NAMES = ("a", "b", "c", "d")
LATECOMER = "e"
STATE = TypeAdapter(JobState)
CALM_STEPS = 400

names = st.sampled_from((*NAMES, LATECOMER))
FAULTS = ("problems", "approval", "disks", "revoked", "newcomer", "abort", "pause")


def possible(*faults):
    return precondition(lambda self: not self.faults.isdisjoint(faults))


def mixed(*parts):
    return hashlib.sha256(b"/".join(part if isinstance(part, bytes) else str(part).encode() for part in parts)).digest()


@dataclass
class Site:
    name: str
    lives: int = 0
    held: int = NO_VERSION
    model: bytes = b""
    seeded: bool = False
    waiting: bool = False
    refuses: bool = False
    nonces: dict = field(default_factory=dict)

    def lose_disk(self):
        self.lives += 1
        self.held, self.model, self.seeded, self.nonces = NO_VERSION, b"", False, {}


class Federation(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.now = 0.0
        config = RoundConfig(
            rounds=3,
            min_sites=2,
            sites=NAMES,
            train_deadline=100.0,
            upload_deadline=50.0,
            apply_deadline=40.0,
            checkpoint_every=2,
        )
        self.state = JobState("job", config)
        self.sites = {name: Site(name) for name in (*NAMES, LATECOMER)}
        self.pool = []
        self.checkpoints = {}
        self.models = {}
        self.excuses = set()
        self.faults = set()
        self.history = [self.state]

    # ---- the world around the machine ----

    def feed(self, event):
        """What the server does with an event: an error leaves the state, a repeat of what was taken changes nothing."""
        before = self.state
        self.state, effects = step(before, event)
        for effect in effects:
            if isinstance(effect, StartSum):
                assert effect.roster == self.state.roster
                assert self.state.phase is Phase.SUM
            if isinstance(effect, DropUploads) and self.state.roster is not None and self.state.phase is Phase.UPLOAD:
                assert (effect.round, effect.attempt) != (self.state.roster.round, self.state.roster.attempt)
            if isinstance(effect, DropSums):
                assert effect.before <= self.state.checkpoint
        if isinstance(event, (SiteReady, UploadFinished, SumFinished, CheckpointFinished, SiteApplied)):
            self.note_models(event)
            if not self.state.phase.ended:
                again, effects = step(self.state, event)
                assert (again, effects) == (self.state, ()), f"{event} taken twice"
        self.history.append(self.state)

    def note_models(self, event):
        if isinstance(event, CheckpointFinished):
            if event.version == 0 and self.state.checkpoint == 0 and 0 not in self.models:
                self.models[0] = self.sealed
            self.checkpoints.setdefault(event.version, self.sealed)
        if self.state.sums:
            newest = self.state.sums[-1]
            if newest.round - 1 in self.models:
                self.models.setdefault(newest.round, mixed(self.models[newest.round - 1], newest.roster.context))

    def deliver(self, event, model, *, fresh):
        if event.site in self.state.gone:
            return  # access is refused before the machine hears of it
        self.sealed = model
        try:
            self.feed(event)
        except (StateError, RemoteProtocolError):
            assert not fresh, f"an honest site's {event} at once after its instruction was refused"

    def work_of(self, site):
        """Polls, does the work in the site's own state, and gives the events that it would send."""
        willing = not (site.waiting or site.refuses)
        self.feed(SiteSeen(site.name, site.held, site.waiting, self.now, willing=willing))
        directive = instruction_for(self.state, site.name)
        if directive is None or not willing:
            return []
        match directive.work:
            case Work.SEED:
                if not site.seeded:
                    site.held, site.seeded, site.model = 0, True, mixed("seed", site.name, site.lives)
                sealed = CheckpointFinished(site.name, 0, self.now)
                return [sealed, SiteApplied(site.name, 0, mixed(site.model), self.now)]
            case Work.LOAD_CHECKPOINT:
                site.held, site.model, site.seeded = directive.version, self.checkpoints[directive.version], False
                return [SiteApplied(site.name, site.held, mixed(site.model), self.now)]
            case Work.TRAIN:
                return [SiteReady(directive.round, directive.attempt, self.entry(site, directive), self.now)]
            case Work.UPLOAD:
                digest = mixed(site.name, self.state.roster.context)
                return [UploadFinished(site.name, directive.round, directive.attempt, digest, self.now)]
            case Work.APPLY:
                if site.held == directive.round - 1:
                    context = self.state.sum_of(directive.round).roster.context
                    site.held, site.model = directive.round, mixed(site.model, context)
                assert site.held == directive.round
                return [SiteApplied(site.name, site.held, mixed(site.model), self.now)]
            case Work.SEAL:
                assert site.held == directive.version
                return [CheckpointFinished(site.name, site.held, self.now)]
        return []

    def entry(self, site, directive):
        assert site.held == directive.round - 1
        nonce = site.nonces.setdefault((directive.round, directive.attempt), site.lives)
        return ReadyEntry(
            site=site.name,
            body=f"{site.name}/{directive.round}/{directive.attempt}/{nonce}".encode(),
            signature=b"s",
            certificate=b"c",
            fingerprint=mixed(site.model),
            layout_digest=b"L" * 32,
            key_id=b"K" * 16,
            params_id=b"P" * 16,
            chunks=2,
        )

    # ---- what can happen ----

    @initialize(early=st.booleans(), faults=st.sets(st.sampled_from(FAULTS), max_size=3))
    def some_faults_are_possible(self, early, faults):
        """A run with a few kinds of faults gets further than one with all of them."""
        self.faults = faults
        if not early:
            self.feed(Start(self.now))
            self.everybody_works()

    @rule()
    @precondition(lambda self: self.state.phase is Phase.SUBMITTED)
    def the_job_is_started(self):
        if len(self.state.active) >= self.state.config.min_sites:
            self.feed(Start(self.now))

    @rule(name=names)
    def a_site_does_its_work(self, name):
        site = self.sites[name]
        if name not in self.state.gone:
            for event in self.work_of(site):
                self.deliver(event, site.model, fresh=event.site == name and not isinstance(event, SiteApplied))

    @rule(name=names)
    def a_site_does_its_work_but_its_messages_are_late(self, name):
        site = self.sites[name]
        if name not in self.state.gone:
            self.pool.extend((event, site.model) for event in self.work_of(site))

    @rule(data=st.data(), keep=st.booleans())
    @precondition(lambda self: self.pool)
    def a_late_message_arrives(self, data, keep):
        index = data.draw(st.integers(0, len(self.pool) - 1))
        event, model = self.pool[index] if keep else self.pool.pop(index)
        if isinstance(event, SumFinished):
            try:
                self.feed(event)
            except StateError:
                wanted = (self.state.round, self.state.attempt)
                assert self.state.phase is not Phase.SUM or (event.round, event.attempt) != wanted
            return
        self.deliver(event, model, fresh=False)

    @rule()
    def all_sites_do_their_work(self):
        self.everybody_works()

    @rule(late=st.booleans())
    @precondition(lambda self: self.state.phase is Phase.SUM)
    def the_sum_is_made(self, late):
        event = SumFinished(self.state.round, self.state.attempt, mixed("sum", self.state.roster.context), self.now)
        if late:
            self.pool.append((event, b""))
        else:
            self.feed(event)

    @rule(seconds=st.sampled_from([1.0, 20.0, 45.0, 120.0]))
    def time_passes(self, seconds):
        self.now += seconds
        self.feed(Tick(self.now))

    @rule(name=names, problem=st.sampled_from(list(Problem)), there=st.booleans())
    @possible("problems")
    def a_site_has_a_problem(self, name, problem, there):
        if name not in self.state.gone:
            where = (self.state.round, self.state.attempt) if there else (0, 0)
            if problem is not Problem.WAITING_FOR_APPROVAL and problem is not Problem.UPDATE_LOST:
                self.excuses.add(problem)
            self.sites[name].refuses = problem is Problem.REJECTED
            self.feed(SiteProblem(name, problem, *where, "trouble", self.now))

    @rule(name=names, waits=st.booleans())
    @possible("approval")
    def approval_is_asked_or_given(self, name, waits):
        self.sites[name].waiting, self.sites[name].refuses = waits, False

    @rule(name=names)
    @possible("disks")
    def a_site_loses_its_disk(self, name):
        self.sites[name].lose_disk()
        self.pool = [
            (event, model) for event, model in self.pool if isinstance(event, SumFinished) or event.site != name
        ]

    @rule(name=names)
    @possible("revoked")
    def a_site_is_revoked_or_disabled(self, name):
        self.feed(SiteGone(name, "revoked", self.now))

    @rule(name=names)
    @possible("newcomer", "revoked")
    def a_site_comes_or_comes_back(self, name):
        self.feed(SiteBack(name, self.now))

    @rule()
    def the_server_restarts(self):
        self.state = STATE.validate_json(STATE.dump_json(self.state))
        self.feed(Resumed(self.now))

    @rule(after_round=st.booleans())
    @possible("pause")
    def an_admin_pauses(self, after_round):
        if self.state.phase.running:
            self.feed(Pause("maintenance", after_round, self.now))

    @rule()
    @possible("pause")
    def an_admin_has_it_go_on(self):
        if self.state.phase.running:
            self.feed(Continue(self.now))

    @rule()
    @possible("abort")
    def an_admin_aborts(self):
        if not self.state.phase.ended:
            self.excuses.add("abort")
            self.feed(Abort("enough", self.now))

    # ---- what must hold at every moment ----

    @invariant()
    def a_roster_is_sealed_right(self):
        roster = self.state.roster
        if roster is None:
            return
        assert list(roster.sites) == sorted(set(roster.sites))
        assert len(roster.sites) >= self.state.config.min_sites
        assert roster.context == context_of([entry.body for entry in roster.entries])
        assert len({entry.fingerprint for entry in roster.entries}) == 1
        assert set(self.state.uploaded) <= set(roster.sites)
        if self.state.phase in {Phase.UPLOAD, Phase.SUM}:
            assert not set(roster.sites) & ({*self.state.gone} | {*self.state.declined})
        if self.state.phase is Phase.SUM:
            assert set(self.state.uploaded) == set(roster.sites)

    @invariant()
    def rounds_and_versions_only_go_forward(self):
        for before, after in pairwise(self.history[-3:]):
            assert after.version in {before.version, before.version + 1}
            assert (after.round, after.attempt) >= (before.round, before.attempt)
            assert after.checkpoint >= before.checkpoint
        state = self.state
        if state.phase in {Phase.TRAIN, Phase.UPLOAD, Phase.SUM}:
            assert state.round == state.version + 1
        assert NO_VERSION <= state.checkpoint <= state.newest <= state.config.rounds

    @invariant()
    def one_context_is_never_used_for_two_rosters(self):
        sealed = {state.roster.context: state.roster for state in self.history if state.roster is not None}
        attempts = {(roster.round, roster.attempt) for roster in sealed.values()}
        assert len(attempts) == len(sealed)

    @invariant()
    def every_site_can_reach_the_newest_version(self):
        if self.state.phase.ended and self.state.phase is not Phase.FINISHED:
            return
        for held in range(NO_VERSION, self.state.newest):
            covered = self.state.checkpoint > held or self.state.sum_of(held + 1) is not None
            assert covered, f"no way from version {held}"

    @invariant()
    def every_site_gets_an_instruction_and_a_word(self):
        for name in self.state.config.sites:
            assert instruction_for(self.state, name) is not None
            assert site_state(self.state, name)

    @invariant()
    def honest_sites_never_disagree(self):
        assert "differs between sites" not in self.state.message
        assert "other tensors" not in self.state.message
        if self.state.phase is Phase.FAILED:
            assert self.excuses, self.state.message

    @invariant()
    def the_state_survives_json(self):
        assert STATE.validate_json(STATE.dump_json(self.state)) == self.state

    # ---- and in the end ----

    def teardown(self):
        """Once faults stop, every job ends, and every site holds the same last model."""
        for site in self.sites.values():
            site.waiting = site.refuses = False
            if site.name in self.state.config.sites:
                self.feed(SiteBack(site.name, self.now))
        if self.state.phase.running:
            self.feed(Continue(self.now))
        if self.state.phase is Phase.SUBMITTED:
            self.feed(Start(self.now))
        for _ in range(CALM_STEPS):
            if self.state.phase.ended:
                break
            self.now += 30.0
            self.feed(Tick(self.now))
            if self.state.phase is Phase.SUM:
                digest = mixed("sum", self.state.roster.context)
                self.feed(SumFinished(self.state.round, self.state.attempt, digest, self.now))
            self.everybody_works()
        assert self.state.phase.ended, f"stuck in {self.state.phase}: {self.state.message}"
        if self.state.phase is Phase.FINISHED:
            for _ in range(self.state.config.rounds + 2):
                self.everybody_works()
            taking_part = [self.sites[name] for name in self.state.config.sites]
            assert {site.model for site in taking_part} == {self.models[self.state.config.rounds]}
            assert all(instruction_for(self.state, site.name).finished for site in taking_part)

    def everybody_works(self):
        for site in self.sites.values():
            for event in self.work_of(site):
                self.deliver(event, site.model, fresh=False)


Federation.TestCase.settings = settings(
    max_examples=80, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
)
TestEveryOrder = Federation.TestCase
