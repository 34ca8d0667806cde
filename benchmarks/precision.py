"""How many bits a value needs: Dice over rounds of the hippocampus job, fixed-point fields against float32 FedAvg.

Three sites train the job with the project's own training code, from the same model with the same seeds: once averaged
in the clear in float32, which only this benchmark does, and once for each width of field, encrypted, summed and
decrypted in every round. Finished runs are kept in the output folder and used again, so a study that was cut off goes
on where it was, and more seeds can be added.

    python benchmarks/precision.py --data FOLDER [--rounds 8] [--seeds 1 2 3] [--bits 12 16 24] [--workers 2] [--quick]
"""

import argparse
import multiprocessing
import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from precision_federation import FLOAT, Study, run_arm, run_seed
from precision_page import write_all

REPOSITORY = Path(__file__).resolve().parents[1]
ROUNDS = 8
QUICK_ROUNDS = 2
QUICK_SETTINGS = ("volume=[32, 32, 32]", "patch=[16, 16, 16]")


def main() -> None:
    """Runs the study and writes report, page and chart."""
    arguments = _arguments()
    out = arguments.out.resolve()
    job = REPOSITORY / "examples" / "hippocampus"
    study = Study(job, arguments.data.resolve(), out / "runs", arguments.rounds, 1)
    if arguments.quick:
        study = Study(job, study.data, out / "runs-quick", min(arguments.rounds, QUICK_ROUNDS), 1, QUICK_SETTINGS)
    else:
        study = Study(job, study.data, study.work, study.rounds, arguments.epochs or study.federation.local_epochs)
    seeds = arguments.seeds[:1] if arguments.quick else arguments.seeds
    every = (FLOAT, *arguments.bits)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before the workers import torch
    list(_each(arguments.workers, _first, [(study, seed) for seed in seeds]))
    runs = list(_each(arguments.workers, _arm, [(study, seed, bits) for seed in seeds for bits in every]))
    docs = arguments.docs or (out if arguments.quick else REPOSITORY / "docs")
    write_all(study, runs, out=out, docs=docs)


def _first(study: Study, seed: int) -> None:
    warnings.simplefilter("ignore")
    run_seed(study, seed)
    _tell(f"seed {seed}: first model made, and trained once at each site")


def _arm(study: Study, seed: int, bits: int) -> dict[str, Any]:
    warnings.simplefilter("ignore")
    return run_arm(study, seed, bits, _tell)


def _tell(line: str) -> None:
    print(line, flush=True)


def _each(workers: int, work: Callable[..., Any], items: list[tuple[Any, ...]]) -> Iterator[Any]:
    """Does the items in this process, or several at once in processes of their own; results in any order."""
    if workers == 1:
        yield from (work(*item) for item in items)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for done in as_completed([pool.submit(work, *item) for item in items]):
            yield done.result()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder in the Decathlon's layout (dataset.json)")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--epochs", type=int, help="local epochs of a round; default: the job's")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--bits", type=int, nargs="+", default=[12, 16, 24], help="widths of a weight's field")
    parser.add_argument("--workers", type=int, default=1, help="runs at once, one core each")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "build" / "precision", help="for the report")
    parser.add_argument("--docs", type=Path, help="for page and chart; default: docs, with --quick the --out folder")
    parser.add_argument("--quick", action="store_true", help="one seed, two rounds, few small volumes: does it run?")
    options = parser.parse_args()
    if not (options.data / "dataset.json").is_file():
        parser.error(f"--data {options.data}: expected a folder in the Decathlon's layout, with dataset.json in it")
    return options


if __name__ == "__main__":
    main()
