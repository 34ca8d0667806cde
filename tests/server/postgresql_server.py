"""A PostgreSQL of its own for the tests, from the system's programs; ended and removed with the session."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

PASSWORD = "not-a-secret"
START_SECONDS = 60


def programs():
    """The folder of initdb and postgres; None where they are not installed."""
    found = shutil.which("postgres")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((one for one in folders if (one / "initdb").exists() and (one / "postgres").exists()), None)


def unprivileged():
    """Arguments for subprocess: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            user = pwd.getpwnam(name)
            return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    raise AssertionError("neither a user postgres nor nobody to run PostgreSQL as")


class PostgreSQL:
    """A running PostgreSQL; `create` gives the URL of a new, empty database."""

    def __init__(self, bin_folder):
        self._bin = bin_folder
        self._folder = Path(tempfile.mkdtemp(prefix="fedhe-postgresql-"))
        self._databases = 0
        self._process = None
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        try:
            self._initialise()
            self.start()
        except BaseException:
            self.close()
            raise

    def _initialise(self):
        user = unprivileged()
        if user:
            os.chown(self._folder, user["user"], user["group"])
        password = self._folder / "password"
        password.write_text(PASSWORD)
        if user:
            os.chown(password, user["user"], user["group"])
        command = [self._bin / "initdb", "-D", self._folder / "data", "-U", "fedhe", "-E", "UTF8", "--no-locale"]
        command += ["--auth=scram-sha-256", "--pwfile", password, "--no-sync"]
        subprocess.run(command, check=True, capture_output=True, timeout=START_SECONDS, cwd=self._folder, **user)

    def start(self):
        options = {"listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": self._folder}
        command = [self._bin / "postgres", "-D", self._folder / "data"]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=self._folder, **unprivileged()
        )
        ends = time.monotonic() + START_SECONDS
        while not self._answers():
            assert self._process.poll() is None, "PostgreSQL ended at its start"
            assert time.monotonic() < ends, "PostgreSQL does not answer"
            time.sleep(0.05)

    def stop(self):
        """Ends it as a crash would: connections break, nothing is said."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(START_SECONDS)
            self._process = None

    def close(self):
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def url(self, name, *, password=PASSWORD, port=None):
        return f"postgresql://fedhe:{password}@127.0.0.1:{port or self.port}/{name}"

    def create(self):
        self._databases += 1
        name = f"test{self._databases}"
        with self._connect() as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def _answers(self):
        import psycopg

        try:
            self._connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def _connect(self):
        import psycopg

        return psycopg.connect(self.url("postgres"), autocommit=True, connect_timeout=5)
