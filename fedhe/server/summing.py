"""The sum of one chunk of all sites on a roster; needs no key, and leaves SEAL's seeds to other processes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from numpy import uint8, uint32
from numpy.typing import NDArray

from fedhe.errors import RemoteProtocolError, ResourceError
from fedhe.he.ciphertext import ChunkKind, Expectation
from fedhe.he.params import CkksParams
from fedhe.he.sums import add_halves, write_sum


@dataclass(frozen=True)
class SumTask:
    """The sum of one attempt of one round.

    Args:
        sites: the roster, sorted by name.
        chunks: number of chunks of each upload, and of the sum.
        params: HE parameters, field widths included.
        key_id: 16 bytes, the key that the ciphertexts must carry.
        context: 32 bytes, the round's roster.
        max_forwarded: for how many sites, at most, the sum carries their seeds.
    """

    job_id: str
    round: int
    attempt: int
    sites: tuple[str, ...]
    chunks: int
    params: CkksParams
    key_id: bytes
    context: bytes
    max_forwarded: int


class BadAddendError(RemoteProtocolError):
    """A site's chunk passed the checks at its arrival and cannot be added all the same."""

    def __init__(self, site: str, message: str) -> None:
        super().__init__(message)
        self.site = site


def sum_chunk(
    task: SumTask, index: int, read: Callable[[str], bytes], expand: Callable[[NDArray[uint8]], NDArray[uint32]]
) -> bytes:
    """Adds one chunk of all sites up. Holds one site's chunk and the running sum, however many sites there are.

    Args:
        task: the sum.
        index: the chunk.
        read: gives a site's chunk.
        expand: gives the sum of what SEAL's seeds stand for, see `SealSums.add`.

    Returns:
        The chunk of the sum, as he/ciphertext.py writes it.

    Raises:
        BadAddendError: a site's chunk cannot be added; names the site.
        ResourceError: a file cannot be read, or a process was killed; trying again may help.
    """
    expect = Expectation(ChunkKind.UPLOAD, task.key_id, task.params.params_id, task.context, index)
    adding = ""

    def chunks() -> Iterator[bytes]:
        nonlocal adding
        for site in task.sites:
            adding = site
            yield read(site)

    try:
        half = add_halves(chunks(), task.params, expect)
    except RemoteProtocolError as error:
        raise BadAddendError(adding, error.message) from error
    try:
        seal_c1 = expand(half.seal_seeds) if len(half.seal_seeds) else None
    except ValueError as error:  # SEAL refuses no seed that it could have made
        raise ResourceError(f"SEAL cannot expand the seeds of chunk {index}: {error}") from error
    return write_sum(half, task.params, seal_c1, max_forwarded=task.max_forwarded)
