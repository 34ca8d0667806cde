"""The parts of the fault laboratory: schedules come from their seed alone, and the network misbehaves as it is told."""

import contextlib
import json
import random
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from faults_federation import free_port
from faults_power import lose_unflushed
from faults_proxy import Proxy, Weather
from faults_schedule import draw


def test_a_seed_gives_the_same_schedule_again_and_another_seed_another():
    assert draw(7) == draw(7)
    assert len({draw(seed) for seed in range(50)}) == 50


def test_schedules_hit_all_programs_and_the_network():
    faults = [fault for seed in range(200) for fault in draw(seed).faults]
    assert {fault.who for fault in faults} == {"server", "network", "site001", "site002", "site003"}
    assert {fault.what for fault in faults} >= {
        "kill", "kill-trainer", "power", "cut", "refuse", "silence", "half-open", "latency", "narrow", "stalls",
        "short-streams", "move", "disk-full", "clock",
    }  # fmt: skip


@pytest.fixture
def echo():
    """A proxy to a server that sends everything back; gives the proxy."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve(connection):
            with contextlib.suppress(OSError), connection:
                while data := connection.recv(65536):
                    connection.sendall(data)

        def accept():
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=serve, args=(listening.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        with Proxy(free_port(), listening.getsockname()[1]) as proxy:
            yield proxy


def connect(proxy, seconds=20.0):
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=seconds)


def said(connection, data):
    connection.sendall(data)
    came = b""
    while len(came) < len(data):
        piece = connection.recv(65536)
        if not piece:
            raise ConnectionResetError
        came += piece
    return came


def test_a_good_network_moves_everything(echo):
    data = random.Random(1).randbytes(300_000)
    with connect(echo) as connection:
        assert said(connection, data) == data
    assert echo.connections == 1


@pytest.mark.parametrize("weather", [Weather(latency=0.05), Weather(bytes_per_second=200_000), Weather(stall=0.05)])
def test_bad_weather_loses_no_byte(echo, weather):
    echo.set(weather)
    data = random.Random(2).randbytes(100_000)
    with connect(echo) as connection:
        assert said(connection, data) == data


def test_a_cut_ends_connections_and_the_next_one_works(echo):
    with connect(echo) as connection:
        assert said(connection, b"a") == b"a"
        assert echo.cut() == 1
        with pytest.raises(ConnectionResetError):
            said(connection, b"b")
    with connect(echo) as connection:
        assert said(connection, b"c") == b"c"


def test_long_streams_are_cut(echo):
    echo.set(Weather(longest_bytes=50_000))
    with connect(echo) as connection, pytest.raises((ConnectionResetError, BrokenPipeError)):
        said(connection, bytes(100_000))
    assert echo.cuts == 1


def test_nobody_is_let_in_while_it_refuses(echo):
    echo.set(Weather(refusing=True))
    with pytest.raises((ConnectionResetError, BrokenPipeError)), connect(echo) as connection:
        said(connection, b"a")


def test_in_silence_nothing_comes_until_it_is_over(echo):
    with connect(echo) as connection:
        assert said(connection, b"a") == b"a"
        echo.set(Weather(silent=True))
        connection.sendall(b"b")
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        echo.set(Weather())
        connection.settimeout(20)
        assert connection.recv(1) == b"b"


def test_a_half_open_connection_stays_open_and_dead(echo):
    with connect(echo, 0.3) as connection:
        assert said(connection, b"a") == b"a"
        assert echo.forget() == 1
        connection.sendall(b"b")
        with pytest.raises(TimeoutError):
            connection.recv(1)
        with connect(echo) as other:
            assert said(other, b"c") == b"c"


PROGRAM = """
import os, sys, time
from pathlib import Path
home = Path(sys.argv[1])
(home / "kept").write_bytes(b"kept")
with (home / "kept").open("ab") as file:
    os.fsync(file.fileno())
with (home / "kept").open("ab") as file:
    file.write(b" and more")
(home / "lost").write_bytes(b"lost")
(home / "lost").replace(home / "renamed")
(home / "folder").mkdir()
(home / "gone").write_bytes(b"")
(home / "gone").unlink()
print(time.time())
"""


@pytest.fixture
def launch(benchmarks, tmp_path):
    """Runs PROGRAM in the place of the agent, under orders; returns how it ended, and what it printed."""
    home, orders, stand_in = (tmp_path / name for name in ("home", "orders", "stand-in"))
    for folder in (home, orders, stand_in):
        folder.mkdir()
    (stand_in / "round_site.py").write_text(PROGRAM)
    (stand_in / "faults_program.py").write_text((benchmarks / "faults_program.py").read_text())

    def run(**files):
        for name, content in {"within": str(home), **files}.items():
            (orders / name.replace("_", "-")).write_text(content)
        command = [sys.executable, str(stand_in / "faults_program.py"), str(orders), "site", str(home)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        return done.returncode, done.stdout

    run.home, run.orders = home, orders
    return run


def test_a_program_dies_right_before_the_change_that_was_ordered_and_once(launch):
    assert launch(die_at="4")[0] == -signal.SIGKILL
    assert [path.name for path in launch.home.iterdir()] == ["kept"]
    assert launch()[0] == 0
    assert sorted(path.name for path in launch.home.iterdir()) == ["folder", "kept", "renamed"]
    assert int((launch.orders / "changes").read_text()) == 8


def test_each_life_has_an_end_of_its_own(launch):
    assert launch(die_at="1 2")[0] == -signal.SIGKILL
    assert list(launch.home.iterdir()) == []
    assert launch()[0] == -signal.SIGKILL
    assert launch()[0] == 0


def test_a_program_lives_in_the_time_that_it_is_told(launch):
    code, printed = launch(clock="3600")
    assert code == 0
    assert 3500 < float(printed) - time.time() < 3700


def test_a_power_cut_takes_at_most_what_was_not_flushed(launch):
    assert launch()[0] == 0
    text = (launch.orders / "journal").read_text()
    outcomes = set()
    for seed in range(60):
        for path in sorted(launch.home.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        (launch.home / "kept").write_bytes(b"kept and more")
        (launch.home / "renamed").write_bytes(b"lost")
        (launch.home / "folder").mkdir()
        (launch.orders / "journal").write_text(text)
        lose_unflushed(launch.orders / "journal", random.Random(seed))
        left = {path.name: path.is_file() and path.read_bytes() for path in launch.home.iterdir()}
        assert left.get("kept", b"kept").startswith(b"kept")
        outcomes.add(json.dumps({name: str(content) for name, content in sorted(left.items())}))
    assert len(outcomes) > 10
    assert (launch.orders / "journal").read_text() == ""
