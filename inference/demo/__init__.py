"""The demo model that ships with Modelport, so that everything can be tried without a network."""

from functools import cache
from hashlib import sha256
from pathlib import Path

MODEL_ID = "modelport/demo"
MODEL_PATH = Path(__file__).parent / "model"


@cache
def model_revision() -> str:
    """40 hex digits that change whenever a file that an engine loads does.

    They stand where a commit hash stands for a model of the hub. The card is left out: better
    words about the same weights are no new revision.
    """
    digest = sha256()
    for path in sorted(MODEL_PATH.iterdir()):
        if path.suffix in {".json", ".safetensors", ".jinja"}:
            digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:40]
