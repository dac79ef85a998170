"""One file with all of an installation that cannot be made anew: the database, the secrets, usage
that is still in this machine's journals, and the ledger's exported hashes.

A backup may be made while everything runs. Journals are copied before the database is: what is
shipped between the two is in both, and shipping it again is a no-op; the other way round it would
be in neither.
"""

import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psycopg
from django.db import Error
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from billing import protection
from portal import embedded
from portal.database import DatabaseProblem, alone, reachable
from portal.lib.env import Environment

FORMAT = 1
FOLDERS = ("journal", "secrets", "ledger")
DUMP, MANIFEST = "database.dump", "manifest.json"
BARE = ["--no-owner", "--no-privileges"]  # roles differ from place to place
TABLES = """
    SELECT count(*) FROM pg_class
    WHERE relkind IN ('r', 'p') AND relnamespace = current_schema()::regnamespace
"""


class BackupProblem(Exception):
    """It cannot be made or restored; the text says why and what to do."""


def backup(env: Environment, to: Path) -> int:
    """Write the backup; its bytes. Raises BackupProblem."""
    if to.exists():
        raise BackupProblem(f"{to} exists already; choose another name.")
    try:
        with tempfile.TemporaryDirectory(dir=to.parent, prefix=f".{to.name}.") as folder:
            draft = Path(folder) / "backup"
            _write(env, draft)
            draft.replace(to)
    except DatabaseProblem as problem:
        raise BackupProblem(str(problem)) from problem
    except OSError as error:
        raise BackupProblem(f"{to} cannot be written: {error.strerror}.") from error
    return to.stat().st_size


def restore(env: Environment, file: Path) -> str:
    """Bring an empty home and an empty database to what they were; when that was, for people.

    Raises BackupProblem; then the database is as empty as before.
    """
    try:
        with tarfile.open(file) as archive:
            made = _manifest(archive)
            with alone(env) as database:
                _see_that_it_is_empty(database)
                # Files first: should we be cut off, the database is empty still, and all of it can
                # be done again.
                _unpack(env, archive)
                with tempfile.TemporaryDirectory(dir=env.home) as folder:
                    archive.extract(DUMP, folder, filter="data")
                    _run(
                        ["pg_restore", *BARE, "--single-transaction", "--exit-on-error"],
                        database,
                        str(Path(folder) / DUMP),
                    )
                _give_the_ledger_its_owner()
    except DatabaseProblem as problem:
        raise BackupProblem(str(problem)) from problem
    except (tarfile.TarError, KeyError, ValueError) as error:
        raise BackupProblem(f"{file} is no backup of Modelport, or is damaged: {error}") from error
    except OSError as error:
        raise BackupProblem(f"{error.filename or file}: {error.strerror}.") from error
    return made


def _write(env: Environment, draft: Path) -> None:
    with draft.open("xb") as file:
        draft.chmod(0o600)  # it has the secrets
        with tarfile.open(fileobj=file, mode="w") as archive:
            manifest = {
                "format": FORMAT,
                "version": version("modelport"),
                "at": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            about = draft.with_name(MANIFEST)
            about.write_text(json.dumps(manifest))
            archive.add(about, MANIFEST)
            for folder in FOLDERS:
                for path in sorted((env.home / folder).glob("*")):
                    _add(archive, path, f"{folder}/{path.name}")
            dump = draft.with_name(DUMP)
            with reachable(env) as database:
                _run(["pg_dump", *BARE, "--format=custom", f"--file={dump}"], database)
            archive.add(dump, DUMP)
        file.flush()
        os.fsync(file.fileno())


def _add(archive: tarfile.TarFile, path: Path, name: str) -> None:
    if path.name.startswith(".") or not path.is_file():
        return
    with suppress(FileNotFoundError):  # a journal that has been shipped since: the database has it
        archive.add(path, name)


def _manifest(archive: tarfile.TarFile) -> str:
    file = archive.extractfile(MANIFEST)
    manifest = json.load(file) if file else {}
    if manifest.get("format") != FORMAT:
        raise BackupProblem("The backup is of a kind that this version does not know.")
    return f"{manifest['at']} (Modelport {manifest['version']})"


def _unpack(env: Environment, archive: tarfile.TarFile) -> None:
    for member in archive.getmembers():
        folder, _, name = member.name.partition("/")
        content = archive.extractfile(member) if member.isfile() else None
        if folder not in FOLDERS or not name or "/" in name or content is None:
            continue
        target = env.home / folder / name
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        target.touch(mode=0o600)
        with target.open("wb") as copy:
            shutil.copyfileobj(content, copy)


def _see_that_it_is_empty(database: str) -> None:
    try:
        with psycopg.connect(database, connect_timeout=5) as connection:
            (tables,) = connection.execute(TABLES).fetchone() or (0,)
    except psycopg.OperationalError as error:
        raise BackupProblem(f"The database does not answer: {error}") from error
    if tables:
        raise BackupProblem(
            "The database is not empty, and a restore overwrites nothing. Name an empty folder "
            "with MODELPORT_HOME, or an empty database with DATABASE_URL."
        )


def _give_the_ledger_its_owner() -> None:
    if not protection.is_separate():
        return
    try:
        with protection.as_owner():
            protection.protect(protection.application())
    except Error as refused:
        raise BackupProblem(
            "Everything is restored, but the ledger's tables could not be kept from the "
            f"application: {refused} Mend that and run `modelport ledger protect`."
        ) from refused


def _run(argv: list[str], database: str, *more: str) -> None:
    """One of PostgreSQL's programs. Raises BackupProblem with its last words."""
    known = conninfo_to_dict(database)
    password = str(known.pop("password", None) or "")
    done = subprocess.run(
        [
            str(embedded.postgres_bin() / argv[0]),
            *argv[1:],
            f"--dbname={make_conninfo(**known)}",  # type: ignore[arg-type]
            *more,
        ],
        env=os.environ | ({"PGPASSWORD": password} if password else {}),  # argv is for all to see
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        words = (done.stderr.strip() or "it said nothing").splitlines()
        raise BackupProblem(f"{argv[0]} failed: {' '.join(words[:3])}")
