"""Everything Modelport reads from the environment, in one place, checked once.

Django's settings and the processes that run without Django (gateway, node) read the same object,
so that they can never disagree. A wrong value raises `EnvironmentProblem`: the process refuses to
start and says which variable to mend.
"""

import hashlib
import os
import secrets
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote, urlsplit

SOCKET_PATH_LIMIT = 108  # bytes in sockaddr_un.sun_path on Linux, the closing NUL included
MAIL_SCHEMES = ("smtp", "smtps", "smtp+tls", "smtp+ssl", "consolemail", "filemail", "dummymail")
LONGEST_WAIT = 3600  # seconds; after that a gateway ends any request
STRIPE_KEYS = ("sk_test_", "rk_test_", "sk_live_", "rk_live_")
STRIPE_PAGES = ("https://checkout.stripe.com", "https://billing.stripe.com")
THIS_MACHINE = ("127.0.0.1", "localhost", "::1")
LONGEST_SOCKET_NAME = len("/instances/") + 36 + len("/engine.sock")


class EnvironmentProblem(Exception):
    """A variable has a value that Modelport cannot run with; the text says which and why."""


@dataclass(frozen=True)
class Environment:
    """The settings of one installation. All paths are absolute."""

    home: Path
    host: str  # the address that the web process listens on
    port: int
    database_url: str  # empty: the embedded PostgreSQL of `modelport up`
    database_owner_url: str  # whom migrations run as; empty: the same as everybody
    redis_url: str  # empty: the embedded Redis of `modelport up`
    debug: bool
    public_url: str
    gateway_url: str  # where the portal's own processes reach the gateway
    allowed_hosts: tuple[str, ...]
    email_url: str  # empty: console and the local outbox page
    hf_endpoint: str
    model_folders: tuple[Path, ...]
    models_kept_days: int  # how long a downloaded model stays unused; 0: until space is needed
    vllm_command: str  # empty: the installed environment's own launch command
    llama_cpp_command: str
    torch_cpu_index: str
    engine_walls: str  # "auto": where the machine can, "require": no engine without, "off"
    keep_engines: bool  # whether they go on running when `modelport up` ends
    provider_hosts: frozenset[str]  # that may lie in a private network
    metrics_token: str  # empty: /metrics answers programs on this machine
    currency: str  # ISO 4217: of organizations that have not chosen another
    ledger_heads_mail: str  # who gets each day's hash of the ledger; empty: nobody
    invoice_name: str  # who issues invoices: the operator's legal name
    invoice_address: str  # its lines separated by "|"
    invoice_tax_id: str
    invoice_tax: tuple[Decimal, str]  # per cent and what it is called; (0, ""): none
    gpu_hour_cost: Decimal | None  # of one GPU, in the currency of the price list
    external_prices: Path | None  # the operator's list of others' prices, TOML
    wake_wait: int  # seconds that a request waits for an instance to wake
    drain: int  # seconds that answers under way have when a gateway of its own is told to end
    access_log: str  # a path, "-" for standard output, empty for none
    stripe_secret_key: str = field(repr=False)  # empty: no payments
    stripe_webhook_secrets: tuple[str, ...] = field(repr=False)  # the old and the new one
    stripe_api_base: str  # empty: Stripe's own; else a server of this machine
    stripe_tax: bool  # whether Stripe adds tax to what people pay
    payment_demo: bool  # whether `modelport up` without a key runs a stand-in for Stripe

    @property
    def run_dir(self) -> Path:
        """Where sockets live. The kernel wants their paths short, and the URLs that name them want
        them plain; homes may be neither."""
        direct = self.home / "run"
        short = len(os.fsencode(direct)) + LONGEST_SOCKET_NAME < SOCKET_PATH_LIMIT
        if short and quote(str(direct)) == str(direct):
            return direct
        digest = hashlib.sha256(os.fsencode(self.home)).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"modelport-{os.getuid()}-{digest}"

    def own_command(self, engine: str) -> str:
        """The operator's own launch command of this engine; empty: its environment's."""
        commands = {"vllm": self.vllm_command, "llama_cpp": self.llama_cpp_command}
        return commands.get(engine, "")

    def make_run_dir(self) -> None:
        """Make the folder, and see that it is ours alone where others may make folders too.

        Raises EnvironmentProblem.
        """
        self.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.run_dir.parent == self.home:
            return
        found = self.run_dir.lstat()
        ours = found.st_uid == os.geteuid() and not found.st_mode & 0o022
        if not (stat.S_ISDIR(found.st_mode) and ours):
            raise EnvironmentProblem(
                f"{self.run_dir} belongs to someone else. Remove it, or choose a MODELPORT_HOME "
                "with a shorter and plainer name."
            )

    @property
    def stripe_is_live(self) -> bool:
        """Whether money moves."""
        return self.stripe_secret_key[2:8] == "_live_"

    @property
    def payment_mode(self) -> str:
        """ "live" where money moves; "test", "demo" (our stand-in) where it does not; else ""."""
        if not self.stripe_secret_key:
            return ""
        if self.stripe_is_live:
            return "live"
        return "demo" if self.stripe_api_base else "test"

    @property
    def payment_pages(self) -> tuple[str, ...]:
        """Origins of pages that people are sent to in order to pay."""
        if not self.stripe_secret_key:
            return ()
        return (self.stripe_api_base,) if self.stripe_api_base else STRIPE_PAGES

    @property
    def node_socket(self) -> Path:
        return self.run_dir / "node.sock"

    @property
    def meter_socket(self) -> Path:
        return self.run_dir / "meter.sock"

    @property
    def ledger_heads(self) -> Path:
        """The hashes of the ledger's sealed days, one a line, appended to."""
        return self.home / "ledger" / "heads.txt"

    @property
    def journal_dir(self) -> Path:
        return self.home / "journal"

    @property
    def embedded_postgres_dir(self) -> Path:
        return self.home / "postgres"

    @property
    def embedded_redis_dir(self) -> Path:
        return self.home / "redis"

    @property
    def embedded_postgres_socket_dir(self) -> Path:
        return self.run_dir / "pg"

    @property
    def embedded_redis_socket(self) -> Path:
        return self.run_dir / "redis.sock"

    @property
    def database(self) -> str:
        """A libpq URI of the database in use, embedded or not."""
        return self.database_url or self._embedded_as("modelport")

    @property
    def database_owner(self) -> str:
        """The same database as the one who owns it: for migrations, and for nothing that is running
        all the time."""
        if self.database_url:
            return self.database_owner_url or self.database_url
        return self._embedded_as("postgres")

    def _embedded_as(self, role: str) -> str:
        return f"postgresql://{role}@/modelport?host={self.embedded_postgres_socket_dir}"

    @property
    def redis(self) -> str:
        """A redis-py URL of the Redis in use, embedded or not."""
        return self.redis_url or f"unix://{self.embedded_redis_socket}"

    def secret(self, name: str) -> str:
        """The secret of this name: the variable NAME, else made once and kept in home, 0600.

        Raises EnvironmentProblem.
        """
        given = os.environ.get(name.upper())
        if given:
            return given
        path = self.home / "secrets" / name
        try:
            kept = self._kept(path)
        except OSError as error:
            raise EnvironmentProblem(
                f"{path} cannot be read or made: {error.strerror}. Mend that, or choose another "
                "folder with MODELPORT_HOME."
            ) from error
        if not kept:
            raise EnvironmentProblem(
                f"{path} is empty: take it from a backup. Without it API keys and stored hub "
                "tokens are void; if there are none yet, delete the file."
            )
        return kept

    def _kept(self, path: Path) -> str:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Written aside and linked into place, so that two processes that start together agree
        # on one secret and none ever reads half of it.
        if not path.exists():
            draft = path.with_name(f"{path.name}.{os.getpid()}")
            fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(fd, "w") as file:
                file.write(secrets.token_urlsafe(48))
                file.flush()
                os.fsync(fd)
            try:
                os.link(draft, path)
            except FileExistsError:
                pass
            finally:
                draft.unlink()
        return path.read_text()


