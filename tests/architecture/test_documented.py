"""Everything that people can set or call has its line of documentation."""

import re
from pathlib import Path

import pytest

from inference.doctor import Code
from portal.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
OPERATE = (ROOT / "docs" / "operate.md").read_text()
ENV = (ROOT / "portal" / "lib" / "env.py").read_text()
VARIABLES = sorted(set(re.findall(r'(?:get\(|environ, )"([A-Z][A-Z_]+)"', ENV)))


def test_the_variables_are_found() -> None:
    assert {"PORT", "DATABASE_URL", "MODELPORT_HOME"} <= set(VARIABLES)


@pytest.mark.parametrize("variable", VARIABLES)
def test_each_variable_is_explained(variable: str) -> None:
    assert f"`{variable}`" in OPERATE


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_each_command_is_explained(command: str) -> None:
    assert f"`modelport {command}" in OPERATE


@pytest.mark.parametrize("code", sorted(Code))
def test_each_failure_of_a_start_is_explained(code: Code) -> None:
    section = OPERATE.split("## When a start fails")[1].split("\n## ")[0]
    assert f"| `{code}` |" in section
