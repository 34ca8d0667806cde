"""The project file: who takes part in a federation, where its server is, and with which parameters it encrypts."""

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from fedhe.config.document import Document, FrozenModel, Key, load_document, validate
from fedhe.errors import ConfigError, FedheError
from fedhe.he.params import CkksParams, CkksParamsLiteral

MAX_SITES = 1000
MAX_ADMINS = 200
MAX_CERTIFICATE_DAYS = 3650
MAX_AUTHORITY_DAYS = 36500

SERVER_NAME = "server"
"""The server's name in its certificate and its kit; no site or admin may have it."""

_SITE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,62}")
_ADMIN_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.@+-]{0,62}")
_PROJECT_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,62}")
_DNS_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")


def _site_name(name: str) -> str:
    if not _SITE_NAME.fullmatch(name):
        raise ValueError(f"expected a letter and then up to 62 letters, digits, '_', '.' or '-', got {name!r:.80}")
    return _not_reserved(name)


def _admin_name(name: str) -> str:
    if not _ADMIN_NAME.fullmatch(name):
        raise ValueError(f"expected a letter and then up to 62 letters, digits or '_.@+-', got {name!r:.80}")
    return _not_reserved(name)


def _not_reserved(name: str) -> str:
    if name.casefold() == SERVER_NAME:
        raise ValueError(f"{name!r} is the server's own name; choose another")
    return name


def _project_name(name: str) -> str:
    if not _PROJECT_NAME.fullmatch(name):
        raise ValueError(f"expected a letter and then up to 62 letters, digits, '_', '.' or '-', got {name!r:.80}")
    return name


def _host(host: str) -> str:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        labels = host.split(".")
        # a name that ends in a number is a mistyped IPv4 address, not a name (RFC 3696, section 2)
        if len(host) > 253 or not all(_DNS_LABEL.fullmatch(label) for label in labels) or labels[-1].isdigit():
            raise ValueError(
                f"expected a DNS name or IP address without port, such as fl.example.org, got {host!r:.80}"
            ) from None
    return host


def _named(value: Any) -> Any:
    """An entry may be written as its name alone."""
    return {"name": value} if isinstance(value, str) else value


EngineName = Literal["seal", "fast"]
"""What encrypts at the sites: Microsoft SEAL, or the compiled kernel that reads and writes its ciphertexts."""


class ProjectSection(FrozenModel):
    """What the federation is called.

    Attributes:
        name: in every certificate; two projects of one name still do not trust each other.
        version: the coordinator's own; shown in kits, not interpreted.
    """

    name: Annotated[str, AfterValidator(_project_name)]
    version: Annotated[str, BeforeValidator(lambda v: str(v) if isinstance(v, int | float) else v)] = Field(
        "1", min_length=1, max_length=40
    )


class ServerSection(FrozenModel):
    """Where sites and admins reach the server.

    Attributes:
        host: DNS name or IP address as the sites see it; it is in the server's certificate.
    """

    host: Annotated[str, AfterValidator(_host)]
    port: int = Field(8443, ge=1, le=65535)


class Site(FrozenModel):
    """A hospital."""

    name: Annotated[str, AfterValidator(_site_name)]


class Admin(FrozenModel):
    """A person who may talk to the server.

    Attributes:
        role: a lead may change things, an observer may look.
        holds_key: whether the kit has the project's keys, which open models and metrics; for leads only.
    """

    name: Annotated[str, AfterValidator(_admin_name)]
    role: Literal["lead", "observer"] = "lead"
    holds_key: bool = False

    @model_validator(mode="after")
    def _only_leads_hold_keys(self) -> Self:
        if self.holds_key and self.role != "lead":
            raise ValueError("holds_key: an observer cannot hold the project's keys; make the admin a lead")
        return self


