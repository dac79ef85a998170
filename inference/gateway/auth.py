"""Who asks: from a header to a key in the process's own table."""

from accounts import keys
from inference.gateway.errors import Refusal, invalid_key
from inference.gateway.snapshot import Snapshot
from inference.gateway.tables import Key

MISSING = (
    "You didn't provide an API key. Send it in the Authorization header: Authorization: Bearer mp-…"
)
WRONG = "This API key is wrong, has expired or was revoked. Make a new one on the API keys page."
MANAGEMENT = "This is a management key: it calls /api/v1. Use an API key to call models."
NOT_YET = "The gateway is starting and does not know its keys yet. Try again in a moment."
MOST_REMEMBERED = 10_000


class Authenticator:
    """Checks keys in memory; `None` means that the database should be asked."""

    def __init__(self, snapshot: Snapshot, pepper: str) -> None:
        self._snapshot = snapshot
        self._pepper = pepper
        self._digests: dict[bytes, bytes] = {}  # of headers that named a known key

    def digest(self, authorization: bytes) -> bytes:
        """The digest of a well-formed bearer key. Raises Refusal."""
        if remembered := self._digests.get(authorization):
            return remembered
        scheme, _, credential = authorization.partition(b" ")
        if not credential:
            raise invalid_key(MISSING)
        key = credential.strip().decode("latin-1")
        if scheme.lower() != b"bearer" or not keys.well_formed(key):
            raise invalid_key(WRONG)
        digest = keys.digest(key, self._pepper)
        if digest in self._snapshot.keys:  # whether it still is good is asked each time
            if len(self._digests) >= MOST_REMEMBERED:
                self._digests.clear()
            self._digests[authorization] = digest
        return digest

    def known(self, digest: bytes) -> Key | None:
        """Raises Refusal."""
        key = self._snapshot.key(digest)
        if key is None:
            if not self._snapshot.loaded.is_set():
                raise Refusal(503, NOT_YET, code="starting", retry_after=1)
            return None
        if key.kind == "management":
            raise invalid_key(MANAGEMENT)
        return key

    async def look_up(self, digest: bytes) -> Key:
        """Ask the database for a key that is not in the table (yet). Raises Refusal."""
        key = await self._snapshot.look_up(digest)
        if key is None:
            raise invalid_key(WRONG)
        if key.kind == "management":
            raise invalid_key(MANAGEMENT)
        return key
