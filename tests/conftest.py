import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from ottt_loihi.converters.lava.installed import lava_problem

# One thread: results must not depend on the machine's load, and threads before a fork hang Lava (LAVA.md §5).
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Hypothesis measures the seconds of the first draws; on a busy machine they say nothing about a test. The same draws in
# every run: a change is judged by them, here and in CI; --hypothesis-profile=anew draws others.
for profile, same in (("anew", False), ("same", True)):
    settings.register_profile(
        profile, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=same, print_blob=True
    )
settings.load_profile("same")


# Their kernels take long to compile: with several processes (`--dist loadgroup`) one of them runs all of these.
LEARNS_IN_SIM = (
    "test_learn",
    "test_backbone",
    "test_continued",
    "test_lateral",
    "test_pipelined",
    "test_sparse_learning",
    "test_stock_learning",
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.name.startswith(LEARNS_IN_SIM):
            item.add_marker(pytest.mark.xdist_group("learning"))
    if problem := lava_problem():
        skip = pytest.mark.skip(reason=problem)
        for item in items:
            if "lava" in item.keywords:
                item.add_marker(skip)


@pytest.fixture(scope="session")
def real_data():
    """The folder of real data (OTTT_DATA_DIR, else ../shared/data beside the repository), or skip what needs them."""
    folder = Path(os.environ.get("OTTT_DATA_DIR") or Path(__file__).parent.parent.parent / "shared" / "data")

    def with_data_set(name):
        if not (folder / name).is_dir():
            pytest.skip(f"no {name} in {folder}: set OTTT_DATA_DIR to a folder that has it")
        return folder

    return with_data_set


@pytest.fixture(scope="session")
def cifar10_folder(real_data, tmp_path_factory):
    """A data folder with CIFAR-10 in its binary format: 4,000 training and 1,000 test images of the PNG subset."""
    from cifar10_subset import convert

    subset = real_data("cifar10-subset") / "cifar10-subset"
    folder = tmp_path_factory.mktemp("data")
    convert(subset, folder / "cifar10" / "cifar-10-batches-bin")
    return folder
