"""The arithmetic of fast_kernel.py on torch tensors, for a GPU; quantising and packing too.

Residues are centred, |r| <= (p - 1) / 2, and lie in float64, which holds whole numbers below 2^53 exactly. A constant
is split into digits, c = 2^15 high + low, of at most 2^14 each, so a product is below 2^45 and the sum of 64 of them
below 2^50: nothing is ever rounded, in whatever order a device adds. Taking away round(x / p) p then gives the centred
residue itself: for |x / p| < 2^20 the quotient is off by less than 2^-31, and x / p is at least 1 / 2p > 2^-31 away
from a half.

The transform is ntt.py's, as two products with matrices: of a polynomial's 64 x 64 coefficients first all columns are
multiplied by one matrix, then each row by a matrix of its own (the first and the last six stages). The matrices are
what the compiled transform makes of powers of x. Values lie as (primes, rows, ciphertexts, columns), which suits both.

There is no %, whose time may depend on its operands, and no branch and no index that depends on a value.
tests/he/test_gpu_engine.py holds all of it against SEAL.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedhe.he.keys import SecretKey
from fedhe.he.ntt import DEGREE, SIDE, forward, ring_tables
from fedhe.he.pack import pack
from fedhe.he.params import CkksParams
from fedhe.he.quantise import quantise

_DIGIT_BITS = 15
_WORD_MASK = (1 << 32) - 1
_WORD = 2.0**-32


class Moduli(NamedTuple):
    """Primes as the reductions take them.

    Attributes:
        primes: (k, 1, 1, 1) float64.
        inverses: (k, 1, 1, 1) float64, 1 / p.
    """

    primes: Tensor
    inverses: Tensor


@dataclass(frozen=True, repr=False)
class DeviceKey:
    """The secret key and the constants of its ring on a device; made by `device_key`.

    Attributes:
        moduli: of both primes.
        last: of the second one alone.
        whole_primes: (2, 1, 1, 1) int64.
        secret: (2, 2, 64, 1, 64) float64: the digits of the key in NTT form, high ones first.
        columns: (2, 128, 64) float64: for each prime the digits of the matrix for columns.
        rows: (128, 64, 128) float64: for each prime and row the digits of its matrix.
        inverse_columns: the same of the inverse transform, which does the rows first.
        inverse_rows: the same of the inverse transform.
        garner: the digits of 1 / p0 modulo p1.
        scale: Delta.
    """

    moduli: Moduli
    last: Moduli
    whole_primes: Tensor
    secret: Tensor
    columns: Tensor
    rows: Tensor
    inverse_columns: Tensor
    inverse_rows: Tensor
    garner: tuple[float, float]
    scale: int

    def __repr__(self) -> str:
        return "DeviceKey(...)"


def device_key(secret_key: SecretKey, params: CkksParams, device: torch.device) -> DeviceKey:
    """A key for the kernel, on a device; it must belong to the parameters' ring."""
    p0, p1 = params.primes
    residues = secret_key.residues()
    secret = [_digits(residues[k], prime).reshape(2, SIDE, 1, SIDE) for k, prime in enumerate(params.primes)]
    whole = torch.tensor(params.primes, device=device).reshape(2, 1, 1, 1)
    moduli = Moduli(whole.double(), 1 / whole.double())
    columns, rows = _matrices(params.primes, 1)
    inverse_columns, inverse_rows = _matrices(params.primes, -1)
    garner = _digits(np.array([pow(p0, -1, p1)]), p1)
    return DeviceKey(
        moduli=moduli,
        last=Moduli(moduli.primes[1:], moduli.inverses[1:]),
        whole_primes=whole,
        secret=torch.tensor(np.stack(secret, axis=1), device=device),
        columns=torch.tensor(columns, device=device),
        rows=torch.tensor(rows, device=device),
        inverse_columns=torch.tensor(inverse_columns, device=device),
        inverse_rows=torch.tensor(inverse_rows, device=device),
        garner=(float(garner[0, 0]), float(garner[1, 0])),
        scale=params.scale,
    )


