"""Reads one chunk of every site from disk, checks it, adds it up, hands the sum back; here, or as a worker process.

Where a chunk has SEAL's seeds it is a process, because SEAL's binding keeps Python's lock. It holds no key. It keeps
one site's chunk and the running sum in memory, however many sites there are, and ends when its standard input does, so
it cannot outlive the server.

Protocol: on standard input one JSON line for each order; on standard output for each a JSON line, followed, if that
has `bytes`, by as many bytes.
"""

import contextlib
import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from fedhe.errors import FedheError, RemoteProtocolError, ResourceError
from fedhe.he.ciphertext import ChunkKind, Expectation
from fedhe.he.params import CkksParams, CkksParamsLiteral
from fedhe.he.sums import add_chunks


@dataclass(frozen=True)
class Addend:
    """One site's chunk: its file and the SHA-256 it was received with."""

    site: str
    path: Path
    digest: bytes


@dataclass(frozen=True)
class SumOrder:
    """One chunk of a round's sum.

    Args:
        params: HE parameters, field widths included.
        key_id: 16 bytes, the key that the ciphertexts must carry.
        context: 32 bytes, the round's roster.
        index: the chunk.
        addends: the chunks to add, one of each site.
        max_forwarded: for how many sites, at most, the sum carries their seeds.
    """

    params: CkksParamsLiteral
    key_id: bytes
    context: bytes
    index: int
    addends: tuple[Addend, ...]
    max_forwarded: int


class BadAddendError(RemoteProtocolError):
    """A site's chunk passed the checks at its arrival and cannot be added all the same."""

    def __init__(self, site: str, message: str) -> None:
        super().__init__(message)
        self.site = site


def read_addend(addend: Addend) -> bytes:
    """A site's chunk from its file.

    Raises:
        ResourceError: it cannot be read, or no longer holds what was received.
    """
    try:
        data = addend.path.read_bytes()
    except OSError as error:
        raise ResourceError(f"{addend.path}: {error.strerror}") from error
    if hashlib.sha256(data).digest() != addend.digest:
        raise ResourceError(f"{addend.path}: no longer holds what {addend.site} sent", "check the server's disk")
    return data


def sum_chunk(order: SumOrder, read: Callable[[Addend], bytes] = read_addend) -> bytes:
    """Adds one chunk of all sites up.

    Args:
        order: what is to be added.
        read: gives a site's chunk.

    Returns:
        The chunk of the sum, as he/ciphertext.py writes it.

    Raises:
        BadAddendError: a site's chunk cannot be added; names the site.
        ResourceError: a file cannot be read, or no longer holds what was received.
    """
    params = CkksParams.from_literal(order.params)
    expect = Expectation(ChunkKind.UPLOAD, order.key_id, params.params_id, order.context, order.index)
    try:
        return add_chunks(map(read, order.addends), params, expect, max_forwarded=order.max_forwarded)
    except RemoteProtocolError as error:
        # Rare: find out who it was by adding one site more at a time.
        for last in range(1, len(order.addends) + 1):
            try:
                add_chunks(map(read, order.addends[:last]), params, expect)
            except RemoteProtocolError as found:
                raise BadAddendError(order.addends[last - 1].site, found.message) from found
        raise ResourceError(f"chunk {order.index} failed to add once and then did not: {error.message}") from error


def write_order(order: SumOrder) -> bytes:
    """An order as one line."""
    value = asdict(order)
    value["key_id"], value["context"] = order.key_id.hex(), order.context.hex()
    value["addends"] = [[one.site, str(one.path), one.digest.hex()] for one in order.addends]
    return json.dumps(value).encode() + b"\n"


def read_order(line: bytes) -> SumOrder:
    """Reads what `write_order` wrote."""
    value = json.loads(line)
    params: dict[str, Any] = value["params"]
    params["coeff_modulus_bits"] = tuple(params["coeff_modulus_bits"])
    return SumOrder(
        params=CkksParamsLiteral(**params),
        key_id=bytes.fromhex(value["key_id"]),
        context=bytes.fromhex(value["context"]),
        index=value["index"],
        addends=tuple(Addend(site, Path(path), bytes.fromhex(digest)) for site, path, digest in value["addends"]),
        max_forwarded=value["max_forwarded"],
    )


def work(orders: BinaryIO, answers: BinaryIO) -> None:
    """Answers orders until there are no more."""
    while line := orders.readline():
        try:
            data = sum_chunk(read_order(line))
        except BadAddendError as error:
            head, data = {"bad": error.site, "message": error.message}, b""
        except FedheError as error:
            head, data = {"error": error.message}, b""
        else:
            head = {"bytes": str(len(data))}
        answers.write(json.dumps(head).encode() + b"\n" + data)
        answers.flush()


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):  # the server was killed
        work(sys.stdin.buffer, sys.stdout.buffer)
