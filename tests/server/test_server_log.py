"""The server's log: harmless on a terminal, and never a reason for a call to fail."""

import errno
import io

from fedhe.server.log_book import LogBook
from fedhe.server.server_log import ServerLog


class FullDisk(io.StringIO):
    """Standard error that goes to a file on a full disk."""

    def write(self, _text):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_what_a_caller_wrote_cannot_forge_a_line_or_steer_a_terminal(tmp_path):
    stream = io.StringIO()
    ServerLog(LogBook(tmp_path), stream=stream).write("info", "got a\n\x1b[2Jb", caller="x\x1b[31m\ny")
    assert stream.getvalue().count("\n") == 1
    assert "\x1b" not in stream.getvalue()


def test_a_full_disk_under_standard_error_is_passed_over(tmp_path):
    book = LogBook(tmp_path)
    ServerLog(book, stream=FullDisk()).write("error", "something")
    assert [line.message for line in book.last(5)] == ["something"]
