"""Lava's language of learning rules, checked before Lava reads it: some of its mistakes are silent, others a traceback.

A rule is a sum of products. Every product has exactly one dependency, ``x0``, ``y0`` or ``u0`` … ``u9``; factors ``x1
x2 y1 y2 y3 w d t``, each optionally ``(factor ± integer)``; and a scale of integers and ``2^n`` that is a mantissa
−8 … 7 times 2^n, −7 ≤ n ≤ 8. What else Lava knows (``sgn``, constants as factors) is not taken here.

Source: ``lava/magma/core/learning/product_series.py`` and ``symbolic_equation.py``; ``u12`` silently means 2·u1 there.
"""

from __future__ import annotations

import re

from ottt_loihi.errors import UsageError

FACTOR = re.compile(r"x[12]|y[123]|[wdt]|\((?:x[12]|y[123]|[wdt])[+-]\d+\)")
DEPENDENCY = re.compile(r"[xy]0|u\d")
NUMBER = re.compile(r"(\d+)")
POWER = re.compile(r"2\^(-?\d+)")
MANTISSA, EXPONENT = (-8, 7), (-7, 8)


def check_rule(dw: str, name: str = "dw") -> None:
    """Raises :class:`UsageError` that names the product and what is wrong with it."""
    if not isinstance(dw, str) or not dw.strip():
        raise UsageError(f"{name}: expected a sum of products such as 2^-7*u0*x1*y1, got {dw!r}")
    for product in _products("".join(dw.split()), name):
        _check_product(product, name)


def _products(dw: str, name: str) -> list[str]:
    """Split at + and − outside brackets and not after ``^`` or ``*``; the sign stays with its product."""
    found, depth = [""], 0
    for place, character in enumerate(dw):
        depth += (character == "(") - (character == ")")
        if depth < 0:
            break
        if character in "+-" and depth == 0 and place and dw[place - 1] not in "^*":
            found.append("")
        found[-1] += character
    if depth:
        raise UsageError(f"{name}: brackets do not match in {dw!r}")
    return found


def _check_product(product: str, name: str) -> None:
    mantissa, exponent, dependencies = -1 if product.startswith("-") else 1, 0, 0
    for part in product.lstrip("+-").split("*"):
        if number := NUMBER.fullmatch(part):
            mantissa *= int(number[1])
        elif power := POWER.fullmatch(part):
            exponent += int(power[1])
        elif DEPENDENCY.fullmatch(part):
            dependencies += 1
        elif not FACTOR.fullmatch(part):
            raise UsageError(
                f"{name}: {part!r} in {product!r}: expected an integer, 2^n, a dependency x0, y0, u0 … u9, or a factor "
                f"x1, x2, y1, y2, y3, w, d, t, optionally (factor ± integer)"
            )
    if dependencies != 1:
        raise UsageError(
            f"{name}: {product!r} has {dependencies} dependencies, expected one of x0, y0, u0 … u9 in every product"
        )
    while abs(mantissa) > MANTISSA[1] and mantissa % 2 == 0 and exponent < EXPONENT[1]:
        mantissa, exponent = mantissa // 2, exponent + 1  # as Lava does
    if not (MANTISSA[0] <= mantissa <= MANTISSA[1] and EXPONENT[0] <= exponent <= EXPONENT[1]):
        raise UsageError(
            f"{name}: {product!r} has the scale {mantissa}·2^{exponent}; expected a mantissa −8 … 7 and 2^−7 … 2^8"
        )
