"""The GPUs that can be planned for: their memory, and how fast they read it and calculate."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from magpie.errors import RecipeError

_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Card:
    """One kind of GPU. `memory` is in bytes, as its driver reports it, about; `bandwidth` is that memory's in bytes/s.

    `flops` and `fp8_flops` are dense tensor-core operations a second, in bfloat16 and in 8 bits (None where the card
    has none). `link` is the bandwidth to the other GPUs of its node, in bytes/s in one direction. All are the maker's
    figures.
    """

    name: str
    title: str
    memory: int
    bandwidth: float
    flops: float
    fp8_flops: float | None
    link: float
    devices: str
    """A regular expression of the names that the driver gives such a card."""


CARDS = tuple(
    Card(
        name, title, int(gib * _GIB), bandwidth * 1e12, flops * 1e12, fp8 and fp8 * 1e12, link * 1e9, devices
    )
    for name, title, gib, bandwidth, flops, fp8, link, devices in (
        ("a100-40gb", "A100 40 GB", 39.4, 1.555, 312, None, 300, r"A100.*40GB"),
        ("a100-80gb", "A100 80 GB", 79.2, 2.039, 312, None, 300, r"A100.*80GB"),
        ("h100-80gb", "H100 80 GB", 79.2, 3.35, 989, 1979, 450, r"H100(?!.*(NVL|PCIe))"),
        ("h200", "H200 141 GB", 139.8, 4.8, 989, 1979, 450, r"\bH200"),
        ("b200", "B200 180 GB", 178.3, 8.0, 2250, 4500, 900, r"\bB200"),
        ("l40s", "L40S 48 GB", 44.4, 0.864, 362, 733, 32, r"L40S"),
        ("rtx-4090", "RTX 4090 24 GB", 23.5, 1.008, 165, 330, 32, r"4090"),
    )
)
"""SXM boards, where a card comes as several."""


def find_card(name: str) -> Card:
    """The card that a person calls `name`. Raises RecipeError."""
    wanted = re.sub(r"[^a-z0-9]", "", name.lower())
    for card in CARDS:
        plain = card.name.replace("-", "")
        if wanted in {plain, plain.removesuffix("80gb") if card.name.startswith("h100") else plain}:
            return card
    raise RecipeError(
        f"--gpu {name!r} is not known; use one of: {', '.join(card.name for card in CARDS)}, "
        "or leave it out for this machine's own"
    )


def card_of_device(device: str) -> Card | None:
    """The card that a driver calls `device`, such as "NVIDIA H100 80GB HBM3"; None for one that is not known."""
    return next((card for card in CARDS if re.search(card.devices, device)), None)


def card_here() -> Card | None:
    """The GPU of this machine, as its driver's files name it, else torch. None where there is none, or none known."""
    name = driver_names() or _torch_name()
    return card_of_device(name[0]) if name else None


def driver_names(folder: Path = Path("/proc/driver/nvidia/gpus")) -> list[str]:
    """What the driver calls the GPUs of this machine, without a library that would hold one; empty where unsaid."""
    names = []
    for path in sorted(folder.glob("*/information")):
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        names += [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]
    return names


def _torch_name() -> list[str]:
    import torch

    return [torch.cuda.get_device_name(0)] if torch.cuda.is_available() else []
