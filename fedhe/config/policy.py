"""The site's policy file `policy.yml`: what this site lets jobs do; it always wins over the job and the server."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from fedhe.config.document import FrozenModel, load_document, validate
from fedhe.errors import ConfigError

POLICY_FILE = "policy.yml"
MIN_SITES_FLOOR = 2  # a sum over one site is that site's update
MAX_ENVIRONMENT_ENTRIES = 256

Gpu = Annotated[int, Field(ge=0, le=1023)]
EnvironmentScalar = str | int | float | bool
EnvironmentValue = EnvironmentScalar | list[EnvironmentScalar]


class SitePolicy(FrozenModel):
    """A checked policy; the defaults are the careful ones.

    Attributes:
        job_code: `deny` refuses every job that brings code, and other jobs need approval; `approve` lets a job run
            once someone at this site approved the hash of its folder; `allow` runs every job that a lead admin signed.
        min_sites: a round with fewer sites than this gets no update from here; at least 2.
        data_root: folder with this site's images; jobs see it as DATA_ROOT.
        environment: values that replace those of a job's environment.json.
        gpus: `auto` (all that are there), `none`, or a list of device numbers.
        encrypt_on: `gpu` puts the HE key on the first of those GPUs and encrypts there; the agent reads this when it
            starts, and only projects with `engine: fast` allow it.
        share_metrics: whether loss and metrics may appear in progress and logs that the server can read.
        share_logs: whether the job's log lines at this site are sent to the server for admins to read.
        record_updates: whether to keep what was sent and received in each round, for this site's own checks.
        max_training_hours: a training process that runs longer is stopped; hours, None for no limit.
    """

    job_code: Literal["deny", "approve", "allow"] = "approve"
    min_sites: int = Field(default=3, ge=MIN_SITES_FLOOR, le=1000)
    data_root: Path | None = None
    environment: dict[str, EnvironmentValue] = Field(default_factory=dict, max_length=MAX_ENVIRONMENT_ENTRIES)
    gpus: Literal["auto", "none"] | list[Gpu] = "auto"
    encrypt_on: Literal["cpu", "gpu"] = "cpu"
    share_metrics: bool = False
    share_logs: bool = True
    record_updates: bool = False
    max_training_hours: float | None = Field(default=None, gt=0, le=24 * 365)

    @field_validator("data_root")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        if value is None:
            return None
        value = value.expanduser()
        if not value.is_absolute():
            raise ValueError(f"expected an absolute path such as /data/images, got '{value}'")
        return value

    @field_validator("gpus")
    @classmethod
    def _each_once(cls, value: str | list[int]) -> str | list[int]:
        if isinstance(value, list) and len(set(value)) != len(value):
            raise ValueError(f"expected each GPU once, got {value}")
        return value

    @field_validator("encrypt_on")
    @classmethod
    def _on_a_gpu_that_may_be_used(cls, value: str, info: ValidationInfo) -> str:
        if value == "gpu" and info.data.get("gpus") in ("none", []):
            raise ValueError("expected cpu where gpus allows none, got gpu")
        return value

    @property
    def encryption_gpu(self) -> int | None:
        """Number of the GPU that encrypts, the first that training may use; None where the CPU does."""
        if self.encrypt_on == "cpu":
            return None
        return self.gpus[0] if isinstance(self.gpus, list) else 0

    def overrides(self) -> dict[str, EnvironmentValue]:
        """Values that replace those of a job's environment.json, the data root among them."""
        root = {} if self.data_root is None else {"DATA_ROOT": str(self.data_root)}
        return {**self.environment, **root}


def load_policy(path: Path) -> SitePolicy:
    """Reads a policy file; a site without one gets the defaults.

    Raises:
        ConfigError: not a policy; names file, line and the nearest known key.
    """
    if not path.exists():
        return SitePolicy()
    document = load_document(path)
    if document.data is not None and not isinstance(document.data, dict):
        raise ConfigError(f"{path}:1: expected keys with values, got a {type(document.data).__name__}")
    return validate(SitePolicy, document)


def warnings_about(policy: SitePolicy) -> list[str]:
    """What a person at the site will want to know before the first job comes; one line each."""
    lines = []
    if policy.data_root is None and "DATA_ROOT" not in policy.environment:
        lines.append("data_root is not set: jobs will look for images where the job's environment.json says")
    elif policy.data_root is not None and not policy.data_root.is_dir():
        lines.append(f"data_root {policy.data_root} is not a folder: jobs will find no images")
    if policy.data_root is not None and "DATA_ROOT" in policy.environment:
        lines.append("environment.DATA_ROOT has no effect: data_root wins")
    if policy.job_code == "allow":
        lines.append("job_code: allow runs any code that a lead admin signs, without anyone here having seen it")
    if policy.min_sites < 3:
        lines.append(f"min_sites: {policy.min_sites} lets the other one of two sites compute this site's update")
    if policy.encrypt_on == "gpu":
        lines.append("encrypt_on: gpu keeps the HE key in the memory of a GPU that job code uses too")
    if policy.record_updates:
        lines.append("record_updates: plaintext updates stay in the job's record folder until somebody removes them")
    return lines


def example_policy(min_sites: int = 3) -> str:
    """The commented file that is written when a site's kit is installed."""
    return _EXAMPLE.format(min_sites=max(MIN_SITES_FLOOR, min_sites))


_EXAMPLE = """\
# What this site lets jobs do. This file always wins over the job and the server.
# It is read anew before each step of a job; `fedhe-client policy check` says whether it is well-formed.

# Code that jobs bring: deny    - refuse jobs that bring code; jobs without code still need approval
#                       approve - somebody here approves each job by its hash: fedhe-client jobs approve JOB
#                       allow   - run whatever a lead admin signs
job_code: approve

# A round with fewer sites than this gets no update from here (at least 2).
min_sites: {min_sites}

# Folder with this site's images; jobs see it as DATA_ROOT.
# data_root: /data/images

# Values that replace those of a job's config/environment.json.
# environment:
#   DATASET_JSON: /data/images/dataset.json

# GPUs that training may use: auto, none, or a list such as [0, 1].
gpus: auto

# Where this site encrypts: cpu, or gpu for the first of the GPUs above. That needs `engine: fast` in the project and
# torch with CUDA, keeps the key in the memory of a GPU that job code uses too, and is read when the agent starts.
encrypt_on: cpu

# Whether loss and metrics may appear in progress and logs that the server can read. They always travel to the
# other sites in notes that the server cannot open.
share_metrics: false

# Whether log lines about a job are sent to the server, for admins to read; of a training that failed the traceback,
# and with share_metrics what it printed before.
share_logs: true

# Keep what was sent and received in each round under jobs/JOB/record, in plaintext, for this site's own checks.
record_updates: false

# A training process that runs longer than this is stopped.
# max_training_hours: 48
"""
