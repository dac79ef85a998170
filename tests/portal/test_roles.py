"""Two roles on a PostgreSQL of one's own: the application's, and the ledger's owner."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from django.conf import settings

from tests.journeys.running import NOT_PASSED_ON, ROOT

APPLICATION, OWNER = "modelport_test_app", "modelport_test_owner"
GIFT = f"GRANT {APPLICATION} TO {OWNER}"
pytestmark = pytest.mark.slow


def url(role: str) -> str:
    """The test run's own server trusts whoever reaches it."""
    _, _, rest = settings.ENV.database.partition("@")
    return f"postgresql://{role}@/modelport_test_roles?{rest.partition('?')[2]}"


@pytest.fixture
def server() -> Iterator["psycopg.Connection[tuple[object, ...]]"]:
    with psycopg.connect(settings.ENV.database, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {APPLICATION} LOGIN")
        connection.execute(f"CREATE ROLE {OWNER} LOGIN")
        try:
            yield connection
        finally:
            connection.execute("DROP DATABASE IF EXISTS modelport_test_roles WITH (FORCE)")
            connection.execute(f"DROP ROLE {OWNER}")
            connection.execute(f"DROP ROLE {APPLICATION}")


def modelport(home: Path, *arguments: str, owner: str = "") -> str:
    kept = {k: v for k, v in os.environ.items() if k not in NOT_PASSED_ON}
    given = {"MODELPORT_HOME": str(home), "DATABASE_URL": url(APPLICATION)}
    if owner:
        given["DATABASE_OWNER_URL"] = url(owner)
    done = subprocess.run(
        [sys.executable, "-m", "portal.cli", *arguments],
        env=kept | given,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def works(home: Path) -> None:
    """The application does its work without the owner."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.portal.traffic", "ledger"],
        env=os.environ
        | {
            "MODELPORT_HOME": str(home),
            "DATABASE_URL": url(APPLICATION),
            "DJANGO_SETTINGS_MODULE": "portal.settings",
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_an_owner_that_is_no_superuser_keeps_the_ledger(server, tmp_path: Path) -> None:
    """As docs/operate.md tells to do it."""
    server.execute(GIFT)
    server.execute(f"CREATE DATABASE modelport_test_roles OWNER {OWNER}")
    modelport(tmp_path, "migrate", owner=OWNER)
    modelport(tmp_path, "migrate", owner=OWNER)
    works(tmp_path)
    said = modelport(tmp_path, "ledger", "verify")
    assert "may read the books and add to them, no more" in said
    assert "52 transactions" in said


def test_a_database_of_one_role_is_parted_later(server, tmp_path: Path) -> None:
    server.execute(f"CREATE DATABASE modelport_test_roles OWNER {APPLICATION}")
    modelport(tmp_path, "migrate")
    works(tmp_path)
    said = modelport(tmp_path, "ledger", "verify")
    assert "could alter the books: it owns the database" in said
    assert "may read the books" in modelport(tmp_path, "ledger", "protect", owner="postgres")
    assert "may read the books" in modelport(tmp_path, "ledger", "verify")
    refused = pytest.raises(psycopg.errors.InsufficientPrivilege)
    with psycopg.connect(url(APPLICATION)) as connection, refused:
        connection.execute("ALTER TABLE billing_ledger_entry DISABLE TRIGGER ALL")