def _list(environ: Mapping[str, str], name: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in environ.get(name, "").split(",") if item.strip())


def _amount(environ: Mapping[str, str], name: str) -> Decimal | None:
    value = environ.get(name, "").strip()
    if not value:
        return None
    try:
        amount = Decimal(value)
    except InvalidOperation:
        amount = Decimal("NaN")
    if not (amount.is_finite() and 0 <= amount < 10**9):
        raise EnvironmentProblem(f"{name} is {value!r}; write an amount such as 2.49.")
    return amount


def _tax(environ: Mapping[str, str], name: str) -> tuple[Decimal, str]:
    """A rate in per cent, and the tax's name: "5 VAT"."""
    value = environ.get(name, "").strip()
    if not value:
        return Decimal(0), ""
    rate, _, title = value.partition(" ")
    try:
        per_cent = Decimal(rate)
    except InvalidOperation:
        per_cent = Decimal("NaN")
    title = title.strip()
    fits = per_cent.is_finite() and 0 < per_cent <= 100 and per_cent == round(per_cent, 3)
    if not (fits and title) or len(title) > 32:
        raise EnvironmentProblem(
            f"{name} is {value!r}; write a rate in per cent and the tax's name, such as 5 VAT."
        )
    return per_cent, title


def _file(environ: Mapping[str, str], name: str) -> Path | None:
    value = environ.get(name, "").strip()
    if not value:
        return None
    path = Path(value).expanduser().absolute()
    if not path.is_file():
        raise EnvironmentProblem(f"{name} is {value!r}; there is no such file.")
    return path


