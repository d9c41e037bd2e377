"""What `--help` says: flags without a type, and examples that the parser takes."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from pruned_upstream.cli import build_app

APP = build_app()


def commands(group: Any, *names: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, *names, name)
        else:
            yield " ".join((*names, name)), command


COMMANDS = dict(commands(typer.main.get_command(APP)))


@pytest.mark.parametrize("name", ["", "hook", *COMMANDS])
def test_a_flag_shows_no_type(name):
    said = CliRunner().invoke(APP, [*name.split(), "--help"], terminal_width=80).output
    assert "--help" in said and "bool" not in said


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_are_calls_that_the_command_takes(name):
    command = COMMANDS[name]
    title, *calls = (command.epilog or "").split("\n\n")
    assert title == "Examples:" and calls
    for call in calls:
        program, *words = shlex.split(call.replace("\\[", "["))
        assert program == "pruned-upstream" and words[: len(name.split())] == name.split()
        command.make_context(name, words[len(name.split()) :])  # raises for what it does not know
