"""A section's data: its cases, the chain of transforms, the dataset and the loader, shared out over processes."""

from dataclasses import dataclass
from typing import Any

import torch
from monai.data import DistributedSampler
from monai.transforms import Compose

from fedhe.config.mmar_schema import TrainSection, TransformComponent, ValidateSection
from fedhe.errors import TrainingError
from fedhe.training.cases import find_cases
from fedhe.training.components import Builder, Place

Section = TrainSection | ValidateSection


@dataclass(frozen=True)
class Team:
    """The processes that work on one task together.

    Attributes:
        device: of this process.
        rank: of this process, from 0.
        size: number of processes.
    """

    device: torch.device
    rank: int = 0
    size: int = 1


@dataclass(frozen=True)
class Data:
    """What an engine reads.

    Attributes:
        loader: batches.
        samples: number of cases at this site, over all processes.
    """

    loader: Any
    samples: int


def build_data(builder: Builder, section: Section, team: Team) -> Data:
    """Builds a section's dataset and loader.

    Args:
        builder: of the section; gets the objects `dataset`, `pre_transforms` and `dataloader`.
        section: the configuration.
        team: whose share to read.

    Raises:
        TrainingError: no cases, or a component is wrong; with the place.
    """
    chain = build_chain(builder, section, "pre_transforms")
    key: Place = (builder.section, "dataset")
    given: dict[str, Any] = {}
    taken = builder.parameters(section.dataset, key, "dataset")
    if chain is not None and (section.dataset.name is not None or "transform" in taken):
        given["transform"] = chain
    source = section.dataset.cases
    cases = None
    if source is not None:
        place = (*key, "data_list") if section.dataset.data_list is not None else (*key, "data_list_file_path")
        given["data"] = cases = find_cases(builder, source, place)
    dataset = builder.build(section.dataset, key, "dataset", given=given, defaults={"progress": False})
    builder.objects["dataset"] = dataset
    samples = len(cases) if cases is not None else _length(builder, dataset, key)
    loader = _loader(builder, section, dataset, team)
    builder.objects["dataloader"] = loader
    return Data(loader, samples)


def build_chain(builder: Builder, section: Section, which: str) -> Compose | None:
    """The chain `pre_transforms` or `post_transforms` of a section; None where it is empty.

    Raises:
        TrainingError: a step is wrong; with its place.
    """
    steps: tuple[TransformComponent, ...] = getattr(section, which)
    built = []
    for index, step in enumerate(steps):
        if step.disabled:
            continue
        key: Place = (builder.section, which, index)
        if step.ref is not None:
            step, key = _referred(builder, step.ref, which)  # noqa: PLW2901  # the step that stands for it
        made = builder.build(step, key, "transform")
        if not callable(made):
            raise TrainingError(f"{builder.mmar.place(key)}: expected a transform, got a {type(made).__name__}")
        built.append(made)
    chain = Compose(built) if built else None
    builder.objects[which] = chain
    return chain


def _referred(builder: Builder, name: str, which: str) -> tuple[TransformComponent, Place]:
    train = builder.mmar.config.train
    for chain in (which, "pre_transforms", "post_transforms"):
        for index, step in enumerate(getattr(train, chain)):
            if step.label == name:
                return step, ("train", chain, index)
    raise TrainingError(f"{builder.mmar.place((builder.section, which))}: train has no step '{name}'")


def _length(builder: Builder, dataset: Any, key: Place) -> int:
    try:
        length = len(dataset)
    except TypeError as error:
        raise TrainingError(
            f"{builder.mmar.place(key)}: expected a dataset with a length, got a {type(dataset).__name__}",
            "give a data_list, or add __len__: sites are weighted by their number of cases",
        ) from error
    if length == 0:
        raise TrainingError(f"{builder.mmar.place(key)}: the dataset is empty", "check DATA_ROOT")
    return length


def _loader(builder: Builder, section: Section, dataset: Any, team: Team) -> Any:
    key: Place = (builder.section, "dataloader")
    component = section.dataloader
    given = {"dataset": dataset}
    if team.size > 1:
        args = dict(component.args)
        shuffle = bool(args.pop("shuffle", False))
        training = builder.section == "train"
        # Training needs equally many batches in each process; metrics need each case once, unless cases are too few.
        even = training or len(dataset) < team.size
        given["sampler"] = DistributedSampler(
            dataset, even_divisible=even, num_replicas=team.size, rank=team.rank, shuffle=shuffle and training
        )
        component = component.model_copy(update={"args": args})
    loader = builder.build(component, key, "dataloader", given=given)
    if len(loader) == 0:
        raise TrainingError(
            f"{builder.mmar.place(key)}: {len(dataset)} items make no whole batch",
            "lower batch_size or set drop_last to false",
        )
    return loader
