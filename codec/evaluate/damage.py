"""What a channel did: systems that differ in the share of damage alone, brought into curves."""

from __future__ import annotations

from dataclasses import dataclass

from codec.distort import TokenChannel
from codec.evaluate.summary import Table


@dataclass(frozen=True, slots=True)
class Damaged:
    """A system behind a channel.

    Attributes:
        base: the system without the channel.
        channel: its kind: `bsc`, `burst,20`.
        share: of damage.
        line: of which curve it is a point: the base, and how its tokens are packed where that is unusual.
    """

    base: str
    channel: str
    share: float
    line: str


def describe(base: str, channel: TokenChannel) -> Damaged:
    """`base` behind `channel`."""
    length = f",{channel.length}" if channel.kind in ("burst", "gilbert") else ""
    line = f"{base}, digits apart" if channel.digits else base
    return Damaged(base, f"{channel.kind}{length}", channel.share, line)


def curves(
    table: Table, damaged: dict[str, Damaged], metric: str
) -> dict[str, dict[str, list[tuple[float, str]]]]:
    """`{channel: {line: [(share, system), ...]}}` of the systems that have `metric`, from no damage to most."""
    found: dict[str, dict[str, list[tuple[float, str]]]] = {}

    def measured(system: str) -> bool:
        return table.get(system, {}).get(metric, {}).get("mean") is not None

    for system, behind in damaged.items():
        if measured(system) and behind.share > 0:
            points = found.setdefault(behind.channel, {}).setdefault(behind.line, [])
            if not points and measured(behind.base):
                points.append((0.0, behind.base))
            points.append((behind.share, system))
    return {
        channel: {line: sorted(points) for line, points in lines.items()} for channel, lines in found.items()
    }
