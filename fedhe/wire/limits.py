"""Named limits of everything that crosses the wire; a message beyond one is refused before it is looked at further."""

from typing import Final

PROTOCOL_VERSION: Final = 1
"""Both sides must speak the same."""

MAX_CHUNK_BYTES: Final = 1024 * 1024 + 64 * 1024
"""Payload of one chunk, bytes: a sum chunk of 16 ciphertexts (983,040 bytes) with its header fits."""

MAX_CHUNKS: Final = 65_536
"""Chunks of one object: some 12 thousand million values, or 64 GiB."""

MAX_MESSAGE_BYTES: Final = MAX_CHUNK_BYTES + 4096
"""One gRPC message that carries a chunk, bytes."""

MAX_JOB_MESSAGE_BYTES: Final = 64 * 1024 * 1024 + 64 * 1024
"""A job archive with its signature, bytes; no message, it comes in pieces and is downloaded in chunks."""

MAX_REQUEST_BYTES: Final = 8 * 1024 * 1024
"""Any request, bytes: the largest carry many lines, a READY or a roster. Taken in before it is known who sends it."""

MAX_SMALL_MESSAGE_BYTES: Final = 256 * 1024
"""Any message that carries no chunk, no READY and no roster, bytes."""

MAX_NOTE_BYTES: Final = 4 * 1024 * 1024
"""A sealed note, bytes: some 40 bytes for each tensor of the model, and metrics."""

MAX_READY_BYTES: Final = MAX_NOTE_BYTES + 16 * 1024
"""A READY with signature and certificate, bytes."""

MAX_ROSTER_BYTES: Final = 4 * 1024 * 1024
"""A signed project roster, bytes."""

MAX_REPLY_BYTES: Final = 100 * MAX_READY_BYTES
"""What one side takes from the server: a sealed roster carries the READY of every site, bytes."""

MAX_SITES: Final = 1000
"""Sites of one round, as many as a project file may name. How many can be summed exactly, the project's HE parameters
say: `CkksParams.max_sites`, 97 unless the project file asks for a larger scale."""

MAX_JOBS_PER_POLL: Final = 256
MAX_POLL_SECONDS: Final = 30.0
"""Longest wait of one Poll, seconds."""

MAX_LOG_LINES: Final = 1000
"""Lines of one PushLog."""

MAX_LOG_LINE_CHARACTERS: Final = 4000
MAX_REPORT_LINES: Final = 200
MAX_TEXT_CHARACTERS: Final = 4000
"""A message, reason or detail for people."""

MAX_NAME_CHARACTERS: Final = 63
MAX_LAST_LOG_LINES: Final = 10_000
"""Log lines an admin can ask to begin with."""

MAX_ROUNDS: Final = 100_000
MAX_ATTEMPTS: Final = 10_000
LATEST: Final = 0xFFFFFFFF
"""As an object's number: the newest."""
