"""Top-level packages with everyday names must be installed, and ours alone in the environment."""

import subprocess
import sys
import tomllib
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest

from drover import extras

pytestmark = pytest.mark.thorough

ROOT = Path(__file__).parents[2]
PACKAGES = ["drover", "lab", "migrations", "models", "workers", "workflows"]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_other_distribution_owns_one_of_our_packages(package: str) -> None:
    distribution("drover")  # raises where it is not installed: nothing would be compared
    assert set(packages_distributions().get(package, [])) <= {"drover"}  # editable, it lists no files


def test_what_is_installed_is_found_from_anywhere(tmp_path: Path) -> None:
    """The tests themselves find the packages in the tree, installed or not."""
    script = "; ".join(f"import {package}" for package in PACKAGES)
    done = subprocess.run([sys.executable, "-I", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


HIDDEN = """
import sys
for module in {modules}:
    sys.modules[module] = None  # as if it were not installed
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in {modules} else find(name, package)
{program}
"""
OPTIONAL = tuple(module for modules in extras.MODULES.values() for module in modules)


def without_extras(program: str) -> subprocess.CompletedProcess[str]:
    """A program in an environment that has no extra installed."""
    code = HIDDEN.format(modules=OPTIONAL, program=program)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_a_worker_and_every_command_but_the_controller_run_without_extras() -> None:
    """What a worker imports, and what the commands import that do the work."""
    commands = [path.stem for path in (ROOT / "drover/cli").glob("*.py") if path.stem != "__init__"]
    imports = [*(f"drover.cli.{name}" for name in commands), "workers.tasks", "workers.registration", "workflows.tasks"]
    done = without_extras("; ".join(f"import {name}" for name in imports))
    assert done.returncode == 0, done.stderr


def test_a_controller_without_its_extra_says_what_to_install() -> None:
    done = without_extras("from drover.cli import main; main(['controller'])")
    assert done.returncode == 2
    assert done.stderr == (
        "error: a controller needs httpx and prometheus_client and standardwebhooks, which this environment lacks: "
        "install Drover with its extra `controller`, for example `pip install '.[controller]'` in a checkout\n"
    )


def test_a_lab_without_flower_says_what_to_install_and_how_to_do_without(tmp_path: Path) -> None:
    program = f"""[sys.modules.pop(name) for name in ("httpx", "prometheus_client", "standardwebhooks")]
importlib.util.find_spec = lambda name, package=None: None if name == "flower" else find(name, package)
from drover.cli import main; main(['lab', 'up', '--dir', {str(tmp_path / "lab")!r}])"""
    done = without_extras(program)
    assert done.returncode == 2
    assert "--no-flower" in done.stderr
    assert "`pip install '.[flower]'`" in done.stderr
    assert not (tmp_path / "lab" / "drover-lab").exists()


def test_what_a_hypervisor_installs_brings_neither_flower_nor_what_only_a_controller_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    core = " ".join(project["dependencies"])
    assert not [name for name in ("flower", "httpx", "prometheus", "opentelemetry") if name in core]
    assert extras.MODULES.keys() <= project["optional-dependencies"].keys()


def test_the_image_has_all_that_its_services_need() -> None:
    told = (ROOT / "Dockerfile").read_text()
    assert "('console', 'controller', 'flower')" in told
    assert "'.[console,controller,flower]'" in told


def test_the_image_is_built_from_all_packages() -> None:
    admitted = (ROOT / ".dockerignore").read_text().splitlines()
    assert {f"!{package}" for package in PACKAGES} <= set(admitted)
