"""The texts that say which layers a convolutional network has, ``"16C5-AP2-128F"``."""

from __future__ import annotations

import re
from typing import Any

from ottt_loihi.errors import UsageError

SIZE = r"\d+(?:x\d+)?"  # 5, or 5x1: vertical, horizontal
LAYER = re.compile(
    rf"(?P<n>\d+)C(?P<kernel_size>{SIZE})(?:S(?P<stride>{SIZE}))?(?:D(?P<dilation>{SIZE}))?(?:G(?P<groups>\d+))?"
    rf"|(?P<f>\d+)F|AP(?P<p>{SIZE})|(?P<g>GAP)"
)


def parse(features: str) -> list[dict[str, Any]]:
    """Return the layers of a text: ``"16C5-GAP"`` → ``[{kind: "C", n: 16, sizes: {…}}, {kind: "GAP"}]``.

    sizes: arguments of the convolution, padded to keep the image's size
    """
    layers = []
    for word in features.split("-") if isinstance(features, str) else [repr(features)]:
        match = LAYER.fullmatch(word)
        if match is None or any(set(group or "1") <= {"0"} for group in re.findall(r"\d+", word)):
            raise UsageError(
                "features: expected layers like 32C5, 32C3S2, 8C5x1, AP2, AP2x1, GAP or 128F joined by -, got "
                f"{word!r}{_known_elsewhere(word)}"
            )
        if match["f"]:
            layers.append({"kind": "F", "n": int(match["f"])})
        elif match["p"]:
            layers.append({"kind": "AP", "k": _both(match["p"])})
        elif match["g"]:
            layers.append({"kind": "GAP"})
        else:
            sizes: dict[str, Any] = {k: _both(match[k] or "1") for k in ("kernel_size", "stride", "dilation")}
            sizes["padding"] = tuple(d * (k - 1) // 2 for d, k in zip(sizes["dilation"], sizes["kernel_size"]))
            layers.append({"kind": "C", "n": int(match["n"]), "sizes": {**sizes, "groups": int(match["groups"] or 1)}})
    return layers


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
