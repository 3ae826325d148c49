"""Run the tests that come with Intel's wheels on the Lava that is installed here.

    LAVA_WHEELS=folder python packaging/original_tests.py [pytest options]

``folder`` holds lava_nc-0.10.0 and lava_dl-0.6.0 as Intel released them (pip download --no-deps --python-version 3.10
--only-binary=:all: --dest folder lava-nc==0.10.0 lava-dl==0.6.0). What is not installed is left out and named.
"""

import os
import subprocess
import sys
import tempfile
import zipfile
from importlib.metadata import distributions
from pathlib import Path

PARTS = {
    "lava_nc-0.10.0-py3-none-any.whl": ("tests/lava/proc", "tests/lava/magma/core/learning"),
    "lava_dl-0.6.0-py3-none-any.whl": ("tests/lava/lib/dl/netx",),
}


def main() -> int:
    """Return the worst exit code of pytest over both packages."""
    wheels, codes = Path(os.environ.get("LAVA_WHEELS", ".")), [0]
    for name, parts in PARTS.items():
        package = name.partition("-")[0].replace("_", "-")
        if not list(distributions(name=package)):
            print(f"{package} is not installed: its tests are left out", flush=True)
            continue
        if not (wheels / name).is_file():
            sys.exit(f"{wheels / name} is missing; set LAVA_WHEELS to the folder with Intel's wheels")
        with tempfile.TemporaryDirectory() as folder:
            with zipfile.ZipFile(wheels / name) as wheel:
                wheel.extractall(folder, [n for n in wheel.namelist() if n.startswith("tests/")])
            line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *sys.argv[1:], *parts]
            codes.append(subprocess.run(line, cwd=folder, check=False).returncode)
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
