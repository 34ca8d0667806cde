"""`config/config_fed.yml` of a job: rounds, sites, deadlines, precision."""

import math
import re
from typing import Annotated, Final, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from fedhe.config.document import Document, FrozenModel, validate
from fedhe.config.project import MAX_SITES

_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd])")
MAX_DURATION_SECONDS: Final = 366 * 86400.0
MAX_JOB_ROUNDS: Final = 100_000
MAX_PATTERNS: Final = 1000
_SHOWN_CHARACTERS: Final = 80


def seconds_of(value: object) -> float:
    """A duration such as `90`, `"90s"`, `"30m"`, `"2h"`, `"1d"` in seconds.

    Raises:
        ValueError: not a duration, or not between 1 second and 366 days.
    """
    if isinstance(value, str) and (match := _DURATION.fullmatch(value.strip())):
        seconds = float(match[1]) * _UNITS[match[2]]
    elif isinstance(value, int | float) and not isinstance(value, bool):
        try:
            seconds = float(value)
        except OverflowError:
            seconds = math.inf
    else:
        raise ValueError(f"expected a duration such as 90s, 30m, 2h or 1d, got {_shown(value)}")
    if not (math.isfinite(seconds) and 1.0 <= seconds <= MAX_DURATION_SECONDS):
        raise ValueError(f"expected a duration from 1s to 366d, got {_shown(value)}")
    return seconds


def _shown(value: object) -> str:
    return repr(value)[:_SHOWN_CHARACTERS] if isinstance(value, str | int | float) else f"a {type(value).__name__}"


Duration = Annotated[float, BeforeValidator(seconds_of)]
Count = Annotated[int, Field(strict=True)]  # `yes` and `"3"` are no counts


class Precision(FrozenModel):
    """Bits of a value's field in the encrypted update."""

    field_bits: Count = Field(default=16, ge=8, le=32, description="bits for weights")
    statistics_bits: Count = Field(default=24, ge=8, le=32, description="bits for running statistics of norm layers")


class FederationConfig(FrozenModel):
    """How a job is federated; every key but `rounds` has a default."""

    name: str | None = Field(default=None, description="shown in listings; default: name of the job's folder")
    rounds: Count = Field(ge=1, le=MAX_JOB_ROUNDS, description="number of rounds")
    local_epochs: Count = Field(default=1, ge=1, description="epochs that each site trains in a round")
    min_sites: Count = Field(default=3, ge=2, le=MAX_SITES, description="a round goes on with at least this many sites")
    sites: tuple[str, ...] | None = Field(default=None, description="sites that take part; default: all enabled ones")
    train_deadline: Duration = Field(default=24 * 3600.0, description="longest wait for a site to train")
    upload_deadline: Duration = Field(default=6 * 3600.0, description="longest wait for uploads")
    apply_deadline: Duration = Field(default=6 * 3600.0, description="longest wait for sites to apply the sum")
    precision: Precision = Precision()
    exclude: tuple[str, ...] = Field(
        default=(), max_length=MAX_PATTERNS, description="tensors that stay at the site, as glob patterns of names"
    )
    statistics: Literal["share", "local"] = Field(
        default="share", description="running statistics of norm layers: averaged over the sites, or kept local"
    )
    checkpoint_every: Count = Field(default=5, ge=1, description="rounds between sealed checkpoints")
    seed: Count = Field(default=0, ge=0, lt=2**63, description="seed of training and of stochastic rounding")

    @field_validator("name")
    @classmethod
    def _printable_name(cls, name: str | None) -> str | None:
        if name is not None and not (0 < len(name) <= 63 and name.isprintable()):
            raise ValueError(f"expected 1 to 63 printable characters, got {name!r}")
        return name

    @model_validator(mode="after")
    def _enough_sites(self) -> "FederationConfig":
        if self.sites is not None:
            if len({site.casefold() for site in self.sites}) != len(self.sites):
                raise ValueError(f"sites: expected each site once, got {', '.join(self.sites)}")
            if len(self.sites) < self.min_sites:
                raise ValueError(f"sites: expected at least min_sites = {self.min_sites}, got {len(self.sites)}")
        return self


def federation_config(document: Document) -> FederationConfig:
    """Validates a parsed `config_fed.yml`.

    Raises:
        ConfigError: with file, line and nearest key.
    """
    return validate(FederationConfig, document)