def _flag(environ: Mapping[str, str], name: str, default: bool) -> bool:
    value = environ.get(name, "").strip().lower()
    if not value:
        return default
    if value in {"1", "true", "yes", "on"}:
        return True
    if value in {"0", "false", "no", "off"}:
        return False
    raise EnvironmentProblem(f"{name} is {value!r}; write 1 or 0.")


def _currency(environ: Mapping[str, str], name: str, default: str) -> str:
    value = environ.get(name, "").strip() or default
    if len(value) != 3 or not (value.isascii() and value.isupper()):
        raise EnvironmentProblem(f"{name} is {value!r}; write an ISO 4217 code such as TWD.")
    return value


def _choice(environ: Mapping[str, str], name: str, choices: tuple[str, ...]) -> str:
    """One of these words; the first is the default."""
    value = environ.get(name, "").strip().lower() or choices[0]
    if value not in choices:
        raise EnvironmentProblem(f"{name} is {value!r}; write one of {', '.join(choices)}.")
    return value


def _seconds(environ: Mapping[str, str], name: str, default: int) -> int:
    value = environ.get(name, "").strip() or str(default)
    if not value.isdecimal() or not 0 < int(value) <= LONGEST_WAIT:
        raise EnvironmentProblem(f"{name} is {value!r}; write seconds from 1 to {LONGEST_WAIT}.")
    return int(value)


def _port(environ: Mapping[str, str]) -> int:
    value = environ.get("PORT") or "8000"
    if not value.isdecimal() or not 0 < int(value) < 65536:
        raise EnvironmentProblem(f"PORT is {value!r}; write a number from 1 to 65535.")
    return int(value)


def _days(environ: Mapping[str, str], name: str, default: int) -> int:
    value = environ.get(name, "").strip() or str(default)
    if not value.isdecimal() or len(value) > 5:
        raise EnvironmentProblem(f"{name} is {value!r}; write a number of days, 0 for no limit.")
    return int(value)


def _url(environ: Mapping[str, str], name: str, schemes: tuple[str, ...], default: str = "") -> str:
    value = environ.get(name, "").strip() or default
    if value and value.split(":", 1)[0] not in schemes:
        raise EnvironmentProblem(f"{name} must begin with one of {', '.join(schemes)}.")
    try:
        urlsplit(value).port  # noqa: B018  looking at it checks it
    except ValueError as error:  # its value may hold a password, so it is not repeated
        raise EnvironmentProblem(f"{name} is no address: its port is not a number.") from error
    return value


def _stripe_key(environ: Mapping[str, str], name: str, public_url: str) -> str:
    """Values are not repeated in what is said of them: they are secrets."""
    value = environ.get(name, "").strip()
    if value and not value.startswith(STRIPE_KEYS):
        raise EnvironmentProblem(f"{name} must begin with one of {', '.join(STRIPE_KEYS)}.")
    if value[2:8] == "_live_":
        if not public_url.startswith("https://"):
            raise EnvironmentProblem(
                f"{name} is a live key, with which money moves: set MODELPORT_URL=https://… first."
            )
        if not environ.get("STRIPE_WEBHOOK_SECRET", "").strip():
            raise EnvironmentProblem(f"{name} is a live key: set STRIPE_WEBHOOK_SECRET too.")
    return value


def _stripe_secrets(environ: Mapping[str, str]) -> tuple[str, ...]:
    values = _list(environ, "STRIPE_WEBHOOK_SECRET")
    if not all(value.startswith("whsec_") for value in values):
        raise EnvironmentProblem("STRIPE_WEBHOOK_SECRET must begin with whsec_.")
    return values


