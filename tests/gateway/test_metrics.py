"""The figures of a machine that runs gateways, and that what is told is explained."""

import asyncio
import json
import os
import re
import time
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from inference.gateway import machine, scrape
from inference.gateway.journal import Journal
from tests.gateway.house import House, chat

ROOT = Path(__file__).resolve().parents[2]
NAMED = re.compile(r"modelport_(?:gateway|journal|meter|usage)_[a-z_]+")


def of(text: bytes, name: str) -> float:
    (family,) = (f for f in text_string_to_metric_families(text.decode()) if f.name == name)
    return sum(sample.value for sample in family.samples)


def told(text: bytes) -> set[str]:
    """The names that a query may use."""
    return {
        name
        for family in text_string_to_metric_families(text.decode())
        for name in (family.name, *(sample.name for sample in family.samples))
    }


async def text_of(house: House) -> bytes:
    async with house.sdk() as client:
        await client.chat.completions.create(**chat())
    return await scrape.scrape(house.runtime._env)


async def test_each_figure_is_explained(house: House):
    text = await text_of(house)
    machine.mark_shipped(house.home / "journal")
    explained = set(NAMED.findall((ROOT / "docs" / "operate.md").read_text()))
    told_of = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in text_string_to_metric_families(text.decode())
    }
    assert told_of - explained == set()


async def test_what_the_docs_and_the_dashboard_ask_for_is_told(house: House):
    names = told(await text_of(house))
    dashboard = (ROOT / "deploy" / "grafana" / "modelport.json").read_text()
    assert json.loads(dashboard)["panels"]
    assert set(NAMED.findall(dashboard)) - names == set()
    assert set(NAMED.findall((ROOT / "docs" / "operate.md").read_text())) - names == set()


async def test_no_label_is_one_that_prometheus_gives_itself(house: House):
    text = (await text_of(house)).decode()
    labels = {
        label
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        for label in sample.labels
    }
    assert labels >= {"organization_id", "instance_id", "model", "endpoint", "status", "le"}
    assert not labels & {"instance", "job"}


async def test_a_machine_tells_of_its_journals_and_how_far_its_meter_is_behind(tmp_path: Path):
    folder = tmp_path / "journal"
    assert machine.figures(folder) == {}
    journal = Journal(folder, asyncio.get_running_loop())
    os.utime(journal.path, (time.time() - 100, time.time() - 100))
    never = machine.figures(folder)
    assert never["meter_behind_seconds"] >= 100
    assert never["journal_bytes"] == journal.path.stat().st_size
    assert never["journal_disk_free_bytes"] > 0
    machine.mark_shipped(folder)
    (folder / machine.REFUSED).write_text("{}\n")
    shipped = machine.figures(folder)
    assert shipped["meter_behind_seconds"] < 90
    assert shipped["usage_refused_bytes"] == 3
    text = scrape.exposition([], shipped)
    assert of(text, "modelport_usage_refused_bytes") == 3
    journal.close()
