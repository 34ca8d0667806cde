"""Submits a job to a running NVFlare federation and waits for its end; runs in NVFlare's environment only.

    python benchmarks/nvflare_submit.py KIT ADMIN he|plain PARAMETERS ROUNDS

Prints `job ID` once it is submitted, and `ended STATUS`.
"""

import sys
import time
from pathlib import Path

from nvflare.apis.dxo import DataKind
from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe
from nvflare.app_opt.pt.recipes.fedavg_he import FedAvgRecipeWithHE
from nvflare.recipe import ProdEnv
from nvflare_model import NvflareModel

SITES = 3
POLL_SECONDS = 3.0


def main() -> None:
    """Command line; see the module's first lines."""
    kit, admin, mode, parameters, rounds = sys.argv[1:]
    common = {
        "name": f"benchmark-{mode}",
        "model": NvflareModel(int(parameters)),
        "min_clients": SITES,
        "num_rounds": int(rounds),
        "train_script": str(Path(__file__).with_name("nvflare_client.py")),
    }
    if mode == "he":
        recipe = FedAvgRecipeWithHE(aggregator_data_kind=DataKind.WEIGHT_DIFF, train_args="", **common)
    else:
        recipe = FedAvgRecipe(**common)
    run = recipe.execute(ProdEnv(startup_kit_location=kit, username=admin, login_timeout=60))
    print(f"job {run.get_job_id()}", flush=True)
    status = ""
    while not status.startswith("FINISHED"):
        time.sleep(POLL_SECONDS)
        status = str(run.get_status())
    print(f"ended {status}", flush=True)


if __name__ == "__main__":
    main()
