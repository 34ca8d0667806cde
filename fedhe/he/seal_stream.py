"""SEAL's objects to arrays and back, through anonymous memory, so that nothing secret touches a disk.

sealapi saves and loads by path only; /proc/self/fd/N of a memfd is one. SEAL's stream is a 16-byte header (magic,
header size, version, compression, total size) and a body, which SEAL compresses with zstd when it saves and takes
uncompressed when it loads. Before anything else, known answers tell whether this build of SEAL still writes, expands
and transforms as the others in the federation do.
"""

import hashlib
import os
import struct
import weakref
from typing import Any

import numpy as np
import tenseal.sealapi as seal
import zstandard
from numpy.typing import NDArray

from fedhe.errors import ConfigError
from fedhe.he.params import SEAL_SEED_BYTES, CkksParams

_STREAM = struct.Struct("<2sBBBBHQ")  # magic, header size, major, minor, compression, reserved, total size
_STREAM_MAGIC = b"\x5e\xa1"
_UNCOMPRESSED, _ZSTD = 0, 2
_META = struct.Struct("<32s?QQQdQ")  # parms id, NTT form, polynomials, degree, primes, scale, correction factor
_PLAIN_META = struct.Struct("<32sQd")  # parms id, values, scale
_LENGTH = struct.Struct("<Q")
_BLAKE2XB = b"\x01"
_MAX_BODY_BYTES = 160 * 1024  # two polynomials modulo two primes are 128 KiB, a key is 96 KiB
Octets = bytes | memoryview
_HINT = "install the pinned version of tenseal (constraints.txt)"

_KNOWN_SEED = bytes(range(SEAL_SEED_BYTES))
# By bits of the primes: SHA-256 over c1 expanded from the seed above and the NTT of the polynomials (X, 1 + X), all as
# little-endian uint64. Made with SEAL 4.0 (TenSEAL 0.3.16 to 0.3.18).
_KNOWN_ANSWERS = {
    24: "57ab0d391c3044ac551485737d4896e9806d2fadf313be90ae1e1c002d50c519",
    25: "1b8e88c57233ba737dc18de676069d2db30850b0c532030a64c695071526e07e",
    26: "0445279f2ce9a72de4f916d0f439a9f320076969579de4cffb96e244620e94d9",
    27: "87e5f3f408d10bb751edfd86984e09a0d39bcef6c359f59d33b2832e809512ac",
    28: "8fe280740ec165e9466dc4aac8b48a70f453602b12bbcf4d397b69c8a2e24599",
    29: "141ebd4795598e5774f4a938c00a745981bf832f56033da04396b36199b62100",
    30: "5d8dc7b0e264580be56a09074a3e3c17f186c0e3a0e7b3092df97bbe232f8aea",
}


