"""Products of events: the same numbers as a library's products, at every density, in both precisions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ottt_loihi.fast import event_kernels

SEEDS = st.integers(0, 2**32 - 1)
DENSITIES = st.sampled_from([0.0, 0.02, 0.2, 0.6, 1.0])
ERROR = {np.float64: 1e-12, np.float32: 1e-4}


def events(rng, shape, density, dtype):
    return ((rng.random(shape) < density) * rng.integers(1, 5, shape) / 4).astype(dtype)


ROWS = st.integers(0, 9) | st.just(2 * event_kernels.ROWS_AT_ONCE + 3)


@given(SEEDS, ROWS, st.integers(1, 20), st.integers(1, 20), DENSITIES, st.sampled_from(list(ERROR)))
@settings(max_examples=60, deadline=None)
def test_rows_are_a_matrix_product(seed, rows, inputs, outputs, density, dtype):
    rng = np.random.default_rng(seed)
    x, weight = events(rng, (rows, inputs), density, dtype), rng.standard_normal((inputs, outputs)).astype(dtype)
    g, out = rng.standard_normal((rows, outputs)).astype(dtype), np.empty((rows, outputs), dtype)
    event_kernels.add_rows(x, weight, np.ones(outputs, dtype), out)
    np.testing.assert_allclose(out, 1 + x @ weight, atol=ERROR[dtype])
    gradient = np.ones((inputs, outputs), dtype)
    event_kernels.add_outer(x, g, gradient)
    np.testing.assert_allclose(gradient, 1 + x.T @ g, atol=ERROR[dtype])


@given(
    SEEDS,
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(1, 5),
    DENSITIES,
    st.sampled_from(list(ERROR)),
)
@settings(max_examples=60, deadline=None)
def test_patches_are_a_convolution(seed, images, inputs, outputs, kernel, density, dtype):
    rng = np.random.default_rng(seed)
    padding = int(rng.integers(kernel))
    height, width = (int(n) for n in rng.integers(max(1, kernel - 2 * padding), 9, 2))
    x = events(rng, (images, height, width, inputs), density, dtype)
    weight = rng.standard_normal((outputs, inputs, kernel, kernel)).astype(dtype)
    image, filters = torch.from_numpy(x).permute(0, 3, 1, 2), torch.from_numpy(weight).requires_grad_()
    expected = torch.nn.functional.conv2d(image, filters, padding=padding)
    found = np.empty(tuple(expected.permute(0, 2, 3, 1).shape), dtype)
    patches, size = event_kernels.patches(weight), (height, width, inputs, outputs)
    event_kernels.add_patches(x.reshape(-1), patches.reshape(-1), found.reshape(-1), images, size, kernel, padding)
    np.testing.assert_allclose(found, expected.detach().permute(0, 2, 3, 1), atol=ERROR[dtype])

    g = rng.standard_normal(found.shape).astype(dtype)
    expected.backward(torch.from_numpy(g).permute(0, 3, 1, 2))
    gradient = np.zeros_like(patches)
    event_kernels.add_patch_gradients(x.reshape(-1), g.reshape(-1), gradient.reshape(-1), images, size, kernel, padding)
    np.testing.assert_allclose(event_kernels.of_patches(gradient, outputs), filters.grad, atol=10 * ERROR[dtype])


@pytest.mark.parametrize("kernel", [1, 3])
def test_patches_come_back(kernel):
    weight = np.random.default_rng(0).standard_normal((3, 4, kernel, kernel))
    np.testing.assert_array_equal(event_kernels.of_patches(event_kernels.patches(weight), 3), weight)
