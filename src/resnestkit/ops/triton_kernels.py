"""The GPU's twins of kernels.cpp, in Triton: the same functions, with the same order of arguments.

A map is rows of channels (channels_last): rows = images * pixels. A program computes on tiles of
ROWS x CHANNELS; of two that read the same rows, one starts right behind the other, so that what
they share is still in the cache. Everything is computed in float32. Sums are taken over a run of
rows by each program, stored as parts, and merged in float64 (`merge`), in an order that the map's
shape alone decides: no atomics, and the same bits every time.

Splits are s = relu(norm(x)), radix-major, and never stored. STRIDE is that of the 3x3 average pool
behind their sum, which counts its padding (avd); 0 is none. With a pool, g is the gradient of the
pooled map, of made_pixels pixels, made_side in a line.

`resnestkit.ops.triton_calls` launches what is here. Importing this file needs Triton.
"""

import triton
import triton.language as tl


@triton.jit
def _load(pointer, at, mask):
    return tl.load(pointer + at, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _store(pointer, at, value, mask):
    tl.store(pointer + at, value.to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def _relu(value):
    # A comparison with a NaN is false: it stays, and reaches the loss.
    return tl.where(value < 0, 0.0, value)


@triton.jit
def _channels(channels, CHANNELS: tl.constexpr):
    """Those of this program, which has the number of its run besides."""
    blocks = tl.cdiv(channels, CHANNELS)
    place = tl.program_id(0)
    return place % blocks * CHANNELS + tl.arange(0, CHANNELS), place // blocks


@triton.jit
def _at(row, channels, c):
    """Where values lie. A map may have more than an int32 can count."""
    return row.to(tl.int64)[:, None] * channels + c[None, :]


@triton.jit
def measure(
    x, parts, rows, channels, run,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Of each run, the sums of the distances from the first row and of their squares."""
    c, number = _channels(channels, CHANNELS)
    within = c < channels
    origin = _load(x, c, within)
    sums = tl.zeros([ROWS, CHANNELS], tl.float32)
    squares = tl.zeros([ROWS, CHANNELS], tl.float32)
    for begin in range(number * run, number * run + run, ROWS):
        row = begin + tl.arange(0, ROWS)
        mask = (row < rows)[:, None] & within[None, :]
        distance = _load(x, _at(row, channels, c), mask) - origin[None, :]
        distance = tl.where(mask, distance, 0.0)
        sums += distance
        squares += distance * distance
    at = number * 2 * channels + c
    _store(parts, at, tl.sum(sums, 0), within)
    _store(parts, at + channels, tl.sum(squares, 0), within)


@triton.jit
def merge(
    parts, x, first, second, count, rows, channels,
    PARTS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """The sums of both kinds of parts; with x, `measure`'s as mean and (biased) variance."""
    c, _ = _channels(channels, CHANNELS)
    within = c < channels
    a = tl.zeros([PARTS, CHANNELS], tl.float64)
    b = tl.zeros([PARTS, CHANNELS], tl.float64)
    for begin in range(0, count, PARTS):
        part = begin + tl.arange(0, PARTS)
        mask = (part < count)[:, None] & within[None, :]
        at = _at(part, 2 * channels, c)
        a += _load(parts, at, mask)
        b += _load(parts, at + channels, mask)
    whole, other = tl.sum(a, 0), tl.sum(b, 0)
    if x is not None:
        whole = whole / rows
        other = other / rows - whole * whole
        other = tl.where(other < 0, 0.0, other)
        whole += _load(x, c, within)
    _store(first, c, whole, within)
    _store(second, c, other, within)


@triton.jit
def normalise(
    x, other, scale, shift, rows, channels, y,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Give relu(norm(x)), or relu(norm(x) + other) where there is another."""
    c, number = _channels(channels, CHANNELS)
    within = c < channels
    row = number * ROWS + tl.arange(0, ROWS)
    mask = (row < rows)[:, None] & within[None, :]
    at = _at(row, channels, c)
    scales, shifts = _load(scale, c, within), _load(shift, c, within)
    value = tl.fma(_load(x, at, mask), scales[None, :], shifts[None, :])
    if other is not None:
        value += _load(other, at, mask)
    _store(y, at, _relu(value), mask)


@triton.jit
def squeeze(
    x, g, scale, shift, sums,
    images, pixels, channels, width, runs, run,
    side, made_side, made_pixels,
    STRIDE: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Of each run, image and channel, the sum over the pixels of s, or with g of g * s."""
    c, number = _channels(channels, CHANNELS)
    image, number = number // runs, number % runs
    within = c < channels
    scales, shifts = _load(scale, c, within), _load(shift, c, within)
    total = tl.zeros([ROWS, CHANNELS], tl.float32)
    for begin in range(number * run, number * run + run, ROWS):
        pixel = begin + tl.arange(0, ROWS)
        mask = (pixel < pixels)[:, None] & within[None, :]
        value = _load(x, _at(image * pixels + pixel, channels, c), mask)
        split = tl.where(mask, _relu(tl.fma(value, scales[None, :], shifts[None, :])), 0.0)
        if g is not None:
            split *= _reach(
                g, image, pixel, c, mask, pixels, width, side, made_side, made_pixels, STRIDE
            )
        total += split
    _store(sums, (number * images + image) * channels + c, tl.sum(total, 0), within)


@triton.jit
def join(
    x, scale, shift, attention, y,
    pixels, width, tiles, side, made_side, made_pixels,
    RADIX: tl.constexpr, STRIDE: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Give the sum over the splits of attention * s, pooled if there is a stride."""
    c, number = _channels(width, CHANNELS)
    image, tile = number // tiles, number % tiles
    within = c < width
    made = tile * ROWS + tl.arange(0, ROWS)
    mask = (made < made_pixels)[:, None] & within[None, :]
    joined = tl.zeros([ROWS, CHANNELS], tl.float32)
    for r in tl.static_range(RADIX):
        split = r * width + c
        scales, shifts = _load(scale, split, within), _load(shift, split, within)
        weight = _load(attention, image * RADIX * width + split, within)
        if STRIDE == 0:
            value = _load(x, _at(image * pixels + made, RADIX * width, split), mask)
            summed = _relu(tl.fma(value, scales[None, :], shifts[None, :]))
        else:
            summed = tl.zeros([ROWS, CHANNELS], tl.float32)
            for tap in tl.static_range(9):
                row = made // made_side * STRIDE + tap // 3 - 1
                column = made % made_side * STRIDE + tap % 3 - 1
                inside = (row >= 0) & (row < pixels // side) & (column >= 0) & (column < side)
                seen = mask & inside[:, None]
                pixel = image * pixels + row * side + column
                value = _load(x, _at(pixel, RADIX * width, split), seen)
                value = _relu(tl.fma(value, scales[None, :], shifts[None, :]))
                summed += tl.where(seen, value, 0.0)
            summed /= 9
        joined += summed * weight[None, :]
    _store(y, _at(image * made_pixels + made, width, c), joined, mask)


@triton.jit
def _reach(
    g, image, pixel, c, mask, pixels, width,
    side, made_side, made_pixels, STRIDE: tl.constexpr,
):  # fmt: skip
    """What of the gradient of the sum of the splits reaches these pixels of each of them."""
    inner = c % width
    if STRIDE == 0:
        reaching = _load(g, _at(image * pixels + pixel, width, inner), mask)
    else:
        # A pixel counts in each cell that it lies in: up to 3 of a line at stride 1, 2 at stride 2.
        row, column = pixel // side, pixel % side
        reaching = tl.zeros([pixel.shape[0], c.shape[0]], tl.float32)
        LINE: tl.constexpr = (2 + STRIDE) // STRIDE
        for tap in tl.static_range(LINE * LINE):
            below = (row + 1) // STRIDE - tap // LINE
            right = (column + 1) // STRIDE - tap % LINE
            holds = (below * STRIDE + 1 >= row) & (right * STRIDE + 1 >= column)
            there = (below >= 0) & (below < made_pixels // made_side)
            there &= (right >= 0) & (right < made_side)
            cell = image * made_pixels + below * made_side + right
            reaching += _load(g, _at(cell, width, inner), mask & (holds & there)[:, None])
        reaching /= 9
    return reaching


@triton.jit
def _passed(
    g, x, y, scales, shifts, gain, owes,
    image, pixel, c, mask, pixels, channels, width,
    side, made_side, made_pixels, STRIDE: tl.constexpr,
):  # fmt: skip
    """x, and what of the gradient passes the ReLU, which is told from y, or without it from x."""
    at = _at(image * pixels + pixel, channels, c)
    value = _load(x, at, mask)
    if y is not None:
        passes = _load(y, at, mask) > 0
    else:
        passes = tl.fma(value, scales[None, :], shifts[None, :]) > 0
    reaching = _reach(g, image, pixel, c, mask, pixels, width, side, made_side, made_pixels, STRIDE)
    reaching = tl.fma(reaching, gain[None, :], owes[None, :])
    return value, tl.where(passes & mask, reaching, 0.0), at


@triton.jit
def _gains(
    attention,
    owed,
    image,
    channels,
    c,
    CHANNELS: tl.constexpr,
):
    """By how much a split's gradient is multiplied, and what its pooling adds; 1 and 0 without."""
    if attention is not None:
        at = image * channels + c
        gain, owes = _load(attention, at, c < channels), _load(owed, at, c < channels)
    else:
        gain, owes = tl.full([CHANNELS], 1.0, tl.float32), tl.zeros([CHANNELS], tl.float32)
    return gain, owes


@triton.jit
def reduce(
    g, x, y, scale, shift, mean, attention, owed,
    parts, pixels, channels, width, runs, run,
    side, made_side, made_pixels,
    STRIDE: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Of each image and run, the sums of what passes the ReLU, and of that times (x - mean)."""
    c, number = _channels(channels, CHANNELS)
    image, begun = number // runs, number % runs * run
    within = c < channels
    scales, shifts = _load(scale, c, within), _load(shift, c, within)
    means = _load(mean, c, within)
    gain, owes = _gains(attention, owed, image, channels, c, CHANNELS)
    bias = tl.zeros([ROWS, CHANNELS], tl.float32)
    weight = tl.zeros([ROWS, CHANNELS], tl.float32)
    for begin in range(begun, begun + run, ROWS):
        pixel = begin + tl.arange(0, ROWS)
        mask = (pixel < pixels)[:, None] & within[None, :]
        value, passed, _ = _passed(
            g, x, y, scales, shifts, gain, owes, image, pixel, c, mask, pixels, channels, width,
            side, made_side, made_pixels, STRIDE,
        )  # fmt: skip
        bias += passed
        weight += passed * (value - means[None, :])
    at = number * 2 * channels + c
    _store(parts, at, tl.sum(bias, 0), within)
    _store(parts, at + channels, tl.sum(weight, 0), within)


@triton.jit
def differentiate(
    g, x, y, scale, shift, slope, offset,
    attention, owed, dx, dother,
    pixels, channels, width, tiles,
    side, made_side, made_pixels,
    STRIDE: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Give scale * passed + slope * x + offset; with y also what passed, for the shortcut."""
    c, number = _channels(channels, CHANNELS)
    image, tile = number // tiles, number % tiles
    within = c < channels
    scales, shifts = _load(scale, c, within), _load(shift, c, within)
    slopes, offsets = _load(slope, c, within), _load(offset, c, within)
    gain, owes = _gains(attention, owed, image, channels, c, CHANNELS)
    pixel = tile * ROWS + tl.arange(0, ROWS)
    mask = (pixel < pixels)[:, None] & within[None, :]
    value, passed, at = _passed(
        g, x, y, scales, shifts, gain, owes, image, pixel, c, mask, pixels, channels, width,
        side, made_side, made_pixels, STRIDE,
    )  # fmt: skip
    owing = tl.fma(value, slopes[None, :], offsets[None, :])
    _store(dx, at, tl.fma(passed, scales[None, :], owing), mask)
    if dother is not None:
        _store(dother, at, passed, mask)
