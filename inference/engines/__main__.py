"""What each engine can do, as a table in Markdown: python -m inference.engines > docs/engines.md

Read off the adapters, so that it cannot say what they do not.
"""

from collections.abc import Callable, Iterable

from inference.engines import ENGINES
from inference.engines.base import KEPT, Engine, Setting, SettingValue, Variant

HEAD = """\
# Engines

Generated from the adapters in `inference/engines` by `python -m inference.engines`; a test keeps it
true. What an engine does not know is refused with a sentence before anything starts.
"""


def table() -> str:
    engines = list(ENGINES.values())
    features = [(name, [_mark(has(e)) for e in engines]) for name, has in FEATURES.items()]
    names = list(dict.fromkeys(setting.name for e in engines for setting in e.settings))
    settings = [(f"`{name}`", [_kind(e, name) for e in engines]) for name in names]
    return "\n".join(
        [
            HEAD,
            "## What they offer\n",
            *_rows("", engines, features),
            "\n## Settings\n",
            "Numbers are the least and the most; “GPU” or “CPU”: only on machines with or without"
            " one.\n",
            *_rows("Setting", engines, settings),
            "",
        ]
    )


def _offers(path: str) -> Callable[[Engine], bool]:
    """With whichever setting it takes."""
    return lambda engine: any(path in engine.endpoints(chosen) for chosen in _choices(engine))


def _choices(engine: Engine) -> Iterable[dict[str, SettingValue]]:
    yield {}
    for setting in engine.settings:
        values: Iterable[SettingValue] = (True,) if setting.kind == "bool" else setting.choices
        yield from ({setting.name: value} for value in values)


def _takes(name: str) -> Callable[[Engine], bool]:
    return lambda engine: any(setting.name == name for setting in engine.settings)


def _version(engine: Engine, variant: Variant) -> str:
    return engine.recipe(variant).version if variant in engine.variants else "by an own command"


FEATURES: dict[str, Callable[[Engine], bool | str]] = {
    "Weights": lambda engine: ", ".join(sorted(engine.formats)),
    "Version without a GPU": lambda engine: _version(engine, "cpu"),
    "Version on NVIDIA GPUs": lambda engine: _version(engine, "cuda"),
    "Chat": _offers("/v1/chat/completions"),
    "Completions": _offers("/v1/completions"),
    "Responses": _offers("/v1/responses"),
    "Responses, kept": _offers(KEPT),
    "Messages (Anthropic)": _offers("/v1/messages"),
    "Embeddings": _offers("/v1/embeddings"),
    "Reranking": _offers("/v1/rerank"),
    "Several GPUs": _takes("tensor_parallel"),
    "Presets": _takes("preset"),
    "Speculative decoding": _takes("speculation"),
    "Sleeps at hand on a GPU": lambda engine: engine.can_sleep({}, "cuda"),
    "LoRA adapters at run time": lambda engine: any(
        engine.lora(chosen) for chosen in _choices(engine)
    ),
    "With a draft model": lambda engine: ", ".join(engine.drafting) or False,
    "Metrics": lambda engine: bool(engine.metrics_path),
}


def _rows(title: str, engines: list[Engine], rows: Iterable[tuple[str, list[str]]]) -> list[str]:
    head = [title, *(engine.title for engine in engines)]
    lines = [head, ["---"] * len(head), *([name, *cells] for name, cells in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def _mark(has: bool | str) -> str:
    return has if isinstance(has, str) else ("yes" if has else "–")


def _kind(engine: Engine, name: str) -> str:
    for setting in engine.settings:
        if setting.name == name:
            return _range(setting) + _machine(setting)
    return "–"


def _range(setting: Setting) -> str:
    match setting.kind:
        case "choice":
            return ", ".join(setting.choices)
        case "bool":
            return "on, off"
        case _:
            return f"{setting.minimum:,} to {setting.maximum:,}"


def _machine(setting: Setting) -> str:
    if len(setting.variants) > 1:
        return ""
    return " (GPU)" if "cuda" in setting.variants else " (CPU)"


if __name__ == "__main__":
    print(table(), end="")  # noqa: T201
