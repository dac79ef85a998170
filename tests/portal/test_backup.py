"""P18: back up, destroy, restore, replay the journals: the same ledger, to the last bit."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from portal.embedded import Postgres
from portal.lib.env import Environment, read
from tests.journeys.running import NOT_PASSED_ON, ROOT

SOUND = "The books are sound. Hash of all of them: "


class House:
    """An installation on its embedded PostgreSQL, which is started where a test says so."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.env: Environment = read({"MODELPORT_HOME": str(home)})
        kept = {k: v for k, v in os.environ.items() if k not in NOT_PASSED_ON}
        self.environ = {k: v for k, v in kept.items() if "PYTEST" not in k} | {
            "MODELPORT_HOME": str(home),
            "DJANGO_SETTINGS_MODULE": "portal.settings",
        }

    @contextmanager
    def database(self) -> Iterator[None]:
        self.env.make_run_dir()
        server = Postgres(self.env)
        server.prepare()
        process = server.start(subprocess.DEVNULL)
        try:
            server.wait(process)
            yield
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()

    def run(self, *argv: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", *argv],
            env=self.environ,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )

    def modelport(self, *arguments: str) -> str:
        done = self.run("portal.cli", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def refused(self, *arguments: str) -> str:
        done = self.run("portal.cli", *arguments)
        assert done.returncode == 1
        return done.stderr

    def traffic(self, what: str) -> None:
        done = self.run("tests.portal.traffic", what)
        assert done.returncode == 0, done.stderr

    def drain(self) -> None:
        """A meter, until it has shipped all journals."""
        argv = [sys.executable, "-m", "portal.cli", "meter"]
        meter = subprocess.Popen(argv, env=self.environ, cwd=ROOT)
        deadline = time.monotonic() + 60
        while any(self.env.journal_dir.glob("*.journal")) and time.monotonic() < deadline:
            time.sleep(0.1)
        meter.terminate()
        assert meter.wait(30) == 0

    def ledger_hash(self) -> str:
        said = self.modelport("ledger", "verify")
        assert SOUND in said
        return said.split(SOUND)[1].strip()

    def usage(self) -> list[tuple[object, ...]]:
        with psycopg.connect(self.env.database) as connection:
            rows = connection.execute(
                "SELECT request_id, completion_tokens, outcome FROM billing_usage ORDER BY 1"
            )
            return rows.fetchall()

    def balances(self) -> list[tuple[object, ...]]:
        with psycopg.connect(self.env.database) as connection:
            return connection.execute(
                "SELECT kind, nano FROM billing_ledger_balance b "
                "JOIN billing_ledger_account a ON a.id = b.account_id ORDER BY 1, 2"
            ).fetchall()

    def as_superuser(self, statement: str) -> None:
        with psycopg.connect(self.env.database_owner) as connection:
            connection.execute(statement)


@pytest.fixture
def house() -> Iterator[House]:
    home = Path(tempfile.mkdtemp(prefix="mp-backup-"))
    yield House(home)
    shutil.rmtree(home, ignore_errors=True)


CLOCK = "CREATE OR REPLACE FUNCTION modelport_ledger_now() RETURNS timestamptz LANGUAGE sql AS '{}'"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_back_up_destroy_restore_and_replay(house: House, tmp_path: Path) -> None:
    file = tmp_path / "modelport.backup"
    with house.database():
        house.modelport("migrate")
        house.as_superuser(CLOCK.format("SELECT clock_timestamp() - interval ''1 day''"))
        house.traffic("ledger")
        house.as_superuser(CLOCK.format("SELECT clock_timestamp()"))
        assert "entries=" in house.modelport("ledger", "seal")
        house.traffic("journal")
        house.drain()
        house.traffic("journal")  # this one is in the journals alone
        assert len(house.usage()) == 23
        secrets = {path.name: path.read_text() for path in (house.home / "secrets").iterdir()}
        before = house.ledger_hash()

        house.modelport("backup", str(file))
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert "exists already" in house.refused("backup", str(file))

        # What becomes of it without any mishap:
        house.drain()
        used, balances = house.usage(), house.balances()
        assert len(used) == 46

    shutil.rmtree(house.home)
    house.modelport("restore", str(file))

    with house.database():
        assert house.ledger_hash() == before
        said = house.modelport("ledger", "verify")
        assert "1 exported hashes were compared" in said
        assert "may read the books and add to them, no more" in said
        house.drain()
        assert (house.usage(), house.balances()) == (used, balances)
        assert house.ledger_hash()
        restored = {path.name: path.read_text() for path in (house.home / "secrets").iterdir()}
        assert restored == secrets
    assert "not empty" in house.refused("restore", str(file))


@pytest.mark.slow
def test_a_backup_is_made_where_nothing_runs_too(house: House, tmp_path: Path) -> None:
    with house.database():
        house.modelport("migrate")
        before = house.ledger_hash()
    assert house.ledger_hash() == before
    house.modelport("backup", str(tmp_path / "backup"))
    shutil.rmtree(house.home)
    house.modelport("restore", str(tmp_path / "backup"))
    with house.database():
        assert house.ledger_hash() == before


def test_what_is_no_backup_is_refused_by_name(house: House, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("nothing")
    assert f"{wrong} is no backup of Modelport" in house.refused("restore", str(wrong))
    assert "There is no database in" in house.refused("ledger", "verify")
    assert "No such file" in house.refused("restore", str(tmp_path / "none"))
    assert not (house.home / "postgres").exists()
