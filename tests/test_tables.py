"""The README's table: written from the results, and the same as they are."""

from pathlib import Path

import pytest

from tinydigits import Failure, ladder

ROOT = Path(__file__).parent.parent


def test_the_documents_say_what_the_results_say() -> None:
    for path, name, table in ladder.all_tables(ROOT / "results", ROOT / "README.md"):
        text = path.read_text(encoding="utf-8")
        assert ladder.replace_table(text, name, table) == text, f"{path}: run `tinydigits ladder`"


def test_every_anchor_is_in_the_caption_with_its_source() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for label, _, _, source in ladder.ANCHORS:
        assert f"| {label} |" in text
        assert source in text


def test_only_what_is_between_the_marks_is_replaced() -> None:
    text = "before\n<!-- ladder: begin -->\nold\n<!-- ladder: end -->\nafter"
    assert ladder.replace_table(text, "ladder", "new") == text.replace("old", "new")


def test_a_document_without_marks_is_refused() -> None:
    with pytest.raises(Failure, match="needs the lines"):
        ladder.replace_table("# tinydigits", "ladder", "new")


def test_without_results_the_error_says_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="tinydigits certify"):
        ladder.read_studies(tmp_path)


def test_the_figure_shows_every_study_and_every_anchor() -> None:
    studies = ladder.read_studies(ROOT / "results")
    axes = ladder.figure(studies).axes[0]
    written = {text.get_text() for text in axes.texts}
    assert {study["preset"] for study in studies} <= written
    assert {anchor[0] for anchor in ladder.ANCHORS} <= written
