"""The drawing of the transition table is complete and always the same."""

from typing import get_args

from fedhe.rounds.draw import drawing
from fedhe.rounds.events import Event
from fedhe.rounds.machine import MOVES, TABLE
from fedhe.rounds.state import Phase


def test_every_phase_and_event_is_drawn():
    page = drawing()
    assert all(f"| {event.__name__} |" in page for event in get_args(Event))
    assert all(phase in page for phase in Phase)
    assert "submitted --> seeding : started" in page
    assert page == drawing()


def test_the_table_knows_only_events_and_every_ended_phase_stays():
    for phase, handlers in TABLE.items():
        assert set(handlers) <= set(get_args(Event))
        assert not phase.ended or not any(before is phase for before, _ in MOVES)