class SealStream:
    """A SEAL context, and the memory through which its objects pass. Not for two threads at once, nor across a fork.

    Attributes:
        params: what the context was made from.
        context: seal.SEALContext.
        evaluator: seal.Evaluator.

    Raises:
        ConfigError: this build of SEAL picks other primes, or writes other bytes, than this program knows.
    """

    def __init__(self, params: CkksParams) -> None:
        self.params = params
        self.context = _context(params)
        self.evaluator = seal.Evaluator(self.context)
        self._memory = _memory(self)
        self._load_memory = _memory(self)
        self._seed_memory = _memory(self)
        self._zstd = zstandard.ZstdDecompressor()
        self._data_id = struct.pack("<4Q", *self.context.first_context_data().parms_id())
        self._key_id = struct.pack("<4Q", *self.context.key_context_data().parms_id())
        self._version = self._seal_version()
        self._seed_offset = self._prepare_expansion()
        self._check_known_answers()

    # ---- any object ----

    def save(self, thing: Any) -> bytes:
        """The uncompressed body of a SEAL object.

        Raises:
            ConfigError: SEAL wrote a stream of another form.
        """
        thing.save(_path(self._memory))
        data = os.pread(self._memory, os.fstat(self._memory).st_size, 0)
        magic, head, _, _, compression, _, total = _STREAM.unpack_from(data)
        if (magic, head, total) != (_STREAM_MAGIC, _STREAM.size, len(data)):
            raise ConfigError(
                f"SEAL's stream: expected {_STREAM_MAGIC.hex()} and {len(data)} bytes, got {magic.hex()} and {total}",
                _HINT,
            )
        body = memoryview(data)[_STREAM.size :]
        if compression == _ZSTD:
            return self._zstd.decompress(body, max_output_size=_MAX_BODY_BYTES)
        if compression == _UNCOMPRESSED:
            return bytes(body)
        raise ConfigError(f"SEAL's stream: expected no or zstd compression, got mode {compression}", _HINT)

    def load(self, thing: Any, *body: Octets) -> Any:
        """Loads a SEAL object from the parts of its uncompressed body; returns it."""
        size = sum(part.nbytes if isinstance(part, memoryview) else len(part) for part in body)
        # What is left behind the stream of an earlier, longer one does no harm: the header tells SEAL the length.
        os.pwritev(self._load_memory, [self._head(size), *body], 0)
        thing.load(self.context, _path(self._load_memory))
        return thing

    def array(self, values: NDArray[np.uint64]) -> bytes:
        """What stands before the values of an array inside a body: a stream header and the length."""
        return self._head(_LENGTH.size + values.nbytes) + _LENGTH.pack(values.size)

    def wipe(self) -> None:
        """Gives the memory back to the system, which clears it; call it after a secret passed through."""
        os.ftruncate(self._memory, 0)
        os.ftruncate(self._load_memory, 0)

    # ---- ciphertexts and plaintexts ----

    def load_ciphertext(self, polynomials: NDArray[Any], *, is_ntt: bool) -> Any:
        """A ciphertext of 2 to 16 polynomials.

        Args:
            polynomials: (2 to 16, primes, degree) residues of any integer dtype.
            is_ntt: whether they are in NTT form.
        """
        values = np.ascontiguousarray(polynomials, dtype="<u8")
        return self.load(seal.Ciphertext(), self._meta(len(values), is_ntt=is_ntt), self.array(values), values.data)

    def save_ciphertext(self, ciphertext: Any) -> NDArray[np.uint64]:
        """(size, primes, degree) uint64 residues of an unseeded ciphertext."""
        begin = _META.size + _STREAM.size + _LENGTH.size
        return np.frombuffer(self.save(ciphertext), dtype="<u8", offset=begin).reshape(-1, *self._shape)

    def save_seeded(self, ciphertext: Any) -> tuple[NDArray[np.uint64], bytes]:
        """c0 as (primes, degree) uint64 residues, and the seed of c1.

        Raises:
            ConfigError: SEAL did not save it with a Blake2xb seed.
        """
        body = self.save(ciphertext)
        begin = _META.size + _STREAM.size + _LENGTH.size
        count = self._shape[0] * self._shape[1]
        seed = begin + 8 * count + _STREAM.size + len(_BLAKE2XB)
        if len(body) != seed + SEAL_SEED_BYTES or body[seed - len(_BLAKE2XB) : seed] != _BLAKE2XB:
            raise ConfigError(
                f"SEAL's stream: expected a seeded ciphertext of {seed + SEAL_SEED_BYTES} bytes, got {len(body)}", _HINT
            )
        return np.frombuffer(body, dtype="<u8", count=count, offset=begin).reshape(self._shape), body[seed:]

    def load_plaintext(self, polynomial: NDArray[Any]) -> Any:
        """A plaintext in NTT form of (primes, degree) residues."""
        values = np.ascontiguousarray(polynomial, dtype="<u8")
        return self.load(
            seal.Plaintext(), _PLAIN_META.pack(self._data_id, values.size, 1.0), self.array(values), values.data
        )

    def load_key(self, residues: NDArray[Any]) -> Any:
        """A seal.SecretKey of (primes of the key level, degree) residues; call `wipe` after it."""
        values = np.ascontiguousarray(residues, dtype="<u8")
        meta = _PLAIN_META.pack(self._key_id, values.size, 1.0)
        return self.load(seal.SecretKey(), meta, self.array(values), values.data)

    def expand(self, seed: Octets) -> Any:
        """The ciphertext (0, c1) in NTT form, with c1 expanded from its 64-byte seed."""
        os.pwrite(self._seed_memory, seed, self._seed_offset)
        ciphertext = seal.Ciphertext()
        ciphertext.load(self.context, _path(self._seed_memory))
        return ciphertext

    # ---- start-up ----

    @property
    def _shape(self) -> tuple[int, int]:
        return len(self.params.primes), self.params.poly_modulus_degree

    def _head(self, body_bytes: int) -> bytes:
        major, minor = self._version
        return _STREAM.pack(_STREAM_MAGIC, _STREAM.size, major, minor, _UNCOMPRESSED, 0, _STREAM.size + body_bytes)

    def _meta(self, polynomials: int, *, is_ntt: bool) -> bytes:
        primes, degree = self._shape
        return _META.pack(self._data_id, is_ntt, polynomials, degree, primes, 1.0, 1)

    def _seal_version(self) -> tuple[int, int]:
        seal.Plaintext().save(_path(self._memory))
        _, _, major, minor, _, _, _ = _STREAM.unpack(os.pread(self._memory, _STREAM.size, 0))
        return major, minor

    def _prepare_expansion(self) -> int:
        """Writes a seeded ciphertext whose c0 is 0, without the seed; returns where the seed goes."""
        zeros = np.zeros(self._shape, dtype="<u8")
        seed_head = self._head(len(_BLAKE2XB) + SEAL_SEED_BYTES) + _BLAKE2XB
        body = self._meta(2, is_ntt=True) + self.array(zeros) + zeros.tobytes() + seed_head
        return os.pwrite(self._seed_memory, self._head(len(body) + SEAL_SEED_BYTES) + body, 0)

    def _check_known_answers(self) -> None:
        polynomials = np.zeros((2, *self._shape), dtype=np.uint64)
        polynomials[:, :, 1] = 1
        polynomials[1, :, 0] = 1
        try:
            expanded = self.save_ciphertext(self.expand(_KNOWN_SEED))
            transformed = self.load_ciphertext(polynomials, is_ntt=False)
            self.evaluator.transform_to_ntt_inplace(transformed)
            values = self.save_ciphertext(transformed)
        except (RuntimeError, ValueError) as error:  # how sealapi and numpy refuse bytes
            raise ConfigError(f"SEAL refuses the streams of SEAL 4.0: {error}", _HINT) from error
        digest = hashlib.sha256(expanded[1].tobytes() + values.tobytes()).hexdigest()
        expected = _KNOWN_ANSWERS[self.params.coeff_modulus_bits[0]]
        if digest != expected:
            raise ConfigError(
                f"SEAL's known answer: expected {expected[:16]}, got {digest[:16]}: "
                "it expands seeds or transforms polynomials in another way",
                _HINT,
            )


