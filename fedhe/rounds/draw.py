"""Prints the transition table as Markdown: the phases drawn and listed, which event which phase takes, what it does.

`python -m fedhe.rounds.draw` writes it to standard output.
"""

import sys
from collections.abc import Iterator
from typing import get_args

from fedhe.rounds.events import Event
from fedhe.rounds.machine import MOVES, TABLE, Handler
from fedhe.rounds.state import Phase


def drawing() -> str:
    """The whole page, Markdown; the same table gives the same text."""
    return "\n".join([*_diagram(), "", *_moves(), "", *_grid(), "", *_functions(), ""])


def _diagram() -> Iterator[str]:
    yield "```mermaid"
    yield "stateDiagram-v2"
    yield f"    [*] --> {Phase.SUBMITTED}"
    running = ", ".join(phase for phase in Phase if phase.running)
    for (before, after), why in MOVES.items():
        if after not in {Phase.ABORTED, Phase.FAILED}:
            # Mermaid ends a label at a semicolon, and a colon separates it
            yield f"    {before} --> {after} : {why.replace(':', ',')}"
    yield f"    note right of {Phase.FAILED} : from {running}"
    yield f"    note right of {Phase.ABORTED} : from {Phase.SUBMITTED}, {running}"
    for phase in Phase:
        if phase.ended:
            yield f"    {phase} --> [*]"
    yield "```"


def _grid() -> Iterator[str]:
    yield f"| event | {' | '.join(Phase)} |"
    yield "| --- |" + " --- |" * len(Phase)
    for event in get_args(Event):
        cells = [_cell(phase, event) for phase in Phase]
        yield f"| {event.__name__} | {' | '.join(cells)} |"
    yield ""
    yield "Each cell names the function that decides; `-` changes nothing; an empty cell raises `StateError`."


def _cell(phase: Phase, event: type) -> str:
    handler = TABLE[phase].get(event)
    if handler is None:
        return ""
    name = _name(handler)
    return "-" if name == "nothing" else f"`{name}`"


def _moves() -> Iterator[str]:
    yield "| phase | may go to | when |"
    yield "| --- | --- | --- |"
    for (before, after), why in sorted(MOVES.items(), key=lambda move: list(Phase).index(move[0][0])):
        yield f"| {before} | {after} | {why} |"


def _functions() -> Iterator[str]:
    yield "| function | what it does |"
    yield "| --- | --- |"
    used = {_name(handler): handler for handlers in TABLE.values() for handler in handlers.values()}
    for name, handler in sorted(used.items()):
        if name != "nothing":
            yield f"| `{name}` | {_first_line(handler)} |"


def _name(handler: Handler) -> str:
    return handler.__name__.removeprefix("_")


def _first_line(handler: Handler) -> str:
    return (handler.__doc__ or "").strip().partition("\n")[0]


if __name__ == "__main__":
    sys.stdout.write(drawing())
