"""The report: what it says, that it is the same each time, and that a browser can show it."""

import csv
import dataclasses
import hashlib
import html
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import need_tool
from playwright.sync_api import Browser, sync_playwright
from test_figures import NAMES, make_evaluation, make_history, make_images

from tinydigits import cli, runs
from tinydigits.data.mnist import Mnist
from tinydigits.errors import Failure, UsageError
from tinydigits.files import write_json
from tinydigits.network.model import save_model
from tinydigits.report import figures, report
from tinydigits.report.summary import SUMMARY
from tinydigits.training.config import Config
from tinydigits.training.loop import build_model
from tinydigits.training.presets import preset

FILES = ("report.html", "curves.png", "misclassified.png", "confusion.png", "reliability.png")
# A browser that runs in a container and calls nobody.
BROWSER = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


def make_config(**changes: Any) -> Config:
    return Config(**{"layers": ("conv3:2", "pool", "pool"), "threads": 1, "epochs": 3} | changes)


def make_summary(**changes: Any) -> dict[str, Any]:
    return {
        "name": "custom",
        "dataset": "MNIST",
        "goals": [
            {"goal": "accuracy over 99.4 %", "met": False, "measured": "97.00 %, never over it"},
            {"goal": "under 20,000 trainable parameters", "met": True, "measured": "1,234"},
            {"goal": "at most 15 epochs", "met": True, "measured": "3"},
        ],
        "evaluated_on": "test digits",
        "accuracy": 97.0,
        "loss": 0.0789,
        "first_epoch_over_goal": None,
        "epochs": 3,
        "parameters": 1234,
        "macs": 56789,
        "seconds": 31.5,
        "seed": 1,
        "device": "cpu",
        "precision": "float32",
        "threads": 1,
        "weights_sha256": "ab" * 32,
        "processor": "A processor",
        "instruction_set": "AVX2",
        "cores": 2,
        "accelerator": None,
        "system": "A system",
        "versions": {"python": "3.11.2", "torch": "2.6.0"},
    } | changes


def write(folder: Path, errors: int = 60, epochs: int = 3, **changes: Any) -> str:
    """A report of made-up results; returns the page."""
    config = changes.pop("config", make_config())
    path = report.write_report(
        folder,
        config,
        make_summary(**changes),
        make_history(epochs),
        make_evaluation(errors),
        make_images(),
    )
    return path.read_text(encoding="utf-8")


def make_run(folder: Path, **changes: Any) -> Path:
    """A finished run of a network that was never trained."""
    config = make_config(**changes)
    write_json(folder / "config.json", config.to_json())
    save_model(folder / "model.safetensors", build_model(config))
    sha256 = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    write_json(folder / "summary.json", make_summary(weights_sha256=sha256))
    with (folder / "metrics.csv").open("w", newline="") as file:
        rows = make_history(3, "validation" if config.validation else "test")
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return folder


@pytest.fixture
def small_mnist(monkeypatch: pytest.MonkeyPatch) -> Mnist:
    """Noise in place of MNIST, whose training and test digits differ; 40 of each are reported."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (140, 28, 28), np.uint8)
    labels = random.integers(0, 10, 140)
    digits = Mnist(images[:100], labels[:100], images[100:], labels[100:])
    monkeypatch.setattr("tinydigits.data.dataset.load_mnist", lambda root: digits)
    monkeypatch.setattr("tinydigits.data.mnist.HELD_OUT", 40)
    return digits


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures are made but not drawn, which takes longest, for tests of the page's words."""
    monkeypatch.setattr(figures, "png", lambda figure, dpi=200: b"")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The folders of two reports, by how many digits were misread. Only to be read."""
    folders = {errors: tmp_path_factory.mktemp(f"errors-{errors}") for errors in (0, 60)}
    for errors, folder in folders.items():
        write(folder, errors=errors)
    return folders


def test_a_report_is_a_page_and_four_pictures(written: dict[int, Path]):
    assert {path.name for path in written[60].iterdir()} == set(FILES)


def test_the_page_says_what_was_measured(written: dict[int, Path]):
    page = (written[60] / "report.html").read_text(encoding="utf-8")
    words = html.unescape(re.sub(r"<[^>]*>|\s+", " ", page.replace("</code> <code>", " ")))
    for value in (
        "97.00 %", "0.0789 nats", "1,234", "56,789", "60 of 2,000", "2 of its 3 goals",
        "A processor", "2.6.0", "ab" * 32, "All 60 misread digits",
        "tinydigits train --layers conv3:2 pool pool --name custom ",
    ):  # fmt: skip
        assert value in words
    assert words.count("MET ") == 2
    assert "MISSED  accuracy over 99.4 %" in words
    evaluation = make_evaluation(60)
    assert f"{100 * evaluation.expected_calibration_error():.2f} %" in words
    precision, recall = evaluation.precision_and_recall()
    for digit in range(10):
        row = f"{digit}  200  {100 * precision[digit]:.2f} %  {100 * recall[digit]:.2f} %"
        assert row in re.sub(r"\s\s+", "  ", words)


def test_the_page_needs_no_other_file(written: dict[int, Path]):
    page = (written[60] / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert not re.search(r"""(src|href)=["'](?!data:)|url\(|@import|https?://""", page)


