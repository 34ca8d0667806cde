"""MyBasicUNet: a small residual 3D U-Net, written out in plain PyTorch as an example of bringing your own network."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn


class ResidualBlock(nn.Module):
    """Two 3x3x3 convolutions with batch norm, and a shortcut around them; keeps the grid."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            nn.Conv3d(in_channels, out_channels, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm3d(out_channels),
            nn.ReLU(inplace=True),
            nn.Conv3d(out_channels, out_channels, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm3d(out_channels),
        )
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv3d(in_channels, out_channels, kernel_size=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, in_channels, x, y, z) to (batch, out_channels, x, y, z)."""
        return torch.relu(self.path(x) + self.shortcut(x))


class MyBasicUNet(nn.Module):
    """Residual U-Net that halves the grid once per level and adds the skips instead of joining them.

    Batch norm is used on purpose: its running statistics travel in the federation like weights do, on a finer grid
    (24 bits instead of 16), see `precision` in config_fed.yml.

    Args:
        in_channels: channels of the image, 1 for T1.
        out_channels: classes, background included.
        features: channels of each level, from full resolution down; the grid must divide by 2 ** (levels - 1).
    """

    def __init__(self, in_channels: int = 1, out_channels: int = 3, features: Sequence[int] = (8, 16, 32, 64)) -> None:
        super().__init__()
        if len(features) < 2:
            raise ValueError(f"features: expected at least 2 levels, got {list(features)}")
        self.multiple = 2 ** (len(features) - 1)
        self.stem = ResidualBlock(in_channels, features[0])
        pairs = list(pairwise(features))
        self.down = nn.ModuleList(nn.Conv3d(fine, coarse, kernel_size=2, stride=2) for fine, coarse in pairs)
        self.encode = nn.ModuleList(ResidualBlock(coarse, coarse) for _, coarse in pairs)
        self.up = nn.ModuleList(nn.ConvTranspose3d(coarse, fine, kernel_size=2, stride=2) for fine, coarse in pairs)
        self.decode = nn.ModuleList(ResidualBlock(fine, fine) for fine, _ in pairs)
        self.head = nn.Conv3d(features[0], out_channels, kernel_size=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, in_channels, x, y, z) to logits (batch, out_channels, x, y, z).

        Raises:
            ValueError: a side of the volume does not divide by 2 ** (levels - 1).
        """
        if any(side % self.multiple for side in x.shape[2:]):
            raise ValueError(f"expected sides that divide by {self.multiple}, got {tuple(x.shape[2:])}")
        skips = [self.stem(x)]
        for down, encode in zip(self.down, self.encode, strict=True):
            skips.append(encode(down(skips[-1])))
        x = skips.pop()
        for up, decode in zip(reversed(self.up), reversed(self.decode), strict=True):
            x = decode(up(x) + skips.pop())
        return self.head(x)
