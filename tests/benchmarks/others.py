"""Routers and proxies that we are measured beside, each in an environment of its own.

python -m tests.benchmarks.others      installs them (once, some minutes)
"""

import os
import subprocess
import sys
import venv
from pathlib import Path

FOLDER = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "modelport-bench"
PEERS = {"vllm-router": "vllm-router==0.1.17", "litellm": "litellm[proxy]==1.106.2"}
MOST_STREAMS = {"litellm": 50}  # at a time; it cannot keep up with more
KEY = "sk-bench"  # that LiteLLM wants; the router looks at none

LITELLM = """
model_list:
  - model_name: mock-model
    litellm_params:
      model: openai/mock-model
      api_base: http://127.0.0.1:{engine}/v1
      api_key: none
general_settings:
  master_key: {key}
"""


def installed(name: str) -> bool:
    return program(name).exists()


def program(name: str) -> Path:
    return FOLDER / name / "bin" / name


def command(name: str, engine: int, port: int, spare: int, folder: Path) -> list[str]:
    """How it is started in front of the engine. A router tells its metrics on the spare port."""
    if name == "vllm-router":
        at = ["--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(spare)]
        return [str(program(name)), *at, "--worker-urls", f"http://127.0.0.1:{engine}"]
    config = folder / "litellm.yaml"
    config.write_text(LITELLM.format(engine=engine, key=KEY))
    return [str(program(name)), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]


def install() -> None:
    for name, requirement in PEERS.items():
        if installed(name):
            continue
        print(f"Installing {requirement}…", flush=True)
        venv.create(FOLDER / name, with_pip=True)
        pip = [str(FOLDER / name / "bin" / "pip"), "install", "-q", requirement]
        if subprocess.run(pip).returncode:
            print(f"{name} could not be installed and is left out.", file=sys.stderr)


if __name__ == "__main__":
    install()
