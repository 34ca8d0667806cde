"""Where a passphrase comes from: a file, an environment variable, or the keyboard."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import typer

from fedhe.errors import ConfigError, TrustError
from fedhe.trust.private_files import read_limited

PASSPHRASE_VARIABLE = "FEDHE_PASSPHRASE"  # noqa: S105 - the variable's name, not a passphrase
MAX_PASSPHRASE_FILE_BYTES = 1024 * 1024

HOW = f"use --passphrase-file FILE or the environment variable {PASSPHRASE_VARIABLE}"


def ask(text: str) -> str:
    """Asks at the terminal without showing what is typed.

    Raises:
        ConfigError: there is no terminal to ask at.
    """
    if not sys.stdin.isatty():
        raise ConfigError("expected a passphrase, got none, and there is no terminal to ask at", HOW)
    return str(typer.prompt(text, hide_input=True))


def read_passphrase(
    env: str = PASSPHRASE_VARIABLE,
    file: Path | None = None,
    prompt: str | Callable[[], str] = "Passphrase",
    *,
    name: str | None = None,
) -> str:
    """Finds the passphrase: from the file if one is given, else from the environment variable, else by asking.

    Args:
        env: name of the environment variable.
        file: holds the passphrase alone, or the JSON of names and passphrases of `fedhe-provision --passphrases`.
        prompt: text to ask with, or what to call for the passphrase.
        name: whose passphrase, where the file has several.

    Raises:
        NotFoundError: there is no such file.
        ConfigError: nothing there, not text, the file has none for this name, or there is no terminal to ask at.
    """
    if file is not None:
        return _from_file(file, name)
    if (value := os.environ.get(env)) is not None:
        if not value.strip():
            raise ConfigError(f"{env}: expected a passphrase, got nothing", f"unset {env} to be asked")
        return value.strip()
    return (ask(prompt) if isinstance(prompt, str) else prompt()).strip()


def _from_file(file: Path, name: str | None) -> str:
    try:
        text = read_limited(file, MAX_PASSPHRASE_FILE_BYTES).decode().strip()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: expected a passphrase as UTF-8 text, got other bytes") from error
    except TrustError as error:
        raise ConfigError(error.message, "a file with the passphrase alone has a few bytes") from error
    if text.startswith("{"):
        try:
            known = json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigError(f"{file}:{error.lineno}: {error.msg}") from error
        if not isinstance(known.get(name), str):
            raise ConfigError(f"{file}: expected a passphrase for {name}, got those for {', '.join(known) or 'nobody'}")
        text = str(known[name])
    if not text or "\n" in text:
        raise ConfigError(f"{file}: expected one line with the passphrase, got {len(text.splitlines())} lines")
    return text
