"""Where credit is topped up. PURE: the gateway tells it, too."""


def path(slug: str) -> str:
    """Of the page, on the portal's own address."""
    return f"/o/{slug}/billing/"