def test_text_is_escaped(tmp_path: Path, undrawn: None):
    page = write(
        tmp_path,
        config=make_config(data=Path("<b>&'\"")),
        processor="<script>alert(1)</script>",
        versions={"<i>": "<u>"},
    )
    assert "&lt;script&gt;" in page
    for tag in ("<script", "<b>&", "<i>", "<u>"):
        assert tag not in page


def test_without_errors_and_after_one_epoch(tmp_path: Path, undrawn: None):
    page = write(tmp_path, errors=0, epochs=1)
    assert "No digit is taken for another." in page
    assert "all 2,000 digits are recognized" in page


def test_a_single_error_is_said_in_english(tmp_path: Path, undrawn: None):
    assert "The only misread digit" in write(tmp_path, errors=1)


def test_many_errors_are_cut_and_counted(tmp_path: Path, undrawn: None):
    page = write(tmp_path, errors=150)
    assert "The worst 100 of 150" in page
    assert page.count("<figure>") == 100


def test_digits_that_never_occur_have_no_share(tmp_path: Path, undrawn: None):
    evaluation = make_evaluation(0, n=5)
    path = report.write_report(
        tmp_path, make_config(), make_summary(), make_history(1), evaluation, make_images(5)
    )
    assert path.read_text(encoding="utf-8").count("<td>\N{EN DASH}</td>") == 10
    assert "nan" not in re.sub(r"base64,[^\"]*", "", path.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_equal_results_give_equal_bytes(tmp_path: Path, written: dict[int, Path]):
    write(tmp_path)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (written[60] / name).read_bytes()


@pytest.mark.parametrize(
    "config",
    [
        preset("baseline"),
        dataclasses.replace(preset("baseline"), epochs=2, validation=True, lr=1e-5),
        dataclasses.replace(preset("baseline"), layers=("conv3:8", "pool"), data=Path("a b/'c'")),
        make_config(),
        make_config(name="a-run.2", validation=True, momentum=0.0, precision="bfloat16"),
    ],
)
def test_the_command_repeats_the_configuration(config: Config, monkeypatch: pytest.MonkeyPatch):
    started = []

    def start(config: Config) -> None:
        started.append(config)
        raise Failure("that is enough")

    monkeypatch.setattr(runs, "start", start)
    words = shlex.split(shlex.join(report.train_command(config)))
    with pytest.raises(SystemExit):
        cli.main(words[1:])
    assert started == [config]


def test_the_command_names_only_what_differs_from_the_preset():
    config = dataclasses.replace(preset("baseline"), epochs=2, out=Path("here"))
    assert report.train_command(config) == ["tinydigits", "train", "baseline", "--epochs", "2"]


@pytest.mark.slow
@pytest.mark.parametrize("validation", [False, True])
def test_a_report_is_written_again_with_the_same_bytes(
    tmp_path: Path, small_mnist: Mnist, validation: bool
):
    folder = make_run(tmp_path, validation=validation)
    assert runs.rewrite_report(folder) == folder / "report.html"
    before = {name: (folder / name).read_bytes() for name in FILES}
    assert f" of {40:,}" in (folder / "report.html").read_text(encoding="utf-8")
    runs.rewrite_report(folder)
    assert {name: (folder / name).read_bytes() for name in FILES} == before


def test_a_report_is_about_the_digits_of_its_run(
    tmp_path: Path, small_mnist: Mnist, monkeypatch: pytest.MonkeyPatch
):
    read = []
    monkeypatch.setattr(runs, "write_report", lambda *arguments: read.append(arguments[-2:]))
    runs.rewrite_report(make_run(tmp_path / "test"))
    runs.rewrite_report(make_run(tmp_path / "held out", validation=True))
    expected = [
        (small_mnist.test_labels, small_mnist.test_images),
        (small_mnist.train_labels[-40:], small_mnist.train_images[-40:]),
    ]
    for (evaluation, images), (labels, digits) in zip(read, expected, strict=True):
        np.testing.assert_array_equal(evaluation.labels, labels)
        np.testing.assert_array_equal(images, digits)


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "summary.json", "metrics.csv"]
)
@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe{", b"[]", b'{"a": 1}'])
def test_a_missing_or_damaged_file_is_named(
    tmp_path: Path, small_mnist: Mnist, name: str, content: bytes | None
):
    path = make_run(tmp_path) / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Failure) as failure:
        runs.rewrite_report(tmp_path)
    if name != "config.json" or content is None:
        assert name in str(failure.value)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("change", [{"goals": 3}, {"accuracy": "good"}, {"versions": None}])
