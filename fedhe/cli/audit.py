"""`audit verify` and `audit show`, the same for the server's log and a site's: is the history whole, what is in it."""

import re
from collections import deque
from pathlib import Path
from typing import Annotated

import typer

from fedhe.cli.output import local_time, print_json, print_listing
from fedhe.errors import ConfigError, NotFoundError
from fedhe.trust import audit_log

MAX_SHOWN_LINES = 100_000

HeadsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--head",
        metavar="LINES:DIGEST",
        help="A head that was noted before, as this command prints it; the log must extend it. Several can be given.",
    ),
]
LastOption = Annotated[
    int, typer.Option("--last", metavar="N", min=1, max=MAX_SHOWN_LINES, help="How many lines, the newest ones.")
]

_HEAD = re.compile(r"(\d{1,12}):([0-9a-f]{64})")


def verify_log(path: Path, heads: list[str] | None, *, as_json: bool) -> None:
    """Checks the chain of a log and that it extends heads noted before; prints its head.

    Raises:
        NotFoundError: there is no log.
        TrustError: the log was altered, or does not extend a head.
        ConfigError: a head is not of the form LINES:DIGEST.
    """
    noted = [_parse(head) for head in heads or []]
    _require(path)
    head = audit_log.verify(path, noted)
    if as_json:
        print_json({"lines": head.lines, "digest": head.digest, "torn_bytes": head.torn_bytes, "heads": len(noted)})
        return
    typer.echo(f"{path}: {head.lines} lines, each carries the hash of the one before")
    for lines, _ in noted:
        typer.echo(f"it extends the head of {lines} lines")
    typer.echo(f"head: {head.lines}:{head.digest}")


def show_log(path: Path, last: int, *, as_json: bool) -> None:
    """Prints the newest lines of a log.

    Raises:
        NotFoundError: there is no log.
        TrustError: a line is no line of an audit log.
    """
    _require(path)
    lines = deque(audit_log.read(path), maxlen=last)
    rows = [
        {"line": one["n"] + 1, "time": local_time(one["time"]), "kind": one["kind"], "fields": one["fields"]}
        for one in lines
    ]
    if not as_json:
        rows = [row | {"fields": _one_line(row["fields"])} for row in rows]
    print_listing(f"audit log {path}", rows, ("line", "time", "kind", "fields"), as_json=as_json)


def _require(path: Path) -> None:
    """A log that is not there is not whole: someone may have taken it away."""
    if not path.exists():
        raise NotFoundError(f"{path}: no audit log here", "it is made at the first start; name the folder with --home")


def _one_line(fields: dict[str, object]) -> str:
    """Names and values for people; texts of others may hold anything, so all but ASCII is escaped."""
    return ", ".join(f"{name}: {value!s}" for name, value in fields.items()).encode("unicode_escape").decode("ascii")


def _parse(text: str) -> tuple[int, str]:
    found = _HEAD.fullmatch(text)
    if found is None:
        raise ConfigError(
            f"--head: expected LINES:DIGEST with 64 hexadecimal digits, got {text[:80]!r}",
            "audit verify prints the head in this form",
        )
    return int(found[1]), found[2]
