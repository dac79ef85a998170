"""What tokens cost on hardware that is paid by the hour. PURE; nobody's prices are known here."""

from decimal import Decimal

MILLION = 1_000_000
SECONDS = 3600


def per_million_tokens(per_hour: Decimal, tokens_per_second: float) -> Decimal | None:
    """The cost of a million tokens at this speed, unrounded; None where nothing is produced."""
    if not 0 < tokens_per_second < float("inf"):
        return None
    return per_hour * MILLION / (SECONDS * Decimal(str(tokens_per_second)))


def decode_speed(
    read_bytes: int, kv_bytes: int, bandwidth: float, users: int = 1, share: float = 1.0
) -> float:
    """The most tokens per second of all users together, by the memory's bandwidth (bytes/s).

    Each step reads the weights once and every user's KV cache, and gives each user one token:
    Pope et al. 2022, "Efficiently Scaling Transformer Inference" (arXiv:2211.05102), section 2;
    the roofline is Williams et al. 2009 (doi:10.1145/1498765.1498785). `read_bytes` are the weights
    that a step needs: with experts only the active ones. `share` is the part of the bandwidth that
    an engine attains. A limit for small batches; large ones are bound by computation.
    """
    step = read_bytes + users * kv_bytes
    return users * bandwidth * share / step if step > 0 else 0.0
