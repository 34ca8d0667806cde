"""`fedhe-admin model`: downloads a sealed checkpoint and, with the group key, opens it to a file for inference."""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from fedhe.cli.admin_format import count_of, listed, size
from fedhe.cli.admin_model_file import PYTORCH, SAFETENSORS, SEALED, check_target, write_model, write_whole
from fedhe.cli.admin_options import JobArgument, JsonOption, connected, find_job
from fedhe.cli.admin_sealed_file import SealedHeader, read_chunks, read_header, write_sealed
from fedhe.cli.admin_session import AdminSession
from fedhe.cli.output import print_json
from fedhe.client.checkpoint import open_checkpoint
from fedhe.client.vector_file import vector_digest
from fedhe.errors import ConfigError, NotFoundError, RemoteProtocolError, TrustError
from fedhe.model.flatten import unflatten
from fedhe.trust.sealed import GroupKey, model_fingerprint
from fedhe.wire import admin, federation
from fedhe.wire.chunking import check_chunk, digest_of_digests
from fedhe.wire.limits import MAX_CHUNKS

CHUNKS_IN_FLIGHT = 4  # about 1 MiB each: enough to fill a link with a long round trip
CHUNK_SECONDS = 300.0  # of one chunk of about 1 MiB over a slow link
OPENED = (*SAFETENSORS, *PYTORCH)

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help="Download a job's model, and open it.")

