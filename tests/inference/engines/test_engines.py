"""What holds for every engine."""

from pathlib import Path

import pytest

from inference.engines import ENGINES
from inference.engines.__main__ import table
from inference.engines.base import BadSetting, Engine, Variant, variant_of
from tests.inference.engines.test_vllm import launch, pair

REQUIREMENTS = Path("inference/engines/requirements")

every_engine = pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
installed = [(engine, variant) for engine in ENGINES.values() for variant in engine.variants]
every_recipe = pytest.mark.parametrize(
    ("engine", "variant"), installed, ids=[f"{e.name}-{v}" for e, v in installed]
)
every_machine = pytest.mark.parametrize("variant", ["cpu", "cuda"])


def test_the_table_in_the_docs_is_what_the_adapters_say() -> None:
    assert Path("docs/engines.md").read_text() == table(), "python -m inference.engines"


@every_engine
def test_every_setting_is_explained_and_its_default_is_in_range(engine: Engine) -> None:
    for setting in engine.settings:
        assert setting.label and setting.help
        if setting.default is not None:
            assert setting.check(setting.default) == setting.default


@every_engine
def test_it_says_what_it_is_good_for_and_which_weights_it_loads(engine: Engine) -> None:
    assert engine.title and engine.good_for.endswith(".")
    assert engine.formats and engine.formats <= {"safetensors", "gguf"}


@every_engine
def test_what_an_engine_does_not_know_is_refused_with_a_sentence(engine: Engine) -> None:
    with pytest.raises(BadSetting, match="There is no setting called trust_remote_code"):
        engine.check({"trust_remote_code": True})


@every_recipe
def test_it_is_installed_from_hashed_pins_alone(engine: Engine, variant: Variant) -> None:
    recipe = engine.recipe(variant)
    pins = "".join((REQUIREMENTS / step.requirements).read_text() for step in recipe.steps)

    packages = [line for line in pins.splitlines() if line and line[0] not in "# "]
    assert all("==" in line and line.endswith("\\") for line in packages)
    assert pins.count("--hash=sha256:") >= len(packages)
    assert not [line for line in pins.splitlines() if line.startswith("-")]
    assert any(line.startswith(f"{recipe.distribution}=={recipe.version} ") for line in packages)


@every_engine
@every_machine
def test_it_listens_on_its_private_socket_and_stays_off_the_network(
    engine: Engine, variant: str
) -> None:
    gpus = (1,) if variant == "cuda" else ()
    chosen = "tiny.gguf" if "gguf" in engine.formats else ""
    there = launch(variant=variant, gpu_indices=gpus, model_file=chosen)

    line, env = engine.argv(there, []), engine.env(there)

    assert "/run/engine.sock" in line and "--port" not in line
    # llama.cpp has no other flag for it.
    assert "--host" not in line or pair(line, "--host") == "/run/engine.sock"
    assert env["HF_HUB_OFFLINE"] == env["TRANSFORMERS_OFFLINE"] == env["DO_NOT_TRACK"] == "1"


@every_engine
def test_it_is_probed_where_clients_may_ask(engine: Engine) -> None:
    assert engine.probe(launch()).path in engine.endpoints({})


@every_engine
def test_a_metric_has_a_place_to_be_read_from(engine: Engine) -> None:
    assert bool(engine.metric_names) == bool(engine.metrics_path)


@every_engine
@every_machine
def test_on_every_machine_some_of_it_can_be_installed(engine: Engine, variant: Variant) -> None:
    assert engine.recipe(variant_of(engine, variant))
