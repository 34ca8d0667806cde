"""The server's own log: each line to standard error, as text or JSON, and to the log book for admins."""

import contextlib
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

import structlog

from fedhe.server.log_book import SERVER, LogBook, LogEntry
from fedhe.server.one_line import one_line


class ServerLog:
    """Writes log lines.

    Args:
        book: where admins read them.
        as_json: one JSON object a line instead of text.
        stream: where else they go.
        clock: seconds since 1970 UTC.
    """

    def __init__(
        self,
        book: LogBook,
        *,
        as_json: bool = False,
        stream: TextIO = sys.stderr,
        clock: Callable[[], float] = time.time,
    ) -> None:
        renderer = (
            structlog.processors.JSONRenderer()
            if as_json
            else structlog.dev.ConsoleRenderer(
                colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback, pad_event_to=0
            )
        )
        processors: list[Any] = [
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=False),
            *([structlog.processors.format_exc_info] if as_json else []),
            renderer,
        ]
        self._logger = structlog.wrap_logger(structlog.PrintLogger(stream), processors=processors)
        self._book = book
        self._clock = clock

    def write(
        self, level: str, message: str, *, job_id: str = "", error: BaseException | None = None, **facts: str
    ) -> None:
        """Writes one line.

        Args:
            level: "debug", "info", "warning" or "error".
            message: for people.
            job_id: the job it is about, if any.
            error: an exception that is a bug; its traceback goes to standard error only.
            facts: shown behind the message.
        """
        message, facts = one_line(message), {name: one_line(value) for name, value in facts.items()}
        shown: dict[str, Any] = {**({"job": job_id} if job_id else {}), **facts}
        if error is not None:
            shown["exc_info"] = error
        with contextlib.suppress(OSError):  # standard error may be a file on the disk that is full
            getattr(self._logger, level)(message, **shown)
        detail = "".join(f" {name}={value}" for name, value in facts.items())
        self._book.add([LogEntry(self._clock(), level, SERVER, job_id, message + detail)])
