"""Processes for what keeps Python's lock, which SEAL's binding does: asked over pipes, replaced when they die.

A process is a module with `serve` at its end. It is greeted once, with what all its work shares, which may be secret:
it passes through a pipe and touches no disk. It ends when its standard input does, so it cannot outlive the program
that started it.

A message is its length and its bytes; an answer has one byte more before them, which tells whether it is an error's
text. The standard library's pool would start the program's main module again in each process, with all that it imports.
"""

import contextlib
import os
import struct
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from typing import IO

from fedhe.errors import ConfigError, FedheError, ResourceError

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
_LENGTH = struct.Struct("<Q")
_ANSWER = struct.Struct("<BQ")
_WELL, _WRONG = 0, 1
Octets = bytes | memoryview


class Processes:
    """Any number of threads may ask; each waits for a process of its own.

    Args:
        module: what a process runs, by its full name.
        greeting: what each is told first.
        most: how many there are, at most; each is started when it is needed.
    """

    def __init__(self, module: str, greeting: bytes, most: int) -> None:
        self._command = (sys.executable, "-P", "-m", module)
        self._greeting = greeting
        self._slots = threading.Semaphore(most)
        self._lock = threading.Lock()
        self._idle: list[subprocess.Popen[bytes]] = []
        self._all: set[subprocess.Popen[bytes]] = set()
        self._ended = False
        weakref.finalize(self, _end_all, self._all)

    def __repr__(self) -> str:
        return f"Processes({self._command[-1]})"

    def ask(self, *request: Octets) -> bytes:
        """One process's answer.

        Raises:
            ValueError: the process says that it cannot, and why.
            ConfigError: no process can do such work here.
            ResourceError: no process can be started, or it was killed; trying again may help.
        """
        with self._slots:
            process = self._take()
            try:
                well, answer = _exchange(process, request)
            except BaseException as error:
                # Cut in the middle of an answer: the rest of it must not be taken for the next one's.
                self._end(process)
                if isinstance(error, OSError | EOFError | ValueError):  # ValueError: its pipe was closed
                    raise ResourceError("a worker process was killed", "the system may be short of memory") from error
                raise
            with self._lock:
                self._idle.append(process)
        if not well:
            raise ValueError(answer.decode(errors="replace"))
        return answer

    def close(self) -> None:
        """Ends all processes; who waits for an answer gets an error."""
        self._ended = True
        _end_all(self._all)

    def _take(self) -> subprocess.Popen[bytes]:
        if self._ended:
            raise ResourceError("the worker processes were ended")
        with self._lock:
            if self._idle:
                return self._idle.pop()
        try:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # Processes are the unit of parallelism; and Ctrl-C in a terminal is for the program itself.
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                start_new_session=True,
            )
        except OSError as error:
            raise ResourceError(f"cannot start a worker process: {error.strerror}") from error
        with self._lock:
            self._all.add(process)
        try:
            well, answer = _exchange(process, (self._greeting,))
        except (OSError, EOFError) as error:
            self._end(process)
            raise ResourceError("a worker process was killed", "the system may be short of memory") from error
        if not well:
            self._end(process)
            raise ConfigError(answer.decode(errors="replace"))
        return process

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            self._all.discard(process)
        _end_all({process})


def serve(begin: Callable[[bytes], Callable[[bytes], list[Octets]]]) -> None:
    """What a process does: answers on standard output what is asked on standard input, until there is no more.

    Args:
        begin: given the greeting, returns what answers a request. Both may raise FedheError, RuntimeError or
            ValueError, whose text is the answer then.
    """
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    handle: Callable[[bytes], list[Octets]] | None = None
    with contextlib.suppress(EOFError, BrokenPipeError):  # the program that asks has ended
        while True:
            request = _read(requests, *_LENGTH.unpack(_exactly(requests, _LENGTH.size)))
            kind, parts = _WELL, list[Octets]()
            try:
                if handle is None:
                    handle = begin(request)
                else:
                    parts = handle(request)
            except FedheError as error:
                kind, parts = _WRONG, [error.message.encode()]
            except (RuntimeError, ValueError) as error:
                kind, parts = _WRONG, [str(error).encode()]
            answers.write(_ANSWER.pack(kind, _size(parts)))
            for part in parts:
                answers.write(part)
            answers.flush()


def _exchange(process: subprocess.Popen[bytes], request: tuple[Octets, ...]) -> tuple[bool, bytes]:
    if process.stdin is None or process.stdout is None:
        raise AssertionError("they are started with pipes")
    process.stdin.write(_LENGTH.pack(_size(request)))
    for part in request:
        process.stdin.write(part)
    process.stdin.flush()
    kind, size = _ANSWER.unpack(_exactly(process.stdout, _ANSWER.size))
    return kind == _WELL, _read(process.stdout, size)


def _size(parts: list[Octets] | tuple[Octets, ...]) -> int:
    return sum(part.nbytes if isinstance(part, memoryview) else len(part) for part in parts)


def _read(source: IO[bytes], size: int) -> bytes:
    if size > MAX_MESSAGE_BYTES:
        raise EOFError(f"expected at most {MAX_MESSAGE_BYTES} bytes, got {size}")
    return _exactly(source, size)


def _exactly(source: IO[bytes], size: int) -> bytes:
    data = source.read(size)
    if len(data) != size:
        raise EOFError(f"expected {size} bytes, got {len(data)}")
    return data


def _end_all(processes: set[subprocess.Popen[bytes]]) -> None:
    for process in tuple(processes):
        process.kill()
    for process in tuple(processes):
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # what was not flushed
                    pipe.close()