def _stripe_base(environ: Mapping[str, str], name: str) -> str:
    value = _url(environ, name, ("http", "https")).rstrip("/")
    if value and urlsplit(value).hostname not in THIS_MACHINE:
        raise EnvironmentProblem(f"{name} may only name this machine, as http://127.0.0.1:12111.")
    if value and environ.get("STRIPE_SECRET_KEY", "").strip()[2:8] == "_live_":
        raise EnvironmentProblem(f"{name} is for test keys; STRIPE_SECRET_KEY is a live one.")
    return value


def read(environ: Mapping[str, str]) -> Environment:
    """Read and check the variables. Raises EnvironmentProblem."""
    port = _port(environ)
    public_url = _url(
        environ, "MODELPORT_URL", ("http", "https"), f"http://localhost:{port}"
    ).rstrip("/")
    folders = tuple(
        Path(f).expanduser().resolve()
        for f in environ.get("MODELPORT_MODELS", "").split(os.pathsep)
        if f
    )
    return Environment(
        home=Path(environ.get("MODELPORT_HOME") or "~/.modelport").expanduser().absolute(),
        host=environ.get("MODELPORT_HOST") or "127.0.0.1",
        port=port,
        database_url=_url(environ, "DATABASE_URL", ("postgresql", "postgres")),
        database_owner_url=_url(environ, "DATABASE_OWNER_URL", ("postgresql", "postgres")),
        redis_url=_url(environ, "REDIS_URL", ("redis", "rediss", "unix")),
        debug=_flag(environ, "DEBUG", False),
        public_url=public_url,
        gateway_url=_url(
            environ, "MODELPORT_GATEWAY_URL", ("http", "https"), f"http://127.0.0.1:{port}"
        ).rstrip("/"),
        allowed_hosts=_list(environ, "ALLOWED_HOSTS"),
        email_url=_url(environ, "EMAIL_URL", MAIL_SCHEMES),
        hf_endpoint=_url(environ, "HF_ENDPOINT", ("http", "https"), "https://huggingface.co"),
        model_folders=folders,
        models_kept_days=_days(environ, "MODELPORT_MODELS_KEPT_DAYS", 90),
        vllm_command=environ.get("MODELPORT_VLLM_COMMAND", ""),
        llama_cpp_command=environ.get("MODELPORT_LLAMA_CPP_COMMAND", ""),
        torch_cpu_index=environ.get(
            "MODELPORT_TORCH_CPU_INDEX", "https://download.pytorch.org/whl/cpu"
        ),
        engine_walls=_choice(environ, "ENGINE_WALLS", ("auto", "require", "off")),
        keep_engines=_flag(environ, "MODELPORT_KEEP_ENGINES", False),
        metrics_token=environ.get("METRICS_TOKEN", "").strip(),
        currency=_currency(environ, "MODELPORT_CURRENCY", "USD"),
        ledger_heads_mail=environ.get("LEDGER_HEADS_MAIL", "").strip(),
        invoice_name=environ.get("INVOICE_NAME", "").strip()[:200] or "Modelport",
        invoice_address=environ.get("INVOICE_ADDRESS", "").strip(),
        invoice_tax_id=environ.get("INVOICE_TAX_ID", "").strip()[:64],
        invoice_tax=_tax(environ, "INVOICE_TAX"),
        gpu_hour_cost=_amount(environ, "GPU_HOUR_COST"),
        external_prices=_file(environ, "EXTERNAL_PRICES"),
        wake_wait=_seconds(environ, "WAKE_WAIT_SECONDS", 300),
        drain=_seconds(environ, "DRAIN_SECONDS", 600),
        access_log=environ.get("ACCESS_LOG", "").strip(),
        provider_hosts=frozenset(_list(environ, "MODELPORT_PROVIDER_HOSTS")),
        stripe_secret_key=_stripe_key(environ, "STRIPE_SECRET_KEY", public_url),
        stripe_webhook_secrets=_stripe_secrets(environ),
        stripe_api_base=_stripe_base(environ, "STRIPE_API_BASE"),
        stripe_tax=_flag(environ, "STRIPE_TAX", False),
        # Whoever opens the stand-in's pages gets credit: for this machine's own browser alone.
        payment_demo=_flag(environ, "PAYMENT_DEMO", True)
        and urlsplit(public_url).hostname in THIS_MACHINE,
    )


@lru_cache(maxsize=1)
def environment() -> Environment:
    """The environment of this process, read once."""
    return read(os.environ)