def encrypt_chunk(coefficients: Tensor, errors: Tensor, c1: Tensor, key: DeviceKey) -> Tensor:
    """c0 = NTT(Delta m + e) - c1 s.

    Args:
        coefficients: (count, 4096) int64, |Delta m + e| below half the modulus.
        errors: (count, 4096) int8.
        c1: (count, 2, 4096) int32, below the primes.
        key: the secret key.

    Returns:
        (count, 2, 4096) int32, below the primes.
    """
    scaled = torch.add(errors.long(), coefficients, alpha=key.scale).view(-1, SIDE, SIDE).transpose(0, 1)
    # 60 bits are too many for float64, but for a quotient that is off by less than 2^-20 they need not be exact
    quotient = scaled.double().mul(key.moduli.inverses).round_().long()
    residues = torch.addcmul(scaled, quotient, key.whole_primes, value=-1)
    message = to_ntt(residues.to(torch.float64, memory_format=torch.contiguous_format), key)
    return _from_rows(_add_product(message, _to_rows(c1), key, -1), key)


def decrypt_chunk(c0: Tensor, c1: Tensor, key: DeviceKey) -> Tensor:
    """Delta sum(m) + sum(e), centred around 0.

    Args:
        c0: (count, 2, 4096) int32, below the primes.
        c1: the same.
        key: the secret key.

    Returns:
        (count, 4096) int64.
    """
    first, second = from_ntt(_add_product(_to_rows(c0), _to_rows(c1), key, 1), key)
    # Garner: x = r0 + p0 ((r1 - r0) / p0 mod p1), and |x| <= (p0 - 1) / 2 + p0 (p1 - 1) / 2 = (p0 p1 - 1) / 2
    high, low = key.garner
    apart = (second - first).unsqueeze(0)
    factor = _join(apart * high, apart * low, key.last).squeeze(0)
    noisy = torch.addcmul(first.long(), factor.long(), key.whole_primes[0])
    return noisy.transpose(0, 1).reshape(-1, DEGREE)


def to_ntt(values: Tensor, key: DeviceKey) -> Tensor:
    """Coefficients to SEAL's NTT form; (2, 64, count, 64) float64, about centred before and centred afterwards."""
    return _times_rows(_times_columns(values, key.columns, key.moduli), key.rows, key.moduli)


def from_ntt(values: Tensor, key: DeviceKey) -> Tensor:
    """Inverse of `to_ntt`."""
    return _times_columns(_times_rows(values, key.inverse_rows, key.moduli), key.inverse_columns, key.moduli)


def add_residues(total: Tensor, addend: Tensor, primes: tuple[int, ...]) -> Tensor:
    """The sum modulo each prime; all (..., primes, n) int32, below p, which is below 2^30."""
    limits = torch.tensor(primes, dtype=torch.int32, device=total.device).unsqueeze(-1)
    added = total + addend
    return torch.where(added < limits, added, added - limits)


def quantise_tensor(change: Tensor, weight: float, step: float, words: NDArray[np.uint32]) -> Tensor:
    """`quantise` on the change's device, the same bit for bit; only the largest |change| leaves it.

    Args:
        change: (m,) float32 or float64.
        weight: this site's share of the average, 0 to 1.
        step: the value of one unit.
        words: (m,) uint32, uniform.

    Returns:
        (m,) int64, on the same device.

    Raises:
        TrainingError: as `quantise` does.
    """
    change = change.detach()
    largest = change.abs().amax().item() if change.numel() else 0.0  # NaN where there is one
    quantise(np.array([largest]), weight, step, np.zeros(1, dtype=np.uint32))  # all that it refuses
    if step == 0:
        return torch.zeros(change.shape, dtype=torch.int64, device=change.device)
    # A tensor, because torch multiplies by the reciprocal where a GPU's tensor is divided by a number.
    scaled = change.double() * weight / torch.full((1,), step, dtype=torch.float64, device=change.device)
    below = scaled.floor()
    drawn = torch.tensor(words.view(np.int32), device=change.device).long().bitwise_and_(_WORD_MASK).double()
    return below.long() + (drawn * _WORD < scaled - below)


def pack_tensor(fields: Tensor, bits: int, k: int) -> Tensor:
    """`pack` on the fields' device, the same bit for bit; only the smallest and the largest field leave it.

    Args:
        fields: (n,) int64, each within +-(2^(bits-1) - 1).
        bits: width of a field.
        k: fields in one coefficient; bits * k <= 62.

    Returns:
        (ceil(n / k),) int64, on the same device.

    Raises:
        CapacityError: a field does not fit.
    """
    if fields.numel():
        pack(torch.stack(torch.aminmax(fields)).numpy(force=True), bits, k)  # all that it refuses
    places = torch.tensor([1 << (bits * place) for place in range(k)], device=fields.device)
    whole = torch.nn.functional.pad(fields, (0, -fields.numel() % k)).view(-1, k)
    return (whole * places).sum(dim=1)


