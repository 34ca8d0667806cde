"""Anything at all may be said to the machine: what no site did, what is over, what is yet to come, twice, in any order.

Where `test_every_order` follows honest sites through faults, here every event is made up around the present state, true
or not, between steps of honest sites. Whatever came before, honest sites then finish the job.
"""

import hashlib

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from pydantic import TypeAdapter

from fedhe.errors import RemoteProtocolError, StateError
from fedhe.rounds.directive import Work, instruction_for, site_state
from fedhe.rounds.effects import Announce, DropSums, DropUploads, StartSum
from fedhe.rounds.events import (
    Abort,
    Change,
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

SITES = ("a", "b", "c", "d")
LATECOMER = "e"
STRANGER = "x"
EVERYBODY = (*SITES, LATECOMER, STRANGER)
STATE = TypeAdapter(JobState)
DEADLINES = ("train_deadline", "upload_deadline", "apply_deadline")
CALM_TURNS = 120

names = st.sampled_from(EVERYBODY)


def hashed(*parts):
    return hashlib.sha256(repr(parts).encode()).digest()


def fingerprint(version):
    return hashed("model", version)


def ready(site, round_, attempt, body=None, **changes):
    values = {
        "site": site,
        "body": body or f"{site}/{round_}/{attempt}".encode(),
        "signature": b"s",
        "certificate": b"c",
        "fingerprint": fingerprint(round_ - 1),
        "layout_digest": b"L" * 32,
        "key_id": b"K" * 16,
        "params_id": b"P" * 16,
        "chunks": 2,
    }
    return ReadyEntry(**{**values, **changes})


class Anything(RuleBasedStateMachine):
    @initialize(
        rounds=st.integers(2, 4),
        min_sites=st.integers(2, 3),
        checkpoint_every=st.integers(1, 3),
        open=st.booleans(),
        lies=st.booleans(),
        turns=st.integers(-1, 10),
    )
    def submit(self, *, lies, turns, **drawn):
        config = RoundConfig(sites=SITES, train_deadline=100.0, upload_deadline=50.0, apply_deadline=40.0, **drawn)
        self.now = 0.0
        self.state = JobState("job", config)
        self.lies = lies  # whether false contents are said too, which may end the job
        self.held = dict.fromkeys(EVERYBODY, NO_VERSION)
        self.mail = []
        self.uploads = set()
        self.summed = set()
        self.dropped_before = 0
        self.meant = {}
        if turns >= 0:
            self.feed(Start(self.now))
        for _ in range(turns):
            self.everybody_works()

    # ---- the machine, watched ----

    def feed(self, event):
        """Whether the machine took the event; checks all that must hold of a single step."""
        before, written = self.state, STATE.dump_json(self.state)
        try:
            after, effects = step(before, event)
        except (StateError, RemoteProtocolError):
            assert STATE.dump_json(before) == written
            return False
        assert STATE.dump_json(before) == written, "states are never changed in place"
        self.check_once_more(after, event)
        if isinstance(event, UploadFinished):
            self.uploads.add((event.site, event.round, event.attempt))
        if isinstance(event, SumFinished):
            self.summed.add((event.round, event.attempt))
        self.check_effects(before, after, effects)
        self.check_version(before, after)
        self.check_pause(before, after, event)
        if after.phase is Phase.FAILED and not before.phase.ended and not self.lies:
            left = set(after.config.sites) - {*after.failed, *after.declined}
            assert len(left) < after.config.min_sites, after.message
        self.state = after
        return True

    def check_once_more(self, after, event):
        try:
            again, effects = step(after, event)
        except (StateError, RemoteProtocolError):
            assert after.phase.ended, f"{event} was taken, and refused when it came again"
            return
        assert again == after, f"{event} changed something when it came again"
        assert all(isinstance(effect, Announce) for effect in effects)

    def check_effects(self, before, after, effects):
        for effect in effects:
            if isinstance(effect, StartSum):
                roster = effect.roster
                assert len(roster.sites) >= after.config.min_sites
                assert {(site, roster.round, roster.attempt) for site in roster.sites} <= self.uploads
                assert (after.phase, after.roster) == (Phase.SUM, roster)
            if isinstance(effect, DropUploads):
                still = after.phase in {Phase.UPLOAD, Phase.SUM}
                assert not still or (effect.round, effect.attempt) != (after.round, after.attempt)
            if isinstance(effect, DropSums):
                assert effect.before <= after.checkpoint
                self.dropped_before = effect.before
        if after.phase is Phase.SUM and before.phase is not Phase.SUM:
            assert any(isinstance(effect, StartSum) for effect in effects)

    def check_version(self, before, after):
        assert after.checkpoint >= before.checkpoint
        assert (after.round, after.attempt) >= (before.round, before.attempt)
        assert before.config.sites == tuple(name for name in after.config.sites if name in before.config.sites)
        if after.version == before.version:
            return
        assert after.version == before.version + 1
        if before.version == NO_VERSION:
            assert (before.phase, after.phase, after.checkpoint) == (Phase.SEEDING, Phase.TRAIN, 0)
        else:
            roster = before.roster
            assert (before.phase, roster.round) == (Phase.APPLY, after.version)
            assert (roster.round, roster.attempt) in self.summed
            assert len(roster.sites) >= before.config.min_sites

    def check_pause(self, before, after, event):
        """A paused job's clock stands still, and a round that begins while a pause is due is paused."""
        if after.phase.ended:
            assert (after.paused_at, after.pause_due) == (None, False)
            return
        if isinstance(event, Tick) and before.paused_at is not None:
            assert after == before
        if isinstance(event, Continue) and before.paused_at is not None and before.deadline is not None:
            paused_for = max(0.0, event.now - before.paused_at)  # a clock that was set back moves no deadline
            assert after.deadline == before.deadline + paused_for
        if isinstance(event, Change) and after.deadline is not None and after != before:
            lengths = {name: getattr(after.config, name) - getattr(before.config, name) for name in DEADLINES}
            assert after.deadline - before.deadline in {0.0, *lengths.values()}
        ahead = {name for name in after.active if after.versions.get(name, NO_VERSION) > max(after.newest, 0)}
        assert not ahead or after.paused_at is not None or not after.phase.running
        if before.pause_due and after.round > before.round:
            assert after.paused_at is not None
        assert after.config.rounds >= after.round

    # ---- honest sites ----

    def work_of(self, name):
        """A poll, and what an honest site then sends."""
        self.feed(SiteSeen(name, self.held[name], waiting=False, now=self.now, willing=True))
        directive = instruction_for(self.state, name)
        match directive.work if directive else Work.WAIT:
            case Work.SEED:
                self.held[name] = 0
                return [CheckpointFinished(name, 0, self.now), SiteApplied(name, 0, fingerprint(0), self.now)]
            case Work.LOAD_CHECKPOINT:
                self.held[name] = directive.version
            case Work.APPLY:
                assert self.held[name] in {directive.round - 1, directive.round}
                self.held[name] = directive.round
            case Work.TRAIN:
                assert self.held[name] == directive.round - 1
                return [self.ready_of(name, directive)]
            case Work.UPLOAD:
                place = (directive.round, directive.attempt)
                own = ready(name, *place)
                if own not in self.state.roster.entries:  # somebody else spoke in this site's name
                    return [SiteProblem(name, Problem.UPDATE_LOST, *place, "not my READY", self.now)]
                return [UploadFinished(name, *place, hashed(name, place), self.now)]
            case Work.SEAL:
                assert self.held[name] == directive.version
                return [CheckpointFinished(name, directive.version, self.now)]
            case _:
                return []
        return [SiteApplied(name, self.held[name], fingerprint(self.held[name]), self.now)]

    def ready_of(self, name, directive):
        return SiteReady(directive.round, directive.attempt, ready(name, directive.round, directive.attempt), self.now)

    def everybody_works(self):
        for name in EVERYBODY:
            if name not in self.state.gone:
                for event in self.work_of(name):
                    self.feed(event)
        if self.state.phase is Phase.SUM:
            self.feed(SumFinished(self.state.round, self.state.attempt, self.sum_digest(), self.now))

    def sum_digest(self):
        return hashed("sum", self.state.round, self.state.attempt)

    # ---- what can happen ----

    @rule()
    def everybody_does_a_turn(self):
        self.everybody_works()

    @rule(name=names)
    def one_site_does_a_turn(self, name):
        for event in self.work_of(name):
            self.feed(event)

    @rule(name=names)
    def one_sites_messages_are_held_up(self, name):
        self.mail.extend(self.work_of(name))

    @rule(data=st.data(), again=st.booleans())
    @precondition(lambda self: self.mail)
    def a_message_that_was_held_up_arrives(self, data, again):
        index = data.draw(st.integers(0, len(self.mail) - 1))
        self.feed(self.mail[index] if again else self.mail.pop(index))

    @rule(data=st.data(), count=st.integers(1, 4), again=st.booleans())
    def anything_is_said(self, data, count, again):
        for _ in range(count):
            event = data.draw(self.any_event())
            self.feed(event)
            if again:
                self.mail.append(event)

    def any_event(self):
        """Events around the present state; false contents only where lies are told."""
        state, now = self.state, st.just(self.now)
        near = st.sampled_from([0, 0, 0, -1, 1])
        rounds = near.map(lambda shift: max(0, state.round + shift))
        attempts = near.map(lambda shift: max(0, state.attempt + shift))
        versions = near.map(lambda shift: max(NO_VERSION, state.newest + shift))
        digests = st.sampled_from([b"one", b"other"])
        wrong = st.sampled_from(
            [{"layout_digest": b"x" * 32}, {"key_id": b"x" * 16}, {"chunks": 9}, {"fingerprint": b"x"}]
        )
        body = st.sampled_from([None, None, b"another READY"])
        problems = st.sampled_from(
            list(Problem) if self.lies else [p for p in Problem if p is not Problem.CHECK_FAILED]
        )

        def say_ready(name, round_, attempt, body, changes):
            return SiteReady(round_, attempt, ready(name, round_, attempt, body, **changes), self.now)

        def say_applied(name, version, false):
            return SiteApplied(name, version, b"false" if false else fingerprint(version), self.now)

        lie = st.booleans() if self.lies else st.just(False)
        return st.one_of(
            st.builds(SiteSeen, names, versions, st.booleans(), now, st.booleans()),
            st.builds(say_ready, names, rounds, attempts, body, wrong if self.lies else st.just({})),
            st.builds(UploadFinished, names, rounds, attempts, digests, now),
            st.builds(SumFinished, rounds, attempts, digests, now) if state.phase is not Phase.SUM else st.nothing(),
            st.builds(CheckpointFinished, names, versions, now),
            st.builds(say_applied, names, versions, lie),
            st.builds(SiteProblem, names, problems, st.just(0) | rounds, attempts, st.just("trouble"), now),
            st.builds(SiteGone, names, st.just("disabled"), now),
            st.builds(SiteBack, names, now),
            st.builds(Start, now),
            st.builds(Pause, st.sampled_from(["", "maintenance"]), st.booleans(), now),
            st.builds(Continue, now),
            st.builds(Change, now, st.none() | st.integers(1, 5), *[st.none() | st.sampled_from([60.0, 200.0])] * 3),
        )

    @rule(seconds=st.sampled_from([1.0, 30.0, 60.0, 150.0]))
    def time_passes(self, seconds):
        self.now += seconds
        self.feed(Tick(self.now))

    @rule()
    @precondition(lambda self: self.state.phase is Phase.SUM)
    def the_sum_is_made(self):
        self.feed(SumFinished(self.state.round, self.state.attempt, self.sum_digest(), self.now))

    @rule(weariness=st.integers(0, 20))
    @precondition(lambda self: self.lies)
    def an_admin_aborts(self, weariness):
        if weariness == 20:
            self.feed(Abort("enough", self.now))

    @rule()
    def the_server_restarts(self):
        self.state = STATE.validate_json(STATE.dump_json(self.state))
        self.feed(Resumed(self.now))

    # ---- what must hold at every moment ----

    @invariant()
    def the_state_survives_json(self):
        assert STATE.validate_json(STATE.dump_json(self.state)) == self.state

    @invariant()
    def a_roster_has_enough_sites_and_each_once(self):
        if (roster := self.state.roster) is not None:
            assert len(roster.sites) >= self.state.config.min_sites
            assert list(roster.sites) == sorted(set(roster.sites))
            assert (roster.round, roster.attempt) == (self.state.round, self.state.attempt)
        if self.state.phase in {Phase.UPLOAD, Phase.SUM}:
            assert not set(roster.sites) & {*self.state.gone, *self.state.declined}

    @invariant()
    def every_version_can_be_left_for_the_next(self):
        if self.state.phase.ended and self.state.phase is not Phase.FINISHED:
            return
        for held in range(NO_VERSION, self.state.newest):
            assert self.state.checkpoint > held or self.state.sum_of(held + 1) is not None

    @invariant()
    def every_instruction_can_be_followed_and_keeps_its_meaning(self):
        for name in EVERYBODY:
            directive = instruction_for(self.state, name)
            assert directive == instruction_for(self.state, name)
            assert (directive is None) == (name not in self.state.config.sites)
            if directive is not None:
                self.check_directive(name, directive)
                assert self.state.paused_at is None or directive.work is Work.WAIT, "a paused job asks for something"
                assert site_state(self.state, name)

    def check_directive(self, name, directive):
        state, context = self.state, None
        match directive.work:
            case Work.SEED:
                assert (state.phase, state.seeder) == (Phase.SEEDING, name)
            case Work.TRAIN:
                assert (state.phase, directive.round) == (Phase.TRAIN, state.version + 1)
            case Work.UPLOAD:
                assert state.phase is Phase.UPLOAD
                assert name in state.roster.sites
                context = state.roster.context
            case Work.APPLY:
                record = state.sum_of(directive.round)
                assert record is not None
                assert record.roster.attempt == directive.attempt
                assert directive.round >= self.dropped_before
                context = record.roster.context
            case Work.LOAD_CHECKPOINT:
                assert directive.version == state.checkpoint >= 0
            case Work.SEAL:
                assert directive.version == state.version
            case Work.STOP:
                assert state.phase.ended
        if directive.work not in {Work.WAIT, Work.STOP}:
            assert name in state.active
        meaning = (directive.work, directive.round, directive.attempt, directive.version, directive.validate, context)
        assert self.meant.setdefault((name, directive.id), meaning) == meaning

    # ---- and in the end ----

    def teardown(self):
        """Honest sites, from here on, finish any job that has not ended, if no lie was believed meanwhile."""
        if not hasattr(self, "state") or self.state.phase.ended or self.lies:
            return
        for name in self.state.config.sites:
            self.feed(SiteBack(name, self.now))
        self.feed(Continue(self.now))
        if self.state.phase is Phase.SUBMITTED:
            assert self.feed(Start(self.now))
        for _ in range(CALM_TURNS):
            self.now += 30.0
            self.feed(Tick(self.now))
            self.everybody_works()
            self.feed(Continue(self.now))  # refused before all have said what they hold, if one was said to be ahead
            self.every_instruction_can_be_followed_and_keeps_its_meaning()
            if self.state.phase.ended:
                break
        assert self.state.phase is Phase.FINISHED, f"stuck in {self.state.phase}: {self.state.message}"
        for _ in range(self.state.config.rounds + 2):
            self.everybody_works()
        assert all(self.held[name] == self.state.config.rounds for name in self.state.config.sites)


Anything.TestCase.settings = settings(
    max_examples=120, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestAnything = Anything.TestCase
