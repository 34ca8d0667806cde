"""A READY that is well-formed."""

import pytest

from fedhe.wire.messages import ReadyStatement


@pytest.fixture(scope="session")
def statement():
    def build(**changes):
        values = {
            "project": "brain",
            "job_id": "job-1",
            "round": 3,
            "attempt": 1,
            "site": "hospitalA",
            "nonce": bytes(16),
            "model_fingerprint": bytes(32),
            "layout_digest": bytes(32),
            "key_id": bytes(16),
            "params_id": bytes(16),
            "chunks": 7,
            "sealed_note": b"note",
        }
        return ReadyStatement(**{**values, **changes})

    return build
