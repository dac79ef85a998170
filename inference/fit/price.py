"""What tokens cost on hardware that is paid by the hour. PURE; nobody's prices are known here."""

from decimal import Decimal

from inference.fit import Fit

MILLION = 1_000_000
SECONDS = 3600
# The part of its memory's bandwidth that a kernel attains: NVIDIA's own figure
# (ai-dynamo/aiconfigurator, src/aiconfigurator/systems/l40s.yaml, mem_bw_empirical_scaling_factor).
ATTAINED = 0.8


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


def full_load_speed(fit: Fit, bandwidth: float) -> float:
    """The most tokens per second of all users together, when as many as there is room for have a
    long chat each. `bandwidth` is of one GPU, bytes/s; 0 where nobody fits.

    With many users every expert is needed by one of them, so each step reads all weights.
    """
    chat = fit.chat
    if chat is None or not chat.count or not fit.gpu_count:
        return 0.0
    return decode_speed(
        fit.weight_bytes, chat.kv_bytes, bandwidth * fit.gpu_count, chat.count, ATTAINED
    )
