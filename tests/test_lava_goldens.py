"""Stock Lava processes give the same integers on Python 3.10 to 3.13, whichever wheel they come from."""

import json

import numpy as np
import pytest
from lava_scenarios import GOLDENS, digest, run, scenarios

pytestmark = pytest.mark.lava


@pytest.fixture(scope="module")
def goldens():
    return json.loads(GOLDENS.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", scenarios())
def test_fixed_point_has_the_same_hashes(goldens, name):
    found = run(scenarios()[name], "fixed_pt")
    assert {var: digest(values) for var, values in found.items()} == goldens["fixed"][name]
    assert all(values.any() for values in found.values()), "a scenario in which nothing happens shows nothing"


@pytest.mark.parametrize("name", scenarios())
def test_floating_point_is_the_same_within_rounding(goldens, name):
    for var, values in run(scenarios()[name], "floating_pt").items():
        np.testing.assert_allclose(values[-1].ravel(), goldens["float"][name][var], rtol=1e-12, atol=1e-12, err_msg=var)
