"""Builders of round configurations and READY entries."""

import pytest

from fedhe.rounds.state import JobState, ReadyEntry, RoundConfig


@pytest.fixture
def config():
    def build(**changes):
        values = {
            "rounds": 3,
            "min_sites": 2,
            "sites": ("a", "b", "c"),
            "train_deadline": 100.0,
            "upload_deadline": 50.0,
            "apply_deadline": 40.0,
            "checkpoint_every": 2,
        }
        return RoundConfig(**{**values, **changes})

    return build


@pytest.fixture
def entry():
    def build(site, round_=1, attempt=1, **changes):
        values = {
            "site": site,
            "body": f"{site}/{round_}/{attempt}".encode(),
            "signature": b"s",
            "certificate": b"c",
            "fingerprint": bytes([round_ - 1]) * 32,
            "layout_digest": b"L" * 32,
            "key_id": b"K" * 16,
            "params_id": b"P" * 16,
            "chunks": 1,
        }
        return ReadyEntry(**{**values, **changes})

    return build


@pytest.fixture
def job(config):
    return JobState(job_id="job", config=config())
