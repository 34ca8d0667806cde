"""The benchmark's model as a torch module, for NVFlare's rounds; runs in NVFlare's environment only."""

import torch
from round_model import model_shapes
from torch import nn


class NvflareModel(nn.Module):
    """The same tensors as round_model.py has.

    Args:
        total: values in all.
    """

    def __init__(self, total: int) -> None:
        super().__init__()
        self.total = total  # NVFlare reads the arguments of a job's model from attributes of their names
        generator = torch.Generator().manual_seed(0)
        for name, shape in model_shapes(total).items():
            values = torch.empty(shape).uniform_(-0.1, 0.1, generator=generator)
            self.register_parameter(name.replace(".", "_"), nn.Parameter(values))
