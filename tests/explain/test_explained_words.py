"""What is said and drawn of an explanation is what was found."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from explained import CLASSES, draw_pictures, make_heads, make_net, make_pixels, read_words

from resnestkit import explain_folder, explain_image, insert_attention
from resnestkit.explain import drawing, open_subject
from resnestkit.explain.drawing import draw_classes, switch_strips
from resnestkit.explain.page import folder_part, image_part
from resnestkit.explain.words import describe_folder, describe_image
from resnestkit.report.page import Table, render_page


def test_forcing_ends_when_the_time_is_up() -> None:
    subject = open_subject(make_net(), CLASSES)
    explained = explain_image(subject, make_pixels(), seconds=0.0)
    assert explained.forced == explained.everywhere == ()
    assert explained.activation is not None
    assert {"attention.png", "looks.png", "activation.png"} == set(image_part(explained).pictures)
    assert describe_image(explained)[-1].startswith("attention")
    whole = explain_image(subject, make_pixels(), seconds=600.0)
    assert len(whole.forced) == len(whole.blocks)
    last = replace(whole, blocks=(*explained.blocks[:-1], whole.blocks[-1]))
    assert describe_image(last)[-1].startswith(f"strongest   {whole.blocks[-1].attention.block}")
    assert "forced.png" in image_part(last).pictures


def test_split_attention_of_radix_one_is_told_as_a_gate(tmp_path: Path) -> None:
    subject = open_subject(make_heads(radix=1), CLASSES)
    explained = explain_image(subject, make_pixels(), activation=False)
    found = explain_folder(subject, draw_pictures(tmp_path / "p", 2).rglob("*.png"))
    parts = image_part(explained), folder_part(found)
    words = " ".join(map(read_words, parts))
    assert "What the gate lets through" in words
    assert "gate at 0.5" in words
    assert "head 2" not in words  # heads are named in pictures alone
    assert not re.search(r"\b(splits?|paths?)\b", words)
    lines = [*describe_image(explained), *describe_folder(found)]
    assert "split attention of radix 1 (one gate for each channel) in 2 blocks" in " ".join(lines)
    assert not any("split 1" in line or "another split" in line for line in lines)


def test_all_splits_of_a_larger_radix_are_drawn(tmp_path: Path) -> None:
    """A channel that switches among the last splits is not drawn as one that keeps its choice."""
    subject = open_subject(make_heads(radix=4, cardinality=1), CLASSES)
    found = explain_folder(subject, draw_pictures(tmp_path / "p", 3).rglob("*.png"))
    (first, *rest) = found.blocks
    wins = np.zeros((1, 4, 3))
    wins[0, :, 0], wins[0, :, 1], wins[0, :, 2] = (1, 0, 0, 0), (0, 0, 0.5, 0.5), (0, 0.8, 0.2, 0)
    (strip,) = switch_strips([replace(first, wins=wins)])
    assert strip.values == pytest.approx([0.5, 0.2, 0])
    drawn = draw_classes(found)
    for changed, split in (("class_mean", 1), ("class_mean", 3), ("class_std", 2)):
        values = {label: one.copy() for label, one in getattr(first, changed).items()}
        values[0][0, split] += 0.2
        other = replace(found, blocks=(replace(first, **{changed: values}), *rest))
        assert draw_classes(other) != drawn
    assert "What each split looks at" in read_words(
        image_part(explain_image(subject, make_pixels()))
    )


def test_a_share_is_the_same_in_the_table_and_in_the_picture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    explained = explain_image(make_heads(2, cardinality=4), make_pixels(), activation=False)
    titles: list[str] = []
    monkeypatch.setattr(
        drawing, "draw_rows", lambda rows: titles.extend(one.title for row in rows for one in row)
    )
    drawing.draw_looks(explained)
    monkeypatch.undo()
    (table, *_) = [one for one in image_part(explained).sections if isinstance(one, Table)]
    shares = [float(cell.rstrip("%")) for row in table.rows for cell in row if "%" in cell]
    assert [int(title.rpartition(" ")[2].rstrip("%")) for title in titles] == [
        round(share) for share in shares
    ]
    for view in explained.blocks:
        summed = view.energy.sum((0, 2, 3))
        assert view.split_shares == pytest.approx(summed / summed.sum())


def test_a_net_of_several_kinds_is_told_as_such(tmp_path: Path) -> None:
    """SE may be inserted into a ResNeSt: a gate has no second split, and no share."""
    net = make_net()
    insert_attention(net, "se", ["layer1.0.bn3"], size=32)
    subject = open_subject(net, CLASSES)
    explained = explain_image(subject, make_pixels(), activation=False)
    assert "split attention and squeeze-and-excitation in 8 blocks" in describe_image(explained)[1]
    found = explain_folder(subject, draw_pictures(tmp_path / "p", 2).rglob("*.png"))
    for part in (image_part(explained), folder_part(found)):
        page = render_page("", "", part.headlines, part.sections)
        assert "layer1.0.bn3.attention" in page
    assert "classes.png" in folder_part(found).pictures
