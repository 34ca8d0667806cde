"""Bright boxes in noise; each site's scanner has another slope."""

import numpy as np


def boxes(count, slope, first):
    cases = []
    for number in range(first, first + count):
        rng = np.random.default_rng(number)
        label = np.zeros((1, 12, 12, 12), np.float32)
        x, y, z = rng.integers(1, 6, 3)
        label[0, x : x + 5, y : y + 5, z : z + 5] = 1
        image = slope * label + rng.normal(0, 0.3, label.shape).astype(np.float32)
        cases.append({"image": image.astype(np.float32), "label": label})
    return cases
