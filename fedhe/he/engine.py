"""The interface of an engine, coefficients to ciphertexts and back with one project's key, and the rules all keep."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fedhe.errors import CapacityError, ConfigError, FedheError, RemoteProtocolError, TrustError
from fedhe.he.ciphertext import (
    MAX_CHUNK_INDEX,
    MAX_CIPHERTEXTS,
    C1Form,
    ChunkHeader,
    ChunkKind,
    CiphertextChunk,
    Expectation,
    read_chunk,
)
from fedhe.he.compiled import compiled
from fedhe.he.keys import SecretKey
from fedhe.he.params import ERROR_BOUND, CkksParams
from fedhe.he.streams import expand_seeds
from fedhe.he.sums import add_chunks

CONTEXT_BYTES = 32


class Engine(Protocol):
    """Encrypts and decrypts one chunk at a time. Engines of one key read each other's chunks."""

    @property
    def params(self) -> CkksParams:
        """The job's parameters."""
        ...

    @property
    def key_id(self) -> bytes:
        """16 bytes: the key's id, which every chunk carries."""
        ...

    def encrypt(self, coefficients: NDArray[np.int64], context: bytes, index: int) -> bytes:
        """Encrypts a chunk with fresh randomness.

        Args:
            coefficients: (1 to 16, degree) int64, as `plan.encode_chunk` gives them.
            context: 32 bytes, the round's roster.
            index: the chunk's place in its update.

        Returns:
            A chunk of kind UPLOAD (ciphertext.py).

        Raises:
            CapacityError: another shape, or a coefficient that the modulus cannot hold.
        """
        ...

    def decrypt(self, data: bytes, expect: Expectation) -> NDArray[np.int64]:
        """Decrypts a chunk of a sum, exactly.

        Args:
            data: a chunk of kind SUM, as `sums.add_chunks` gives it.
            expect: what it must say of itself; give `sites`, so that the server cannot claim a larger sum.

        Returns:
            (count, degree) int64, the sums of the sites' coefficients.

        Raises:
            RemoteProtocolError: not the chunk that was expected.
            TrustError: an error beyond what honest sites cause: another key, or an altered sum.
        """
        ...


def check_key(params: CkksParams, secret_key: SecretKey) -> None:
    """Raises TrustError if the key belongs to another ring than the parameters."""
    if secret_key.ring_id != params.ring_id:
        raise TrustError(
            f"HE secret key {secret_key.key_id.hex()}: expected a key of ring {params.ring_id.hex()}, "
            f"got one of {secret_key.ring_id.hex()}",
            "the project's HE parameters changed: install the newest kit",
        )


def check_coefficients(params: CkksParams, shape: tuple[int, ...], worst: int) -> None:
    """Raises CapacityError for a shape that is no chunk's, or a magnitude that the modulus cannot hold."""
    degree = params.poly_modulus_degree
    if len(shape) != 2 or shape[1] != degree or not 1 <= shape[0] <= MAX_CIPHERTEXTS:
        raise CapacityError(f"expected coefficients of shape (1 to {MAX_CIPHERTEXTS}, {degree}), got {shape}")
    limit = largest_coefficient(params)
    if worst > limit:
        raise CapacityError(f"expected coefficients within +-{limit}, got {worst}")


def upload_header(engine: Engine, count: int, context: bytes, index: int, c1: C1Form) -> ChunkHeader:
    """The header of a chunk of `count` ciphertexts that is about to be encrypted.

    Raises:
        CapacityError: a wrong context or index.
    """
    params = engine.params
    if len(context) != CONTEXT_BYTES or not 0 <= index <= MAX_CHUNK_INDEX:
        raise CapacityError(
            f"expected a context of {CONTEXT_BYTES} bytes and a chunk from 0, got {len(context)} bytes and {index}"
        )
    return ChunkHeader(
        kind=ChunkKind.UPLOAD,
        c1=c1,
        primes=len(params.primes),
        prime_bits=params.coeff_modulus_bits[0],
        degree=params.poly_modulus_degree,
        index=index,
        count=count,
        sites=1,
        key_id=engine.key_id,
        params_id=params.params_id,
        context=context,
    )


def largest_magnitude(coefficients: NDArray[np.int64]) -> int:
    """The largest absolute value of (count, degree) int64 coefficients, 0 if there are none."""
    smallest, largest = _extremes(np.ascontiguousarray(coefficients).reshape(-1))
    return max(int(largest), -int(smallest))


