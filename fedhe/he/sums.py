"""Adding up sites' ciphertexts, which needs no key. All that the server knows of encryption is in here.

Sums are exact: limbs are added modulo the primes, so any order of the sites gives the same bytes.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fedhe.errors import CapacityError, RemoteProtocolError
from fedhe.he.ciphertext import (
    MAX_FORWARDED_SEEDS,
    C1Form,
    ChunkHeader,
    ChunkKind,
    CiphertextChunk,
    Expectation,
    read_chunk,
    write_chunk,
)
from fedhe.he.params import SEAL_SEED_BYTES, CkksParams
from fedhe.he.residues import add_residues
from fedhe.he.streams import AES_SEED_BYTES, expand_seeds


@dataclass(frozen=True)
class HalfSum:
    """The sum of one chunk of several sites, but for the c1 that SEAL's seeds stand for.

    Attributes:
        first: the header of the first chunk; all say the same of themselves, but for their kind of seeds.
        c0: (count, primes, degree) uint32, the sum.
        aes_seeds: (n, 32) uint8, in the order of their bytes.
        seal_seeds: (m, count, 64) uint8, those of m sites.
        sites: n + m.
    """

    first: ChunkHeader
    c0: NDArray[np.uint32]
    aes_seeds: NDArray[np.uint8]
    seal_seeds: NDArray[np.uint8]
    sites: int


def add_chunks(
    chunks: Iterable[bytes], params: CkksParams, expect: Expectation, *, max_forwarded: int = MAX_FORWARDED_SEEDS
) -> bytes:
    """Adds the chunks of one index, one from each site, SEAL's seeds expanded in this process.

    See `add_halves` and `write_sum`, which do it without SEAL.
    """
    half = add_halves(chunks, params, expect)
    if not len(half.seal_seeds):
        return write_sum(half, params, None, max_forwarded=max_forwarded)
    from fedhe.he.seal_expander import expander_for  # noqa: PLC0415 - the server's process does without SEAL

    return write_sum(half, params, expander_for(params).add(half.seal_seeds))


def add_halves(chunks: Iterable[bytes], params: CkksParams, expect: Expectation) -> HalfSum:
    """Adds the c0 of the chunks of one index, one from each site. Holds one chunk and the sum in memory.

    Args:
        chunks: chunks of kind UPLOAD in any order; at most `params.max_sites`.
        params: the job's parameters.
        expect: what each chunk must say of itself; of kind UPLOAD.

    Raises:
        RemoteProtocolError: no chunk at all, or one that is not as expected, has another number of ciphertexts than
            the first, or the same seed as another site's, as a copied contribution would have.
        CapacityError: more sites than the parameters can sum.
    """
    first: ChunkHeader | None = None
    total = np.empty(0, dtype=np.uint32)
    seeds: dict[C1Form, list[NDArray[np.uint8]]] = {C1Form.AES_SEEDS: [], C1Form.SEAL_SEEDS: []}
    seen: set[bytes] = set()
    sites = 0
    for data in chunks:
        chunk = read_chunk(data, expect=replace(expect, kind=ChunkKind.UPLOAD), params=params)
        _refuse_repeated_seeds(chunk, seen)
        sites += 1
        if sites > params.max_sites:
            raise CapacityError(f"expected at most {params.max_sites} sites in a sum, got more")
        if first is None:
            first, total = chunk.header, chunk.polynomials[:, 0]
        elif chunk.header.count != first.count:
            raise RemoteProtocolError(
                f"chunk {first.index}: expected {first.count} ciphertexts from every site, got {chunk.header.count}"
            )
        else:
            add_residues(total, chunk.polynomials[:, 0], params.primes)
        seeds[chunk.header.c1].append(chunk.seeds.copy())  # not a view, which would keep the whole chunk
    if first is None:
        raise RemoteProtocolError("expected the chunk of at least one site, got none")
    aes = b"".join(sorted(one.tobytes() for one in seeds[C1Form.AES_SEEDS]))
    seal = b"".join(one.tobytes() for one in seeds[C1Form.SEAL_SEEDS])
    return HalfSum(
        first,
        total,
        np.frombuffer(aes, dtype=np.uint8).reshape(-1, AES_SEED_BYTES),
        np.frombuffer(seal, dtype=np.uint8).reshape(-1, first.count, SEAL_SEED_BYTES),
        sites,
    )


def write_sum(
    half: HalfSum,
    params: CkksParams,
    seal_c1: NDArray[np.uint32] | None,
    *,
    max_forwarded: int = MAX_FORWARDED_SEEDS,
) -> bytes:
    """The chunk of the sum.

    The c1 of AES seeds is a public function of them: up to `max_forwarded` seeds are handed on in its place, which
    halves the bytes on the way down. Otherwise, and beside SEAL's seeds, they are expanded here and added up.

    Args:
        half: what `add_halves` gave.
        params: the job's parameters.
        seal_c1: (count, primes, degree) uint32, the sum of what SEAL's seeds stand for; None if there are none.
        max_forwarded: for how many sites, at most, seeds are handed on.

    Returns:
        A chunk of kind SUM, whose header tells the number of sites. The same bytes for any order of the chunks.

    Raises:
        RemoteProtocolError: a seed that does not expand.
    """
    header = replace(half.first, kind=ChunkKind.SUM, c1=C1Form.WHOLE, sites=half.sites)
    if seal_c1 is None:
        if half.sites <= max_forwarded:
            return write_chunk(replace(header, c1=C1Form.AES_SEEDS), half.aes_seeds, half.c0[:, np.newaxis])
        c1 = expand_seeds(half.aes_seeds, header.count, params)
    else:
        c1 = seal_c1
        if len(half.aes_seeds):
            add_residues(c1, expand_seeds(half.aes_seeds, header.count, params), params.primes)
    return write_chunk(header, np.zeros((0, 0), dtype=np.uint8), np.stack([half.c0, c1], axis=1))


def _refuse_repeated_seeds(chunk: CiphertextChunk, seen: set[bytes]) -> None:
    for seed in chunk.seeds:
        octets = seed.tobytes()
        if octets in seen:
            raise RemoteProtocolError(
                f"chunk {chunk.header.index}: expected a fresh seed in every ciphertext, got one twice",
                "a contribution was copied or replayed",
            )
        seen.add(octets)
