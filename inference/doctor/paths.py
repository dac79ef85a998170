"""Logs for tenants: without where things lie on our machines. PURE."""

import re

# From the root, at least two names deep; not the path of an address, nor a half of "Qwen/Qwen3".
_PATH = re.compile(r"(?<![\w.:/@-])/(?:[\w.@+~=-]+/)+([\w.@+~=-]*)")


def without_paths(text: str) -> str:
    """Each path of a machine cut to its last name: "…/model.py"."""
    return _PATH.sub(r"…/\1", text)
