"""Top-level packages with everyday names must be ours alone in the environment."""

from importlib.metadata import packages_distributions

import pytest


@pytest.mark.parametrize("package", ["lab", "migrations", "models", "workers", "workflows"])
def test_no_other_distribution_owns_one_of_our_packages(package: str) -> None:
    assert set(packages_distributions().get(package, ["drover"])) == {"drover"}
