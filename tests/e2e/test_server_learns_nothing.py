"""What the server received, stored and holds in memory contains no update, sample count, metric or key."""

import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

ENGINE = "fast"  # the other tests of this folder run on SEAL
WINDOW = 16  # bytes of a secret; by chance any of them turns up among 10^8 bytes with probability 10^-31


def windows(data: bytes, count: int = 3) -> list[bytes]:
    """Up to `count` pieces from all over the data, none of them trivial."""
    starts = range(0, len(data) - WINDOW + 1, max(WINDOW, len(data) // (4 * count)))
    pieces = [data[start : start + WINDOW] for start in starts]
    telling = [piece for piece in pieces if len(set(piece)) > 8]
    return telling[:: max(1, len(telling) // count)][:count]


def writable_memory(pid: int) -> bytes:
    parts = []
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            place, mode, *_ = line.split()
            if not mode.startswith("rw") or "[v" in line:
                continue
            start, end = (int(part, 16) for part in place.split("-"))
            try:
                memory.seek(start)
                parts.append(memory.read(end - start))
            except OSError:
                continue  # the mapping went away
    return b"".join(parts)


@pytest.fixture(scope="module")
def everything(federation, tmp_path_factory):
    """All bytes that the server saw, by where they were found, and the job's id."""
    tap = tmp_path_factory.mktemp("tap") / "requests"
    federation.environment["FEDHE_TEST_TAP"] = str(tap)
    federation.start_server(program=(sys.executable, Path(__file__).with_name("recording_server.py")))
    job_id = federation.submit()
    for site in federation.sites:
        federation.start_site(site)
    federation.wait_for_phase(job_id, "finished")
    memory = writable_memory(federation.processes["server"].pid)
    stored = {str(path): path.read_bytes() for path in federation.home("server").rglob("*") if path.is_file()}
    return {"received": tap.read_bytes(), "memory": memory, **stored}, job_id


def secrets_of(federation, job_id):
    """Name of a secret to pieces of it in every form in which it exists at a site."""
    found: dict[str, list[bytes]] = {}
    for site in federation.sites:
        folder = federation.site_folder(site)
        found[f"{site} CKKS key"] = windows((folder / "kit" / "he.key").read_bytes()[64:])
        found[f"{site} group key"] = windows((folder / "kit" / "group.key").read_bytes()[-32:])
        for record in sorted((folder / "jobs" / job_id / "record").iterdir()):
            for path in record.glob("*.npy"):
                array = np.load(path)
                raw = array.tobytes()
                if path.stem == "steps":
                    continue
                found[f"{site} {record.name} {path.stem}"] = windows(raw)
                if array.dtype == np.int64:
                    found[f"{site} {record.name} {path.stem} as int16"] = windows(array.astype(np.int16).tobytes())
        for path in sorted((folder / "jobs" / job_id).rglob("model-*.safetensors")):
            for name, tensor in load_file(path).items():
                if tensor.size >= WINDOW:
                    found[f"{site} {path.name} {name}"] = windows(tensor.tobytes())
    return found


def test_no_update_model_or_key_is_anywhere_at_the_server(federation, everything):
    places, job_id = everything
    secrets = secrets_of(federation, job_id)
    assert sum(map(len, secrets.values())) > 60
    for place, data in places.items():
        for what, pieces in secrets.items():
            assert not any(piece in data for piece in pieces), f"{what} is in {place}"
    assert len(places) > 10, "stored files are looked at too"


def test_no_sample_count_or_metric_is_anywhere_at_the_server(federation, everything):
    places, job_id = everything
    opened = federation.ask("rounds", "list", job_id)
    metrics = [repr(value) for part in (opened["baseline"], opened["rounds"][-1]["metric"]) for value in part.values()]
    metrics = [metric for metric in metrics if len(metric) >= 8]  # 0.0 says nothing
    assert metrics, "the job must have telling metrics"
    needles = [b'"samples"', b'"max_change"', b'"main_metric"', *map(str.encode, metrics)]
    needles += [np.float64(metric).tobytes() for metric in metrics]
    for place, data in places.items():
        for needle in needles:
            assert needle not in data, f"{needle!r} is in {place}"


def test_the_tap_and_the_search_work(federation, everything):
    places, _ = everything
    assert b"/PutChunk\0" in places["received"]
    for site in federation.sites:
        assert site.encode() in places["received"]
        assert site.encode() in places["memory"]
    sent = [windows(data) for place, data in places.items() if "blobs" in place]
    found = [pieces for pieces in sent if pieces and all(piece in places["received"] for piece in pieces)]
    assert found, "something that sites or admins sent and the server stored is found among what it received"
