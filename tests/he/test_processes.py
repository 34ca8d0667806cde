"""Processes answer many threads at once, are replaced when they die, and end with whoever started them."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import psutil
import pytest

from fedhe.errors import ConfigError, ResourceError
from fedhe.he.processes import Processes
from fedhe.he.seal_expander import SealExpander
from fedhe.he.seal_sums import SealSums


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module for processes: tells its id and greeting, refuses, sleeps, or dies, as it is asked."""
    (tmp_path / "asked.py").write_text(
        textwrap.dedent("""
        import os, time
        from fedhe.errors import ConfigError
        from fedhe.he.processes import serve

        def begin(greeting):
            if greeting == b"unfit":
                raise ConfigError("expected another build")

            def handle(request):
                if request == b"refuse":
                    raise ValueError("not that")
                if request == b"die":
                    os._exit(1)
                if request == b"sleep":
                    time.sleep(60)
                return [b"%d " % os.getpid(), greeting, memoryview(request)]

            return handle

        serve(begin)
        """)
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "asked"


def children():
    return psutil.Process().children(recursive=True)


@pytest.fixture
def processes(module):
    before = set(children())
    made = Processes(module, b"hello ", 2)
    yield made
    made.close()
    assert set(children()) <= before


def test_a_process_is_greeted_once_and_used_again(processes):
    big = os.urandom(1_000_000)
    first = processes.ask(b"a", b"b")
    second = processes.ask(memoryview(big))
    assert first.split()[1:] == [b"hello", b"ab"]
    assert second == first.split()[0] + b" hello " + big


def test_as_many_threads_as_there_are_processes_are_answered_at_once(processes):
    def sleep():
        with pytest.raises(ResourceError):
            processes.ask(b"sleep")

    sleeper = threading.Thread(target=sleep)
    sleeper.start()
    assert processes.ask(b"x").endswith(b"hello x")
    processes.close()
    sleeper.join(timeout=30)
    assert not sleeper.is_alive()
    with pytest.raises(ResourceError, match="were ended"):
        processes.ask(b"x")


def test_what_a_process_refuses_is_told_and_it_lives(processes):
    number = processes.ask(b"x").split()[0]
    with pytest.raises(ValueError, match="not that"):
        processes.ask(b"refuse")
    assert processes.ask(b"x").split()[0] == number


def test_a_process_that_dies_is_an_error_that_may_pass(processes):
    number = processes.ask(b"x").split()[0]
    with pytest.raises(ResourceError, match="worker process was killed"):
        processes.ask(b"die")
    assert processes.ask(b"x").split()[0] != number
    for _ in range(3):  # a slot is never lost
        with pytest.raises(ResourceError):
            processes.ask(b"die")
    assert processes.ask(b"x").endswith(b"hello x")


def test_a_process_that_cannot_do_the_work_says_why(module):
    unfit = Processes(module, b"unfit", 2)
    before = children()
    with pytest.raises(ConfigError, match="expected another build"):
        unfit.ask(b"x")
    assert children() == before


def test_a_module_that_does_not_start_is_an_error_that_names_no_secret(capfd):
    broken = Processes("fedhe.he.nothing", b"secret", 1)
    with pytest.raises(ResourceError, match="was killed"):
        broken.ask(b"x")
    assert "secret" not in capfd.readouterr().err + repr(broken)


def test_processes_that_nobody_can_ask_any_more_end(module):
    made = Processes(module, b"", 1)
    number = int(made.ask(b"x").split()[0])
    del made
    assert not psutil.pid_exists(number)


def test_processes_end_with_a_killed_program(module):
    program = (
        f"import time; from fedhe.he.processes import Processes; made = Processes({module!r}, b'', 1)\n"
        "print(made.ask(b'x').split()[0].decode(), flush=True); time.sleep(60)"
    )
    asking = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    number = int(asking.stdout.readline())
    asking.send_signal(signal.SIGKILL)
    asking.communicate()
    deadline = time.monotonic() + 30
    while psutil.pid_exists(number):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_seeds_are_expanded_as_in_this_process(params):
    seeds = np.random.default_rng(3).integers(0, 256, (3, 5, 64), dtype=np.uint8)
    sums = SealSums(params, 2)
    assert np.array_equal(sums.add(seeds), SealExpander(params).add(seeds))
    sums.close()


def test_a_process_that_expands_or_encrypts_does_without_the_compiler():
    """Which takes a hundred megabytes in each."""
    program = (
        "import sys, fedhe.he.seal_processes, fedhe.he.seal_expander; "
        "print([name for name in sys.modules if name in ('numba', 'llvmlite', 'torch', 'grpc')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
