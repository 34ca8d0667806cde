"""Runs fuzz targets under Atheris: python tests/fuzz/run.py [TARGET ...] [--seconds N] [--keep].

New inputs go to build/fuzz/TARGET, those that break a claim to build/fuzz/TARGET-crash-... (or -timeout, -oom): give
such a file to --replay. `--keep` merges what was found into tests/fuzz/corpus, which `make test` replays.
"""

import argparse
import hashlib
import re
import resource
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

HERE = Path(__file__).resolve().parent
CORPUS = HERE / "corpus"
WORK = HERE.parents[1] / "build" / "fuzz"
TIMEOUT_SECONDS = 10
"""An input that takes longer is one that hangs."""
MAX_RSS_MIB = 2048
MAX_KEPT_BYTES = 4096
GROWTH_BYTES = 4 * 1024 * 1024
"""Where an input makes the process this much larger than ever, its memory is measured exactly."""
INSTRUMENTED = ["fedhe", "yaml", "zipfile", *(path.stem for path in HERE.glob("targets*.py"))]
ARITHMETIC = [
    f"fedhe.he.{name}" for name in ("streams", "pack", "residues", "fast_kernel", "ntt", "quantise", "seal_engine")
]
"""Modules that are not instrumented: numba could not compile their kernels any more, and Atheris 3.0 never frees the
result of a comparison of whole arrays."""


def main() -> int:
    """One process for each target: the fuzzer ends its own. Returns 1 if any target broke a claim."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="default: all")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--keep", action="store_true", help="merge what was found into the corpus")
    parser.add_argument("--replay", type=Path, help="read one input and print what happens")
    parser.add_argument("--child", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        fuzz(arguments.child[0], arguments.child[1:])
    import targets  # after `fuzz`, which imports it instrumented

    if unknown := set(arguments.targets) - set(targets.TARGETS):
        parser.error(f"expected targets out of {', '.join(targets.TARGETS)}, got {', '.join(sorted(unknown))}")
    names = arguments.targets or list(targets.TARGETS)
    if arguments.replay:
        tracemalloc.start()
        for name in names:
            targets.hold(targets.TARGETS[name], arguments.replay.read_bytes())
        return 0
    failed = []
    for name in names:
        work, kept = folders(name)
        for data in targets.SEEDS[name]:
            (work / hashlib.sha1(data, usedforsecurity=False).hexdigest()).write_bytes(data)
        limits = [f"-max_len={targets.TARGETS[name].max_bytes}", f"-timeout={TIMEOUT_SECONDS}"]
        limits += [f"-rss_limit_mb={MAX_RSS_MIB}", f"-max_total_time={arguments.seconds}", "-print_final_stats=1"]
        code, told = child(name, *limits, f"-artifact_prefix={WORK / name}-", str(work), str(kept))
        runs = re.search(r"number_of_executed_units: *(\d+)", told)
        found = re.findall(r"cov: (\d+) ft: (\d+)", told)
        print(f"{name}: {runs[1] if runs else '?'} runs, coverage {found[-1][0] if found else '?'}", flush=True)
        if code:
            failed.append(name)
            print(told[-4000:], flush=True)
        elif arguments.keep:
            keep(name)
    print(f"broken: {', '.join(failed)}" if failed else "every claim held")
    return bool(failed)


def folders(name: str) -> tuple[Path, Path]:
    """Where the fuzzer writes, and the corpus."""
    for folder in (WORK / name, CORPUS / name):
        folder.mkdir(parents=True, exist_ok=True)
    return WORK / name, CORPUS / name


def child(name: str, *arguments: str) -> tuple[int, str]:
    """Runs one target in a process of its own; exit status and what it said."""
    # libFuzzer starts itself anew for a merge, by its own name: so that is a program that needs no arguments.
    program = WORK / f"{name}.sh"
    program.write_text(f"#!/bin/sh\nexec '{sys.executable}' '{Path(__file__).resolve()}' --child {name} \"$@\"\n")
    program.chmod(0o700)
    done = subprocess.run([str(program), *arguments], check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.returncode, done.stdout.decode(errors="replace")


def keep(name: str) -> None:
    """Puts the smallest set of inputs with the same coverage into the corpus, and drops large ones.

    What somebody put there under a name of its own stays.
    """
    work, kept = folders(name)
    fresh = WORK / f"{name}.merged"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    code, told = child(name, "-merge=1", str(fresh), str(kept), str(work))
    if code:
        raise SystemExit(f"{name}: merging failed\n{told[-2000:]}")
    for file in kept.iterdir():
        if re.fullmatch(r"[0-9a-f]{40}", file.name):
            file.unlink()
    for file in sorted(fresh.iterdir()):
        if file.stat().st_size <= MAX_KEPT_BYTES:
            shutil.copyfile(file, kept / file.name)


def fuzz(name: str, arguments: list[str]) -> None:
    """Never returns: libFuzzer ends the process."""
    import atheris  # the `fuzz` extra; replaying does not need it

    with atheris.instrument_imports(include=INSTRUMENTED, exclude=ARITHMETIC):
        import targets
    target = targets.TARGETS[name]

    def once(data: bytes) -> None:
        before = largest_rss()
        target.read(data)
        if largest_rss() - before > GROWTH_BYTES:
            tracemalloc.start()
            targets.hold(target, data)
            tracemalloc.stop()

    for data in targets.SEEDS[name]:  # what is made once and kept, such as an engine, is not an input's to answer for
        target.read(data)
    atheris.Setup([str(WORK / f"{name}.sh"), *arguments], once)
    atheris.Fuzz()


def largest_rss() -> int:
    """The most memory that this process ever had, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    sys.exit(main())
