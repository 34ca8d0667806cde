"""Fuzz targets: documents in YAML and JSON, job archives, layouts, sealed model files, what job code reports."""

import contextlib
import io
import json
import tempfile
import zipfile
from functools import lru_cache
from pathlib import Path
from unittest import mock

from claims import MIB, Target, refusing

from fedhe.cli.admin_sealed_file import SealedHeader, read_chunks, read_header, write_sealed
from fedhe.client.trainer import Progress, parse_progress
from fedhe.config.document import FrozenModel, parse_document, validate
from fedhe.config.federation import FederationConfig
from fedhe.config.job_archive import FEDERATION_FILE, MAX_JOB_BYTES, read_job
from fedhe.config.policy import SitePolicy
from fedhe.config.project import Project
from fedhe.config.trainer import RESULT_FILE, TrainResult, read_result
from fedhe.errors import ConfigError, RemoteProtocolError
from fedhe.model.layout import MAX_VALUES, Layout, TensorSpec

_MODELS: tuple[type[FrozenModel], ...] = (FederationConfig, SitePolicy, Project, TrainResult)
_SUFFIXES = (".yml", ".json")


def document(data: bytes) -> None:
    """Bit 0 of the first byte: YAML or JSON. Bits 1 and 2: what it should be."""
    mode = data[0] if data else 0
    text = data[1:].decode(errors="replace")
    with refusing(ConfigError):
        validate(_MODELS[mode // 2 % len(_MODELS)], parse_document(text, Path("file").with_suffix(_SUFFIXES[mode % 2])))


def job_archive(data: bytes) -> None:
    """Bit 0 of the first byte: a whole archive, or its config_fed.yml. Bit 1: take every checksum for a right one."""
    mode, archive = data[:1] or b"\0", data[1:]
    if mode[0] & 1:
        archive = zipped({FEDERATION_FILE: archive})
    lenient = mock.patch.object(zipfile.ZipExtFile, "_update_crc") if mode[0] & 2 else contextlib.nullcontext()
    with lenient, refusing(RemoteProtocolError):
        job = read_job(archive)
        assert sum(map(len, job.files.values())) <= min(len(archive), MAX_JOB_BYTES)
        assert not any(name.startswith("/") or ".." in name.split("/") for name in job.files)


def layout(data: bytes) -> None:
    """A model's layout."""
    with refusing(RemoteProtocolError):
        found = Layout.from_json(data)
        assert Layout.from_json(found.to_json()) == found
        assert found.n_values <= MAX_VALUES
        assert len(found.digest) == 32


def sealed_file(data: bytes) -> None:
    """The file of a sealed model."""
    file, path = io.BytesIO(data), Path("model.sealed")
    with refusing(ConfigError, RemoteProtocolError):
        header = read_header(file, path)
        chunks = list(read_chunks(file, header, path))
        assert len(chunks) == header.chunks
        again = io.BytesIO()
        write_sealed(again, header, chunks)
        again.seek(0)
        assert read_header(again, path) == header


def progress(data: bytes) -> None:
    """A line that job code printed, which may be anything: None where it is no progress."""
    found = parse_progress(data)
    assert found is None or isinstance(found, Progress)
    assert found is None or 0 <= found.fraction <= 1


def training_result(data: bytes) -> None:
    """The result file that job code left."""
    (_folder() / RESULT_FILE).write_bytes(data)
    with refusing(ConfigError):
        read_result(_folder())


def zipped(files: dict[str, bytes]) -> bytes:
    """An archive as `pack_job` makes it, of any files."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as packed:
        for name, content in files.items():
            packed.writestr(zipfile.ZipInfo(name), content)
    return archive.getvalue()


@lru_cache(maxsize=1)
def _keeper() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


def _folder() -> Path:
    return Path(_keeper().name)


TARGETS = {
    "document": Target(document, max_bytes=2048, slack_bytes=32 * MIB, bytes_per_byte=2000),
    "job_archive": Target(job_archive, max_bytes=2048),
    "layout": Target(layout, max_bytes=8192),
    "sealed_file": Target(sealed_file),
    "progress": Target(progress, max_bytes=1024),
    "training_result": Target(training_result),
}


def seeds() -> dict[str, list[bytes]]:
    """Valid inputs."""
    federation = (
        b"name: brain\nrounds: 3\nsites: [a, b, c]\ntrain_deadline: 2h\nprecision: {field_bits: 16}\n"
        b"exclude:\n  - '*.bias'\nstatistics: local\nseed: 7\n"
    )
    policy = b"job_code: approve\ndata_root: /data\nenvironment: {A: 1}\ngpus: [0, 1]\nmax_training_hours: 2.5\n"
    project = (
        b"project: {name: brain-mri}\nserver: {host: localhost, port: 9443}\nsites: [A, {name: B}, C]\n"
        b"admins:\n  - &lead {name: lead, holds_key: true}\n  - {name: auditor, role: observer}\nhe: {field_bits: 12}\n"
    )
    tensor = {"name": "w", "shape": [2, 3], "dtype": "float32", "statistic": False}
    result = {"samples": 3, "metrics": {"dice": 0.5}, "main_metric": "dice", "seconds": 2.5, "layout": [tensor]}
    as_json = json.dumps({"rounds": 3, "exclude": ["*.bias"], "precision": {"field_bits": 12}}, indent=1).encode()
    specs = TensorSpec("conv.weight", (8, 1, 3), "float32", False, 16), TensorSpec("mean", (), "bfloat16", True, 24)
    sealed = io.BytesIO()
    write_sealed(sealed, SealedHeader("brain-mri", "job-1", 7, 2), [b"first", b"second"])
    line = {"event": "progress", "activity": "training", "fraction": 0.5, "epoch": 1, "epochs": 2, "loss": 0.25}
    files = {FEDERATION_FILE: b"rounds: 3\n", "BYOC/net.py": b"pass\n", ".fedhe-name": b"brain"}
    return {
        "document": [b"\0" + federation, b"\1" + as_json, b"\2" + policy, b"\4" + project],
        "job_archive": [b"\0" + zipped(files), b"\2" + zipped(files), b"\1" + federation],
        "layout": [Layout(specs).to_json().encode()],
        "sealed_file": [sealed.getvalue()],
        "progress": [json.dumps(line).encode()],
        "training_result": [json.dumps(result).encode()],
    }
