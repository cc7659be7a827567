"""The README's table: written from the results, and the same as they are."""

from pathlib import Path

import pytest

from tinydigits import Failure, ladder

ROOT = Path(__file__).parent.parent


def test_the_readme_says_what_the_results_say() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = ladder.table(ladder.read_studies(ROOT / "results"))
    assert ladder.replace_table(text, "ladder", table) == text, "run `tinydigits ladder`"


def test_the_lab_notebook_says_what_the_probes_said() -> None:
    text = (ROOT / "docs" / "lab-notebook.md").read_text(encoding="utf-8")
    table = ladder.probes_table(ROOT / "results" / "probes.json")
    assert ladder.replace_table(text, "probes", table) == text, "run `tinydigits ladder`"


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
