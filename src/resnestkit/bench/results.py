"""What was measured, what follows from it, and JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from resnestkit.bench.contenders import Plan, Precision


@dataclass(frozen=True, slots=True)
class Floor:
    """Plain products of matrices in one precision, measured in the same rounds."""

    precision: Precision
    operations: int
    """Of one call."""
    seconds: tuple[float, ...]

    @property
    def rate(self) -> float:
        """Operations per second: the median."""
        return self.operations / statistics.median(self.seconds)


@dataclass(frozen=True, slots=True)
class Row:
    """One contender at one batch size."""

    plan: Plan
    net: str
    """Name in its library."""
    batch: int
    gmacs: float
    """10^9 multiply-adds of an image."""
    seconds: tuple[float, ...]
    """Of every call that counts."""
    rate: float | None = None
    """Operations per second of plain products of matrices in its precision, if known."""
    memory: float | None = None
    """Peak of a process of its own, in megabytes."""

    @property
    def milliseconds(self) -> float:
        """Per image: the median."""
        return 1e3 * statistics.median(self.seconds) / self.batch

    @property
    def quartiles(self) -> tuple[float, float]:
        """Milliseconds per image that a quarter, and three quarters, of the calls stay below."""
        return spread([1e3 * second / self.batch for second in self.seconds])

    @property
    def images_per_second(self) -> float:
        """Of the median call."""
        return 1e3 / self.milliseconds

    @property
    def share(self) -> float | None:
        """Of the rate of plain products, what its multiply-adds reach."""
        return None if self.rate is None else 2e9 * self.gmacs * self.images_per_second / self.rate


@dataclass(frozen=True, slots=True)
class Heat:
    """All contenders of one net at one batch size, who ran in the same rounds."""

    net: str
    """As the user gave it."""
    batch: int
    size: int
    accuracy: float | None
    rows: tuple[Row, ...]
    floors: tuple[Floor, ...]


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times faster ours is than a peer."""

    net: str
    batch: int
    ours: str
    peer: str
    ratio: float
    """Median of the rounds' own: what slows a whole round cancels."""
    low: float
    """A quarter of the rounds stay below this."""
    high: float


@dataclass(frozen=True, slots=True)
class Benchmark:
    """All heats, and where they were run."""

    machine: dict[str, str]
    heats: tuple[Heat, ...]
    left_out: tuple[str, ...]
    """Peers that are missing, and why."""
    stopped: bool = False
    """Whether Ctrl-C came before the last net: those before it are here."""

    @property
    def ratios(self) -> tuple[Ratio, ...]:
        """Ours beside the best peer of each precision, and the best of ours beside timm eager."""
        return tuple(ratio for heat in self.heats for ratio in find_ratios(heat))

    def to_json(self) -> str:
        """Every call of everybody, and what follows."""
        heats = [{**asdict(heat), "rows": [_describe(r) for r in heat.rows]} for heat in self.heats]
        ratios = [asdict(ratio) for ratio in self.ratios]
        values = {"machine": self.machine, "left_out": self.left_out, "heats": heats}
        return json.dumps({**values, "ratios": ratios}, indent=2)


def _describe(row: Row) -> dict[str, object]:
    low, high = row.quartiles
    return {
        "who": row.plan.who,
        "precision": row.plan.precision,
        "net": row.net,
        "batch": row.batch,
        "gmacs": row.gmacs,
        "ms_per_image": row.milliseconds,
        "quartiles": [low, high],
        "images_per_second": row.images_per_second,
        "share_of_floor": row.share,
        "memory_mb": row.memory,
        "seconds": row.seconds,
    }


def spread(values: Sequence[float]) -> tuple[float, float]:
    """First and third quartile."""
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def find_ratios(heat: Heat) -> list[Ratio]:
    """Each of ours beside the best of those that run the same net in the same precision."""
    ours = [row for row in heat.rows if row.plan.is_ours]
    peers = [row for row in heat.rows if row.plan.library == "timm"]
    pairs = []
    for row in ours:
        same = [peer for peer in peers if peer.plan.precision == row.plan.precision]
        if same:
            pairs.append((row, min(same, key=lambda peer: peer.milliseconds)))
    eager = [peer for peer in peers if peer.plan.runtime == "eager"]
    pairs += [(row, peer) for row in ours for peer in eager if (row, peer) not in pairs]
    return [_compare(heat, row, peer) for row, peer in pairs]


def _compare(heat: Heat, ours: Row, peer: Row) -> Ratio:
    by_round = [b / a for a, b in zip(ours.seconds, peer.seconds, strict=True)]
    low, high = spread(by_round)
    middle = statistics.median(by_round)
    return Ratio(heat.net, heat.batch, ours.plan.name, peer.plan.name, middle, low, high)


def add_memory(heat: Heat, peaks: Sequence[float | None]) -> Heat:
    """A heat with the peaks of its rows, in order."""
    pairs = zip(heat.rows, peaks, strict=True)
    return replace(heat, rows=tuple(replace(row, memory=peak) for row, peak in pairs))
