"""Top-level packages with everyday names must be installed, and ours alone in the environment."""

import subprocess
import sys
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest

PACKAGES = ["lab", "migrations", "models", "workers", "workflows"]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_other_distribution_owns_one_of_our_packages(package: str) -> None:
    distribution("drover")  # raises where it is not installed: nothing would be compared
    assert set(packages_distributions().get(package, [])) <= {"drover"}  # editable, it lists no files


def test_what_is_installed_is_found_from_anywhere(tmp_path: Path) -> None:
    """The tests themselves find the packages in the tree, installed or not."""
    script = "; ".join(f"import {package}" for package in PACKAGES)
    done = subprocess.run([sys.executable, "-I", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
