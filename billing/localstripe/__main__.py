"""python -m billing.localstripe --port 12111 --home FOLDER --webhook URL

The key that it takes is STRIPE_SECRET_KEY (a test key), the secret that it signs by
STRIPE_WEBHOOK_SECRET; without them it takes any test key, and makes a secret for each endpoint.
"""

import argparse
import os
import sys
from pathlib import Path

import uvicorn

from billing.localstripe.resources.webhooks import listen
from billing.localstripe.server import App
from billing.localstripe.store import Store
from billing.localstripe.world import World


def main() -> None:
    arguments = argparse.ArgumentParser(prog="python -m billing.localstripe")
    arguments.add_argument("--port", type=int, default=12111, help="on 127.0.0.1")
    arguments.add_argument("--home", type=Path, help="keep state there; else in memory")
    arguments.add_argument("--webhook", action="append", default=[], help="send events there")
    given = arguments.parse_args()
    key = os.environ.get("STRIPE_SECRET_KEY", "")
    if key and not key.startswith(("sk_test_", "rk_test_")):
        sys.exit("localstripe: STRIPE_SECRET_KEY is no test key. No money moves here.")
    world = World(_store(given.home))
    world.base = f"http://127.0.0.1:{given.port}"
    for url in given.webhook:
        _listen(world, url)
    uvicorn.run(App(world, key), host="127.0.0.1", port=given.port, log_level="warning")


def _store(home: Path | None) -> Store:
    if home is None:
        return Store()
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Store(home / "localstripe.sqlite")


def _listen(world: World, url: str) -> None:
    """Once, however often it is started, with the secret of today."""
    secret = os.environ.get("STRIPE_WEBHOOK_SECRET") or world.store.new_id("whsec", 32)
    for endpoint in world.store.all("webhook_endpoint"):
        if endpoint["url"] == url:
            world.keep_secret(endpoint["id"], secret)
            return
    listen(world, url, ["*"], secret)


if __name__ == "__main__":
    main()
