"""The shape of a job's training configuration `config_train.json`: which components there are and what they take."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from fedhe.config.document import FrozenModel

MAX_FOLDS = 1000
MAX_COMPONENTS = 1000  # of one list

Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
DottedPath = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$", max_length=500)]


class Component(FrozenModel):
    """Something to build: by `name` from the libraries, or by `path` from the job's own code.

    Attributes:
        name: class or function of MONAI, torch or ignite, such as DiceLoss.
        path: module and class below the job's folder or its `custom` folder, such as BYOC.myLoss.MyLoss.
        args: keyword arguments; `{NAME}` is replaced by a variable, `@model` by an object, and a nested
            {"name": ..., "args": ...} is built.
        disabled: leave the component out.
    """

    name: Name | None = None
    path: DottedPath | None = None
    args: dict[str, Any] = Field(default_factory=dict)
    disabled: bool = False

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.name is None) == (self.path is None):
            got = "neither" if self.name is None else f"name '{self.name}' and path '{self.path}'"
            raise ValueError(f"expected either 'name' (library) or 'path' (own code), got {got}")
        return self

    @property
    def label(self) -> str:
        """What the component is called in the file."""
        return str(self.name or self.path)


class ModelComponent(Component):
    """The network.

    Attributes:
        weights: file to start from instead of random weights: safetensors, or a PyTorch state_dict without code.
    """

    weights: str | None = None


class SchedulerComponent(Component):
    """The learning rate's schedule; in a federation it runs on over the rounds.

    Attributes:
        step: whether it advances after every epoch or after every iteration.
    """

    step: Literal["epoch", "iteration"] = "epoch"


class HandlerComponent(Component):
    """Something that an engine calls at its events.

    Attributes:
        rank: on several GPUs, attach it in this process only.
    """

    rank: int | None = Field(default=None, ge=0)


class MetricComponent(Component):
    """A figure of merit.

    Attributes:
        log_label: name in reports; by default `val_` or `train_` and the metric's name in snake case.
        is_key_metric: whether the job is judged by it; the first metric is, where none says so.
    """

    log_label: Name | None = None
    is_key_metric: bool = False


class TransformComponent(FrozenModel):
    """A step of a chain: a component, or in `validate` a `ref` to the step of that name in `train`."""

    name: Name | None = None
    path: DottedPath | None = None
    ref: Name | None = None
    args: dict[str, Any] = Field(default_factory=dict)
    disabled: bool = False

    @model_validator(mode="after")
    def _one_of_three(self) -> Self:
        given = [key for key in ("name", "path", "ref") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"expected one of 'name', 'path', 'ref', got {' and '.join(given) or 'none of them'}")
        if self.ref is not None and self.args:
            raise ValueError("expected no args beside 'ref': the step it refers to brings them")
        return self

    @property
    def label(self) -> str:
        """What the step is called in the file."""
        return str(self.name or self.path or self.ref)


class Part(FrozenModel):
    """This site's share of a list that several sites have in common.

    Attributes:
        index: which share, from 0.
        of: number of shares.
        seed: of the shuffle before dealing out; every site needs the same.
    """

    index: int = Field(ge=0)
    of: int = Field(ge=1, le=MAX_FOLDS)
    seed: int = Field(default=0, ge=0, lt=1 << 32)

    @model_validator(mode="after")
    def _inside(self) -> Self:
        if self.index >= self.of:
            raise ValueError(f"index: expected 0 to {self.of - 1}, got {self.index}")
        return self


class Split(FrozenModel):
    """The folds of this site's list that a section reads.

    Attributes:
        folds: number of folds.
        use: numbers of the folds to read, from 0.
        seed: of the shuffle before dealing out; `train` and `validate` need the same.
    """

    folds: int = Field(ge=2, le=MAX_FOLDS)
    use: tuple[int, ...] = Field(min_length=1)
    seed: int = Field(default=0, ge=0, lt=1 << 32)

    @model_validator(mode="after")
    def _inside(self) -> Self:
        if bad := [fold for fold in self.use if not 0 <= fold < self.folds]:
            raise ValueError(f"use: expected folds 0 to {self.folds - 1}, got {bad[0]}")
        if len(set(self.use)) != len(self.use):
            raise ValueError(f"use: expected each fold once, got {list(self.use)}")
        return self


class DataList(FrozenModel):
    """Where a section's cases come from.

    Attributes:
        name: `decathlon`: a JSON file in the layout of the Medical Segmentation Decathlon.
        path: instead of a name, own code: a function that returns a list of {"image": ..., "label": ...}.
        args: of that function.
        file: the JSON file; a relative path starts at the job's folder.
        key: the list in that file.
        base_dir: where the list's relative paths start; the file's folder by default.
        part: take this site's share first.
        split: then take these folds.
        limit: then take at most that many cases.
    """

    name: Literal["decathlon"] | None = None
    path: DottedPath | None = None
    args: dict[str, Any] = Field(default_factory=dict)
    file: str | None = None
    key: str = "training"
    base_dir: str | None = None
    part: Part | None = None
    split: Split | None = None
    limit: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.path is None and self.file is None:
            raise ValueError("expected 'file' (a Decathlon JSON file) or 'path' (own code), got neither")
        if self.path is not None and (self.file is not None or self.name is not None):
            raise ValueError("expected either 'file' or 'path', got both")
        return self


class DatasetComponent(Component):
    """The cases of a section and the class that reads them.

    Attributes:
        data_list: the cases; may be left out for a dataset of own code that finds its cases itself.
        data_list_file_path: Clara Train's way to write data_list.file.
        data_file_base_dir: Clara Train's way to write data_list.base_dir.
        data_list_key: Clara Train's way to write data_list.key.
    """

    data_list: DataList | None = None
    data_list_file_path: str | None = None
    data_file_base_dir: str | None = None
    data_list_key: str | None = None

    @model_validator(mode="after")
    def _has_cases(self) -> Self:
        if self.data_list is not None and self.data_list_file_path is not None:
            raise ValueError("expected either 'data_list' or 'data_list_file_path', got both")
        if self.cases is None and self.path is None:
            raise ValueError("key 'data_list' is missing")
        return self

    @property
    def cases(self) -> DataList | None:
        """The data list, however it was written."""
        if self.data_list is not None or self.data_list_file_path is None:
            return self.data_list
        return DataList(
            file=self.data_list_file_path, base_dir=self.data_file_base_dir, key=self.data_list_key or "training"
        )


Transforms = Annotated[tuple[TransformComponent, ...], Field(max_length=MAX_COMPONENTS)]
Handlers = Annotated[tuple[HandlerComponent, ...], Field(max_length=MAX_COMPONENTS)]
Metrics = Annotated[tuple[MetricComponent, ...], Field(max_length=MAX_COMPONENTS)]
_DATALOADER = Component(name="DataLoader", args={"batch_size": 1})
_INFERER = Component(name="SimpleInferer")


class TrainSection(FrozenModel):
    """How the model is trained; see each component's class."""

    model: ModelComponent
    loss: Component
    optimizer: Component
    lr_scheduler: SchedulerComponent | None = None
    pre_transforms: Transforms = ()
    dataset: DatasetComponent
    dataloader: Component = _DATALOADER
    inferer: Component = _INFERER
    handlers: Handlers = ()
    post_transforms: Transforms = ()
    metrics: Metrics = ()
    trainer: Component = Component(name="SupervisedTrainer")


