"""The texts that say which layers a convolutional network has, ``"16C5-AP2-128F"``."""

from __future__ import annotations

import re
from typing import Any

from ottt_loihi import checks
from ottt_loihi.errors import UsageError

SIZE = r"\d+(?:x\d+)?"  # 5, or 5x1: vertical, horizontal
LAYER = re.compile(
    rf"(?P<n>\d+)C(?P<kernel_size>{SIZE})(?:S(?P<stride>{SIZE}))?(?:D(?P<dilation>{SIZE}))?(?:G(?P<groups>\d+))?"
    rf"|(?P<f>\d+)F|AP(?P<p>{SIZE})|(?P<g>GAP)"
)


def parse(features: str) -> tuple[list[tuple[int, dict[str, Any] | None, Any]], Any]:
    """Return the layers of a text, and the pooling after the last: ``"16C5-GAP"`` → ``[(16, {…}, None)], "global"``.

    Of each layer the number of its channels or neurons, the arguments of its convolution, padded to keep the image's
    size, or None if it is fully connected, and the pooling of its input (:class:`~.connections.Connection`).
    """
    layers, pool = [], None
    for word in features.split("-") if isinstance(features, str) else [repr(features)]:
        match = LAYER.fullmatch(word)
        if match is None or any(set(group or "1") <= {"0"} for group in re.findall(r"\d+", word)):
            raise UsageError(
                "features: expected layers like 32C5, 32C3S2, 8C5x1, AP2, AP2x1, GAP or 128F joined by -, got "
                f"{word!r}{_known_elsewhere(word)}"
            )
        if match["p"] or match["g"]:
            if pool is not None:
                raise UsageError(f"features: two poolings in a row in {features!r}; join them")
            pool = "global" if match["g"] else checks.pair(_both(match["p"]), "features")
            continue
        sizes: dict[str, Any] | None = None
        if match["n"]:
            sizes = {k: _both(match[k] or "1") for k in ("kernel_size", "stride", "dilation")}
            sizes["padding"] = tuple(d * (k - 1) // 2 for d, k in zip(sizes["dilation"], sizes["kernel_size"]))
            sizes["groups"] = int(match["groups"] or 1)
        layers.append((int(match["n"] or match["f"]), sizes, pool))
        pool = None
    return layers, pool


def _both(text: str) -> tuple[int, int]:
    """``"5x1"`` → (5, 1), ``"5"`` → (5, 5)."""
    vertical, _, horizontal = text.partition("x")
    return int(vertical), int(horizontal or vertical)


def _known_elsewhere(word: str) -> str:
    """Return the remedy for a layer that other frameworks have and a network here does not."""
    if re.fullmatch(r"MP.*|G?MaxPool.*", word, re.IGNORECASE):
        return "; max pooling of spikes has no gradient that a trace could carry, use AP, or a stride"
    if re.fullmatch(r"\d+(T|DC|TC).*", word, re.IGNORECASE):
        return "; transposed convolutions are not trained here, use a convolution with upsample (Conv2d)"
    return ""
