"""What others wrote, made fit for a terminal, a log and an audit line: no character there steers anything."""

from fedhe.errors import printable
from fedhe.wire.limits import MAX_TEXT_CHARACTERS


def one_line(text: str) -> str:
    """The text in one line of at most `MAX_TEXT_CHARACTERS`, with a space for each character that does not print."""
    return printable(text[:MAX_TEXT_CHARACTERS]).rstrip()