class ValidateSection(FrozenModel):
    """How a model is judged; see each component's class."""

    pre_transforms: Transforms = ()
    dataset: DatasetComponent
    dataloader: Component = _DATALOADER
    inferer: Component = _INFERER
    handlers: Handlers = ()
    post_transforms: Transforms = ()
    metrics: Metrics = Field(min_length=1)
    evaluator: Component = Component(name="SupervisedEvaluator")


class Determinism(FrozenModel):
    """Repeatable training.

    Attributes:
        random_seed: for training without a federation; in a federation the job's `seed` is used.
    """

    random_seed: int = Field(default=0, ge=0, lt=1 << 63)


class MmarConfig(FrozenModel):
    """The whole of `config_train.json`, variables already put in.

    Attributes:
        epochs: for training without a federation; in a federation `local_epochs` of config_fed.yml.
        use_gpu: False trains on the CPU even where there is a GPU.
        multi_gpu: use all GPUs that the site allows, one process each.
        amp: mixed precision; on a CPU it is left out with a warning.
        determinism: True or a seed asks for repeatable kernels too, slower on GPUs.
        cudnn_benchmark: let cuDNN try which kernels are fastest; not together with determinism.
        num_interval_per_valid: without a federation, validate after every so many epochs.
        train: the training section.
        validate_: the section `validate`; without it there are no metrics.
    """

    epochs: int = Field(default=1, ge=1, le=1_000_000)
    use_gpu: bool = True
    multi_gpu: bool = False
    amp: bool = False
    determinism: bool | Determinism = True
    cudnn_benchmark: bool = False
    num_interval_per_valid: int = Field(default=1, ge=1)
    train: TrainSection
    validate_: ValidateSection | None = Field(default=None, alias="validate")

    @property
    def random_seed(self) -> int:
        """Seed for training without a federation."""
        return self.determinism.random_seed if isinstance(self.determinism, Determinism) else 0

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.cudnn_benchmark and self.determinism:
            raise ValueError("cudnn_benchmark: expected false with determinism, got true; set one of them to false")
        section = self.validate_
        if section is not None and sum(metric.is_key_metric for metric in section.metrics) > 1:
            raise ValueError("validate.metrics: expected at most one with is_key_metric, got several")
        return self
