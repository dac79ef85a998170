"""LoRA adapters on a real vLLM: added, called by name, woken for, removed; the engine stays."""

import json
import struct
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import httpx2
import openai
import pytest
from openai import OpenAI

from inference import demo
from tests.journeys import running
from tests.journeys.running import Running

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(2400)]

START_TIMEOUT = 600  # seconds; 30 on a quiet machine, 400 on a very busy one
SOON = 90  # seconds, for what takes one or two
WIDTH, LAYERS, OUT = 128, 4, {"q_proj": 128, "v_proj": 64}  # of the demo model
RANK = 4


@pytest.fixture
def portal(engines: Path) -> Iterator[Running]:
    started = running.start(engines)
    yield started
    running.clean_up(started)


@pytest.fixture
def api(portal: Running) -> Iterator[httpx2.Client]:
    said = portal.modelport("bootstrap", "--email", "a@acme.example", "--organization", "Acme")
    made = json.loads(said)
    base = f"{portal.url}/api/v1/organizations/{made['organization']}/"
    bearer = {"Authorization": f"Bearer {made['management_key']}"}
    with httpx2.Client(base_url=base, headers=bearer, timeout=60) as client:
        yield client


def adapter(folder: Path, strength: float, width: int = WIDTH) -> None:
    """A LoRA adapter as PEFT writes it, for q_proj and v_proj; with strength 0 it changes
    nothing."""
    folder.mkdir(parents=True)
    config = {
        "peft_type": "LORA",
        "r": RANK,
        "lora_alpha": 8,
        "target_modules": sorted(OUT),
        "base_model_name_or_path": demo.MODEL_ID,
        "bias": "none",
        "task_type": "CAUSAL_LM",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    draw, header, data = Random(7), {}, b""  # noqa: S311
    for layer in range(LAYERS):
        for module, out in OUT.items():
            name = f"base_model.model.model.layers.{layer}.self_attn.{module}.lora_"
            for side, shape in (("A", [RANK, width]), ("B", [out, RANK])):
                scale = strength if side == "B" else 0.2
                numbers = array("f", (draw.gauss(0, scale) for _ in range(shape[0] * shape[1])))
                offsets = [len(data), len(data) + 4 * len(numbers)]
                header[f"{name}{side}.weight"] = {
                    "dtype": "F32",
                    "shape": shape,
                    "data_offsets": offsets,
                }
                data += numbers.tobytes()
    text = json.dumps(header).encode()
    weights = struct.pack("<Q", len(text)) + text + data
    (folder / "adapter_model.safetensors").write_bytes(weights)


def until(look: Callable[[], Any], seconds: float) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.3)
    return found


def post(api: httpx2.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = api.post(path, json=body)
    assert answer.is_success, answer.text
    said: dict[str, Any] = answer.json()
    return said


def add(api: httpx2.Client, instance: str, name: str) -> dict[str, Any]:
    wanted = {"instance": instance, "name": name, "source": "local", "model_id": name}
    return post(api, "adapters/", wanted)


def settled(api: httpx2.Client, id_: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        said: dict[str, Any] = api.get(f"adapters/{id_}/").json()
        return said if said["state"] in {"ready", "failed"} else None

    found: dict[str, Any] = until(look, SOON)
    return found


def is_in(api: httpx2.Client, instance: str, state: str) -> Callable[[], bool]:
    def look() -> bool:
        said = api.get(f"instances/{instance}/").json()
        assert said["state"] != "failed", said["message"]
        return bool(said["state"] == state)

    return look


def test_adapters_come_and_go_on_a_running_engine(portal: Running, api: httpx2.Client) -> None:
    models = portal.home / "models"
    adapter(models / "plain", 0.0)
    adapter(models / "strong", 4.0)
    adapter(models / "narrow", 0.1, width=64)
    instance = post(
        api,
        "instances/",
        {
            "name": "demo",
            "model_source": "bundled",
            "model_id": demo.MODEL_ID,
            "settings": {"enable_lora": True, "max_lora_rank": "8"},
        },
    )["id"]
    until(is_in(api, instance, "ready"), START_TIMEOUT)
    key = post(api, "keys/", {"name": "all"})["key"]
    client = OpenAI(base_url=f"{portal.url}/v1", api_key=key, max_retries=0, timeout=START_TIMEOUT)

    def says(model: str) -> str:
        answer = client.completions.create(
            model=model, prompt="What is Modelport?", max_tokens=24, temperature=0
        )
        assert answer.model == model
        return answer.choices[0].text

    # Two of them with room for one at a time: the engine takes turns, and reads files again.
    plain, strong = add(api, instance, "plain"), add(api, instance, "strong")
    narrow = add(api, instance, "narrow")
    assert settled(api, plain["id"])["state"] == "ready"
    assert settled(api, strong["id"])["state"] == "ready"
    failed = settled(api, narrow["id"])
    assert (failed["state"], "another model" in failed["message"]) == ("failed", True)
    base = says("demo")
    for _ in range(2):
        assert says("plain") == base
        assert says("strong") != base
    assert {model.id for model in client.models.list()} == {"demo", "plain", "strong"}
    with pytest.raises(openai.InternalServerError, match="another model"):
        says("narrow")

    def usage() -> Any:
        found = api.get("usage/", params={"model": "strong"}).json()["results"]
        return found if len(found) >= 2 else None

    rows = until(usage, SOON)
    assert {row["instance_id"] for row in rows} == {instance}
    assert all(row["completion_tokens"] == 24 for row in rows)

    # It sleeps; who asks for an adapter wakes it and gets the adapter's answer.
    strange = says("strong")
    post(api, f"instances/{instance}/sleep/", {})
    until(is_in(api, instance, "asleep"), SOON)
    assert says("strong") == strange

    assert api.delete(f"adapters/{strong['id']}/").status_code == 204
    until(lambda: api.get(f"adapters/{strong['id']}/").status_code == 404, SOON)
    with pytest.raises(openai.NotFoundError):
        says("strong")
    assert says("plain") == base == says("demo")
    # Its name is free, also for another adapter.
    (models / "strong").rename(models / "before")
    adapter(models / "strong", 0.0)
    again = add(api, instance, "strong")
    assert settled(api, again["id"])["state"] == "ready"
    assert says("strong") == base
    # One start, one waking: no adapter has cost another.
    assert api.get(f"instances/{instance}/").json()["generation"] == 2
    events = api.get(f"instances/{instance}/events/").json()["results"]
    assert sum(event["reason"] == "ready" for event in events) == 2
