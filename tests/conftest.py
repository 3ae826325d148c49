import os

import pytest

# One thread: results must not depend on the machine's load, and threads before a fork hang Lava (LAVA.md §5).
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items):
    try:
        import lava.magma.core.process.process  # noqa: F401
    except ImportError:
        skip = pytest.mark.skip(reason="Lava is not installed (it needs Python 3.10)")
        for item in items:
            if "lava" in item.keywords:
                item.add_marker(skip)
