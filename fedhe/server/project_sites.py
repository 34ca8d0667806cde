"""The sites of the project: on the roster or revoked, enabled or not, and what a change of that means to the jobs."""

import asyncio
import contextlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from fedhe.errors import NotFoundError
from fedhe.rounds import events
from fedhe.server import records
from fedhe.server.log_book import SERVER
from fedhe.server.parts import Parts
from fedhe.server.runner import Runner
from fedhe.server.store import Store
from fedhe.trust.certificates import SITE
from fedhe.trust.roster import Roster
from fedhe.wire import admin

_SETTING = "roster_followed"


@dataclass(frozen=True)
class Followed:
    """The roster that the jobs have been told of.

    Args:
        version: an older file is refused at the next start.
        key_id: hex id of the project's CKKS key; empty before the first.
        sites: on it.
        known: sites of this and all earlier ones; a revocation alone does not say whether it is a site's.
    """

    version: int = 0
    key_id: str = ""
    sites: tuple[str, ...] = ()
    known: tuple[str, ...] = ()


def read_followed(store: Store) -> Followed:
    """What `ProjectSites.follow_roster` stored last."""
    with store.read() as connection:
        text = records.setting(connection, _SETTING)
    if text is None:
        return Followed()
    value = json.loads(text)
    sites = tuple(value["sites"])
    return Followed(value["version"], value["key_id"], sites, tuple(value.get("known", sites)))


class ProjectSites:
    """Changes of roster and of what admins set; lives in the event loop."""

    def __init__(self, parts: Parts, runner: Runner) -> None:
        self._parts = parts
        self._runner = runner
        self._followed = read_followed(parts.store)
        self._problem: str | None = None

    def listing(self) -> list[admin.Site]:
        """All sites that the roster names, and those that an earlier one named."""
        now, roster, presence = self._parts.clock(), self._parts.roster.current, self._parts.presence
        expires: dict[str, float] = {}
        for one in roster.participants:
            if one.role == SITE:
                expires[one.name] = max(expires.get(one.name, 0.0), one.not_after)
        others = {one.name for one in roster.participants if one.role != SITE}
        names = sorted({*expires, *presence.names(), *self._followed.known} - others)
        return [
            admin.Site(
                name=name,
                enabled=presence.site(name).enabled,
                revoked=name not in expires,
                online=presence.online(name, now),
                last_seen=presence.site(name).last_seen,
                software_version=presence.site(name).software_version,
                certificate_expires=expires.get(name, 0.0),
            )
            for name in names
        ]

    def enabled(self) -> Mapping[str, bool]:
        """Whether each site is enabled."""
        return {name: self._parts.presence.site(name).enabled for name in self._parts.roster.current.sites}

    def check_source(self, source: str) -> None:
        """Refuses a log source that is neither empty, nor the server, nor a site that is or was known.

        Raises:
            NotFoundError: it is not.
        """
        names = {site.name for site in self.listing()}
        if source not in {"", SERVER, *names}:
            raise NotFoundError(f"no log of {source[:80]!r}", f"sources: {', '.join([SERVER, *sorted(names)])}")

    async def set_enabled(self, name: str, enabled: bool, *, by: str) -> None:
        """Disables a site in all jobs, or enables it again.

        Raises:
            NotFoundError: the roster has no such site.
            ResourceError: the disk does not take it.
        """
        sites = self._parts.roster.current.sites
        if name not in sites:
            raise NotFoundError(f"no site {name[:80]!r} in this project", f"sites: {', '.join(sites)}")
        # To its end even if the call is cut: what is on the disk and what is in memory must not differ.
        await asyncio.shield(asyncio.create_task(self._set_enabled(name, enabled, by)))

    async def _set_enabled(self, name: str, enabled: bool, by: str) -> None:
        now = self._parts.clock()
        row = replace(self._parts.presence.site(name), enabled=enabled)

        def write() -> None:
            with self._parts.store.write() as connection:
                records.put_site(connection, row)
                kind = "site-enabled" if enabled else "site-disabled"
                self._parts.audit.decide(connection, now, kind, {"site": name, "by": by})

        await asyncio.to_thread(write)
        self._parts.presence.set_enabled(name, enabled)
        self._parts.log.write("info", f"site {name} {'enabled' if enabled else 'disabled'} by {by}")
        if enabled:
            await self._runner.feed_all(events.SiteBack(name, now))
        else:
            await self._runner.feed_all(events.SiteGone(name, f"disabled by {by}", now))
        self._runner.notify()

    async def update_roster(self, signed: bytes, *, by: str) -> None:
        """Puts a newer signed roster in force, durably, and has the jobs follow it.

        Raises:
            TrustError: not signed by the project's CA.
            StateError: not newer than the one in force.
            ResourceError: the disk does not take it.
        """
        roster = await asyncio.to_thread(self._parts.roster.replace, signed)
        said = {"version": roster.version, "by": by}
        await asyncio.to_thread(self._parts.audit.note, self._parts.clock(), "roster-taken", said)
        await self.follow_roster()

    async def follow_roster(self) -> None:
        """Tells the jobs who is out, and what a new roster changes; called again and again.

        Raises:
            ResourceError: the disk does not take it; calling again goes on.
        """
        await asyncio.to_thread(self._parts.roster.refresh)
        self._tell_problem()
        roster = self._parts.roster.current
        if self._followed.key_id not in {"", roster.key_id.hex()}:
            # What sites sealed and encrypted under the old keys, nobody can open any more.
            await self._runner.feed_all(events.Abort("the project was re-keyed", self._parts.clock()))
        await self._tell_absent(roster)
        if roster.version == self._followed.version:
            return
        for name in sorted(set(roster.sites) - set(self._followed.sites)):
            if self._parts.presence.site(name).enabled:
                await self._runner.feed_all(events.SiteBack(name, self._parts.clock()))
        known = tuple(sorted({*self._followed.known, *roster.sites}))
        followed = Followed(roster.version, roster.key_id.hex(), roster.sites, known)
        await asyncio.to_thread(self._store, followed)
        self._followed = followed
        self._parts.log.write("info", f"roster version {roster.version} is in force")
        self._runner.notify()

    async def _tell_absent(self, roster: Roster) -> None:
        """Who is revoked or disabled is out of every job, also of one that was just then submitted or resumed."""
        for job in list(self._runner.jobs.values()):
            if job.state.phase.ended:
                continue
            for name in sorted(set(job.state.config.sites) - set(job.state.gone)):
                if (why := self._absence(roster, name)) is not None:
                    with contextlib.suppress(NotFoundError):  # deleted meanwhile
                        await self._runner.feed(job.job_id, events.SiteGone(name, why, self._parts.clock()))

    def _absence(self, roster: Roster, name: str) -> str | None:
        if name not in roster.sites:
            reasons = {one.name: one.reason for one in roster.revoked}
            return f"not on the roster any more: {reasons.get(name, 'removed from the project')}"
        return None if self._parts.presence.site(name).enabled else "disabled by an admin"

    def _store(self, followed: Followed) -> None:
        with self._parts.store.write() as connection:
            records.set_setting(connection, _SETTING, json.dumps(asdict(followed)))

    def _tell_problem(self) -> None:
        problem = self._parts.roster.problem
        if problem != self._problem:
            self._problem = problem
            if problem is not None:
                self._parts.log.write("error", f"the new roster file is not believed, the old one stays: {problem}")
