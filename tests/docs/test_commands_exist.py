"""Every fedhe command in the documentation exists, with every option it is given."""

import importlib

import pytest
import typer

PROGRAMS = {
    "fedhe-provision": "fedhe.cli.provision",
    "fedhe-server": "fedhe.cli.server",
    "fedhe-client": "fedhe.cli.client",
    "fedhe-admin": "fedhe.cli.admin",
    "fedhe-train": "fedhe.cli.train",
}


def check(words: list[str]) -> None:
    command = typer.main.get_command(importlib.import_module(PROGRAMS[words[0]]).app)
    rest = words[1:]
    while hasattr(command, "commands") and rest and rest[0] in command.commands:
        command = command.commands[rest.pop(0)]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
    for word in rest:
        if word.startswith("-"):
            assert word.split("=")[0] in known, f"{' '.join(words)}: {word} is not among {sorted(known)}"
    if hasattr(command, "commands"):
        assert rest[:1] == ["--help"] or not rest, f"{' '.join(words)}: no such command as {rest[0]}"


def test_every_documented_command_and_option_exists(documented_commands):
    seen = 0
    for commands in documented_commands.values():
        for command in commands:
            words = command.words
            while words and "=" in words[0]:  # NAME=value before a command
                words.pop(0)
            if words and words[0] in PROGRAMS:
                check(words)
                seen += 1
    assert seen > 20


def test_the_check_refuses_what_does_not_exist():
    with pytest.raises(AssertionError, match="--no-such"):
        check(["fedhe-server", "start", "--no-such"])
    with pytest.raises(AssertionError, match="no such command"):
        check(["fedhe-admin", "jbos"])
