"""Every benchmark can be imported, so that a renamed function of the product is missed here and not by a reader."""

import importlib
import pkgutil

import pytest

import benchmarks


@pytest.mark.parametrize("name", sorted(module.name for module in pkgutil.iter_modules(benchmarks.__path__)))
def test_module_can_be_imported(name: str) -> None:
    importlib.import_module(f"benchmarks.{name}")
