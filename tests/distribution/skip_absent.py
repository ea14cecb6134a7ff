"""Skip tests that import a library of the benchmark suite. This is conftest.py in `make test-versions`."""

import pytest

ABSENT = {"accelerate", "pytorch_cpr", "results", "schedulefree", "scripts", "tasks", "timm", "transformers"}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    try:
        return (yield)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] not in ABSENT:
            raise
        pytest.skip(f"needs {error.name}")