class HeSection(FrozenModel):
    """Parameters of the encryption, unchecked; `fedhe.he.params.CkksParams` checks them."""

    poly_modulus_degree: int = CkksParamsLiteral().poly_modulus_degree
    coeff_modulus_bits: tuple[int, ...] = tuple(CkksParamsLiteral().coeff_modulus_bits)
    scale_bits: int = CkksParamsLiteral().scale_bits
    field_bits: int = CkksParamsLiteral().field_bits
    statistics_bits: int = CkksParamsLiteral().statistics_bits

    def to_literal(self) -> CkksParamsLiteral:
        """The same numbers for `CkksParams.from_literal`."""
        return CkksParamsLiteral(
            poly_modulus_degree=self.poly_modulus_degree,
            coeff_modulus_bits=self.coeff_modulus_bits,
            scale_bits=self.scale_bits,
            field_bits=self.field_bits,
            statistics_bits=self.statistics_bits,
        )


class CertificateSection(FrozenModel):
    """How long certificates live, in days."""

    days: int = Field(365, ge=1, le=MAX_CERTIFICATE_DAYS)
    ca_days: int = Field(3650, ge=1, le=MAX_AUTHORITY_DAYS)
    algorithm: Literal["p256"] = "p256"

    @model_validator(mode="after")
    def _authority_lives_longer(self) -> Self:
        if self.ca_days < self.days:
            raise ValueError(f"ca_days ({self.ca_days}) is less than days ({self.days}): the authority would die first")
        return self


class Project(FrozenModel):
    """A whole project file; valid once made."""

    project: ProjectSection
    server: ServerSection
    sites: tuple[Annotated[Site, BeforeValidator(_named)], ...] = Field(min_length=2, max_length=MAX_SITES)
    admins: tuple[Annotated[Admin, BeforeValidator(_named)], ...] = Field(min_length=1, max_length=MAX_ADMINS)
    min_sites: Annotated[int | None, Field(ge=2)] = None
    he: HeSection = HeSection()
    engine: EngineName = "seal"
    certificates: CertificateSection = CertificateSection()

    @property
    def smallest_round(self) -> int:
        """The fewest sites that any round may sum: `min_sites`, or 3, or 2 where there are only two sites."""
        return self.min_sites if self.min_sites is not None else min(3, len(self.sites))

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        clash = _first_clash([entry.name for section in (self.sites, self.admins) for entry in section])
        if clash:
            raise ValueError(clash[2])
        if not any(admin.role == "lead" for admin in self.admins):
            raise ValueError("admins: expected at least one with role lead, who can run jobs, got only observers")
        if self.smallest_round > len(self.sites):
            raise ValueError(f"min_sites: expected at most the {len(self.sites)} sites there are, got {self.min_sites}")
        try:
            params = CkksParams.from_literal(self.he.to_literal())
        except FedheError as error:
            raise ValueError(f"he: {error.message}") from error
        if len(self.sites) > params.max_sites:
            raise ValueError(
                f"sites: these he parameters can sum {params.max_sites} sites exactly, got {len(self.sites)}; "
                "raise he.scale_bits and lower he.field_bits"
            )
        return self


def load_project(path: Path) -> Project:
    """Reads a project file.

    Raises:
        ConfigError: the first thing that is wrong, with file and line.
    """
    document = load_document(path)
    _check_names(document)
    return validate(Project, document)


def _check_names(document: Document) -> None:
    """Finds names given twice before validation does, because here the line is known."""
    if not isinstance(document.data, dict):
        raise ConfigError(
            f"{document.path}: expected keys project, server, sites and admins, got {type(document.data).__name__}",
            "fedhe-provision --init writes an example",
        )
    places: list[tuple[Key, ...]] = []
    names: list[str] = []
    for section in ("sites", "admins"):
        entries = document.data.get(section)
        for index, entry in enumerate(entries if isinstance(entries, list) else []):
            name = entry.get("name") if isinstance(entry, dict) else entry
            if isinstance(name, str):
                places.append((section, index))
                names.append(name)
    clash = _first_clash(names)
    if clash:
        first, second, message = clash
        line = document.where(places[first]).rpartition(":")[2]
        raise ConfigError(f"{document.where(places[second])}: {message} (first on line {line})")


def _first_clash(names: list[str]) -> tuple[int, int, str] | None:
    seen: dict[str, int] = {}
    for index, name in enumerate(names):
        first = seen.setdefault(name.casefold(), index)
        if first != index:
            same = (
                f"{name!r} is given twice"
                if names[first] == name
                else f"{name!r} differs from {names[first]!r} by case only"
            )
            return first, index, f"{same}; sites and admins need different names"
    return None
