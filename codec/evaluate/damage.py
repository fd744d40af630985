"""What a channel did: systems that differ in the share of damage alone, brought into curves."""

from __future__ import annotations

from dataclasses import dataclass

from codec.evaluate.channel import Channel
from codec.evaluate.summary import Table


@dataclass(frozen=True, slots=True)
class Damaged:
    """A system behind a channel.

    Attributes:
        base: the system without the channel.
        channel: its kind, all but the share of damage: `bsc`, `bsc,digits`, `burst,20`.
        share: of damage.
    """

    base: str
    channel: str
    share: float


def describe(base: str, channel: Channel) -> Damaged:
    """`base` behind `channel`."""
    length = f",{channel.length}" if channel.kind in ("burst", "gilbert") else ""
    digits = ",digits" if channel.digits else ""
    return Damaged(base, f"{channel.kind}{length}{digits}", channel.share)


def curves(
    table: Table, damaged: dict[str, Damaged], metric: str
) -> dict[str, dict[str, list[tuple[float, str]]]]:
    """`{channel: {base: [(share, system), ...]}}` of the systems that have `metric`, from no damage to most."""
    found: dict[str, dict[str, list[tuple[float, str]]]] = {}
    for system, about in damaged.items():
        if table.get(system, {}).get(metric, {}).get("mean") is not None:
            found.setdefault(about.channel, {}).setdefault(about.base, []).append((about.share, system))
    for lines in found.values():
        for base, points in lines.items():
            if table.get(base, {}).get(metric, {}).get("mean") is not None and all(s for s, _ in points):
                points.append((0.0, base))
            points.sort()
    return found
