"""Making an engine's environment, with real pip and a package of one line."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from inference.engines import ENGINES
from inference.engines.base import Recipe, Step
from inference.node import environments
from inference.node.environments import InstallProblem, InstallProgress
from tests.inference.node.rig import ROOT, wait_until

RECIPE = Recipe(
    name="abacus-cpu",
    version="1.0",
    python=f"{sys.version_info.major}.{sys.version_info.minor}",
    distribution="abacus",
    steps=(
        Step(requirements="beads.txt", extra_index="torch_cpu"),
        Step(requirements="abacus.txt"),
    ),
    disk_bytes=1,
)


def wheel(folder: Path, name: str, version: str, code: str = "") -> str:
    """Write a wheel; its hash."""
    info = f"{name}-{version}.dist-info"
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", code)
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Shop:
    """Wheels, requirement files and pip's configuration in one folder; no network."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home = folder / "home"
        self.wheels = folder / "wheels"
        self.elsewhere = folder / "elsewhere" / "beads"
        self.requirements = folder / "requirements"
        for made in (self.home, self.wheels, self.elsewhere, self.requirements):
            made.mkdir(parents=True)
        self.pin("abacus", wheel(self.wheels, "abacus", "1.0"))
        self.pin("beads", wheel(self.wheels, "beads", "1.0"))
        # Python's own site directory stays; only pip is told to stay at home.
        monkeypatch.setattr(environments, "REQUIREMENTS", self.requirements)
        for name in [name for name in os.environ if name.startswith("PIP_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_FIND_LINKS", str(self.wheels))
        monkeypatch.setenv("PIP_INDEX_URL", f"file://{folder}/empty/")
        self.index = f"file://{self.elsewhere.parent}/"
        self.said: list[InstallProgress] = []

    def pin(self, name: str, digest: str) -> None:
        (self.requirements / f"{name}.txt").write_text(f"{name}==1.0 --hash=sha256:{digest}\n")

    def install(self, recipe: Recipe = RECIPE, index: str = "") -> Path:
        return environments.install(
            recipe, self.home, self.said.append, indexes={"torch_cpu": index}
        )


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    return Shop(tmp_path, monkeypatch)


def version(python: Path) -> str:
    code = "import abacus, beads, importlib.metadata as m; print(m.version('abacus'))"
    return subprocess.check_output([str(python), "-c", code], text=True).strip()


def test_what_is_pinned_is_installed_into_an_environment_of_its_own(shop: Shop) -> None:
    python = shop.install()

    assert version(python) == "1.0"
    assert python == environments.installed_python(RECIPE, shop.home)
    assert python.is_relative_to(shop.home / "engines")
    assert shop.said[0].message and all(said.total == 2 for said in shop.said)
    assert environments.read_progress(RECIPE, shop.home) is None


def test_an_installed_environment_is_left_as_it_is(shop: Shop) -> None:
    first = shop.install()
    shutil.rmtree(shop.wheels)

    assert shop.install() == first


def test_another_recipe_is_another_environment(shop: Shop) -> None:
    first = shop.install()
    shop.pin("beads", wheel(shop.wheels, "beads", "1.0", code="count = 10"))

    second = shop.install()

    assert first != second and first.exists()


def test_the_rest_of_a_cut_off_attempt_is_made_anew(shop: Shop) -> None:
    python = shop.install()
    root = environments.folder(RECIPE, shop.home)
    (root / environments.MARKER).unlink()
    next(root.rglob("beads.py")).unlink()

    assert environments.installed_python(RECIPE, shop.home) is None
    assert version(shop.install()) == "1.0"
    assert python.exists()


def test_of_two_installers_one_works_and_the_other_waits(shop: Shop) -> None:
    made: list[Path] = []
    threads = [threading.Thread(target=lambda: made.append(shop.install())) for _ in range(2)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert made[0] == made[1]
    (log,) = (shop.home / "engines").glob("*.log")
    assert log.read_text().count("Successfully installed abacus") == 1


def test_an_installer_killed_half_way_does_no_harm(shop: Shop) -> None:
    code = (
        "import sys; from pathlib import Path; from inference.node import environments as e; "
        "from tests.inference.node.test_environments import RECIPE; "
        "e.REQUIREMENTS = Path(sys.argv[1]); "
        "e.install(RECIPE, Path(sys.argv[2]), indexes={})"
    )
    killed = subprocess.Popen(
        [sys.executable, "-c", code, str(shop.requirements), str(shop.home)], cwd=ROOT
    )
    root = environments.folder(RECIPE, shop.home)
    wait_until(lambda: (root / "pyvenv.cfg").exists())
    killed.send_signal(signal.SIGKILL)
    killed.wait()

    assert environments.installed_python(RECIPE, shop.home) is None
    assert version(shop.install()) == "1.0"


def test_a_package_that_is_elsewhere_is_looked_for_there(shop: Shop) -> None:
    shutil.move(shop.wheels / "beads-1.0-py3-none-any.whl", shop.elsewhere)
    name = "beads-1.0-py3-none-any.whl"
    (shop.elsewhere / "index.html").write_text(f'<a href="{name}">{name}</a>')

    assert version(shop.install(index=shop.index)) == "1.0"


def test_an_index_that_is_not_needed_is_not_asked(shop: Shop) -> None:
    started = time.monotonic()

    shop.install(index="http://10.255.255.1/whl")  # would be waited for

    assert time.monotonic() - started < 20


def test_a_package_that_is_nowhere_is_named(shop: Shop) -> None:
    (shop.wheels / "beads-1.0-py3-none-any.whl").unlink()

    with pytest.raises(InstallProblem, match="beads==1.0"):
        shop.install()

    said = environments.read_progress(RECIPE, shop.home)
    assert said is not None and said.failed and "beads" in said.message


def test_a_package_that_was_changed_is_refused(shop: Shop) -> None:
    wheel(shop.wheels, "abacus", "1.0", code="import os")

    with pytest.raises(InstallProblem, match="hash"):
        shop.install()

    assert environments.installed_python(RECIPE, shop.home) is None


def test_too_little_disk_is_said_before_anything_is_done(shop: Shop) -> None:
    with pytest.raises(InstallProblem, match="disk"):
        shop.install(replace(RECIPE, disk_bytes=1 << 60))

    assert not environments.folder(RECIPE, shop.home).exists()


def test_a_missing_python_is_said(shop: Shop) -> None:
    with pytest.raises(InstallProblem, match=r"Python 2\.4"):
        shop.install(replace(RECIPE, python="2.4"))


def test_a_distribution_that_is_not_what_was_asked_is_found_out(shop: Shop) -> None:
    with pytest.raises(InstallProblem, match="2.0"):
        shop.install(replace(RECIPE, version="2.0"))


def test_an_installation_can_be_stopped_and_leaves_no_pip_behind(shop: Shop) -> None:
    stop = threading.Event()
    stop.set()

    with pytest.raises(InstallProblem, match="stopped"):
        environments.install(RECIPE, shop.home, indexes={}, cancelled=stop)

    workspace = str(environments.folder(RECIPE, shop.home))
    wait_until(lambda: not [p for p in psutil.process_iter() if workspace in words(p)])


def words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def test_pips_wish_to_install_elsewhere_is_not_heard(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PIP_TARGET", str(tmp_path / "astray"))

    assert version(shop.install()) == "1.0"
    assert not (tmp_path / "astray").exists()


@pytest.mark.parametrize(
    ("output", "word"),
    [
        ("ERROR: Could not install: [Errno 28] No space left on device", "full"),
        ("WARNING: Retrying … NewConnectionError('…')\nERROR: No matching distribution", "network"),
        ("ERROR: something new", "something new"),
    ],
)
def test_pips_words_become_a_sentence(output: str, word: str) -> None:
    assert word in environments._pip_sentence(output, Path("/home"))


@pytest.mark.parametrize("variant", ["cpu", "cuda"])
def test_every_package_of_the_real_recipes_is_pinned_by_hash(variant: str) -> None:
    recipe = ENGINES["vllm"].recipe(variant)  # type: ignore[arg-type]

    for step in recipe.steps:
        text = (environments.REQUIREMENTS / step.requirements).read_text()
        pins = text.replace("\\\n", " ").splitlines()
        pins = [line for line in pins if line.strip() and not line.startswith("#")]
        assert pins and all("==" in line and "--hash=sha256:" in line for line in pins)
        assert "://" not in text, "an index belongs to the operator's configuration"
    assert environments.package_count(recipe) > 100
    named = f"{recipe.distribution}=={recipe.version}"
    assert any(
        named in (environments.REQUIREMENTS / step.requirements).read_text()
        for step in recipe.steps
    )
