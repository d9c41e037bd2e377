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


def test_paragraphs_flow_and_lists_stay_lists():
    said = CliRunner().invoke(APP, ["convert", "--help"], terminal_width=80, env={"COLUMNS": "80"}).output
    lines = [line.strip() for line in said.partition("\N{BOX DRAWINGS LIGHT ARC DOWN AND RIGHT}")[0].splitlines()]
    assert sum(line.startswith(("- ", "\N{BULLET}")) for line in lines) == 6
    flowing = [line for line in lines if line.startswith(("Into a folder", "transformers' own"))]
    assert len(flowing) == 2 and all(len(line) > 60 for line in flowing)
    assert max(map(len, said.splitlines())) <= 80
