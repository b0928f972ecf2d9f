"""The service's page in a real browser, as a person uses it: keyboard, picking, dropping, errors.

Serves a model, opens its page in Chromium without a window, and checks what it shows: an image that
is picked by keyboard, one that is dropped, its result, its attention where the model has any, a
text file, an image that is too large, and the token. What a detector or a segmenter finds must be
drawn on the image. Nothing may be wider than the screen or asked of another host, and no script may
fail. Pictures of the page are left in a folder: light, dark, and on a phone.

Command: .venv/bin/python scripts/drive_page.py MODEL IMAGE [--browser /usr/bin/chromium]
             [--out FOLDER]                     (needs `pip install playwright`, and a Chromium)

MODEL is a classifier, a detector or a segmenter; on IMAGE, a detector must find something.
"""

from __future__ import annotations

import argparse
import base64
import os
import tempfile
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from playwright.sync_api import sync_playwright
from service import serving

SIZES = {"wide": (1200, 900), "phone": (390, 844)}
SCHEMES: tuple[Literal["light"], Literal["dark"]] = ("light", "dark")
TOKEN = "a-token-of-the-script"
WAIT = 120_000
"""Milliseconds that anything may take."""
DRAWN = """(canvas) => canvas.checkVisibility() && canvas.clientWidth > 0
  && canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data
    .some((value, at) => at % 4 === 3 && value > 0)"""
"""Whether a canvas is seen, and any of its pixels is not clear."""
FITS = "document.documentElement.scrollWidth <= innerWidth"
DROP = """([name, content]) => {
  const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name));
  for (const type of ["dragenter", "dragover", "drop"]) {
    document.querySelector("#place").dispatchEvent(
      new DragEvent(type, { dataTransfer: transfer, bubbles: true, cancelable: true }));
  }
}"""


