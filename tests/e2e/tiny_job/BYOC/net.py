"""A small network with a norm layer, so that running statistics and an integer counter take part."""

import torch


class TinyNet(torch.nn.Module):
    def __init__(self, features):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv3d(1, features, 3, padding=1),
            torch.nn.BatchNorm3d(features),
            torch.nn.ReLU(),
            torch.nn.Conv3d(features, 2, 3, padding=1),
        )

    def forward(self, image):
        return self.layers(image)