def _context(params: CkksParams) -> Any:
    """The SEAL context; SEAL checks its own security table too."""
    # SEAL wants one more prime, for key switching, which we never do; it is no part of ciphertexts.
    bits = [*params.coeff_modulus_bits, max(params.coeff_modulus_bits) + 1]
    literal = seal.EncryptionParameters(seal.SCHEME_TYPE.CKKS)
    literal.set_poly_modulus_degree(params.poly_modulus_degree)
    literal.set_coeff_modulus(seal.CoeffModulus.Create(params.poly_modulus_degree, bits))
    context = seal.SEALContext(literal, True, seal.SEC_LEVEL_TYPE.TC128)
    if not context.parameters_set():
        raise ConfigError(f"SEAL refuses degree {params.poly_modulus_degree} with primes of {bits} bits")
    primes = tuple(prime.value() for prime in context.first_context_data().parms().coeff_modulus())
    if primes != params.primes:
        raise ConfigError(f"SEAL's primes: expected {params.primes}, got {primes}", _HINT)
    return context


def _memory(owner: object) -> int:
    """A file in memory that is closed with its owner and by every program that is started."""
    memory = os.memfd_create("seal", os.MFD_CLOEXEC)
    weakref.finalize(owner, os.close, memory)
    return memory


def _path(memory: int) -> str:
    return f"/proc/self/fd/{memory}"
