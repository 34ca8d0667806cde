"""What can be checked of the images without an engine: what they copy, install, run, and are allowed to do."""

import importlib.util
import json
import subprocess
import sys
import tomllib
from importlib import metadata

import pytest

IMAGES = ["server.Dockerfile", "client.Dockerfile"]
TRAINING = {"torch", "monai", "pytorch-ignite", "nibabel"}


@pytest.fixture(scope="module")
def project(root):
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("image", IMAGES)
def test_everything_that_is_copied_exists(root, instructions, copied, image):
    sources = copied(instructions(image))
    assert {"pyproject.toml", "constraints.txt", "fedhe"} <= set(sources)
    assert [source for source in sources if not (root / source).exists()] == []


@pytest.mark.parametrize("image", IMAGES)
def test_a_build_sees_what_it_copies_and_nothing_else(root, instructions, copied, image):
    lines = (root / "docker" / f"{image}.dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule.removeprefix("!") for rule in rules if rule.startswith("!")} == set(copied(instructions(image)))


@pytest.mark.parametrize("image", IMAGES)
def test_the_project_file_and_what_it_names_are_copied_before_they_are_needed(
    root, instructions, copied, project, image
):
    needed = {project["readme"], *project["license-files"]}
    assert needed <= set(copied(instructions(image)))


@pytest.mark.parametrize("image", IMAGES)
def test_the_image_runs_a_command_that_the_project_installs(instructions, project, image):
    entry = json.loads(dict(instructions(image))["ENTRYPOINT"])
    assert entry[0] in project["scripts"]


@pytest.mark.parametrize("image", IMAGES)
def test_nothing_runs_as_root_and_state_is_in_a_volume(instructions, image):
    lines = instructions(image)
    final = lines[max(place for place, (keyword, _) in enumerate(lines) if keyword == "FROM") :]
    keywords = [keyword for keyword, _ in final]
    assert ("USER", "$UID") in final
    assert ("ARG", "UID=10001") in final
    assert keywords.index("USER") < keywords.index("ENTRYPOINT")
    assert ("VOLUME", "/var/lib/fedhe") in final
    assert "FEDHE_HOME=/var/lib/fedhe" in dict(final)["ENV"]


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_has_the_python_that_the_project_asks_for(instructions, project, image):
    bases = [rest.split()[0] for keyword, rest in instructions(image) if keyword == "FROM"]
    assert set(bases) == {"python:3.11-slim"}
    assert project["requires-python"] == ">=3.11"


def test_the_server_image_installs_no_torch(instructions, distributions):
    installs = [rest for keyword, rest in instructions("server.Dockerfile") if keyword == "RUN" and "pip" in rest]
    assert all("[" not in rest and "torch" not in rest for rest in installs)
    assert distributions().isdisjoint(TRAINING)


def test_the_client_image_installs_what_training_needs(instructions, distributions):
    text = " ".join(rest for _, rest in instructions("client.Dockerfile"))
    assert ".[client]" in text
    assert distributions("client") >= TRAINING


def test_every_package_of_the_images_is_pinned(root, distributions):
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in (root / "constraints.txt").open()}
    ours = {name for name in distributions("client") if name != "fedhe"}
    # torch brings packages for GPUs that exist on some platforms only; they follow from torch's own exact pins
    loose = {name for name in ours - pinned if not name.startswith(("nvidia-", "cuda-", "triton"))}
    assert loose <= {"setuptools", "pip"}


def test_server_and_admin_import_with_nothing_but_what_the_server_image_installs(distributions):
    """In a fresh process in which every other installed package is made to be missing."""
    allowed = distributions()
    providers = metadata.packages_distributions()
    missing = sorted(
        module
        for module, owners in providers.items()
        if not any(owner.lower().replace("_", "-") in allowed for owner in owners)
    )
    code = (
        "import importlib, sys\n"
        f"sys.modules.update(dict.fromkeys({missing!r}))\n"
        "for name in ('server', 'admin', 'provision'):\n"
        "    importlib.import_module('fedhe.cli.' + name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_server_says_that_it_is_healthy_through_a_command_that_exists(instructions):
    lines = dict(instructions("server.Dockerfile"))
    command = json.loads(lines["HEALTHCHECK"].partition("CMD ")[2])
    assert command == ["fedhe-server", "health"]
    done = subprocess.run(
        [sys.executable, "-c", "from fedhe.cli.server import main; main()", *command[1:], "--help"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def test_the_server_image_opens_the_port_that_it_listens_on(instructions):
    lines = dict(instructions("server.Dockerfile"))
    assert json.loads(lines["CMD"])[-1] == f"0.0.0.0:{lines['EXPOSE']}"


def test_migrations_are_part_of_what_an_image_installs():
    """The images install a wheel, not the source tree: everything the server reads must lie in a package."""
    spec = importlib.util.find_spec("fedhe.server.migrations")
    assert spec is not None
    assert spec.origin is not None, "fedhe/server/migrations needs an __init__.py"
