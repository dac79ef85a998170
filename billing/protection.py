"""Who may do what to the ledger's tables.

They belong to whoever runs the migrations, and the application runs as another role, which may read
and add. So nothing that gets hold of the application's connection can alter what was posted. All
other tables are the application's own.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from django.conf import settings
from django.db import Error, connection, transaction
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from billing.models import Balance, Entry, LedgerAccount, LedgerDay, LedgerTransaction

BOOKS = tuple(
    model._meta.db_table for model in (LedgerAccount, LedgerTransaction, Entry, LedgerDay)
)
TABLES = (*BOOKS, Balance._meta.db_table)  # balances are derived from the books, and kept up


def is_separate() -> bool:
    """Whether the settings name an owner beside the application's own role."""
    env = settings.ENV
    return bool(env.database_owner != env.database)


def application() -> str:
    """The role that the application runs as; empty: whatever the system calls its user."""
    return str(conninfo_to_dict(settings.ENV.database).get("user") or "")


@contextmanager
def as_owner() -> Iterator[None]:
    """Django's connection is the owner's meanwhile, where there is one."""
    if not is_separate():
        yield
        return
    owner = conninfo_to_dict(settings.ENV.database_owner)
    used = connection.settings_dict
    before = {name: used[name] for name in ("USER", "PASSWORD", "HOST", "PORT")}
    connection.close()
    used.update({name: str(owner.get(name.lower()) or "") for name in before})
    try:
        yield
    finally:
        connection.close()
        used.update(before)


@transaction.atomic
def protect(role: str) -> None:
    """Keep the ledger's tables for ourselves, and give the application the others and the right to
    read and to add. To be done as the owner, after each migration. Raises Error: we may not."""
    us = _value("SELECT current_user")
    schema = sql.Identifier(_value("SELECT current_schema()"))
    _do("GRANT USAGE, CREATE ON SCHEMA {} TO {}", schema, sql.Identifier(role))
    with connection.cursor() as cursor:
        cursor.execute(_OTHERS, [list(TABLES), role])
        for kind, name in cursor.fetchall():
            _do(
                "ALTER {} {} OWNER TO {}", sql.SQL(kind), sql.Identifier(name), sql.Identifier(role)
            )
        cursor.execute(_RULES)
        for (name,) in cursor.fetchall():
            _do("ALTER FUNCTION {} OWNER TO {}", sql.Identifier(name), sql.Identifier(us))
    for table in TABLES:
        name, them = sql.Identifier(table), sql.Identifier(role)
        _do("ALTER TABLE {} OWNER TO {}", name, sql.Identifier(us))
        _do("REVOKE ALL ON {} FROM PUBLIC, {}", name, them)
        _do("GRANT SELECT, INSERT, REFERENCES ON {} TO {}", name, them)
    _do("GRANT UPDATE ON {} TO {}", sql.Identifier(Balance._meta.db_table), sql.Identifier(role))
    _take_database(us)


def _take_database(us: str) -> None:
    """Whose the database is may drop all that is in it. Where we may not take it, `weaknesses` says
    what that means."""
    database = sql.Identifier(_value("SELECT current_database()"))
    try:
        with transaction.atomic():
            _do("ALTER DATABASE {} OWNER TO {}", database, sql.Identifier(us))
    except Error:
        pass


def weaknesses() -> list[str]:
    """By what means the role of this connection could alter the books; none is what is wanted."""
    with connection.cursor() as cursor:
        cursor.execute(_ROLE)
        found = [why for why, is_so in zip(_ROLE_SAYS, cursor.fetchone(), strict=True) if is_so]
        if not found:
            cursor.execute(_ON_TABLES, [list(BOOKS)])
            for table, owns, may in cursor.fetchall():
                if owns:
                    found.append(f"it owns {table}")
                elif may:
                    found.append(f"it may do more to {table} than read and add")
        cursor.execute(_OFF, [list(BOOKS)])
        found += [f"the rule {name} of {table} is switched off" for table, name in cursor]
    return found


def _do(statement: str, *names: sql.Composable) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL(statement).format(*names))


def _value(query: str) -> str:
    with connection.cursor() as cursor:
        cursor.execute(query)
        return str(cursor.fetchone()[0])


# Sequences of columns go with their tables.
_OTHERS = """
    SELECT CASE relkind WHEN 'S' THEN 'SEQUENCE' WHEN 'v' THEN 'VIEW'
        WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'TABLE' END, relname
    FROM pg_class c
    WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'S')
        AND relname <> ALL(%s) AND relowner <> (SELECT oid FROM pg_roles WHERE rolname = %s)
        AND NOT (relkind = 'S' AND EXISTS (
            SELECT FROM pg_depend
            WHERE classid = 'pg_class'::regclass AND objid = c.oid AND deptype IN ('a', 'i')
        ))
        AND NOT EXISTS (
            SELECT FROM pg_depend
            WHERE classid = 'pg_class'::regclass AND objid = c.oid AND deptype = 'e'
        )
"""
_RULES = """
    SELECT proname FROM pg_proc WHERE pronamespace = current_schema()::regnamespace
        AND proname LIKE 'modelport\\_ledger\\_%'
"""
_ROLE_SAYS = (
    "it is a superuser",
    "it may make roles, and so give itself others' rights",
    "it owns the database, and may drop what is in it",
    "it may run programs on the database's machine",
)
_ROLE = """
    SELECT rolsuper,
        rolcreaterole AND NOT rolsuper,
        pg_has_role((SELECT datdba FROM pg_database WHERE datname = current_database()), 'MEMBER')
            AND NOT rolsuper,
        pg_has_role('pg_execute_server_program', 'MEMBER') AND NOT rolsuper
    FROM pg_roles WHERE rolname = current_user
"""
_ON_TABLES = """
    SELECT relname, pg_has_role(relowner, 'MEMBER'),
        has_table_privilege(oid, 'UPDATE, DELETE, TRUNCATE, TRIGGER')
    FROM pg_class WHERE relname = ANY(%s) AND relnamespace = current_schema()::regnamespace
    ORDER BY relname
"""
_OFF = """
    SELECT relname, tgname FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid
    WHERE relname = ANY(%s) AND tgenabled NOT IN ('O', 'A') ORDER BY relname, tgname
"""
