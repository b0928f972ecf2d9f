"""Uploads, read with care: so many bytes, from forms or JSON, and images known by their content."""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath

from PIL import Image, UnidentifiedImageError
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from resnestkit.data.decoding import Bounds, UnreadableImage, bounded, open_header
from resnestkit.serve.problems import Problem, Share
from resnestkit.serve.schemas import ImagesInJson
from resnestkit.serve.settings import Limits

Image.init()
FORMATS = tuple(
    form
    for form in ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM")
    if form in Image.OPEN
)
"""Others are refused: Pillow hands PostScript to another program, and knows many old forms."""
FORM, JSON = "multipart/form-data", "application/json"
_LONGEST_NAME = 120
_MOST_COMMAS = 8
"""For each image in JSON: a list has one, base64 has none, and an address of data has another."""
_COPIES = 2
"""An upload is held as often while it is read: as it came, and as what it holds."""


@dataclass(frozen=True, slots=True, eq=False)
class Upload:
    """An image file as a client sent it."""

    name: str
    content: bytes
    most_pixels: int | None = None
    """More are not decoded; None is Pillow's own limit."""


class _FormParser(MultiPartParser):
    spool_max_size = 2**62  # never onto a disk: how much there may be is limited elsewhere


async def read_uploads(request: Request, limits: Limits, held: Share) -> list[Upload]:
    """The images of a request, undecoded.

    Args:
        request: with a body of a form's files, or of JSON.
        limits: for the body.
        held: what the bytes are taken from while they are held.

    Raises:
        Problem: the body is none of these, too large, or broken off.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    readers = {FORM: _read_form, JSON: _read_json}
    if kind not in readers:
        raise Problem(
            415, f"Send images as {FORM} or as {JSON}, not as {kind or 'something unnamed'}."
        )
    try:
        uploads = await readers[kind](request, _limit(request, limits, held), limits)
    except ClientDisconnect as error:
        raise Problem(400, "The request broke off before its end.") from error
    if not uploads:
        raise Problem(422, "There is no image in the request.")
    return uploads


async def _limit(request: Request, limits: Limits, held: Share) -> AsyncGenerator[bytes, None]:
    """The body, piece by piece; Problem where it grows too large."""
    said = request.headers.get("content-length", "")
    most, received = limits.request_bytes, 0
    if said.isdecimal() and int(said) > most:
        raise _too_large(limits)
    async for piece in request.stream():
        received += len(piece)
        if received > most:
            raise _too_large(limits)
        held.take(_COPIES * len(piece))
        yield piece


def _too_large(limits: Limits) -> Problem:
    return Problem(413, f"The request is larger than {limits.max_megabytes:g} MB.")


async def _read_form(
    request: Request, body: AsyncGenerator[bytes, None], limits: Limits
) -> list[Upload]:
    most = limits.request_images
    parser = _FormParser(request.headers, body, max_files=most, max_fields=1)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            raise _too_many(most) from error
        raise Problem(400, f"The form cannot be read: {error.message}") from error
    except UnicodeError as error:  # of a charset that is none, such as Python's "undefined"
        raise Problem(400, "The form cannot be read in the charset that it names.") from error
    uploads = []
    for field, value in form.multi_items():
        if not isinstance(value, UploadFile):
            raise Problem(422, f"The form's field {shorten(field)!r} is no file.")
        name = shorten(value.filename or field)
        uploads.append(Upload(name, await value.read(), limits.pixels))
        await value.close()
    return uploads


async def _read_json(request: Request, body: AsyncIterator[bytes], limits: Limits) -> list[Upload]:
    del request
    content = b"".join([piece async for piece in body])
    return await asyncio.to_thread(_parse_json, content, limits)


def _parse_json(content: bytes, limits: Limits) -> list[Upload]:
    # Counted first: parsing a list of millions takes many times the bytes that were sent.
    if content.count(b",") > _MOST_COMMAS * limits.request_images:
        raise _too_many(limits.request_images)
    try:
        images = ImagesInJson.model_validate_json(content).images
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise Problem(400, "The body is not JSON.") from error
        raise Problem(422, f"The JSON does not fit: {explain_field(first)}.") from error
    del content
    if len(images) > limits.request_images:
        raise _too_many(limits.request_images)
    return [
        Upload(f"image {n}", _decode_base64(text, n), limits.pixels)
        for n, text in enumerate(images, 1)
    ]


def _too_many(most: int) -> Problem:
    return Problem(413, f"A request may hold {most} images at most.")


def _decode_base64(text: str, number: int) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Problem(422, f"image {number}: not base64.") from error


def explain_field(error: object) -> str:
    """Where a value does not fit and why, of one of pydantic's errors."""
    assert isinstance(error, dict)
    place = ".".join(str(part) for part in error["loc"])
    reason = str(error["msg"])
    return f"{place}: {reason[:1].lower()}{reason[1:]}" if place else reason


def shorten(name: str) -> str:
    """A client's name for a file: its last part, and not too long, as text."""
    last = PurePosixPath(PureWindowsPath(name).name).name or "image"
    plain = "".join(letter if letter.isprintable() else "?" for letter in last)
    return plain if len(plain) <= _LONGEST_NAME else f"{plain[: _LONGEST_NAME - 1]}…"


def check_image(upload: Upload, limits: Limits) -> None:
    """Look at an image's header alone. Raises Problem if it is none, unknown, or too large."""
    if not upload.content:
        raise Problem(422, f"{upload.name}: the file is empty.")
    with decoding(upload):
        try:
            image = open_header(io.BytesIO(upload.content))
        except UnidentifiedImageError as error:
            raise Problem(415, f"{upload.name}: not an image of a known kind.") from error
    pixels = image.width * image.height
    if pixels > limits.pixels:
        raise Problem(
            413,
            f"{upload.name}: {image.width} x {image.height} pixels are more than "
            f"{limits.max_megapixels:g} megapixels.",
        )


@contextmanager
def decoding(upload: Upload) -> Iterator[None]:
    """An image is decoded within its bounds; whatever goes wrong becomes a Problem that says so."""
    name = upload.name
    try:
        with bounded(Bounds(FORMATS, upload.most_pixels)):
            yield
    except Problem:
        raise
    except UnreadableImage as error:
        raise Problem(422, f"{name}: {error.reason}.") from error
    except MemoryError as error:
        raise Problem(413, f"{name}: too large for this machine's memory.") from error
    except Exception as error:  # decoders raise anything on bytes that were made to harm
        raise Problem(422, f"{name}: damaged ({type(error).__name__}).") from error
