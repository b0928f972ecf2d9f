"""The page: well formed, self-contained, safe with any text, and without a drawing library."""

import base64
import io
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from PIL import Image

from resnestkit.report.page import Figure, Headline, Section, Table, Text, render_page

VOID = {"meta", "img", "br", "hr", "link", "input"}
EVIL = "<script>alert(\"x\")</script> & 'co'"


class Outline(HTMLParser):
    """Parses strictly: every tag that opens must close, in order."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[tuple[str, str]] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.words.append((self.open[-1] if self.open else "", data))

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def text(self, tag: str) -> list[str]:
        return [data for name, data in self.words if name == tag]


def make_png(width: int = 40, height: int = 20) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(buffer, "PNG")
    return buffer.getvalue()


def render(*sections: Section) -> Outline:
    return Outline(render_page("Title", "subtitle", [Headline("Top-1", "81.2 %")], sections))


def everything(word: str) -> str:
    table = Table(word, [word, "n"], [[word, 1]])
    return render_page(
        word,
        word,
        [Headline(word, word, word)],
        [
            Figure(word, make_png(), word, invertible=True),
            table,
            Table(word, [word], [[word]], folded=True),
            Text(word, f"{word}\n\n{word}"),
        ],
    )


@pytest.mark.parametrize("word", ["plain", EVIL, "猫", "", '" onload="x', "\udcff"])
def test_any_text_gives_a_well_formed_page(word):
    page = everything(word)
    page.encode("utf-8")
    outline = Outline(page)
    assert not outline.attributes("script")
    assert all("onload" not in attributes for _, attributes in outline.tags)


def test_text_is_escaped_and_comes_back_unharmed():
    page = everything(EVIL)
    assert "<script" not in page
    outline = Outline(page)
    assert outline.text("title") == [EVIL]
    assert outline.text("h1") == [EVIL]
    assert outline.text("td") == ["1"]
    assert EVIL in outline.text("th")
    assert outline.attributes("img")[0]["alt"] == f"{EVIL}. {EVIL}"


def test_nothing_is_loaded_from_elsewhere():
    page = everything("word")
    assert not re.search(r"https?://|//\w|@import|url\(", page.replace(";base64,", " "))
    outline = Outline(page)
    assert not outline.attributes("link")
    for _, attributes in outline.tags:
        assert (attributes.get("src") or "data:").startswith("data:")
        assert "href" not in attributes
    policy = outline.attributes("meta")[-1]["content"]
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_the_page_is_made_for_phones_and_for_the_dark():
    page = everything("word")
    names = [attributes.get("name") for attributes in Outline(page).attributes("meta")]
    assert {"viewport", "color-scheme"} <= set(names)
    for rule in ("prefers-color-scheme: dark", "@media print", "max-width: 42rem"):
        assert rule in page


def test_a_figure_holds_its_png_at_half_its_pixels():
    png = make_png(40, 20)
    (image,) = render(Figure("Curves", png, "A caption")).attributes("img")
    kind, data = str(image["src"]).split(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(data) == png
    assert (image["width"], image["height"]) == ("20", "10")
    assert image["alt"] == "Curves. A caption"
    assert "class" not in image


def test_only_invertible_figures_are_inverted():
    chart, photo = render(
        Figure("Chart", make_png(), invertible=True), Figure("Photo", make_png())
    ).attributes("img")
    assert chart["class"] == "invertible"
    assert "class" not in photo


def test_what_is_not_a_png_is_refused():
    with pytest.raises(ValueError, match="'Curves' is not a PNG"):
        render(Figure("Curves", b"GIF89a"))


def test_headlines_come_first_and_sections_in_their_order():
    page = render_page(
        "T", "", [Headline("Top-1", "81.2 %", "best")], [Text("One", "1"), Text("Two", "2")]
    )
    places = [page.index(word) for word in ("<h1>", "81.2 %", "<h2>One", "<h2>Two")]
    assert places == sorted(places)
    assert '<p class="subtitle">' not in page


def test_only_a_page_that_changes_is_read_again():
    page = render_page("Title", "", [], [], reload=15)
    assert '<meta http-equiv="refresh" content="15">' in page
    assert "refresh" not in render_page("Title", "", [], [])


def test_a_page_of_nothing_is_still_a_page():
    outline = Outline(render_page("Title", "", [], []))
    assert outline.text("h1") == ["Title"]
    assert not outline.attributes("dl")


def test_columns_of_numbers_are_set_to_the_right():
    header = ["class", "images", "recall", "taken for", "f1", "blank"]
    rows = [
        ["cat", 1000, "81.5 %", "dog", 0.912345, ""],
        ["3", 5, "\N{EN DASH}", "4", float("nan"), ""],
    ]
    outline = render(Table("Classes", header, rows))
    kinds = [attributes.get("class") for attributes in outline.attributes("th")]
    assert kinds[:6] == [None, "number", "percent", None, "number", None]
    assert outline.text("td") == [
        "1,000",
        "81.5 %",
        "dog",
        "0.9123",
        "5",
        "\N{EN DASH}",
        "4",
        "nan",
    ]
    shares = [cell["style"] for cell in outline.attributes("td") if "style" in cell]
    assert shares == ["--share:81.5%"]


@pytest.mark.parametrize(
    ("cell", "share"),
    [("120 %", "100"), ("-3%", "0"), ("\N{MINUS SIGN}1 %", "0"), ("1.2.3 %", "0")],
)
def test_bars_stay_within_their_cell(cell, share):
    outline = render(Table("T", ["a", "b"], [["x", cell]]))
    assert outline.attributes("td")[0]["style"] == f"--share:{share}%"


def test_a_switch_is_no_number():
    outline = render(
        Table("Configuration", ["setting", "value"], [["mixup", True], ["ema", False]])
    )
    assert outline.text("td") == ["True", "False"]
    assert outline.attributes("td")[0] == {}


def test_a_folded_table_opens_on_demand():
    outline = render(Table("Configuration", ["setting", "value"], [["lr", 0.1]], folded=True))
    assert outline.attributes("details") == [{}]
    assert [name for name, _ in outline.tags].count("summary") == 1
    assert "Configuration" in outline.text("h2")
    assert not render(Table("Classes", ["a"], [["x"]])).attributes("details")


def test_wide_content_scrolls_and_is_reached_by_keyboard():
    outline = render(Table("Classes", ["a"], [["x"]]), Figure("Chart", make_png()))
    boxes = [box for box in outline.attributes("div") if "scroller" in str(box.get("class"))]
    assert [box["aria-label"] for box in boxes] == ["Classes", "Chart"]
    assert all(box["tabindex"] == "0" for box in boxes)


def test_a_row_must_fit_its_header():
    with pytest.raises(ValueError, match=r"'Classes' has 2 columns, but a row has 1: \['cat'\]"):
        render(Table("Classes", ["class", "recall"], [["cat"]]))


def test_text_keeps_its_paragraphs():
    outline = render(Text("Notes", "one\nline\n\n\ntwo"))
    assert outline.text("p")[1:] == ["one\nline", "two"]


def test_the_page_needs_no_drawing_library():
    code = (
        "import sys, resnestkit.report.page; "
        "sys.exit(any(name in sys.modules for name in ('matplotlib', 'numpy', 'torch', 'PIL')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
