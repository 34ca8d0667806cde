"""The CKKS parameters of a project: checked once, immutable, with security level and exact capacity.

Only additions happen under encryption and messages live in the polynomial's coefficients, so parameters follow from
two inequalities, both checked exactly: a sum of K errors must round away, and a packed sum must fit into the modulus.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, ClassVar, Self

from fedhe.errors import CapacityError, ConfigError

ERROR_BOUND = 21
"""SEAL samples errors from a centred binomial distribution of 2 x 21 bits, so |e| <= 21 always (sigma 3.24)."""
SEAL_SEED_BYTES = 64
MIN_SECURITY_BITS = 128
MIN_SCALE_BITS = 7  # below, the errors of 2 sites do not round away
MAX_SCALE_BITS = 40  # above, no two fields fit beside it
MIN_FIELD_BITS = 8
MAX_FIELD_BITS = 32
PARAMS_ID_BYTES = 16

# Largest log2 q for 128 / 192 / 256 bits, ternary secret. The smallest of three tables counts: SEAL's MaxBitCount
# (HomomorphicEncryption.org 2018: N=2048 54/37/29, N=4096 109/75/58) and, where known here, the 2024 guidelines
# (ePrint 2024/463; N=2048 53/36/27, N=4096 107/73/56 classical and 101/69/53 quantum).
MAX_MODULUS_BITS: dict[int, dict[int, int]] = {
    2048: {128: 53, 192: 36, 256: 27},
    4096: {128: 101, 192: 69, 256: 53},
}
SUPPORTED_DEGREE = 4096
MIN_PRIME_BITS = 24
MAX_PRIME_BITS = 30  # residues travel in 30 bits
_PRIMES = 2


@dataclass(frozen=True)
class CkksParamsLiteral:
    """Parameters as somebody wrote them; nothing is checked. See `CkksParams.from_literal`.

    Attributes:
        poly_modulus_degree: N, coefficients of a polynomial.
        coeff_modulus_bits: bits of each prime of the data modulus q.
        scale_bits: log2 of Delta, by which coefficients are multiplied to make room for the error.
        field_bits: width of the fields that carry weights.
        statistics_bits: width of the fields that carry running statistics.
    """

    poly_modulus_degree: int = 4096
    coeff_modulus_bits: tuple[int, ...] = (30, 30)
    scale_bits: int = 12
    field_bits: int = 16
    statistics_bits: int = 24


def read_literal(value: dict[str, Any]) -> CkksParamsLiteral:
    """What `dataclasses.asdict` made of a literal, by way of JSON."""
    return CkksParamsLiteral(**{**value, "coeff_modulus_bits": tuple(value["coeff_modulus_bits"])})


@dataclass(frozen=True)
class CkksParams:
    """Checked parameters. Make them with `from_literal`.

    Attributes:
        primes: the primes of the data modulus, as SEAL picks them.
        security_bits: 128, 192 or 256: the level that the data modulus reaches in every table above.
    """

    CIPHERTEXTS_PER_CHUNK: ClassVar[int] = 16
    """A full chunk is just under 1 MiB, a seeded one half of that."""

    poly_modulus_degree: int
    coeff_modulus_bits: tuple[int, ...]
    scale_bits: int
    field_bits: int
    statistics_bits: int
    primes: tuple[int, ...]
    security_bits: int

    @classmethod
    def from_literal(cls, literal: CkksParamsLiteral) -> Self:
        """Checks a literal.

        Raises:
            ConfigError: a degree, prime size or security level that is not allowed.
            CapacityError: scale, fields and modulus do not fit into each other.
        """
        bits = tuple(literal.coeff_modulus_bits)
        security = _security_bits(literal.poly_modulus_degree, bits)
        if literal.poly_modulus_degree != SUPPORTED_DEGREE:
            raise ConfigError(
                f"poly_modulus_degree: expected {SUPPORTED_DEGREE}, got {literal.poly_modulus_degree}",
                "2048 leaves no room for fields at 128 bits of security, and larger ones cost time for nothing",
            )
        primes = _seal_primes(literal.poly_modulus_degree, bits)
        params = cls(
            literal.poly_modulus_degree,
            bits,
            literal.scale_bits,
            literal.field_bits,
            literal.statistics_bits,
            primes,
            security,
        )
        if not MIN_SCALE_BITS <= literal.scale_bits <= MAX_SCALE_BITS:
            raise CapacityError(
                f"scale_bits: expected {MIN_SCALE_BITS} to {MAX_SCALE_BITS}, got {literal.scale_bits}",
                "12 is right for up to 97 sites",
            )
        for what in ("field_bits", "statistics_bits"):
            width = getattr(params, what)
            if not MIN_FIELD_BITS <= width <= MAX_FIELD_BITS:
                raise CapacityError(f"{what}: expected {MIN_FIELD_BITS} to {MAX_FIELD_BITS}, got {width}")
            params.grid_max(width, 2)
        return params

    def with_precision(self, field_bits: int, statistics_bits: int) -> Self:
        """The same ring and key with other field widths, as a job may ask for.

        Raises:
            CapacityError: the widths do not fit.
        """
        literal = CkksParamsLiteral(
            self.poly_modulus_degree, self.coeff_modulus_bits, self.scale_bits, field_bits, statistics_bits
        )
        return self.from_literal(literal)

    @property
    def literal(self) -> CkksParamsLiteral:
        """What these parameters were made from."""
        return CkksParamsLiteral(
            self.poly_modulus_degree,
            self.coeff_modulus_bits,
            self.scale_bits,
            self.field_bits,
            self.statistics_bits,
        )

    @property
    def modulus(self) -> int:
        """The data modulus q, product of `primes`."""
        return self.primes[0] * self.primes[1]

    @property
    def scale(self) -> int:
        """Delta."""
        return 1 << self.scale_bits

    @property
    def max_sites(self) -> int:
        """The most sites whose errors always round away: 21 K < Delta / 2."""
        return (self.scale // 2 - 1) // ERROR_BOUND

    def fields_per_coefficient(self, bits: int) -> int:
        """k, how many fields of `bits` bits share one coefficient; at least 1.

        Raises:
            CapacityError: not even one fits.
        """
        room = self.modulus.bit_length() - self.scale_bits
        if not 1 <= bits <= room:
            raise CapacityError(
                f"fields of {bits} bits: expected 1 to {room} bits between the scale of 2^{self.scale_bits} "
                f"and the modulus of {self.modulus.bit_length()} bits"
            )
        return room // bits

    def field_max(self, bits: int, sites: int) -> int:
        """M, the largest |sum of fields| that always comes back exactly.

        M <= 2^(bits-1) - 1, so that fields unpack, and Delta M sum_j 2^(bits j) + 21 sites <= (q - 1) / 2, so that
        the coefficient does not wrap around.

        Raises:
            CapacityError: the sites or the fields do not fit.
        """
        if not 1 <= sites <= self.max_sites:
            raise CapacityError(
                f"expected 1 to {self.max_sites} sites, got {sites}: with a scale of 2^{self.scale_bits} the errors "
                "of more sites do not always round away",
                "use a larger scale_bits with smaller fields",
            )
        places = sum(1 << (bits * j) for j in range(self.fields_per_coefficient(bits)))
        room = ((self.modulus - 1) // 2 - ERROR_BOUND * sites) // (self.scale * places)
        return min((1 << (bits - 1)) - 1, room)

    def grid_max(self, bits: int, sites: int) -> int:
        """`field_max` less one for each site's rounding: where the largest weighted change of a round is put.

        Raises:
            CapacityError: the sites or the fields do not fit.
        """
        limit = self.field_max(bits, sites) - sites
        if limit < 1:
            raise CapacityError(
                f"fields of {bits} bits leave {limit} steps for {sites} sites under a scale of 2^{self.scale_bits} "
                f"and a modulus of {self.modulus.bit_length()} bits, expected at least 1",
                "use wider fields, or fewer sites",
            )
        return limit

    @property
    def ring_id(self) -> bytes:
        """16 bytes that name what a key depends on: scheme, degree and modulus."""
        ring = {"scheme": "CKKS", "degree": self.poly_modulus_degree, "primes": self.primes}
        return _digest(b"fedhe/v1/ring\0", ring)

    @property
    def params_id(self) -> bytes:
        """16 bytes that name everything both sides must agree on, field widths and chunk size included."""
        everything = asdict(self) | {"scheme": "CKKS", "chunk": self.CIPHERTEXTS_PER_CHUNK, "version": 1}
        return _digest(b"fedhe/v1/params\0", everything)

    def to_dict(self) -> dict[str, Any]:
        """For reports and status output."""
        return {
            "scheme": "CKKS",
            "poly_modulus_degree": self.poly_modulus_degree,
            "coeff_modulus_bits": list(self.coeff_modulus_bits),
            "scale_bits": self.scale_bits,
            "field_bits": self.field_bits,
            "statistics_bits": self.statistics_bits,
            "security_bits": self.security_bits,
        }


def _digest(label: bytes, content: dict[str, Any]) -> bytes:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(label + text.encode()).digest()[:PARAMS_ID_BYTES]


def _security_bits(degree: int, bits: tuple[int, ...]) -> int:
    if len(bits) != _PRIMES or len(set(bits)) != 1 or not MIN_PRIME_BITS <= bits[0] <= MAX_PRIME_BITS:
        raise ConfigError(
            f"coeff_modulus_bits: expected {_PRIMES} primes of equal size, {MIN_PRIME_BITS} to {MAX_PRIME_BITS} bits "
            f"each, got {list(bits)}"
        )
    table = MAX_MODULUS_BITS.get(degree)
    if table is None:
        raise ConfigError(f"poly_modulus_degree: expected {SUPPORTED_DEGREE}, got {degree}")
    level = max((level for level, most in table.items() if sum(bits) <= most), default=0)
    if level < MIN_SECURITY_BITS:
        raise ConfigError(
            f"poly_modulus_degree {degree} with a modulus of {sum(bits)} bits: expected at most "
            f"{table[MIN_SECURITY_BITS]} bits for {MIN_SECURITY_BITS} bits of security (ePrint 2024/463)",
            f"use poly_modulus_degree {SUPPORTED_DEGREE} with coeff_modulus_bits [30, 30]",
        )
    return level


@cache
def _seal_primes(degree: int, bits: tuple[int, ...]) -> tuple[int, ...]:
    """The primes that SEAL's CoeffModulus.Create picks; the engine compares them with SEAL's at its start.

    SEAL takes, for each size, the largest primes p = 1 mod 2N of exactly that many bits, the smallest of them first.
    """
    found: list[int] = []
    candidate = ((1 << bits[0]) - 1) // (2 * degree) * 2 * degree + 1
    while len(found) < len(bits):
        if candidate.bit_length() != bits[0]:
            raise ConfigError(f"there are fewer than {len(bits)} primes of {bits[0]} bits for degree {degree}")
        if _is_prime(candidate):
            found.append(candidate)
        candidate -= 2 * degree
    return tuple(reversed(found))


def _is_prime(number: int) -> bool:
    """Miller-Rabin with the bases 2, 3, 5, 7: certain below 3,215,031,751."""
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in (2, 3, 5, 7):
        power = pow(base, odd, number)
        if power in {1, number - 1}:
            continue
        for _ in range(twos - 1):
            power = power * power % number
            if power == number - 1:
                break
        else:
            return False
    return True


DEFAULT_PARAMS = CkksParams.from_literal(CkksParamsLiteral())
"""What a project gets that asks for nothing else."""
