"""NVFlare's side of "a training step that takes no time": sends small noise as the weights' difference, each round."""

import numpy as np
import nvflare.client as flare
import torch
from nvflare.app_common.abstract.fl_model import ParamsType


def main() -> None:
    """Follows the server until the job ends."""
    flare.init()
    number = int(flare.get_site_name().rpartition("-")[2])
    while flare.is_running():
        received = flare.receive()
        if received is None:
            break
        rng = np.random.default_rng([number, received.current_round])
        noise = {
            name: torch.from_numpy(rng.standard_normal(tuple(value.shape), dtype=np.float32) * np.float32(0.01))
            for name, value in received.params.items()
        }
        sent = flare.FLModel(params=noise, params_type=ParamsType.DIFF, meta={"NUM_STEPS_CURRENT_ROUND": 10 * number})
        flare.send(sent)


if __name__ == "__main__":
    main()
