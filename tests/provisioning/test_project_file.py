"""The project file: defaults for all but names, and one clear line for everything that can be wrong."""

from pathlib import Path

import pytest
import yaml

from fedhe.config.project import load_project
from fedhe.errors import ConfigError
from fedhe.he.params import CkksParamsLiteral

EXAMPLES = Path(__file__).parents[2] / "provision"

GOOD = """\
project: {name: brain-mri}
server: {host: fl.example.org}
sites:
  - hospitalA
  - hospitalB
  - name: hospitalC
admins:
  - lead@example.org
"""


def load(tmp_path, text):
    path = tmp_path / "project.yml"
    path.write_text(text)
    return load_project(path)


def test_names_are_enough(tmp_path):
    project = load(tmp_path, GOOD)
    assert [site.name for site in project.sites] == ["hospitalA", "hospitalB", "hospitalC"]
    assert (project.server.port, project.smallest_round, project.engine) == (8443, 3, "seal")
    assert (project.admins[0].role, project.admins[0].holds_key) == ("lead", False)
    assert (project.certificates.days, project.certificates.ca_days) == (365, 3650)
    assert project.he.to_literal() == CkksParamsLiteral()
    assert project.project.version == "1"


def test_two_sites_make_rounds_of_two(tmp_path):
    assert load(tmp_path, GOOD.replace("  - hospitalB\n", "")).smallest_round == 2


def test_a_version_may_look_like_a_number(tmp_path):
    assert load(tmp_path, GOOD.replace("brain-mri}", "brain-mri, version: 2.1}")).project.version == "2.1"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("sites:", "stes:", r"yml:3: unknown key 'stes'|yml:1: key 'sites' is missing"),
        ("host:", "hots:", r"yml:2: (unknown key 'server.hots'|key 'server.host' is missing)"),
        ("host: fl.example.org", "host: fl.example.org, prot: 1", r"yml:2: unknown key 'server.prot'"),
        ("host: fl.example.org", "host: 'https://fl.example.org'", r"yml:2: server.host: expected a DNS name"),
        ("host: fl.example.org", "host: 10.0.0.300", r"yml:2: server.host: expected a DNS name"),
        ("host: fl.example.org", "host: fl.example.org, port: 70000", r"yml:2: server.port: .*65535"),
        ("- hospitalB", "- hospitalA", r"yml:5: 'hospitalA' is given twice.*first on line 4"),
        ("- hospitalB", "- HospitalA", r"yml:5: 'HospitalA' differs from 'hospitalA' by case only"),
        ("- lead@example.org", "- hospitalC", r"yml:8: 'hospitalC' is given twice.*first on line 6"),
        ("- hospitalB", "- hospital B", r"yml:5: sites.1.name: expected a letter and then.*'hospital B'"),
        ("- hospitalB", "- ../../etc", r"yml:5: sites.1.name: expected a letter"),
        ("- hospitalB", "- " + "x" * 64, r"yml:5: sites.1.name: expected a letter"),
        ("- hospitalB", "- Server", r"yml:5: sites.1.name: 'Server' is the server's own name"),
        ("- hospitalB", "- 12", r"yml:5: sites.1: "),
        ("- hospitalB", "- {nam: hospitalB}", r"yml:5: (key 'sites.1.name' is missing|unknown key 'sites.1.nam')"),
        ("- lead@example.org", "- {name: a, role: boss}", r"yml:8: admins.0.role: .*'lead' or 'observer'"),
        ("- lead@example.org", "- {name: a, role: observer}", r"at least one with role lead"),
        (
            "- lead@example.org",
            "- {name: a}\n  - {name: b, role: observer, holds_key: true}",
            r"yml:9: admins.1: holds_key: an observer cannot",
        ),
        ("  - hospitalB\n  - name: hospitalC\n", "", r"yml:3: sites: .*at least 2"),
        ("admins:", "min_sites: 4\nadmins:", r"min_sites: expected at most the 3 sites there are, got 4"),
        ("admins:", "min_sites: 1\nadmins:", r"yml:7: min_sites: .*greater than or equal to 2"),
        ("admins:", "he: {poly_modulus_degree: 2048}\nadmins:", r"he: poly_modulus_degree"),
        ("admins:", "he: {field_bits: 60}\nadmins:", r"he: .*field"),
        ("admins:", "engine: tenseal\nadmins:", r"yml:7: engine"),
        ("admins:", "certificates: {days: 4000}\nadmins:", r"yml:7: certificates.days"),
        ("admins:", "certificates: {days: 365, ca_days: 30}\nadmins:", r"the authority would die first"),
        ("admins:", "certificates: {algorithm: rsa}\nadmins:", r"yml:7: certificates.algorithm: .*p256"),
        ("project: {name: brain-mri}", "project: {name: 'brain/mri'}", r"yml:1: project.name: expected a letter"),
        ("sites:\n", "sites:\n\t- x\n", r"yml:4: "),
        (GOOD, "", r"expected keys project, server, sites and admins"),
        (GOOD, "- a\n- b\n", r"expected keys project, server, sites and admins, got list"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path, old, new, message):
    assert old in GOOD
    with pytest.raises(ConfigError, match=message) as caught:
        load(tmp_path, GOOD.replace(old, new))
    assert "\n" not in caught.value.message


def test_a_typo_names_the_nearest_key(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, GOOD + "certifcates: {days: 3}\n")
    assert caught.value.hint == "did you mean 'certificates'?"


def test_more_sites_than_can_be_summed_exactly_are_refused(tmp_path):
    many = "sites: [" + ", ".join(f"s{i}" for i in range(98)) + "]\n"
    with pytest.raises(ConfigError, match="can sum 97 sites exactly, got 98"):
        load(tmp_path, GOOD[: GOOD.index("sites:")] + many + "admins: [lead]\n")


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yml")), ids=lambda path: path.name)
def test_the_example_files_are_valid(path):
    assert len(load_project(path).sites) == 3


def test_the_example_that_init_writes_is_the_commented_one_and_its_comments_show_the_defaults(tmp_path):
    text = (EXAMPLES / "three-hospitals.yml").read_text()
    from importlib.resources import files

    assert files("fedhe.provisioning").joinpath("example.yml").read_text() == text
    keys = ("version:", "port:", "min_sites:", "he:", "certificates:")
    keys += ("  poly", "  coeff", "  scale", "  field", "  stat", "  days", "  ca_days", "  algo")
    lines = []
    for line in text.splitlines():
        stripped = line.lstrip(" ")
        if stripped.startswith("# ") and stripped[2:].startswith(keys):
            lines.append(line.replace("# ", "", 1))
        else:
            lines.append(line)
    written_out = yaml.safe_load("\n".join(lines))
    path = tmp_path / "explicit.yml"
    path.write_text(yaml.safe_dump(written_out))
    explicit, implicit = load_project(path), load_project(EXAMPLES / "three-hospitals.yml")
    assert written_out["he"]["scale_bits"]
    assert written_out["certificates"]["days"]
    assert explicit.model_copy(update={"min_sites": None}) == implicit
    assert explicit.smallest_round == implicit.smallest_round