@compiled
def _extremes(coefficients: NDArray[np.int64]) -> tuple[np.int64, np.int64]:  # pragma: no cover - compiled
    smallest = largest = np.int64(0)
    for value in coefficients:
        smallest, largest = min(smallest, value), max(largest, value)
    return smallest, largest


def largest_coefficient(params: CkksParams) -> int:
    """The largest |coefficient| that the modulus holds beside the errors of as many sites as may be."""
    return ((params.modulus - 1) // 2 - ERROR_BOUND * params.max_sites) // params.scale


def read_sum(engine: Engine, data: bytes, expect: Expectation) -> CiphertextChunk:
    """Reads a chunk that is about to be decrypted.

    Raises:
        RemoteProtocolError: not the chunk that was expected, or not a sum.
        TrustError: another key than the engine's is expected.
    """
    if expect.kind is not ChunkKind.SUM:
        raise RemoteProtocolError(f"expected to decrypt a chunk of kind SUM, was asked for {expect.kind.name}")
    if expect.key_id != engine.key_id:
        raise TrustError(f"expected ciphertexts of key {engine.key_id.hex()}, was asked for {expect.key_id.hex()}")
    chunk = read_chunk(data, expect=expect, params=engine.params)
    if chunk.header.sites > engine.params.max_sites:
        raise RemoteProtocolError(
            f"expected a sum of at most {engine.params.max_sites} sites, got one of {chunk.header.sites}"
        )
    return chunk


def halves(chunk: CiphertextChunk, params: CkksParams) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """c0 and c1 of a sum, (count, primes, degree) uint32 each; c1 is expanded if it is there as seeds.

    Raises:
        RemoteProtocolError: a seed that does not expand.
    """
    c0 = np.ascontiguousarray(chunk.polynomials[:, 0])
    if chunk.header.c1 is C1Form.WHOLE:
        return c0, np.ascontiguousarray(chunk.polynomials[:, 1])
    return c0, expand_seeds(chunk.seeds, chunk.header.count, params)


def round_exactly(noisy: NDArray[np.int64], params: CkksParams, sites: int) -> NDArray[np.int64]:
    """The messages' sum m of Delta m + e.

    Args:
        noisy: (count, degree) int64, contiguous, centred around 0; receives the result.
        params: the job's parameters.
        sites: how many errors e sums up.

    Raises:
        TrustError: an error that is larger than that many sites cause.
    """
    residual = int(_round(noisy.reshape(-1), params.scale_bits))
    if residual > ERROR_BOUND * sites:
        raise TrustError(
            f"decrypted noise {residual} is larger than {sites} honest sites can cause "
            f"({ERROR_BOUND * sites}): wrong key or altered sum",
            "do not retry: ask the coordinator whether all sites and the server hold the same kit version",
        )
    return noisy


@compiled
def _round(noisy: NDArray[np.int64], scale_bits: int) -> np.int64:  # pragma: no cover - compiled
    """Leaves the nearest multiples' factors in place; returns the largest distance from one."""
    half, mask = np.int64(1) << (scale_bits - 1), (np.int64(1) << scale_bits) - 1
    smallest = largest = half
    for j in range(noisy.size):
        lifted = noisy[j] + half
        noisy[j] = lifted >> scale_bits
        error = lifted & mask
        smallest, largest = min(smallest, error), max(largest, error)
    return max(largest - half, half - smallest)


def self_test(engine: Engine) -> None:
    """Encrypts, sums and decrypts one known chunk, so that a build that computes wrongly never sees an update.

    Raises:
        ConfigError: anything but the exact sum came back.
    """
    params = engine.params
    degree, name = params.poly_modulus_degree, type(engine).__name__
    message = np.arange(2 * degree, dtype=np.int64).reshape(2, degree) - degree
    message *= largest_coefficient(params) // degree // 4
    context = bytes(CONTEXT_BYTES)
    upload = Expectation(ChunkKind.UPLOAD, engine.key_id, params.params_id, context, 0)
    total = Expectation(ChunkKind.SUM, engine.key_id, params.params_id, context, 0, 2, 2)
    try:
        chunks = [engine.encrypt(message, context, 0) for _ in range(2)]
        exact = bool((engine.decrypt(add_chunks(chunks, params, upload), total) == 2 * message).all())
    except FedheError as error:
        raise ConfigError(f"{name} failed its self-test: {error.message}") from error
    if not exact:
        raise ConfigError(f"{name} failed its self-test: expected the exact sum, got another")
