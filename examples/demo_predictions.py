"""What a model makes of a case, through the job's own validation chain: transforms, network and inferer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from demo_figures import Picture
from numpy.typing import NDArray
from safetensors.torch import load_file

from fedhe.config.mmar import Mmar, load_mmar
from fedhe.training.cases import find_cases
from fedhe.training.components import Builder


@dataclass(frozen=True)
class View:
    """A case and the plane of it that is shown.

    Attributes:
        title: of the figure's row.
        case: paths of image and label.
        axis: the axis (0 left-right, 1 back-front, 2 bottom-top) that the plane is perpendicular to.
        flip: show the plane's axes exchanged.
        plane: its index along the axis; None takes the one with most of the labels.
    """

    title: str
    case: Mapping[str, str]
    axis: int
    flip: bool = False
    plane: int | None = None


def validation_case(job: Path, overrides: Mapping[str, Any]) -> dict[str, str]:
    """The case in the middle of those that a site with these values validates on."""
    mmar = load_mmar(job, overrides=overrides)
    section = mmar.config.validate_
    if section is None or section.dataset.cases is None:
        raise ValueError(f"{job}: expected a section 'validate' with a data_list, got none")
    cases = find_cases(Builder(mmar, "validate"), section.dataset.cases, ("validate", "dataset", "data_list"))
    return cases[len(cases) // 2]


def take_pictures(job: Path, models: Sequence[Path], views: Sequence[View]) -> list[Picture]:
    """Lets each model segment each view's whole volume.

    Args:
        job: the job's folder.
        models: safetensors files, as `fedhe-admin model download` writes them.
        views: what to look at.
    """
    mmar = load_mmar(job)
    prepare, inferer = _validation_chain(mmar)
    networks = [_network(mmar, weights) for weights in models]
    pictures = []
    for view in views:
        case = prepare(dict(view.case))
        image, truth = case["image"].as_tensor(), case["label"].as_tensor()[0].long().numpy()
        with torch.no_grad():
            scores = [inferer(image[None], network)[0] for network in networks]
        predictions = [score.argmax(0).numpy() for score in scores]
        plane = _fullest(truth, view.axis) if view.plane is None else view.plane
        pictures.append(
            Picture(
                view.title,
                _cut(image[0].numpy(), view, plane),
                _cut(truth, view, plane),
                tuple(_cut(prediction, view, plane) for prediction in predictions),
                tuple(mean_dice(prediction, truth, scores[0].shape[0]) for prediction in predictions),
            )
        )
    return pictures


def mean_dice(prediction: NDArray[np.int64], truth: NDArray[np.int64], classes: int) -> float:
    """Dice coefficient, averaged over the classes above 0 that the reference has."""
    values = []
    for label in range(1, classes):
        here, there = prediction == label, truth == label
        if there.any():
            values.append(2 * int((here & there).sum()) / int(here.sum() + there.sum()))
    return float(np.mean(values)) if values else 1.0


def _validation_chain(mmar: Mmar) -> tuple[Any, Any]:
    """The validation section's transforms and inferer, built."""
    section = mmar.config.validate_
    if section is None:
        raise ValueError(f"{mmar.folder}: expected a section 'validate', got none")
    from monai.transforms import Compose  # noqa: PLC0415 -- takes seconds to import

    named = {step.label: step for step in mmar.config.train.pre_transforms}
    builder = Builder(mmar, "validate")
    steps = [
        builder.build(named[step.ref] if step.ref else step, ("validate", "pre_transforms", index), "transform")
        for index, step in enumerate(section.pre_transforms)
    ]
    return Compose(steps), builder.build(section.inferer, ("validate", "inferer"), "inferer")


def _network(mmar: Mmar, weights: Path) -> torch.nn.Module:
    """The job's network with these weights, ready to predict."""
    network: torch.nn.Module = Builder(mmar, "train").build(mmar.config.train.model, ("train", "model"), "model")
    # Integer buffers, such as batch norm's counters, stay at the sites and play no part in prediction.
    network.load_state_dict(load_file(weights), strict=False)
    return network.eval()


def _fullest(truth: NDArray[np.int64], axis: int) -> int:
    others = tuple(other for other in range(truth.ndim) if other != axis)
    return int(np.argmax((truth > 0).sum(others)))


def _cut(volume: NDArray[Any], view: View, plane: int) -> NDArray[Any]:
    cut: NDArray[Any] = np.take(volume, plane, axis=view.axis)
    return cut.T if view.flip else cut