def _centred(values: Tensor, moduli: Moduli) -> Tensor:
    """Reduces whole numbers, |x / p| < 2^20, in place."""
    quotient = torch.mul(values, moduli.inverses).round_()
    return values.addcmul_(quotient, moduli.primes, value=-1)


def _join(high: Tensor, low: Tensor, moduli: Moduli, sign: int = 1) -> Tensor:
    """The sum low + sign 2^15 high, centred; overwrites both."""
    return _centred(low.add_(_centred(high, moduli), alpha=sign << _DIGIT_BITS), moduli)


def _add_product(values: Tensor, uniform: Tensor, key: DeviceKey, sign: int) -> Tensor:
    """The sum values + sign uniform s, centred; (2, 64, count, 64) float64 each."""
    high, low = key.secret
    return _join(uniform * high, torch.addcmul(values, uniform, low, value=sign), key.moduli, sign)


def _times_columns(values: Tensor, matrix: Tensor, moduli: Moduli) -> Tensor:
    both = torch.bmm(matrix, values.view(2, SIDE, -1)).view(2, 2 * SIDE, -1, SIDE)
    return _join(both[:, :SIDE], both[:, SIDE:], moduli).contiguous()


def _times_rows(values: Tensor, matrices: Tensor, moduli: Moduli) -> Tensor:
    both = torch.bmm(values.view(2 * SIDE, -1, SIDE), matrices).view(2, SIDE, -1, 2 * SIDE)
    return _join(both[..., :SIDE], both[..., SIDE:], moduli).contiguous()


def _to_rows(residues: Tensor) -> Tensor:
    """(count, 2, 4096) int32 to (2, 64, count, 64) float64."""
    rows = residues.view(-1, 2, SIDE, SIDE).permute(1, 2, 0, 3)
    return rows.to(torch.float64, memory_format=torch.contiguous_format)


def _from_rows(values: Tensor, key: DeviceKey) -> Tensor:
    """Centred (2, 64, count, 64) float64 to (count, 2, 4096) int32, below the primes."""
    positive = torch.where(values < 0, values + key.moduli.primes, values)
    return positive.to(torch.int32).permute(2, 0, 1, 3).reshape(-1, 2, DEGREE)


def _digits(constants: NDArray[np.integer], prime: int) -> NDArray[np.float64]:
    """(2, ...): the digits of constants below p, high ones first, each within +-2^14."""
    centred = constants.astype(np.int64)
    centred -= prime * (centred > prime // 2)
    high = (centred + (1 << (_DIGIT_BITS - 1))) >> _DIGIT_BITS
    return np.stack([high, centred - (high << _DIGIT_BITS)]).astype(np.float64)


def _matrices(primes: tuple[int, ...], sign: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The matrices for columns and rows of the transform, or for sign -1 of its inverse.

    Value j of the transform is the polynomial at a root w_j, and w_j^64 is the same for the 64 values of one row. So
    coefficient 64 r + c has the factor w_j^(64 r) w_j^c, the first one for columns, the second one for rows. The
    inverse has w_j^-(64 r + c) / N in its place.
    """
    columns, rows = [], []
    for k, prime in enumerate(primes):
        near = _powers_of_x(range(0, sign * SIDE, sign), k, primes).reshape(SIDE, SIDE, SIDE)  # power, row, value
        far = _powers_of_x(range(0, sign * DEGREE, sign * SIDE), k, primes)[:, ::SIDE]  # power, row
        if sign < 0:
            far = far.astype(np.uint64) * np.uint64(pow(DEGREE, -1, prime)) % np.uint64(prime)
        columns.append(np.concatenate(_digits(far.T if sign > 0 else far, prime), axis=0))
        rows.append(np.concatenate(_digits(near.transpose((1, 0, 2) if sign > 0 else (1, 2, 0)), prime), axis=-1))
    return np.stack(columns), np.concatenate(rows)


def _powers_of_x(exponents: range, k: int, primes: tuple[int, ...]) -> NDArray[np.uint32]:
    """(exponents, 4096) uint32: the NTT form of x^e modulo the k-th prime, by the compiled transform."""
    tables, scratch = ring_tables(primes), np.empty((SIDE, SIDE), dtype=np.uint32)
    powers = np.zeros((len(exponents), DEGREE), dtype=np.uint32)
    for power, exponent in zip(powers, exponents, strict=True):
        power[exponent % DEGREE] = 1 if exponent >= 0 else primes[k] - 1  # x^-e = -x^(N-e)
        forward(power, k, tables, scratch)
    return powers