def test_a_summary_with_impossible_values_is_a_failure(
    tmp_path: Path, small_mnist: Mnist, change: dict[str, Any]
):
    path = make_run(tmp_path) / "summary.json"
    write_json(path, json.loads(path.read_text()) | change)
    with pytest.raises(Failure, match=r"summary\.json"):
        runs.rewrite_report(tmp_path)


@pytest.mark.parametrize("name", SUMMARY)
def test_a_value_that_a_summary_lacks_is_named(tmp_path: Path, small_mnist: Mnist, name: str):
    path = make_run(tmp_path) / "summary.json"
    summary = json.loads(path.read_text())
    del summary[name]
    write_json(path, summary)
    with pytest.raises(Failure, match=rf"summary\.json lacks {name} or has impossible") as failure:
        runs.rewrite_report(tmp_path)
    assert str(failure.value).count("\n") == 0
    assert not (tmp_path / "report.html").exists()


def test_all_that_the_page_reads_of_a_summary_is_checked(tmp_path: Path, undrawn: None):
    """The page may read nothing that `SUMMARY` lacks: it would fail with a traceback there."""
    summary = {name: value for name, value in make_summary().items() if name in SUMMARY}
    arguments = (make_config(), summary, make_history(1), make_evaluation(3), make_images())
    report.write_report(tmp_path, *arguments)
    assert (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("curves", TypeError),
        ("misclassified", KeyError),
        ("confusion", AttributeError),
        ("reliability", ValueError),
    ],
)
def test_an_error_in_the_program_is_not_blamed_on_a_file(
    tmp_path: Path, small_mnist: Mnist, monkeypatch: pytest.MonkeyPatch, name: str, error: Any
):
    def broken(*arguments: Any) -> None:
        raise error("a bug")

    monkeypatch.setattr(figures, name, broken)
    with pytest.raises(error, match="a bug"):
        runs.rewrite_report(make_run(tmp_path))


def test_classes_have_the_names_that_the_network_gives_them(tmp_path: Path, undrawn: None):
    evaluation = make_evaluation(6, n=30, names=NAMES)
    path = report.write_report(
        tmp_path, make_config(), make_summary(), make_history(1), evaluation, make_images(30)
    )
    page = path.read_text(encoding="utf-8")
    first_cells = re.findall(r"<tr><td>(\w+)</td><td>10</td>", page)
    assert first_cells == list(NAMES)
    worst = evaluation.errors()[0]
    label, prediction = (NAMES[of[worst]] for of in (evaluation.labels, evaluation.predictions))
    assert f"{label} → {prediction}<span>" in page
    assert f"{label} taken for {prediction}: " in page
    assert "1.10 for one that gives each of the 3 classes the same" in " ".join(page.split())


def test_weights_of_another_run_are_refused(tmp_path: Path, small_mnist: Mnist):
    save_model(make_run(tmp_path) / "model.safetensors", build_model(make_config()))
    with pytest.raises(Failure, match="does not describe the weights"):
        runs.rewrite_report(tmp_path)


def test_a_run_that_is_not_finished_is_told_how_to_finish(tmp_path: Path):
    (make_run(tmp_path) / "model.safetensors").unlink()
    with pytest.raises(UsageError, match="--resume"):
        runs.rewrite_report(tmp_path)


@pytest.mark.parametrize("text", ["", "epoch\n1\n", "epoch,train_loss\n1,x\n"])
@pytest.mark.parametrize("validation", [False, True])
def test_a_table_that_is_none_is_a_failure(tmp_path: Path, text: str, validation: bool):
    (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(Failure, match=r"metrics\.csv is not a table of epochs"):
        runs.read_metrics(tmp_path / "metrics.csv", make_config(validation=validation))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = need_tool("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=BROWSER)
        yield browser
        browser.close()


@pytest.mark.parametrize("errors", [0, 60])
@pytest.mark.parametrize("width", [400, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_the_page(
    written: dict[int, Path], browser: Browser, errors: int, width: int, scheme: Any
):
    complaints: list[str] = []
    requests: list[str] = []
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.append(request.url))
    page.on("request", lambda request: requests.append(request.url))
    page.goto((written[errors] / "report.html").as_uri(), wait_until="load")
    widths = page.evaluate("[...document.images].map(image => image.naturalWidth)")
    overflow = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    heading = page.inner_text("h1")
    page.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith("data:")] == requests[:1]
    assert len(widths) == 3 + errors
    assert min(widths) > 0
    assert overflow <= 0
    assert heading == "Reading handwritten digits: custom"
