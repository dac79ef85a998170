"""What a request costs on its way: straight to the engine, through the gateway, on uvicorn's port.

    make bench      (needs gcc and wrk; nginx is measured too where it is installed, and vllm-router
                    and LiteLLM once `python -m tests.benchmarks.others` has installed them)

A mock engine in C answers at once, so that what is measured is the way. What is measured has a core
of its own; engine and load share another, so requests per second are a floor and the CPU time per
request is the figure to trust. The gateway has all of its features on: keys, three limits with
leases, journal with fsync, metrics. Prints a table, writes `bench.json`, prints the ratios last.
"""

import argparse
import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks import others

HERE = Path(__file__).parent
RESULT = HERE / "bench.json"
TICKS = os.sysconf("SC_CLK_TCK")
MEASURED, OTHERS = 0, 1  # cores
PATH = "/v1/chat/completions"
NGINX = """
worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log /dev/null;
events {{ worker_connections 8192; }}
http {{ access_log off; client_body_temp_path {folder}; proxy_temp_path {folder};
fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
keepalive_requests 100000000;
upstream engine {{ server 127.0.0.1:{engine}; keepalive 1024; keepalive_requests 100000000; }}
server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://engine; proxy_buffering off;
proxy_http_version 1.1; proxy_set_header Connection ""; }} }} }}
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=6, help="per measurement")
    parser.add_argument("--streams", type=int, default=500, help="at a time, 50 tokens/s each")
    parser.add_argument("--rounds", type=int, default=1, help="of which the medians are told")
    parser.add_argument(
        "--only", action="append", default=[], help="one of the ways; may be repeated"
    )
    parser.add_argument("--serve", choices=["alone", "unsynced", "mounted"], help=argparse.SUPPRESS)
    parser.add_argument("--engine", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve(options.serve, options.engine, options.port, options.home)
    missing = [tool for tool in ("gcc", "wrk", "taskset") if not shutil.which(tool)]
    if missing:
        print(f"Install {', '.join(missing)} first.", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        bench = Bench(Path(folder), options.seconds, options.streams, options.only, options.rounds)
        figures = bench.run()
    show(figures)
    told = {"ways": figures, "ratios": ratios(figures)}
    RESULT.write_text(json.dumps(told, indent=1) + "\n")
    print(json.dumps(told["ratios"]))
    return 0


def ratios(figures: dict[str, dict[str, float]]) -> dict[str, float]:
    """The gateway beside its peers, as far as both were measured."""
    ours = figures.get("gateway", {})

    def beside(name: str, peer: str, figure: str) -> dict[str, float]:
        theirs = figures.get(peer, {}).get(figure)
        return {name: round(ours[figure] / theirs, 3)} if ours and theirs else {}

    found = (
        beside("cpu_vs_vllm_router", "vllm-router", "cpu_us")
        | beside("cpu_vs_nginx", "nginx", "cpu_us")
        | beside("rps_vs_litellm", "litellm", "rps")
        | beside("rps_vs_litellm_without_redis", others.ALONE, "rps")
        | beside("stream_cpu_vs_nginx", "nginx", "cpu_s_per_million_tokens")
        | beside("stream_cpu_vs_vllm_router", "vllm-router", "cpu_s_per_million_tokens")
    )
    if ours and (two := figures.get("gateway, two workers")):
        found["cpu_of_two_workers_vs_one"] = round(two["cpu_us"] / ours["cpu_us"], 3)
    if ours and "straight" in figures:
        straight = figures["straight"]["p50_ms_of_one"]
        found["added_p50_ms"] = round(ours["p50_ms_of_one"] - straight, 3)
        first = ours["ttft_p50_ms"] - figures["straight"]["ttft_p50_ms"]
        found["added_ttft_ms"] = round(first, 3)
        if unsynced := figures.get("gateway, no fsync"):
            found["added_p50_ms_without_fsync"] = round(unsynced["p50_ms_of_one"] - straight, 3)
    return found


class Bench:
    def __init__(
        self, folder: Path, seconds: int, streams: int, only: list[str], rounds: int = 1
    ) -> None:
        self.only, self.rounds = only, rounds
        self.folder, self.seconds, self.streams = folder, seconds, streams
        for name in ("mock", "sseload"):
            build = ["gcc", "-O2", "-w", "-o", str(folder / name), str(HERE / f"{name}.c")]
            subprocess.run(build, check=True)

    def run(self) -> dict[str, dict[str, float]]:
        ways = ["straight", *(["nginx"] if shutil.which("nginx") else [])]
        ways += [way for way, name in others.WAYS.items() if others.installed(name)]
        ways += ["gateway", "gateway, two workers", "gateway, no fsync", "mounted in uvicorn"]
        ways = [way for way in ways if not self.only or way in self.only]
        taken = [self.round(ways) for _ in range(self.rounds)]
        figures = {
            way: {name: median(each[way][name] for each in taken) for name in taken[0][way]}
            for way in ways
        }
        if "gateway" in figures:
            figures["gateway"]["mib_of_1000_streams"] = self.streamed("gateway", 1000)["mib"]
        return figures

    def round(self, ways: list[str]) -> dict[str, dict[str, float]]:
        """All ways in turn, so that a slow moment of the machine meets all alike."""
        return {way: self.whole(way) | self.streamed(way, self.streams) for way in ways}

    def whole(self, way: str) -> dict[str, float]:
        """Answers of 0.6 KB, not streamed."""
        with self.engine(0) as engine, self.on_the_way(way, engine) as (port, key, processes):
            self.wrk(port, key, 16, 1)
            began = cpu_seconds(processes)
            busy = self.wrk(port, key, 64 * len(processes), self.seconds)
            spent = cpu_seconds(processes) - began
            lone = self.wrk(port, key, 1, self.seconds / 2)
        return {
            "rps": busy["rps"],
            "cpu_us": spent / (busy["rps"] * self.seconds) * 1e6,
            "p50_ms_of_one": lone["p50"],
            "p50_ms": busy["p50"],
            "p99_ms": busy["p99"],
        }

    def streamed(self, way: str, streams: int) -> dict[str, float]:
        """Tokens every 20 ms, with the running usage on each as vLLM sends it."""
        with self.engine(20) as engine, self.on_the_way(way, engine) as (port, key, processes):
            command = [str(self.folder / "sseload"), str(port), PATH, key, "mock-model"]
            began = cpu_seconds(processes)
            streams = min(streams, others.MOST_STREAMS.get(way, streams))
            out = run_elsewhere([*command, str(streams), "100", str(self.seconds), "3"])
            spent = cpu_seconds(processes) - began
            memory = resident_mib(processes)
        told = json.loads(out)
        if told["errs"] or told["bad"]:
            raise SystemExit(f"{way}: {out}")
        return {
            "cpu_s_per_million_tokens": spent / told["alltoks"] * 1e6,
            "ttft_p50_ms": told["ttft_p50_us"] / 1000,
            "mib": memory,
        }

    def wrk(self, port: int, key: str, connections: int, seconds: float) -> dict[str, float]:
        command = [
            "wrk",
            "-t1",
            f"-c{connections}",
            f"-d{max(1, round(seconds))}s",
            "--timeout",
            "10s",  # LiteLLM has answers that take longer than the two seconds wrk waits for
            "-s",
            str(HERE / "post.lua"),
        ]
        environment = os.environ | {"KEY": key, "MODEL": "mock-model"}
        out = run_elsewhere([*command, f"http://127.0.0.1:{port}{PATH}"], env=environment)
        (result,) = re.findall(r"RESULT (.*)", out)
        told = {k: float(v) for k, v in (pair.split("=") for pair in result.split())}
        if told["non2xx"] or told["sockerr"]:
            raise SystemExit(f"wrk met errors: {result}")
        return told

    @contextmanager
    def engine(self, delay_ms: int) -> Iterator[int]:
        port = free_port()
        command = [str(self.folder / "mock"), str(port), str(delay_ms), "1"]
        with running(command, OTHERS, port) as process:
            self.mock = process
            yield port

    @contextmanager
    def on_the_way(
        self, way: str, engine: int
    ) -> Iterator[tuple[int, str, list[subprocess.Popen[bytes]]]]:
        """What stands between client and engine: its port, the key it wants, its processes."""
        port = free_port()
        key = "none"
        processes: list[subprocess.Popen[bytes]] = []
        if way == "straight":
            yield engine, key, [self.mock]
        elif way == "nginx":
            config = self.folder / "nginx.conf"
            config.write_text(NGINX.format(folder=self.folder, engine=engine, port=port))
            with running(["nginx", "-c", str(config)], MEASURED, port) as process:
                yield port, key, [process]
        elif way in others.WAYS:
            spare = free_port()
            with ExitStack() as beside:
                if way == "litellm":
                    beside.enter_context(running(others.redis(spare), OTHERS, spare))
                command = others.command(way, engine, port, spare, self.folder)
                process = beside.enter_context(running(command, MEASURED, port, patience=120))
                yield port, others.KEY, [process]
        else:
            mode = MODES[way]
            command = [sys.executable, "-m", "tests.benchmarks.gateway", "--serve", mode]
            home = tempfile.mkdtemp(dir=self.folder, prefix="home-")
            command += ["--engine", str(engine), "--port", str(port), "--home", home]
            meter = [sys.executable, "-m", "tests.benchmarks.meter"]
            granting = subprocess.Popen(
                ["taskset", "-c", str(OTHERS), *meter], env=os.environ | {"MODELPORT_HOME": home}
            )
            try:
                with ExitStack() as workers:
                    cores = [MEASURED, OTHERS] if way == "gateway, two workers" else [MEASURED]
                    for core in cores:
                        begun = running(command, core, port, say_key=True)
                        processes = [*processes, workers.enter_context(begun)]
                    yield port, KEYS.pop(), processes
            finally:
                granting.kill()
                granting.wait()


KEYS: list[str] = []
MODES = {
    "gateway": "alone",
    "gateway, two workers": "alone",
    "gateway, no fsync": "unsynced",
    "mounted in uvicorn": "mounted",
}


@contextmanager
def running(
    command: list[str], core: int, port: int, *, say_key: bool = False, patience: int = 10
) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        ["taskset", "-c", str(core), *command], stdout=subprocess.PIPE if say_key else None
    )
    try:
        if process.stdout:
            KEYS.append(process.stdout.readline().decode().strip())
        wait_for(port, patience)
        yield process
    finally:
        process.terminate()
        process.wait()
        if process.stdout:
            process.stdout.close()


def run_elsewhere(command: list[str], **given: Any) -> str:
    pinned = ["taskset", "-c", str(OTHERS), *command]
    return subprocess.run(pinned, check=True, capture_output=True, text=True, **given).stdout


def wait_for(port: int, seconds: int) -> None:
    for _ in range(20 * seconds):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit(f"nothing listens on port {port}")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def family(pid: int) -> list[int]:
    """The process, its children and theirs (nginx works in one)."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in family(int(child)))]


