"""Every image is read once before a training starts: to find the bad ones, and to keep the rest.

Decoding is threaded (Pillow lets other threads run meanwhile). As long as the decoded images fit
the memory allowed they are kept, so that they are decoded once and not once per epoch.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os import cpu_count

from torch import Tensor

from resnestkit.data.images import ImageSet, ImageStats, MemoryImages, UnreadableImage
from resnestkit.data.survey import Look, look_at
from resnestkit.errors import UserError

_NAMED_AT_MOST = 10


@dataclass(frozen=True, slots=True)
class Checked:
    """Images that can all be read, and what reading them told."""

    images: ImageSet
    stats: ImageStats
    unreadable: tuple[UnreadableImage, ...]
    cached_bytes: int
    """Memory that the decoded images take; 0 if they stay in their files."""
    looks: tuple[Look, ...] = ()
    """What each of ``images`` told, if it was asked for."""

    @property
    def in_memory(self) -> bool:
        """Whether the images were kept."""
        return self.cached_bytes > 0


def check_images(
    images: ImageSet,
    *,
    cache_bytes: int,
    advance: Callable[[int], None] = lambda _count: None,
    survey: bool = False,
) -> Checked:
    """Read every image once; leave out the unreadable; keep the rest if it fits ``cache_bytes``.

    ``advance`` is told of images done, for a progress bar. ``survey`` also looks at their pixels,
    by `resnestkit.data.survey`, in the threads that read. Whoever calls this decides by
    `refuse_unreadable` whether leaving images out is allowed.
    Raises UserError if not a single image can be read.
    """
    kept: list[Tensor] = []
    good: list[int] = []
    bad: list[UnreadableImage] = []
    sizes: list[tuple[int, int]] = []
    looks: list[Look] = []
    used = 0
    for index, (result, look) in enumerate(_read_in_threads(images, survey=survey)):
        advance(1)
        if isinstance(result, UnreadableImage):
            bad.append(result)
            continue
        good.append(index)
        sizes.append((result.shape[1], result.shape[2]))
        if look is not None:
            looks.append(look)
        used += result.numel()
        if used <= cache_bytes:
            kept.append(result)
        else:
            kept.clear()
    if not good:
        raise UserError(describe_unreadable(bad, len(images), can_skip=False))
    left: ImageSet = images.subset(good) if bad else images
    fits = used <= cache_bytes
    if fits:
        left = MemoryImages(kept, left.labels, left.names)
    return Checked(left, _stats(sizes), tuple(bad), used if fits else 0, tuple(looks))


def refuse_unreadable(sets: Iterable[Checked]) -> None:
    """Raise UserError, with the names and reasons, if any image of any set cannot be read."""
    checked = list(sets)
    bad = [image for one in checked for image in one.unreadable]
    if bad:
        total = sum(one.stats.count for one in checked) + len(bad)
        raise UserError(describe_unreadable(bad, total, can_skip=True))


def describe_unreadable(bad: Sequence[UnreadableImage], total: int, *, can_skip: bool) -> str:
    """One message that names the unreadable images, up to ten of them, with the reasons."""
    named = "; ".join(str(image) for image in bad[:_NAMED_AT_MOST])
    more = f"; and {len(bad) - _NAMED_AT_MOST} more" if len(bad) > _NAMED_AT_MOST else ""
    remedy = "Mend or remove them" + (", or pass --skip-unreadable." if can_skip else ".")
    return f"{len(bad)} of {total} images cannot be read: {named}{more}. {remedy}"


def _read_in_threads(
    images: ImageSet, *, survey: bool
) -> Iterator[tuple[Tensor | UnreadableImage, Look | None]]:
    def read(index: int) -> tuple[Tensor | UnreadableImage, Look | None]:
        try:
            image = images.read(index)
        except UnreadableImage as error:
            return error, None
        return image, look_at(image) if survey else None

    # Chunks bound how many decoded images wait for the reader of this iterator.
    chunk = 1024
    with ThreadPoolExecutor(min(8, cpu_count() or 1)) as pool:
        for start in range(0, len(images), chunk):
            yield from pool.map(read, range(start, min(start + chunk, len(images))))


def _stats(sizes: list[tuple[int, int]]) -> ImageStats:
    return ImageStats(
        count=len(sizes),
        smallest=min(sizes, key=lambda size: size[0] * size[1]),
        largest=max(sizes, key=lambda size: size[0] * size[1]),
        median_side=int(statistics.median(min(size) for size in sizes)),
    )
