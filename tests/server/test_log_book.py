"""The log book: kept, bounded, followed, harmless on an admin's terminal."""

import asyncio

import pytest

from fedhe.server import log_book
from fedhe.server.log_book import LogBook, LogEntry


def entry(time, source="server", job_id="", message="text", level="info"):
    return LogEntry(float(time), level, source, job_id, message)


@pytest.fixture
def book(tmp_path):
    return LogBook(tmp_path / "logs")


def test_lines_of_all_sources_come_in_the_order_of_their_times(book):
    book.add([entry(1), entry(4)])
    book.add([entry(2, "hospitalA", "job-1"), entry(3, "hospitalA", "job-2")])
    assert [line.time for line in book.last(10)] == [1, 2, 3, 4]
    assert [line.time for line in book.last(2)] == [3, 4]
    assert [line.time for line in book.last(10, "hospitalA")] == [2, 3]
    assert [line.time for line in book.last(10, "", "job-2")] == [3]
    assert book.last(0) == []
    assert book.last(10, "nobody") == []


def test_lines_survive_a_restart_and_a_cut_line_is_left_out(book, tmp_path):
    book.add([entry(1)])
    with (tmp_path / "logs" / "server.jsonl").open("a") as file:
        file.write('{"time": 2')
    assert [line.time for line in LogBook(tmp_path / "logs").last(5)] == [1]


def test_control_characters_do_not_reach_a_terminal(book):
    book.add([entry(1, message="a\x1b[2Jb\nc\u202ed", level="loud")])
    assert book.last(1)[0] == entry(1, message="a [2Jb c d")


def test_files_are_set_aside_and_the_oldest_go(book, tmp_path, monkeypatch):
    monkeypatch.setattr(log_book, "MAX_FILE_BYTES", 1000)
    for number in range(200):
        book.add([entry(number, message="x" * 50)])
    files = list((tmp_path / "logs").iterdir())
    assert len(files) <= log_book.KEPT_FILES
    assert sum(file.stat().st_size for file in files) < log_book.KEPT_FILES * 1300
    times = [line.time for line in book.last(1000)]
    assert times == list(range(200 - len(times), 200))


def test_followers_get_what_they_asked_for_until_the_book_closes(book):
    async def follow():
        seen = []

        async def read():
            seen.extend([line.time async for line in book.follow("hospitalA", "job-1")])

        reader = asyncio.create_task(read())
        await asyncio.sleep(0)
        book.add([entry(1, "hospitalA", "job-1"), entry(2, "hospitalA", "job-2")])
        book.add([entry(3)])
        await asyncio.to_thread(book.add, [entry(4, "hospitalA", "job-1")])
        book.close()
        await reader
        return seen

    assert asyncio.run(follow()) == [1, 4]


def test_a_slow_follower_costs_bounded_memory(book, monkeypatch):
    monkeypatch.setattr(log_book, "MAX_WAITING_LINES", 10)

    async def follow():
        lines = book.follow()
        book.add([entry(number) for number in range(1, 101)])
        await asyncio.sleep(0)
        got = [(await anext(lines)).time for _ in range(10)]
        lines.close()
        return got

    assert asyncio.run(follow()) == list(range(91, 101))


def test_a_full_disk_does_not_fail_the_caller(tmp_path):
    book = LogBook(tmp_path / "logs")
    (tmp_path / "logs" / "server.jsonl").mkdir()
    book.add([entry(1)])
