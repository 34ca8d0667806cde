"""What happens to a federation, and when: drawn from a seed and nothing else, so that a schedule can be run again.

Times are told as parts of a calm run, so that they fall into the run on any computer.
"""

import random
from dataclasses import dataclass
from typing import Final

ROUNDS: Final = 3
SITES: Final = ("site001", "site002", "site003")
SERVER: Final = "server"
NETWORK: Final = "network"
PHASES: Final = ("submitted", "seeding", "train", "upload", "sum", "apply", "finished")
LINES: Final = ("trained", "ready-signed", "update-released", "update-sent", "sum-applied")
"""Lines of a site's audit log, each at one step of a round."""

LATENCY_SECONDS: Final = 0.1  # each way
NARROW_BYTES: Final = 250_000.0  # 2 Mbit/s
STALL_SECONDS: Final = 0.5  # of one 16 KiB piece in a hundred: packets of 1500 bytes, lost once in a thousand times
HOUR: Final = 3600.0
AGAIN_PART: Final = 0.3  # of a calm run's changes, at most, until a process dies again


@dataclass(frozen=True)
class When:
    """What has to be seen before a fault begins.

    Attributes:
        kind: `phase`: the job is in that phase of that round, or further; `line`: the site's audit log has the line
            of that round; `training`: a training process of the site runs in that round or a later one; `change`: the
            process is about to change the disk for the n-th time, n being `part` of a calm run's changes, and again
            for each of `parts` after it was started again; `after`: `part` of a calm run's time has passed.
        name: phase, or kind of line.
        round: where the kind has one.
        part: where the kind has one.
    """

    kind: str
    name: str = ""
    round: int = 0
    part: float = 0.0
    parts: tuple[float, ...] = ()


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        what: `kill`: SIGKILL; `power`: that, and what was not flushed is lost; `kill-trainer`; `cut`, `refuse`,
            `silence`, `half-open`, `latency`, `narrow`, `stalls`, `short-streams`: the network; `move`: the server
            comes back at another address; `disk-full`; `clock`: `amount` seconds later or, below 0, earlier.
        who: `server`, a site, or `network`.
        when: when it begins.
        seconds: how long it lasts: a process is down, the network is so.
        amount: where the kind has one.
    """

    what: str
    who: str
    when: When
    seconds: float = 0.0
    amount: float = 0.0

    @property
    def is_kill(self) -> bool:
        """Whether a process is ended by it."""
        return self.what in {"kill", "power", "move", "kill-trainer"}


@dataclass(frozen=True)
class Schedule:
    """One run's faults."""

    seed: int
    engine: str
    faults: tuple[Fault, ...]


def draw(seed: int, *, slow_network: bool = True) -> Schedule:
    """The schedule of a seed.

    Args:
        seed: decides everything.
        slow_network: whether there may be faults that last a minute or more before anybody can notice them.
    """
    rng = random.Random(f"faults {seed}")
    faults = [_kill(rng)]
    faults += [_any(rng, slow_network=slow_network) for _ in range(rng.randint(1, 4))]
    kept: list[Fault] = []
    for fault in faults:
        # A process counts its changes from its first start, so it can have one such end only.
        if fault.when.kind != "change" or not any(f.when.kind == "change" and f.who == fault.who for f in kept):
            kept.append(fault)
    return Schedule(seed, rng.choice(("seal", "fast")), tuple(kept))


def _any(rng: random.Random, *, slow_network: bool) -> Fault:
    kinds = [_kill] * 5 + [_power, _cut, _cut, _weather, _weather, _move, _disk, _clock]
    if slow_network:
        kinds.append(_half_open)
    return rng.choice(kinds)(rng)


def _kill(rng: random.Random) -> Fault:
    who = rng.choice((SERVER, SERVER, "site", "site", "trainer"))
    if who == "trainer":
        site = rng.choice(SITES)
        return Fault("kill-trainer", site, When("training", round=rng.randint(1, ROUNDS)))
    return _end(rng, "kill", who)


def _power(rng: random.Random) -> Fault:
    return _end(rng, "power", rng.choice((SERVER, "site")))


def _end(rng: random.Random, what: str, who: str) -> Fault:
    if who == SERVER:
        named = When("phase", rng.choice(PHASES[1:-1]), rng.randint(1, ROUNDS))
    else:
        who, named = rng.choice(SITES), When("line", rng.choice(LINES), rng.randint(1, ROUNDS))
    when = rng.choice((named, named, _change(rng), _change(rng), _after(rng)))
    return Fault(what, who, when, seconds=rng.uniform(0.1, 3.0))


def _change(rng: random.Random) -> When:
    parts = tuple(rng.uniform(0.0, AGAIN_PART) for _ in range(rng.choice((0, 0, 1, 2))))
    return When("change", part=rng.uniform(0.0, 1.0), parts=parts)


def _after(rng: random.Random) -> When:
    return When("after", part=rng.uniform(0.0, 1.0))


def _somewhen(rng: random.Random) -> When:
    return rng.choice((_after(rng), When("phase", rng.choice(PHASES[1:-1]), rng.randint(1, ROUNDS))))


def _cut(rng: random.Random) -> Fault:
    return Fault(rng.choice(("cut", "refuse", "silence")), NETWORK, _somewhen(rng), seconds=rng.uniform(0.0, 4.0))


def _weather(rng: random.Random) -> Fault:
    what = rng.choice(("latency", "narrow", "stalls", "short-streams"))
    return Fault(what, NETWORK, _somewhen(rng), seconds=rng.uniform(2.0, 10.0), amount=rng.uniform(0.3, 1.5))


def _half_open(rng: random.Random) -> Fault:
    return Fault("half-open", NETWORK, _somewhen(rng))


def _move(rng: random.Random) -> Fault:
    return Fault("move", SERVER, _somewhen(rng), seconds=rng.uniform(0.1, 3.0))


def _disk(rng: random.Random) -> Fault:
    return Fault("disk-full", rng.choice((SERVER, *SITES)), _somewhen(rng), seconds=rng.uniform(0.5, 5.0))


def _clock(rng: random.Random) -> Fault:
    amount = rng.choice((-0.25 * HOUR, -60.0, 60.0, 7 * HOUR, 30 * HOUR))
    return Fault("clock", rng.choice((SERVER, *SITES)), _somewhen(rng), amount=amount)
