"""What a machine needs, what it has, and how to mend what is missing."""

import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

import httpx2
import psycopg
import redis

from inference.engines import ENGINES
from inference.engines.base import variant_of
from inference.node import environments, hardware
from portal import up
from portal.lib.env import Environment

GB = 1_000_000_000
MEMORY_NEEDED = 4 * GB  # the portal's own processes and the demo model on the CPU


@dataclass(frozen=True)
class Finding:
    """`ok` is None for what is good to know but not needed."""

    ok: bool | None
    what: str
    remedy: str = ""


def examine(env: Environment) -> list[Finding]:
    """Look at everything; nothing is changed."""
    return [
        _python(),
        _home(env),
        _disk(env),
        _memory(),
        _port(env),
        _database(env),
        _redis(env),
        *_engines(env),
        _gpus(),
        _hub(env),
        *_tools(),
    ]


def _python() -> Finding:
    # An older one could not have got here: the installation refuses it.
    return Finding(True, f"Python {platform.python_version()}")


def _home(env: Environment) -> Finding:
    place = _nearest(env.home)
    if os.access(place, os.W_OK):
        return Finding(True, f"{env.home} can be written")
    return Finding(
        False, f"{env.home} cannot be written", "Choose another folder with MODELPORT_HOME."
    )


def _disk(env: Environment) -> Finding:
    free = shutil.disk_usage(_nearest(env.home)).free
    needed = up.DISK_NEEDED
    what = f"{free / GB:.0f} GB free on the disk of {env.home}"
    if free < needed:
        return Finding(False, what, "Make room, or choose another disk with MODELPORT_HOME.")
    return Finding(True, what)


def _nearest(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _memory() -> Finding:
    total = hardware.memory_limit()
    what = f"{total / GB:.0f} GB of memory"
    if total < MEMORY_NEEDED:
        return Finding(None, what, "The demo model on the CPU wants 4 GB; use a bigger machine.")
    return Finding(True, what)


def _port(env: Environment) -> Finding:
    try:
        up.check_port(env)
    except up.UpProblem as problem:
        return Finding(None, f"port {env.port} is not free", str(problem))
    return Finding(True, f"port {env.port} is free")


def _database(env: Environment) -> Finding:
    if not env.database_url:
        return Finding(True, "PostgreSQL: the embedded one (DATABASE_URL is not set)")
    try:
        with psycopg.connect(env.database, connect_timeout=5) as connection:
            version = connection.info.server_version // 10000
    except psycopg.Error as error:
        return Finding(False, f"PostgreSQL of DATABASE_URL: {error}", "Check address and password.")
    if version < 14:
        return Finding(False, f"PostgreSQL {version}", "Modelport needs PostgreSQL 14 or newer.")
    return Finding(True, f"PostgreSQL {version} of DATABASE_URL answers")


def _redis(env: Environment) -> Finding:
    if not env.redis_url:
        return Finding(True, "Redis: the embedded one (REDIS_URL is not set)")
    client = redis.Redis.from_url(env.redis, socket_timeout=5, socket_connect_timeout=5)
    try:
        client.ping()
    except redis.RedisError as error:
        return Finding(False, f"Redis of REDIS_URL: {error}", "Check address and password.")
    finally:
        client.close()
    return Finding(True, "Redis of REDIS_URL answers")


def _engines(env: Environment) -> list[Finding]:
    findings = []
    for name, engine in ENGINES.items():
        variant = variant_of(engine, hardware.variant_here())
        recipe = engine.recipe(variant)
        what = f"engine {engine.title} {recipe.version} for {variant.upper()}"
        if environments.installed_python(recipe, env.home):
            findings.append(Finding(True, f"{what} is installed"))
        else:
            remedy = (
                f"It is installed with the first instance, or now: modelport engine install {name}"
            )
            findings.append(Finding(None, f"{what} is not installed yet", remedy))
    return findings


def _gpus() -> Finding:
    found = hardware.gpus()
    if not found:
        return Finding(None, "no NVIDIA GPU: engines run on the CPU, for trying things out")
    return Finding(True, ", ".join(f"{gpu.name} ({gpu.memory_bytes / GB:.0f} GB)" for gpu in found))


def _hub(env: Environment) -> Finding:
    try:
        httpx2.head(env.hf_endpoint, timeout=5)
    except httpx2.HTTPError:
        return Finding(
            None,
            f"the model hub at {env.hf_endpoint} cannot be reached",
            "Models in local folders (MODELPORT_MODELS) and the bundled demo work without it; "
            "HF_ENDPOINT names a mirror.",
        )
    return Finding(True, f"the model hub at {env.hf_endpoint} answers")


def _tools() -> list[Finding]:
    """What only the tests and the makers of pages need."""
    wanted = {
        "chromium": "for make test",
        "msgfmt": "gettext, for translators",
        "node": "to rebuild static/dist",
    }
    return [
        Finding(None, f"{name} is {'here' if shutil.which(name) else 'not here'} ({purpose})")
        for name, purpose in wanted.items()
    ]