def main() -> None:
    """Drive the page, and say what held."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("model")
    parser.add_argument("image", type=Path)
    parser.add_argument("--browser", default="/usr/bin/chromium")
    parser.add_argument("--out", type=Path, default=Path("page"))
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    # With time for all of an explanation, of which half of the usual 30 seconds may leave out some.
    flags = ("--threads", "1", "--max-megabytes", "5", "--timeout", "120")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=asked.browser, args=["--no-sandbox"])
        with serving(asked.model, *flags) as service:
            for name, (width, height) in SIZES.items():
                for scheme in SCHEMES:
                    context = browser.new_context(
                        viewport={"width": width, "height": height}, color_scheme=scheme
                    )
                    visit(Visit(context, service.address, asked.out / f"{name}-{scheme}"), asked)
                    context.close()
        os.environ["RESNESTKIT_TOKEN"] = TOKEN
        with serving(asked.model, *flags) as service:
            context = browser.new_context()
            ask_for_token(Visit(context, service.address, asked.out / "token"), asked.image)
        browser.close()
    print(f"pictures    {asked.out}")


class Visit:
    """A page that is open, and what it did behind the scenes."""

    def __init__(self, context: Any, address: str, stem: Path) -> None:
        self.page, self.stem, self.host = context.new_page(), stem, urlsplit(address).netloc
        self.faults: list[str] = []
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", self._look_at)
        self.page.goto(address)
        self.page.bring_to_front()
        self.page.wait_for_load_state("networkidle")

    def _look_at(self, request: Any) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in {"data", "blob"} and parts.netloc != self.host:
            self.faults.append(f"asks {request.url}")

    def picture(self, name: str) -> None:
        """Keep how the page looks."""
        self.page.screenshot(path=f"{self.stem}-{name}.png", full_page=True)

    def drop(self, name: str, content: bytes) -> None:
        """Drop a file on the page."""
        self.page.evaluate(DROP, [name, base64.b64encode(content).decode()])

    def wait_for(self, selector: str) -> Any:
        """What is seen under a selector, once it is."""
        found = self.page.locator(selector).first
        found.wait_for(timeout=WAIT)
        return found

    def check_fit(self, what: str) -> None:
        """Nothing is wider than the screen; tables may scroll within it."""
        self.check(f"{what} fits the screen", holds=bool(self.page.evaluate(FITS)))

    def check(self, what: str, *, holds: bool) -> None:
        """Say it, or raise SystemExit."""
        print(f"{self.stem.name:<12} {what:<44} {'yes' if holds else 'NO'}", flush=True)
        if not holds:
            raise SystemExit(1)


def visit(visit: Visit, asked: argparse.Namespace) -> None:
    """All that a person does, without a token."""
    page, image = visit.page, asked.image.read_bytes()
    page.keyboard.press("Tab")
    visit.check("the keyboard reaches the choice first", holds=focused(page) == "file")
    visit.picture("start")
    kind = page.evaluate("fetch('model').then((answer) => answer.json())")["kind"]
    with page.expect_file_chooser() as chooser:
        page.locator("#file").press("Space")
    chooser.value.set_files(asked.image)
    row = visit.wait_for(".guesses li")
    page.wait_for_timeout(500)  # the bars grow
    visit.check(f"a picked image is {row.inner_text()!r}".replace("\\n", " "), holds=True)
    visit.picture("result")
    if kind != "classifier":
        drawn = bool(page.locator("#drawn").evaluate(DRAWN))
        visit.check(f"what the {kind} finds is drawn", holds=drawn)
    visit.check_fit("the result")
    first = page.locator("#answer-body").inner_text()
    visit.drop("dropped.jpg", image)
    visit.wait_for("#name:text-is('dropped.jpg')")
    visit.wait_for("#answer[aria-busy=false] .guesses li")
    visit.check(
        "a dropped image says the same", holds=page.locator("#answer-body").inner_text() == first
    )
    if page.locator("#more button").count():
        look_inside(visit)
    refuse(visit)
    visit.check_fit("the error")
    visit.check("no fault, and no other host", holds=not visit.faults)


def look_inside(visit: Visit) -> None:
    """The attention, by keyboard alone."""
    page = visit.page
    page.locator("#more button").focus()
    page.keyboard.press("Enter")
    views = visit.wait_for("#views figure")
    visit.check("the attention is shown", holds=views.is_visible())
    if page.locator("#blocks input").count() > 1:
        checked = page.locator("#blocks input:checked")
        before = checked.evaluate("(one) => one.closest('tr').rowIndex")
        checked.focus()
        page.keyboard.press("ArrowUp" if before > 1 else "ArrowDown")
        after = page.locator("#blocks input:checked").evaluate(
            "(one) => one.closest('tr').rowIndex"
        )
        visit.check("arrows choose another block", holds=abs(after - before) == 1)
        name = page.locator("#blocks tr:has(:checked) th").inner_text().strip()
        told = page.locator("#effects tbody th").all_inner_texts()
        visit.check("forcing is told of it and of all", holds=set(told) == {name, "all blocks"})
    page.wait_for_timeout(300)
    visit.picture("attention")
    visit.check_fit("the attention")


def refuse(visit: Visit) -> None:
    """What is no image, or too much of one."""
    visit.drop("notes.txt", b"Dear Sir or Madam,\n" * 20)
    words = visit.wait_for("#message").inner_text()
    visit.check("a text file is refused in words", holds="not an image" in words)
    visit.picture("error")
    visit.drop("large.jpg", b"\xff" * 5_100_000)
    visit.wait_for("#message:has-text('5 MB is the most')")
    visit.check("a large file is refused in words", holds=True)


def ask_for_token(visit: Visit, image: Path) -> None:
    """The token is asked for, and a wrong one is told."""
    page = visit.page
    visit.check("the keyboard is at the token", holds=focused(page) == "token")
    visit.picture("start")
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    visit.wait_for("#message:has-text('The token is wrong.')")
    page.locator("#token").fill(TOKEN)
    page.keyboard.press("Enter")
    page.locator("#ask").wait_for(state="hidden", timeout=WAIT)
    visit.drop("dropped.jpg", image.read_bytes())
    visit.check("with the token it answers", holds=visit.wait_for(".guesses li").is_visible())


def focused(page: Any) -> str:
    """What the keyboard is at."""
    return str(page.evaluate("document.activeElement.id"))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as home:
        os.environ.setdefault("XDG_CONFIG_HOME", home)
        main()
