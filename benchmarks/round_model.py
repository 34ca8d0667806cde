"""A model of any number of values, in the tensors of a small convolutional network: what the rounds move."""

import math

LAYERS = 10  # each a weight and a bias


def model_shapes(parameters: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of 20 tensors with `parameters` values in all.

    Biases have a width of 16 and more, doubling every other layer, as in networks for images; weights grow with the
    square of it, so a few tensors hold nearly all values, and the last weight takes what is left over.

    Raises:
        ValueError: fewer values than the biases have.
    """
    widths = [16 << layer // 2 for layer in range(LAYERS)]
    biases = sum(widths)
    if parameters < 2 * biases:
        raise ValueError(f"expected at least {2 * biases} parameters, got {parameters}")
    shares = [width * width for width in widths]
    sizes = [max(1, (parameters - biases) * share // sum(shares)) for share in shares]
    sizes[-1] += parameters - biases - sum(sizes)
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, (size, width) in enumerate(zip(sizes, widths, strict=True)):
        rows = math.gcd(size, width)
        shapes[f"layer{layer}.weight"] = (rows, size // rows)
        shapes[f"layer{layer}.bias"] = (width,)
    return shapes
