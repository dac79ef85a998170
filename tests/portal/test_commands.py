"""The `modelport` command and what it says."""

import io
import json
import subprocess
import sys

import pytest
from django.conf import settings
from django.core.management import call_command

from accounts.models import ApiKey, Organization, User
from accounts.roles import Role
from portal.cli import COMMANDS, usage


def modelport(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "portal.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_names_every_command() -> None:
    said = modelport("--help").stdout
    assert all(f"  {name}" in said for name in COMMANDS)


def test_an_unknown_command_is_told_with_the_known_ones() -> None:
    refused = modelport("frobnicate")
    assert refused.returncode == 1
    assert "no command 'frobnicate'" in refused.stderr
    assert usage() in refused.stderr


def test_the_version_is_the_packages() -> None:
    assert modelport("--version").stdout.startswith("modelport 0.")


def bootstrap() -> dict[str, str]:
    out = io.StringIO()
    call_command("bootstrap", email="Ops@Acme.example", organization="Acme", stdout=out)
    said: dict[str, str] = json.loads(out.getvalue())
    return said


def test_bootstrap_makes_one_organization_and_a_key_that_works(db: None) -> None:
    first, again = bootstrap(), bootstrap()
    assert first["organization"] == again["organization"] == "acme"
    assert Organization.objects.count() == 1
    membership = User.objects.get(email="ops@acme.example").memberships.get()
    assert membership.role == Role.OWNER
    keys = ApiKey.objects.filter(kind=ApiKey.Kind.MANAGEMENT)
    assert keys.count() == 2
    assert first["base_url"] == f"{settings.PUBLIC_URL}/v1"


def test_the_doctor_finds_this_machine_fit() -> None:
    out = io.StringIO()
    call_command("doctor", stdout=out)
    said = out.getvalue()
    assert "Python 3" in said
    assert "PostgreSQL" in said
    assert "MISSING" not in said


def test_the_doctor_names_a_database_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    from portal import doctor  # noqa: PLC0415
    from portal.lib.env import read  # noqa: PLC0415

    env = read({"DATABASE_URL": "postgresql://127.0.0.1:1/x", "MODELPORT_HOME": "/tmp/x"})
    finding = doctor._database(env)
    assert finding.ok is False
    assert finding.remedy
