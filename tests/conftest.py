import os
from pathlib import Path

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


@pytest.fixture(scope="session")
def data_folder():
    """Real data: OTTT_DATA_DIR, else ../shared/data beside the repository; a test that needs it is skipped elsewhere."""
    folder = Path(os.environ.get("OTTT_DATA_DIR") or Path(__file__).parent.parent.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no data sets in {folder}: set OTTT_DATA_DIR")
    return folder


@pytest.fixture(scope="session")
def cifar10_folder(data_folder, tmp_path_factory):
    """A data folder with CIFAR-10 in its binary format: 4,000 training and 1,000 test images of the PNG subset."""
    from cifar10_subset import convert

    if not (data_folder / "cifar10-subset").is_dir():
        pytest.skip(f"no cifar10-subset in {data_folder}")
    folder = tmp_path_factory.mktemp("data")
    convert(data_folder / "cifar10-subset", folder / "cifar10" / "cifar-10-batches-bin")
    return folder
