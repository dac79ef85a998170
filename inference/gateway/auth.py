"""Who asks: from a header to a key in the process's own table."""

from accounts import keys
from inference.gateway.errors import invalid_key
from inference.gateway.router import Key
from inference.gateway.snapshot import Snapshot

MISSING = (
    "You didn't provide an API key. Send it in the Authorization header: Authorization: Bearer mp-…"
)
WRONG = "This API key is wrong, has expired or was revoked. Make a new one on the API keys page."


class Authenticator:
    """Checks keys in memory; `None` means that the database should be asked."""

    def __init__(self, snapshot: Snapshot, pepper: str) -> None:
        self._snapshot = snapshot
        self._pepper = pepper

    def digest(self, authorization: bytes) -> bytes:
        """The digest of a well-formed bearer key. Raises Refusal."""
        scheme, _, credential = authorization.partition(b" ")
        if not credential:
            raise invalid_key(MISSING)
        key = credential.strip().decode("latin-1")
        if scheme.lower() != b"bearer" or not keys.well_formed(key):
            raise invalid_key(WRONG)
        return keys.digest(key, self._pepper)

    def known(self, digest: bytes) -> Key | None:
        return self._snapshot.key(digest)

    async def look_up(self, digest: bytes) -> Key:
        """Ask the database for a key that is not in the table (yet). Raises Refusal."""
        key = await self._snapshot.look_up(digest)
        if key is None:
            raise invalid_key(WRONG)
        return key
