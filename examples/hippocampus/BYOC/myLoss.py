"""DiceTopKLoss: Dice plus cross-entropy over the hardest voxels, as an example of bringing your own loss."""

import torch
from monai.losses import DiceLoss
from torch import nn
from torch.nn import functional


class DiceTopKLoss(nn.Module):
    """Soft Dice over the structures plus cross-entropy averaged over the `part` of voxels with the largest loss.

    Most voxels of a hippocampus crop are background that is right after one epoch; the mean over all of them hides the
    border between anterior and posterior, where the work is. Wu et al., arXiv:1605.06885 (top-k cross-entropy).

    Args:
        part: part of the voxels that count, in (0, 1]; 1 is plain cross-entropy.
        balance: weight of the cross-entropy against Dice.
    """

    def __init__(self, part: float = 0.2, balance: float = 1.0) -> None:
        super().__init__()
        if not 0 < part <= 1:
            raise ValueError(f"part: expected more than 0 and at most 1, got {part}")
        self.part = part
        self.balance = balance
        self.dice = DiceLoss(include_background=False, to_onehot_y=True, softmax=True)

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Logits (batch, classes, x, y, z) and labels (batch, 1, x, y, z) to a scalar."""
        voxels = functional.cross_entropy(logits, labels[:, 0].long(), reduction="none").flatten()
        hardest = torch.topk(voxels, max(1, int(self.part * voxels.numel())), sorted=False).values
        return self.dice(logits, labels) + self.balance * hardest.mean()
