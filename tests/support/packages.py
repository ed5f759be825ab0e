"""What may be absent."""

import importlib.util

import pytest


def needs(*modules):
    """Skip the test where a package is not installed."""
    for module in modules:
        try:
            found = importlib.util.find_spec(module)
        except ModuleNotFoundError:
            found = None
        if found is None:
            pytest.skip(f"needs {module}: make test-stores or make test-all")
