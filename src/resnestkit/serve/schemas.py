"""What goes in and out as JSON; the OpenAPI description is made of these."""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, FailFast, Field

ResultT = TypeVar("ResultT")

Score = Annotated[float, Field(ge=0, le=1)]
Png = Annotated[str, Field(description="A PNG in base64.", json_schema_extra={"format": "byte"})]


class Refusal(BaseModel):
    """What a refused request is answered."""

    error: str = Field(description="What was wrong, in one sentence.")


class ImagesInJson(BaseModel):
    """Images as JSON."""

    model_config = ConfigDict(extra="forbid")

    images: Annotated[
        list[str], FailFast(), Field(min_length=1, description="Image files in base64.")
    ]


class Guess(BaseModel):
    """A class and how sure the net is of it."""

    label: str
    score: Score


class Classified(BaseModel):
    """The best guesses for one image, the best first."""

    image: str
    guesses: list[Guess]


class RunLengths(BaseModel):
    """A mask as COCO's compressed run lengths, which pycocotools decodes."""

    size: Annotated[list[int], Field(min_length=2, max_length=2, description="Height, width.")]
    counts: str


class FoundObject(BaseModel):
    """One object, in the image's own pixels."""

    label: str
    score: Score
    box: Annotated[
        list[float], Field(min_length=4, max_length=4, description="Left, top, right, bottom.")
    ]
    mask: RunLengths | None = None


class Detected(BaseModel):
    """The objects of one image, the surest first."""

    image: str
    width: int
    height: int
    objects: list[FoundObject]


class Share(BaseModel):
    """How much of an image is of a class."""

    label: str
    share: Score
    colour: Annotated[str, Field(pattern="^#[0-9a-f]{6}$")]


class Segmented(BaseModel):
    """The class of every pixel of one image."""

    image: str
    width: int
    height: int
    shares: Annotated[list[Share], Field(description="The largest first.")]
    mask: Annotated[
        str,
        Field(
            description="A PNG in base64: each pixel's value is its class's index.",
            json_schema_extra={"format": "byte"},
        ),
    ]


class Answers(BaseModel, Generic[ResultT]):
    """One result for each image, in their order."""

    results: list[ResultT]


class Effect(BaseModel):
    """What forcing one split's attention does to the score of the class."""

    split: Annotated[int, Field(description="From 0.")]
    value: Annotated[Score, Field(description="What its weight was forced to.")]
    change: float
    top: Annotated[str, Field(description="The class with the highest score then.")]


class BlockSeen(BaseModel):
    """The attention of one block."""

    block: str
    kind: Literal["split", "se", "sk"]
    branch: Annotated[
        Literal["split", "path", "gate"],
        Field(description="What its splits are: a gate stands alone (SE, radix 1)."),
    ]
    entropy: Annotated[float, Field(description="1 is uniform.")]
    weights: Annotated[
        list[list[float]], Field(description="Mean weight of each split, for each group.")
    ]
    maps: Annotated[list[list[Png]], Field(description="Where each split's features are strong.")]
    effects: Annotated[list[Effect], Field(description="Of forcing this block; none if left out.")]


class Explained(BaseModel):
    """What the attention of the net does on one image."""

    image: str
    label: str
    score: Score
    picture: Annotated[str, Field(description="A JPEG in base64: what the net saw.")]
    activation: Annotated[
        Png | None, Field(description="Where the last stage is active for the class.")
    ]
    blocks: list[BlockSeen]
    everywhere: Annotated[list[Effect], Field(description="Of forcing all blocks at once.")]
    note: Annotated[str, Field(description="What is lacking and why, if anything is.")]


class ModelCard(BaseModel):
    """What is served, and what it takes."""

    model_config = ConfigDict(protected_namespaces=())

    file: str
    changed: Annotated[
        bool,
        Field(description="Whether the file is another by now; what was read at the start serves."),
    ]
    kind: Literal["classifier", "detector", "segmenter"]
    net: str
    classes: list[str]
    size: Annotated[int | None, Field(description="Side of the square that a classifier sees.")]
    explains: bool
    why_not: Annotated[str, Field(description="Why it does not explain; empty if it does.")]
    limits: Annotated[dict[str, float], Field(description="What a request may ask for.")]
    version: str


class State(BaseModel):
    """Whether the service is there, and how much it has to do."""

    status: Literal["ok", "stopping"]
    images: Annotated[int, Field(description="In the house: received, waiting, or computed.")]


def to_openapi_form() -> dict[str, Any]:
    """The two forms of a request with images, as OpenAPI describes them."""
    files = {
        "type": "object",
        "required": ["images"],
        "additionalProperties": False,
        "properties": {
            "images": {
                "type": "array",
                "minItems": 1,
                "items": {"type": "string", "format": "binary"},
                "description": "Image files. The field's name does not matter.",
            }
        },
    }
    json_form = ImagesInJson.model_json_schema()
    return {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": files},
            "application/json": {"schema": json_form},
        },
    }
