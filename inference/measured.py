"""What an engine says of its own memory after a start. PURE: engines read it, places pass it on."""

import msgspec


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes in bytes, of one worker (one GPU); None: not said."""

    kv_cache_tokens: int | None = None  # over all requests
    max_concurrency: float | None = None  # requests of the whole context at the same time
    weight_bytes: int | None = None
    kv_cache_bytes: int | None = None