OutOption = Annotated[
    Path,
    typer.Option(
        "--out",
        "-o",
        metavar="FILE",
        help=".safetensors or .pt: the opened model; .sealed: as the server stores it.",
        show_default=False,
    ),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")]


@app.command()
@connected
def download(
    session: AdminSession,
    job: JobArgument,
    *,
    out: OutOption,
    version: Annotated[int | None, typer.Option("--version", min=0, help="Rounds applied; default: newest.")] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Download a checkpoint; a kit with the group key opens it and compares it with what the sites hold.

    The server stores checkpoints sealed and cannot read them. Without the group key, download to a name that ends in
    .sealed, and have it opened by a lead admin who holds the key: fedhe-admin model open FILE.sealed --out model.pt

    Example: fedhe-admin model download brain_tissue --out model.pt
    """
    check_target(out, force=force)
    # asked for before anything is downloaded
    key = None if out.suffix in SEALED else _group_key(session)
    found = find_job(session, job)
    stored = list(session.call("ShowJob", admin.JobRef(job_id=found.job_id)).checkpoints)
    header, chunks = _sealed_chunks(session, found.job_id, _choose(found, stored, version))
    if key is None:
        write_whole(out, lambda partial: _write_sealed(partial, header, chunks))
        report: dict[str, Any] = {"sealed": True}
    else:
        opened = _open(key, header, chunks)
        agreeing = _compare(session, header, opened.fingerprint)
        write_model(out, opened.tensors, _metadata(header, opened))
        report = {**_about(opened), "sites_with_this_model": agreeing}
    _tell(out, header, report, as_json=as_json)


@app.command("open")
@connected
def open_sealed(
    session: AdminSession,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .sealed file of model download.", show_default=False)],
    *,
    out: OutOption,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Open a sealed checkpoint with this kit's group key; needs no server.

    Example: fedhe-admin model open model.sealed --out model.safetensors
    """
    check_target(out, force=force, suffixes=OPENED)
    key = _group_key(session)
    try:
        with file.open("rb") as sealed:
            header = read_header(sealed, file)
            if header.project != session.installation.project:
                raise TrustError(
                    f"{file}: expected a checkpoint of project {session.installation.project}, got {header.project}",
                    "choose the admin of that project with --as NAME",
                )
            opened = _open(key, header, read_chunks(sealed, header, file))
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}", "check the path") from error
    write_model(out, opened.tensors, _metadata(header, opened))
    _tell(out, header, _about(opened), as_json=as_json)


@dataclass(frozen=True)
class _Opened:
    """An opened model: its tensors, float32, and the keyed fingerprint that sites report of it."""

    tensors: dict[str, NDArray[np.float32]]
    values: int
    fingerprint: bytes


def _open(key: GroupKey, header: SealedHeader, chunks: Iterable[bytes]) -> _Opened:
    layout, vector = open_checkpoint(key, header.job_id, header.version, chunks, header.chunks)
    fingerprint = model_fingerprint(key, header.job_id, header.version, vector_digest(vector))
    return _Opened(unflatten(vector, layout), layout.n_values, fingerprint)


def _group_key(session: AdminSession) -> GroupKey:
    if (key := session.group_key()) is None:
        raise TrustError(
            f"the kit of admin {session.installation.name} has no group key, so the checkpoint stays sealed",
            "download to a name that ends in .sealed, and have it opened by a lead admin with `holds_key: true`",
        )
    return key


def _choose(job: admin.Job, stored: list[int], version: int | None) -> int:
    if not stored:
        raise NotFoundError(f"job {job.job_id} has no checkpoint yet", "the first is stored when a site has seeded it")
    if version is None:
        return max(stored)
    if version not in stored:
        raise NotFoundError(
            f"job {job.job_id} has no checkpoint of version {version}",
            f"stored versions: {listed(str(number) for number in sorted(stored))}",
        )
    return version


def _sealed_chunks(session: AdminSession, job_id: str, version: int) -> tuple[SealedHeader, Iterator[bytes]]:
    """What the server says of a checkpoint, and its chunks as they come, each checked."""
    ref = federation.ObjectRef(job_id=job_id, kind=federation.OBJECT_KIND_CHECKPOINT, number=version)
    info = session.call("DescribeObject", ref)
    if not 1 <= info.chunks <= MAX_CHUNKS:
        raise RemoteProtocolError(f"checkpoint: expected 1 to {MAX_CHUNKS} chunks, the server has {info.chunks}")
    header = SealedHeader(session.installation.project, job_id, version, info.chunks)
    return header, _with_progress(_fetch(session, ref, info), info.chunks)


def _fetch(session: AdminSession, ref: federation.ObjectRef, info: federation.ObjectInfo) -> Iterator[bytes]:
    """Yields the chunks in order, each with its digest checked, and at the end the digest of them all."""
    digests = []
    requests = (federation.GetChunkRequest(object=ref, index=index) for index in range(info.chunks))
    replies = session.pipeline("GetChunk", requests, ahead=CHUNKS_IN_FLIGHT, seconds=CHUNK_SECONDS)
    for index, chunk in enumerate(replies):
        if chunk.index != index:
            raise RemoteProtocolError(f"checkpoint: expected chunk {index}, got chunk {chunk.index}")
        check_chunk(chunk.index, chunk.data, chunk.digest, chunks=info.chunks)
        digests.append(chunk.digest)
        yield chunk.data
    if (whole := digest_of_digests(digests)) != info.digest:
        raise RemoteProtocolError(
            f"checkpoint: expected digest {info.digest.hex()[:16]}, got {whole.hex()[:16]}", "download it again"
        )


def _with_progress(chunks: Iterator[bytes], count: int) -> Iterator[bytes]:
    if not sys.stderr.isatty():
        yield from chunks
        return
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("downloading", total=count)
        for chunk in chunks:
            yield chunk
            progress.advance(task)


def _compare(session: AdminSession, header: SealedHeader, fingerprint: bytes) -> list[str]:
    """Names of the sites that reported this very model after the round; an unequal report is an error."""
    rounds = session.call("ListRounds", admin.JobRef(job_id=header.job_id)).rounds
    reported = {
        part.site: part.model_fingerprint
        for entry in rounds
        if entry.round == header.version
        for part in entry.contributions
        if part.model_fingerprint
    }
    if unequal := {site: other.hex()[:16] for site, other in reported.items() if other != fingerprint}:
        raise TrustError(
            f"the checkpoint's fingerprint is {fingerprint.hex()[:16]}, "
            f"but sites reported {listed(f'{site} {other}' for site, other in sorted(unequal.items()))}",
            "do not use this model; ask the sites which one they hold",
        )
    return sorted(reported)


def _write_sealed(path: Path, header: SealedHeader, chunks: Iterable[bytes]) -> None:
    with path.open("wb") as file:
        write_sealed(file, header, chunks)


def _metadata(header: SealedHeader, opened: _Opened) -> dict[str, str]:
    return {
        "fedhe.project": header.project,
        "fedhe.job": header.job_id,
        "fedhe.version": str(header.version),
        "fedhe.fingerprint": opened.fingerprint.hex(),
    }


def _about(opened: _Opened) -> dict[str, Any]:
    return {
        "sealed": False,
        "tensors": len(opened.tensors),
        "values": opened.values,
        "fingerprint": opened.fingerprint.hex(),
    }


def _tell(path: Path, header: SealedHeader, report: dict[str, Any], *, as_json: bool) -> None:
    count = path.stat().st_size
    if as_json:
        print_json({"file": str(path), "bytes": count, "job": header.job_id, "version": header.version, **report})
        return
    typer.echo(f"{path}: model of job {header.job_id} after {count_of(header.version, 'round')}, {size(count)}")
    if report["sealed"]:
        typer.echo("sealed: only a kit with the project's group key opens it")
        return
    typer.echo(f"{report['tensors']} tensors, {report['values']} values, fingerprint {report['fingerprint'][:16]}")
    if sites := report.get("sites_with_this_model"):
        typer.echo(f"the same model that {listed(sites)} reported")
