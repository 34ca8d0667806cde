"""The exceptions of fedhe, cut by what the caller can do about them.

Every error carries one line that prints what was expected and what came, an optional hint that says what to do
next, and the exit code with which a command ends. Foreign exceptions are translated at one border each, with
`raise ... from`; an exception that is not a `FedheError` is a bug in fedhe.
"""

from typing import ClassVar


class FedheError(Exception):
    """Base of all errors a caller of fedhe can meet.

    What came is quoted in the message, and may have been made to steer the terminal or to forge a line of the log that
    it is shown in: so what does not print becomes a space, and what is not valid Unicode a question mark.

    Args:
        message: one line, no trailing full stop needed; says what was expected and what came.
        hint: one line that says what to do next, or None where the message already does.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        self.message = printable(message)
        self.hint = None if hint is None else printable(hint)
        super().__init__(self.message)


def printable(text: str) -> str:
    """The text in one line: a space for each character that does not print, a question mark for invalid Unicode."""
    return "".join(c if c.isprintable() else " " for c in text.encode(errors="replace").decode())


class ConfigError(FedheError):
    """A file or argument that a person wrote is wrong; mend it and try again."""

    exit_code = 2


class CapacityError(ConfigError):
    """Sites, field bits, scale and modulus do not fit into each other."""


class TrustError(FedheError):
    """A certificate, signature, key, passphrase, kit, role or file mode cannot be trusted."""

    exit_code = 3


class RemoteProtocolError(FedheError):
    """The other side sent something that the protocol does not allow."""

    exit_code = 4


class UnavailableError(FedheError):
    """The other side cannot be reached now; trying again later may help."""

    exit_code = 5


class StateError(FedheError):
    """The thing asked for does not exist, exists already, or is not in a state that allows the request."""

    exit_code = 6


class NotFoundError(StateError):
    """There is no job, round, site or object of that name."""


class ResourceError(FedheError):
    """This machine lacks something: disk space, a free port, memory."""

    exit_code = 7


class PolicyError(FedheError):
    """The site's policy does not allow this; the policy always wins."""

    exit_code = 8


class TrainingError(FedheError):
    """Job code or training failed; carries the place in the job's configuration where it is known."""

    exit_code = 9