def cpu_seconds(processes: list[subprocess.Popen[bytes]]) -> float:
    stats = [
        Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        for process in processes
        for pid in family(process.pid)
    ]
    return sum(int(stat[11]) + int(stat[12]) for stat in stats) / TICKS


def resident_mib(processes: list[subprocess.Popen[bytes]]) -> float:
    pids = [pid for process in processes for pid in family(process.pid)]
    pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids]
    return sum(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20


def show(figures: dict[str, dict[str, float]]) -> None:
    names = list(next(iter(figures.values())))  # what all of them have
    base = figures.get("nginx") or next(iter(figures.values()))
    print(f"{'':20}" + "".join(f"{name:>26}" for name in names))
    for way, row in figures.items():
        cells = [
            f"{row[n]:.2f} ({row[n] / base[n]:.2f}x)" if base[n] else f"{row[n]:.2f}" for n in names
        ]
        print(f"{way:20}" + "".join(f"{cell:>26}" for cell in cells))


# ------------------------------------------------------------------ the process that is measured


def serve(mode: str, engine: int, port: int, home: Path) -> int:
    import uvloop  # noqa: PLC0415

    uvloop.run(_serve(mode, engine, port, home))
    return 0


async def _serve(mode: str, engine: int, port: int, home: Path) -> None:
    # Imported here: the process that measures needs none of it, and a gateway alone no uvicorn.
    from inference.gateway.connection import GatewayProtocol  # noqa: PLC0415
    from inference.gateway.router import Replica  # noqa: PLC0415
    from inference.gateway.server import GatewayRuntime  # noqa: PLC0415
    from portal.lib import env  # noqa: PLC0415
    from portal.lib.ids import uuid7  # noqa: PLC0415
    from tests.gateway.tables import StillSnapshot, limit  # noqa: PLC0415

    snapshot = StillSnapshot("")
    environment = env.read({"MODELPORT_HOME": str(home)})
    runtime = GatewayRuntime(environment, snapshot=snapshot, durable=mode != "unsynced")
    instance = snapshot.add_instance("mock-model")
    address = f"http://127.0.0.1:{engine}"
    instance.replicas.append(Replica(uuid7().bytes, instance.id, address, 2048))
    generous = tuple(limit(10**12, meter) for meter in ("requests", "tokens")) + (
        limit(10**6, "concurrent", "now"),
    )
    said = home / "key"  # several workers have one
    plain = said.read_text() if said.exists() else ""
    key = snapshot.add_key(environment.secret("api_key_pepper"), limits=generous, plain=plain)
    said.write_text(key)
    await runtime.start()
    while runtime.leases._writer is None:
        await asyncio.sleep(0.05)
    print(key, flush=True)
    if mode == "mounted":
        from uvicorn import Config, Server  # noqa: PLC0415

        from inference.gateway.mounted import mounted  # noqa: PLC0415

        await Server(
            Config(_no_page, port=port, http=mounted(runtime), lifespan="off", log_config=None)
        ).serve()
    else:
        await runtime.loop.create_server(
            lambda: GatewayProtocol(runtime), "127.0.0.1", port, backlog=4096, reuse_port=True
        )
        await asyncio.Event().wait()


async def _no_page(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 404, "headers": []})
    await send({"type": "http.response.body", "body": b""})


if __name__ == "__main__":
    sys.exit(main())
