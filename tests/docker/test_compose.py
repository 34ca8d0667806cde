"""The compose file: one server and three sites that fit the project file beside it and the commands as they are."""

import importlib
import re
import shlex
import subprocess
import sys

import pytest
import typer
import yaml

from fedhe.config.project import load_project

SITES = ["hospitalA", "hospitalB", "hospitalC"]


@pytest.fixture(scope="module")
def compose(root):
    return yaml.safe_load((root / "docker" / "compose.yml").read_text())


@pytest.fixture(scope="module")
def services(compose):
    return compose["services"]


def test_there_is_one_server_three_sites_and_an_admin_on_request(services):
    assert list(services) == ["server", *SITES, "admin"]
    assert services["admin"]["profiles"] == ["admin"]
    assert [name for name, service in services.items() if "profiles" not in service] == ["server", *SITES]


def test_each_service_is_built_from_a_file_that_exists(root, services):
    for service in services.values():
        if "build" in service:
            assert service["build"]["context"] == ".."
            assert (root / service["build"]["dockerfile"]).is_file()


def test_the_project_file_names_the_same_server_and_sites(root, services):
    project = load_project(root / "docker" / "project.yml")
    assert project.server.host in services
    assert [site.name for site in project.sites] == SITES
    assert services["server"]["ports"] == [f"${{FEDHE_PORT:-8443}}:{project.server.port}"]
    assert services["server"]["command"][-1].endswith(f":{project.server.port}")


def test_sites_reach_the_server_and_never_each_other(compose, services):
    networks = [set(services[site]["networks"]) for site in SITES]
    assert all(len(own) == 1 for own in networks)
    assert len(set.union(*networks)) == len(SITES)
    assert set.union(*networks) < set(services["server"]["networks"])
    assert all("ports" not in services[site] for site in SITES)
    assert set(services["server"]["networks"]) == set(compose["networks"])


def test_each_service_keeps_its_own_state_and_sites_read_their_data_only(compose, services):
    homes = [service["volumes"][0].split(":") for service in services.values()]
    assert {home for home, _ in homes} == set(compose["volumes"])
    assert len({home for home, _ in homes}) == len(services)
    assert {place for _, place in homes} == {"/var/lib/fedhe"}
    for site in SITES:
        assert services[site]["volumes"][1] == f"${{DATA:-./data}}/{site}:/data:ro"


def test_nothing_has_rights_that_it_does_not_need(services):
    for service in services.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "privileged" not in service


@pytest.mark.parametrize("service", ["server", *SITES])
def test_each_service_is_started_with_options_that_its_command_has(services, service):
    program = "server" if service == "server" else "client"
    command, *rest = services[service]["command"]
    done = subprocess.run(
        [sys.executable, "-c", f"from fedhe.cli.{program} import main; main()", command, "--help"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"COLUMNS": "200", "TERM": "dumb", "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr
    options = [word for word in rest if word.startswith("--")]
    assert options
    assert all(option in done.stdout for option in options)
    if program == "client":
        assert rest == ["--site", service]


def test_the_readme_names_every_file_of_the_folder(root):
    folder = root / "docker"
    readme = (folder / "README.md").read_text()
    ignored = {"README.md"}
    names = {path.name for path in folder.iterdir() if not path.name.endswith(".dockerignore")} - ignored
    assert [name for name in names if f"`{name}`" not in readme] == []


def test_every_command_in_the_readme_exists(root, services):
    """Follows `dc run ... SERVICE WORDS` and `dc exec SERVICE PROGRAM WORDS` into the commands' own trees."""
    text = (root / "docker" / "README.md").read_text()
    programs = dict.fromkeys(SITES, "client") | {"$site": "client", "server": "server", "admin": "admin"}
    found = 0
    for line in re.findall(r"dc (?:run|exec) (.*)", text):
        words = shlex.split(line.split(";")[0])
        place = next(index for index, word in enumerate(words) if word in programs)
        program, rest = programs[words[place]], words[place + 1 :]
        if rest[0].startswith("fedhe-"):
            assert rest[0] == f"fedhe-{program}"
            rest = rest[1:]
        command = typer.main.get_command(importlib.import_module(f"fedhe.cli.{program}").app)
        while hasattr(command, "commands"):
            assert rest[0] in command.commands, line
            command, rest = command.commands[rest[0]], rest[1:]
        known = {name for option in command.params for name in option.opts}
        assert {word for word in rest if word.startswith("-")} <= known, line
        found += 1
    assert found >= 7
