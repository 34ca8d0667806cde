"""A project file in a folder, and the real command run in this process."""

import json
import sys
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from fedhe.cli import provision

PROJECT = {
    "project": {"name": "brain-mri"},
    "server": {"host": "localhost", "port": 9443},
    "sites": ["hospitalA", "hospitalB", "hospitalC"],
    "admins": [{"name": "lead", "holds_key": True}, {"name": "auditor", "role": "observer"}],
}


class Coordinator:
    """Runs `fedhe-provision` in a folder of its own, and remembers the passphrases."""

    def __init__(self, folder: Path, monkeypatch, capsys):
        self.folder, self._monkeypatch, self._capsys = folder, monkeypatch, capsys
        self.file, self.out, self.secrets = folder / "project.yml", folder / "out", folder / "passphrases.json"
        self.content = json.loads(json.dumps(PROJECT))

    def raw(self, *arguments):
        """Exit code, standard output, standard error."""
        self._monkeypatch.setattr(sys, "argv", ["fedhe-provision", *map(str, arguments)])
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            provision.main()
        captured = self._capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    def run(self, *arguments):
        """Writes the project file and provisions; returns the result that --json prints."""
        self.write()
        common = ("--out", self.out, "--passphrases", self.secrets, "--yes", "--json")
        code, out, err = self.raw(self.file, *common, *arguments)
        assert code == 0, err
        return json.loads(out)

    def write(self):
        self.file.write_text(yaml.safe_dump(self.content))

    def kit(self, name):
        return self.out / "kits" / f"{name}.kit"

    def kits(self):
        return {path.name: path.read_bytes() for path in sorted((self.out / "kits").iterdir())}

    def passphrase(self, name):
        return json.loads(self.secrets.read_text())[name]


@pytest.fixture
def insecure_fast_scrypt(monkeypatch):
    """Kits at a thousandth of scrypt's cost; the real cost is paid in test_kit.py."""

    def insecure_key(passphrase, salt, _log2_cost):
        return Scrypt(salt=salt, length=32, n=1 << 5, r=8, p=1).derive(passphrase.strip().encode())

    monkeypatch.setattr("fedhe.provisioning.kit._key", insecure_key)


@pytest.fixture
def make_coordinator(tmp_path, monkeypatch, capsys, insecure_fast_scrypt):
    def make(name="coordinator"):
        folder = tmp_path / name
        folder.mkdir()
        return Coordinator(folder, monkeypatch, capsys)

    return make


@pytest.fixture
def coordinator(make_coordinator):
    return make_coordinator()
