"""The documents' tables: written from the results, and the same as they are."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from lab import tables
from lab.study import FORMS, RAW
from tinydigits import Failure

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_documents_say_what_the_results_say() -> None:
    for path, name, table in tables.all_tables(RESULTS, ROOT / "README.md"):
        text = path.read_text(encoding="utf-8")
        same = tables.replace_table(text, name, table) == text
        assert same, f"{path}: run `python -m lab tables`"


def test_the_documents_have_no_marks_that_no_table_belongs_to() -> None:
    made = {(path, name) for path, name, _ in tables.all_tables(RESULTS, ROOT / "README.md")}
    there = {
        (path, line.removeprefix("<!-- ").removesuffix(": begin -->"))
        for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith("<!-- ") and line.endswith(": begin -->")
    }
    assert there == made


def test_every_network_of_others_has_its_figure_and_where_it_was_read() -> None:
    others = json.loads((RESULTS / "others.json").read_text(encoding="utf-8"))["accuracy"]
    lines = tables.others_table(others).splitlines()[2:]
    for row, line in zip(others, lines, strict=True):
        assert cells(line) == [
            *(row["label"], f"{row['parameters']:,}", f"{row['accuracy']:.2f}", row["source"])
        ]
        assert row["source"].strip()


def study_with(background: float, ink_fade: float, integers: bool) -> dict[str, Any]:
    numbers = {"n": 2, "mean": 99.5, "sd": 0.25}
    study = {
        "preset": "dash",
        "config": {"background": background, "ink_fade": ink_fade},
        "statistics": numbers,
    }
    study |= {"processor": "a processor", "threads_per_seed": 1, "versions": {"torch": "2.9"}}
    raw = {name: {"float": numbers, "integers": numbers | {"mean": 98.5}} for name in RAW}
    forms = {form: numbers | {"mean": 99.0} for form in FORMS}
    return study | ({"integers": forms, "raw": raw} if integers else {"integers": {}, "raw": {}})


def test_tables_of_integers_and_of_paper_show_what_was_measured_and_what_was_not() -> None:
    studies = [study_with(0.3, 0.4, True), study_with(0, 0, False)]
    _, _, measured, missing = map(cells, tables.forms_table(studies).splitlines())
    assert measured == ["`dash`", "99.500 ± 0.250", *["99.000 ± 0.250"] * len(FORMS)]
    assert missing == ["`dash`", "99.500 ± 0.250", *["-"] * len(FORMS)]
    _, _, measured, missing = map(cells, tables.raw_table(studies).splitlines())
    assert measured == ["`dash`", "30 %, 60 %", *["99.500 ± 0.250", "98.500 ± 0.250"] * len(RAW)]
    assert missing == ["`dash`", "no", *["-"] * 2 * len(RAW)]


def test_the_table_of_held_out_trainings_shows_layers_amounts_and_means() -> None:
    study = study_with(0.15, 0.2, True)
    study["config"]["layers"] = ["conv3:2", "pool"]
    _, _, line, _, trained = tables.background_table([study]).splitlines()
    raw = ["99.500 ± 0.250"] * len(RAW)
    assert cells(line) == ["`dash`", "conv3:2 pool", "15 %, 80 %", "99.500 ± 0.250 (2)", *raw]
    assert trained == "Trained on a processor, threads a seed: 1, PyTorch 2.9."


def test_the_table_of_trainings_for_few_bits_shows_what_the_integers_read() -> None:
    plain, trained = study_with(0, 0, True), study_with(0, 0, True)
    plain["config"] |= {"qat_epochs": 0, "weight_bits": 8, "activation_bits": 8}
    trained["config"] |= {"qat_epochs": 3, "weight_bits": 6, "activation_bits": 4}
    trained |= {"preset": "sprint", "accelerator": "a graphics card"}
    _, _, *lines, _, where = tables.qat_table([plain, trained]).splitlines()
    read = ["99.500 ± 0.250 (2)", *["99.000 ± 0.250"] * len(FORMS), "-"]  # w4a8: not measured
    assert [*map(cells, lines)] == [["`dash`", "none", *read], ["`sprint`", "w6a4, 3", *read]]
    assert where == (
        "`dash`: trained on a processor, threads a seed: 1, PyTorch 2.9. "
        "`sprint`: trained on a graphics card, PyTorch 2.9."
    )


def test_the_ladder_counts_the_network_that_was_trained_whatever_the_preset_is_now() -> None:
    study = tables.read_studies(RESULTS)[0]
    study["config"]["layers"] = ["pool", "conv3:2", "conv1:3"]
    (*_, line) = map(cells, tables.ladder_table([study]).splitlines()[:3])
    assert line[1:3] == ["64", "64"]  # 18 + 4, 6 + 6, 30
    (*_, line) = map(cells, tables.short_table([study]).splitlines())
    assert line[1] == "64"


def test_only_what_is_between_the_marks_is_replaced() -> None:
    text = "before\n<!-- ladder: begin -->\nold\n<!-- ladder: end -->\nafter"
    assert tables.replace_table(text, "ladder", "new") == text.replace("old", "new")


def test_a_document_without_marks_is_refused() -> None:
    with pytest.raises(Failure, match="needs the lines"):
        tables.replace_table("# tinydigits", "ladder", "new")


def test_without_results_the_error_says_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="python -m lab certify"):
        tables.read_studies(tmp_path)


def test_timings_of_an_older_version_are_refused(tmp_path: Path) -> None:
    results = Path(shutil.copytree(RESULTS, tmp_path / "results"))
    timed = json.loads((results / "benchmark.json").read_text())
    for row in timed["presets"].values():
        del row["share_of_baseline"]
    (results / "benchmark.json").write_text(json.dumps(timed))
    with pytest.raises(Failure, match=r"make it again with python -m lab benchmark"):
        tables.all_tables(results, tmp_path / "README.md")


def test_all_tables_are_written_and_the_figure_is_drawn(tmp_path: Path) -> None:
    results = Path(shutil.copytree(RESULTS, tmp_path / "results"))
    readme = tmp_path / "README.md"
    (tmp_path / "docs").mkdir()
    made = tables.all_tables(results, readme)
    for path, name, _ in made:
        with path.open("a", encoding="utf-8") as file:
            file.write(f"<!-- {name}: begin -->\nold\n<!-- {name}: end -->\n")
    written = tables.write_tables(results, readme)
    drawn = {tmp_path / "docs" / name for name in ("ladder.png", "robustness.png")}
    assert {*written} == {path for path, _, _ in made} | drawn
    for path, _, table in made:
        assert table in path.read_text(encoding="utf-8")
    assert all("old\n" not in path.read_text(encoding="utf-8") for path in {*written} - drawn)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)


def test_the_figure_shows_every_study_and_every_network_of_others() -> None:
    studies = tables.read_studies(RESULTS)
    others = json.loads((RESULTS / "others.json").read_text(encoding="utf-8"))["accuracy"]
    axes = tables.figure(studies, others).axes[0]
    written = {text.get_text() for text in axes.texts}
    assert {study["preset"] for study in studies} <= written
    assert {row["label"] for row in others} <= written
    drawn = {(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.get_lines()}  # pyright: ignore
    assert {(row["parameters"], row["accuracy"]) for row in others} <= drawn
