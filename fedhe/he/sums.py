"""Adding up sites' ciphertexts, which needs no key. All that the server knows of encryption is in here.

Sums are exact: limbs are added modulo the primes, so any order of the sites gives the same bytes.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

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
from fedhe.he.params import CkksParams
from fedhe.he.residues import add_residues
from fedhe.he.streams import AES_SEED_BYTES, expand_seeds

if TYPE_CHECKING:
    from fedhe.he.seal_expander import SealExpander


def add_chunks(
    chunks: Iterable[bytes], params: CkksParams, expect: Expectation, *, max_forwarded: int = MAX_FORWARDED_SEEDS
) -> bytes:
    """Adds the chunks of one index, one from each site. Holds one chunk and the sum in memory.

    The c1 of AES seeds is a public function of them: up to `max_forwarded` seeds are handed on in its place, which
    halves the bytes on the way down. Otherwise, and for SEAL's seeds, c1 is expanded here and added up.

    Args:
        chunks: chunks of kind UPLOAD in any order; at most `params.max_sites`.
        params: the job's parameters.
        expect: what each chunk must say of itself; of kind UPLOAD.
        max_forwarded: for how many sites, at most, seeds are handed on.

    Returns:
        A chunk of kind SUM, whose header tells the number of sites. The same bytes for any order.

    Raises:
        RemoteProtocolError: no chunk at all, or one that is not as expected, has another number of ciphertexts than
            the first, or the same seed as another site's, as a copied contribution would have.
        CapacityError: more sites than the parameters can sum.
        ConfigError: this build of SEAL differs from what the federation uses.
    """
    first: ChunkHeader | None = None
    total = np.empty(0, dtype=np.uint32)
    seal_sums: list[Any] = []
    aes_seeds: list[bytes] = []
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
        if chunk.header.c1 is C1Form.AES_SEEDS:
            aes_seeds.append(chunk.seeds[0].tobytes())
        else:
            seal_sums = _seal_expander(params).add(seal_sums, chunk.seeds)
    if first is None:
        raise RemoteProtocolError("expected the chunk of at least one site, got none")
    seeds = np.frombuffer(b"".join(sorted(aes_seeds)), dtype=np.uint8).reshape(len(aes_seeds), AES_SEED_BYTES)
    if not seal_sums and sites <= max_forwarded:
        header = replace(first, kind=ChunkKind.SUM, c1=C1Form.AES_SEEDS, sites=sites)
        return write_chunk(header, seeds, total[:, np.newaxis])
    c1 = _second_halves(seal_sums, seeds, first.count, params)
    header = replace(first, kind=ChunkKind.SUM, c1=C1Form.WHOLE, sites=sites)
    return write_chunk(header, np.zeros((0, 0), dtype=np.uint8), np.stack([total, c1], axis=1))


def _second_halves(
    seal_sums: list[Any], seeds: NDArray[np.uint8], count: int, params: CkksParams
) -> NDArray[np.uint32]:
    """(count, primes, degree) uint32: the sum of the c1 of both kinds of seeds."""
    if not seal_sums:
        return expand_seeds(seeds, count, params)
    c1 = _seal_expander(params).read(seal_sums)
    if len(seeds):
        add_residues(c1, expand_seeds(seeds, count, params), params.primes)
    return c1


def _seal_expander(params: CkksParams) -> "SealExpander":
    # Only who meets SEAL's seeds loads SEAL; the server's process that faces the network does not.
    from fedhe.he.seal_expander import expander_for  # noqa: PLC0415

    return expander_for(params)


def _refuse_repeated_seeds(chunk: CiphertextChunk, seen: set[bytes]) -> None:
    for seed in chunk.seeds:
        octets = seed.tobytes()
        if octets in seen:
            raise RemoteProtocolError(
                f"chunk {chunk.header.index}: expected a fresh seed in every ciphertext, got one twice",
                "a contribution was copied or replayed",
            )
        seen.add(octets)
