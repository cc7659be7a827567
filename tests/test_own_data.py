"""Data of one's own: the forms they come in, what is refused, and all that is made of them."""

import dataclasses
import gzip
import json
import os
import re
import shutil
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import need_tool, run
from PIL import Image

from lab.study import read_study
from tinydigits import (
    Config,
    Failure,
    Mnist,
    Network,
    UsageError,
    evaluate,
    load_model,
    load_quantized,
    prepare,
    quantize,
    resume,
    runs,
    train,
)
from tinydigits.data.dataset import Dataset, DataSource, load_dataset
from tinydigits.data.formats import IDX_FILES, to_idx
from tinydigits.images.decode import open_picture
from tinydigits.images.symbol import see_symbol
from tinydigits.network.architecture import DIGITS, MEAN, STD
from tinydigits.network.checkpoint import Description, find_model, read_description
from tinydigits.quant.tdq import from_bytes, to_bytes
from tinydigits.training.presets import preset

ROOT = Path(__file__).parents[1]
SMALL = Config(
    layers=("pool", "conv3:6", "conv1:6"),
    name="small",
    epochs=3,
    batch_size=16,
    lr=0.1,
    nesterov=True,
    rotation=5.0,
    ema_decay=0.9,
    precision="float32",
    threads=1,
)
NAMES = ("bar", "<b>ö & $x$", "字")
"""Class names with what C, JSON, HTML and matplotlib could trip over."""


def drawn(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A dark bar on light paper, uint8 (60, 50), somewhere, and a bit longer or not."""
    random = np.random.default_rng(seed)
    picture = np.full((60, 50), 230, np.uint8)
    y, x = random.integers(2, 58 - height), random.integers(2, 48 - width)
    picture[y : y + height, x : x + width] = random.integers(0, 90)
    picture[y, x] = random.integers(90, 200)  # so that no two are alike
    return picture


def fill(folder: Path, names: tuple[str, ...] = NAMES, each: int = 10, seed: int = 0) -> Path:
    """A folder of classes: bars that stand, lie, or are squares."""
    for place, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for i in range(each):
            sides = ((40, 6), (6, 40), (20, 20))[place % 3]
            picture = drawn(*sides, seed=seed + 1000 * place + i)
            Image.fromarray(picture).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fill(tmp_path / "bars")


def loaded(data: Path, **changes: Any) -> Dataset:
    return load_dataset(dataclasses.replace(SMALL, data=data, **changes).data_source)


def images_of(dataset: Dataset) -> set[bytes]:
    return {image.tobytes() for image in dataset.test_images}


# ------------------------------------------------------------------------- folders of pictures


def test_a_folder_of_classes_becomes_a_data_set(folder: Path):
    own = loaded(folder)
    assert own.name == "bars"
    assert own.class_names == tuple(sorted(NAMES))
    assert own.train_images.shape == (24, 28, 28)
    assert own.test_images.shape == (6, 28, 28)
    assert own.train_images.dtype == np.uint8
    assert own.train_labels.dtype == own.test_labels.dtype == np.int64
    assert np.bincount(own.train_labels).tolist() == [8, 8, 8]
    assert np.bincount(own.test_labels).tolist() == [2, 2, 2]
    assert own.mean == pytest.approx(own.train_images.mean() / 255)
    assert own.std == pytest.approx(own.train_images.std() / 255)
    seen = np.concatenate([own.train_images, own.test_images])
    for place, name in enumerate(own.class_names):
        its = {image.tobytes() for image in seen[np.r_[own.train_labels, own.test_labels] == place]}
        files = (np.asarray(Image.open(path)) for path in (folder / name).iterdir())
        assert its == {prepare(picture).tobytes() for picture in files}


def test_what_is_held_out_depends_on_the_pictures_alone(folder: Path):
    before = images_of(loaded(folder))
    for i, path in enumerate(sorted((folder / "bar").iterdir())):
        path.rename(path.with_name(f"{97 - 7 * i}-renamed.png"))
    assert images_of(loaded(folder, seed=5)) == before


def test_a_validation_run_leaves_the_test_pictures_alone(folder: Path):
    whole, tuning = loaded(folder), loaded(folder, validation=True)
    assert images_of(tuning).isdisjoint(images_of(whole))
    assert np.bincount(tuning.test_labels).tolist() == [1, 1, 1]
    assert np.bincount(tuning.train_labels).tolist() == [7, 7, 7]
    assert tuning.fingerprint == whole.fingerprint  # the same data, cut otherwise


def test_train_and_test_folders_are_kept_apart(tmp_path: Path):
    fill(tmp_path / "Train", each=12)
    fill(tmp_path / "test", NAMES[:2] + NAMES[2:], each=3, seed=50)
    own = loaded(tmp_path)
    assert (len(own.train_labels), len(own.test_labels)) == (36, 9)


def test_what_systems_leave_behind_is_no_picture(folder: Path):
    before = loaded(folder)
    for place in (folder, folder / "bar"):
        for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._0.png"):
            (place / name).write_bytes(b"junk")
        (place / "__MACOSX").mkdir()
    assert loaded(folder).fingerprint == before.fingerprint


def test_numbers_are_in_their_order(tmp_path: Path):
    assert loaded(fill(tmp_path / "n", ("10", "9", "2"))).class_names == ("2", "9", "10")


def test_pictures_of_28_can_be_taken_as_they_are(tmp_path: Path):
    random = np.random.default_rng(0)
    for name in "ab":
        (tmp_path / "raw" / name).mkdir(parents=True)
        for i in range(10):
            pixels = random.integers(0, 256, (28, 28), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "raw" / name / f"{i}.png")
    own = loaded(tmp_path / "raw", as_is=True)
    assert np.asarray(Image.open(tmp_path / "raw" / "a" / "0.png")).tobytes() in {
        image.tobytes() for image in np.concatenate([own.train_images, own.test_images])
    }
    Image.fromarray(drawn(20, 20)).save(tmp_path / "raw" / "b" / "0.png")
    with pytest.raises(Failure, match=r"b/0.png is of 50x60 pixels, not 28x28: leave out --as-is"):
        loaded(tmp_path / "raw", as_is=True)


KINDS: dict[str, Callable[[np.ndarray], Image.Image]] = {
    "gray.png": Image.fromarray,
    "color.jpg": lambda gray: Image.fromarray(np.stack([gray] * 3, axis=2)),
    "cmyk.tif": lambda gray: Image.fromarray(np.stack([gray] * 3, axis=2)).convert("CMYK"),
    "palette.gif": lambda gray: Image.fromarray(gray).convert("P"),
    "1bit.png": lambda gray: Image.fromarray(gray > 127),
    "16bit.png": lambda gray: Image.fromarray(gray.astype(np.uint16) * 180 + 3000),
    "float.tif": lambda gray: Image.fromarray(gray.astype(np.float32) / 255),
    "alpha.png": lambda gray: Image.merge("LA", [Image.new("L", (50, 60), 10), inverse(gray)]),
    "light.webp": lambda gray: Image.merge(
        "RGBA", [*[Image.new("L", (50, 60), 250)] * 3, inverse(gray)]
    ),
}


def inverse(gray: np.ndarray) -> Image.Image:
    return Image.fromarray(np.where(gray > 127, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_picture_is_read(tmp_path: Path, name: str):
    gray = drawn(40, 6)
    options: dict[str, dict[str, Any]] = {"light.webp": {"lossless": True}}
    KINDS[name](gray).save(tmp_path / name, **options.get(name, {}))
    image = see_symbol(open_picture(tmp_path / name)).image.astype(int)
    assert abs(image - prepare(gray)).mean() < 10  # JPEG's ringing is seen as ink


# ------------------------------------------------------------------------------- sentences


def bomb(path: Path) -> None:
    """A PNG that says it is of 30000 x 30000 pixels."""
    Image.new("1", (8, 8)).save(path)
    raw = bytearray(path.read_bytes())
    raw[16:24] = (30_000).to_bytes(4, "big") * 2
    raw[29:33] = zlib.crc32(raw[12:29]).to_bytes(4, "big")
    path.write_bytes(raw)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


BROKEN: dict[str, tuple[Callable[[Path], object], type[Failure], str]] = {
    "no folder": (shutil.rmtree, UsageError, "There is no data folder .*bars: name one"),
    "empty": (
        lambda f: [shutil.rmtree(path) for path in f.iterdir()],
        UsageError,
        "The data folder .*bars is empty: put there a subfolder of pictures for each class",
    ),
    "one class": (
        lambda f: [shutil.rmtree(f / name) for name in NAMES[1:]],
        UsageError,
        r"bars holds only the class bar: a network tells 2 to 100 apart\.",
    ),
    "too few": (
        lambda f: (f / "bar" / "0.png").unlink(),
        UsageError,
        "The class bar in .*bars has 9 pictures in all: at least 10 are needed",
    ),
    "empty class": (
        lambda f: [path.unlink() for path in (f / "字").iterdir()],
        UsageError,
        "The class folder .*bars/字 is empty",
    ),
    "loose picture": (
        lambda f: shutil.copy(f / "bar" / "0.png", f / "loose.png"),
        UsageError,
        "bars holds loose.png beside the folders of its classes",
    ),
    "nested": (
        lambda f: shutil.copytree(f / "bar", f / "字" / "more"),
        UsageError,
        "The class folder .*bars/字 holds the folder more: ",
    ),
    "no picture": (
        lambda f: (f / "bar" / "notes.txt").write_text("hello"),
        Failure,
        "bars/bar/notes.txt is no picture of a kind that is known here: save it as PNG or JPEG",
    ),
    "cut short": (lambda f: cut_short(f / "bar" / "0.png"), Failure, "bars/bar/0.png"),
    "bomb": (lambda f: bomb(f / "bar" / "0.png"), Failure, "bars/bar/0.png has .* pixels"),
    "control character": (
        lambda f: (f / "bar").rename(f / "b\x1b[31m"),
        UsageError,
        r"The class 'b\\x1b\[31m' in .*bars cannot be called that",
    ),
    "long name": (
        lambda f: (f / "bar").rename(f / ("n" * 101)),
        UsageError,
        "a name has 1 to 100 characters",
    ),
    "same name": (
        lambda f: [
            fill(f, ("\N{LATIN SMALL LETTER A WITH DIAERESIS}", "a\N{COMBINING DIAERESIS}"))
        ],
        UsageError,
        "bars holds two folders called ä",
    ),
    "train alone": (
        lambda f: [f.rename(f.with_name("x")), f.mkdir(), f.with_name("x").rename(f / "train")],
        UsageError,
        "bars holds train alone: add the other one",
    ),
    "more than train and test": (
        lambda f: [fill(f / "train"), fill(f / "test")],
        UsageError,
        "bars holds .* beside test and train: move it away",
    ),
    "a class that is not tested": (
        lambda f: [
            *(shutil.rmtree(f / name) for name in NAMES),
            *(fill(f / "train"), fill(f / "test", NAMES[:2])),
        ],
        UsageError,
        "The class 字 in .*bars has 0 pictures to test on: at least 1 is needed",
    ),
    "all alike": (
        lambda f: [Image.new("L", (9, 9)).save(path) for path in f.rglob("*.png")],
        Failure,
        "All pictures in .*bars are blank",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_folder_that_cannot_be_is_told_in_one_sentence(folder: Path, what: str):
    spoil, kind, says = BROKEN[what]
    spoil(folder)
    with pytest.raises(kind, match=says) as refusal:
        loaded(folder)
    assert type(refusal.value) is kind
    assert "\n" not in str(refusal.value)


def test_class_imbalance_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    fill(tmp_path / "even", ("a", "b"))
    loaded(tmp_path / "even")
    assert capsys.readouterr().err == ""
    fill(tmp_path / "odd", ("a",), each=110)
    shutil.copytree(tmp_path / "even" / "b", tmp_path / "odd" / "b")
    loaded(tmp_path / "odd")
    said = capsys.readouterr().err
    assert "odd are of very different sizes: 88 pictures of a to train on, and 8 of b," in said


def test_more_than_100_classes_are_too_many(tmp_path: Path):
    with pytest.raises(UsageError, match="holds 101 classes: a network tells 2 to 100 apart"):
        loaded(fill(tmp_path, tuple(map(str, range(101))), each=1))


def test_mnist_is_a_name_that_only_mnist_has(tmp_path: Path):
    with pytest.raises(
        UsageError, match=r"cannot be called 'mnist': give them a name .* by --dataset"
    ):
        loaded(fill(tmp_path / "mnist"))
    assert loaded(tmp_path / "mnist", dataset="PNGs of digits").name == "PNGs of digits"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"dataset": "a\nb"}, "dataset must be a name of 1 to 100 characters"),
        ({"dataset": "a"}, "dataset and as_is are about data of yours: name their folder"),
        ({"as_is": True}, "dataset and as_is are about data of yours: name their folder"),
        ({"as_is": 1}, "as_is must be true or false"),
        ({"init": "\0"}, "init must be the name or the path of a network"),
    ],
)
def test_impossible_options_are_refused(fields: dict[str, Any], says: str):
    with pytest.raises(UsageError, match=says):
        dataclasses.replace(SMALL, **fields)


# ------------------------------------------------------------------------- in MNIST's forms


def arrays(first: int = 3) -> Mnist:
    """Noise with the labels `first` and the two after it, 20 to train and 5 to test with."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (75, 28, 28), np.uint8)
    labels = np.arange(75) % 3 + first
    return Mnist(images[:60], labels[:60], images[60:], labels[60:])


def as_idx(folder: Path) -> None:
    for name, part in zip(IDX_FILES, arrays(), strict=True):
        (folder / f"{name}.gz").write_bytes(gzip.compress(to_idx(part), 1))


def as_npz(folder: Path, name: str = "mine.npz") -> None:
    keys = ("x_train", "y_train", "x_test", "y_test")
    np.savez_compressed(folder / name, **dict(zip(keys, arrays(), strict=True)))


def as_csv(folder: Path) -> None:
    parts = arrays()
    for name, images, labels in (("train.csv", *parts[:2]), ("test.csv", *parts[2:])):
        table = np.concatenate([labels[:, None], images.reshape(len(images), -1)], axis=1)
        np.savetxt(folder / name, table, "%d", ",")


@pytest.mark.parametrize("write", [as_idx, as_npz, as_csv])
def test_mnists_forms_hold_other_data_where_they_are_named(tmp_path: Path, write: Any):
    write(tmp_path)
    own = loaded(tmp_path, dataset="Noise")
    assert own.name == "Noise"
    assert own.class_names == ("3", "4", "5")
    assert [*map(len, own[:4])] == [60, 60, 15, 15]
    np.testing.assert_array_equal(own.test_labels, arrays().test_labels - 3)
    np.testing.assert_array_equal(own.train_images, arrays().train_images)


def test_an_npz_can_be_named_itself(tmp_path: Path):
    as_npz(tmp_path)
    assert loaded(tmp_path / "mine.npz", dataset="Noise").name == "Noise"


@pytest.mark.parametrize("write", [as_idx, as_csv, lambda folder: as_npz(folder, "mnist.npz")])
def test_without_a_name_they_pass_for_damaged_mnist(tmp_path: Path, write: Any):
    write(tmp_path)
    with pytest.raises(Failure, match=r"damaged or holds another data set .* by --dataset"):
        loaded(tmp_path)


def test_an_npz_of_another_name_needs_one_too(tmp_path: Path):
    as_npz(tmp_path)
    for place in (tmp_path, tmp_path / "mine.npz"):
        with pytest.raises(UsageError, match="--dataset"):
            loaded(place)


def test_objects_in_an_npz_are_not_unpickled(tmp_path: Path):
    class Trap:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "sprung",)

    keys = ("x_train", "y_train", "x_test", "y_test")
    np.savez(tmp_path / "a.npz", **dict.fromkeys(keys, np.array([Trap()], object)))
    with pytest.raises(Failure, match="no array of whole numbers"):
        loaded(tmp_path, dataset="Trap")
    assert not (tmp_path / "sprung").exists()


def test_other_sizes_and_missing_parts_are_told(tmp_path: Path):
    as_idx(tmp_path)
    name = next(iter(IDX_FILES))
    (tmp_path / f"{name}.gz").write_bytes(to_idx(np.zeros((60, 32, 32), np.uint8)))
    with pytest.raises(Failure, match=r"are \(60, 32, 32\), not \(N, 28, 28\)"):
        loaded(tmp_path, dataset="Large")
    (tmp_path / f"{name}.gz").unlink()
    with pytest.raises(UsageError, match=f"lacks {name}"):
        loaded(tmp_path, dataset="Large")


# --------------------------------------------------------------------------- from data to model


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tinydigits.runs.write_report", lambda *_: None)


@pytest.fixture
def trained(folder: Path, tmp_path: Path, undrawn: None) -> Path:
    train(dataclasses.replace(SMALL, data=folder, out=tmp_path / "run"))
    return tmp_path / "run"


def test_a_model_knows_its_classes_and_its_normalization(folder: Path, trained: Path):
    own = loaded(folder)
    description = read_description(trained / "model.safetensors")
    assert description.class_names == own.class_names
    assert (description.mean, description.std) == (own.mean, own.std)
    network, integers = load_model(trained), load_quantized(trained)
    assert integers.class_names == own.class_names
    result = evaluate(network, own.test_images, own.test_labels)
    summary = json.loads((trained / "summary.json").read_text())
    assert result.accuracy == summary["accuracy"]
    assert summary["goals"] == []
    assert summary["dataset"] == "bars"
    assert summary["class_names"] == [*own.class_names]
    assert summary["evaluated_on"] == "test pictures of bars"
    assert summary["parameters"] == sum(p.numel() for p in network.parameters())


def test_what_is_learned_is_normalized_with_its_own_mean(folder: Path):
    own = loaded(folder)
    run = runs.start(dataclasses.replace(SMALL, data=folder, out=folder.parent / "run"))
    images, _ = run.train_digits[list(range(24))]
    expected = (own.train_images / 255 - own.mean) / own.std
    np.testing.assert_allclose(images[:, 0].numpy(), expected, atol=1e-5)


def test_a_stopped_run_goes_on_to_the_same_bits(folder: Path, trained: Path):
    stopped = trained.with_name("stopped")
    next(runs.epochs(runs.start(dataclasses.replace(SMALL, data=folder, out=stopped))))
    runs.complete(resume(stopped))
    for name in ("model.safetensors", "model.tdq"):
        assert (stopped / name).read_bytes() == (trained / name).read_bytes()


def test_a_run_does_not_go_on_with_other_data(folder: Path, trained: Path, command: Any):
    (folder / "bar" / "0.png").unlink()
    shutil.copy(folder / "bar" / "1.png", folder / "bar" / "0.png")
    says = f"The data in {folder} are not those that {trained} was trained on: bring them back"
    for words in (("train", "--resume"), ("evaluate",), ("report",)):
        outcome = command(*words, trained)
        assert outcome.exit_code == 1
        assert says in outcome.sentence


def test_a_run_starts_from_a_network_but_for_other_classes(folder: Path, trained: Path):
    config = dataclasses.replace(SMALL, data=folder, init=str(trained), seed=3)
    same = runs.start(dataclasses.replace(config, out=folder.parent / "same"))
    before = load_model(trained).state_dict()
    torch.testing.assert_close(dict(same.model.state_dict()), dict(before), atol=0, rtol=0)
    shutil.copytree(folder / "bar", folder / "another")
    other = runs.start(dataclasses.replace(config, out=folder.parent / "other")).model.state_dict()
    assert other["classes.weight"].shape == (4, 6, 1, 1)
    for name in before.keys() - {"classes.weight"}:
        torch.testing.assert_close(other[name], before[name], atol=0, rtol=0)


def test_a_run_goes_on_without_what_it_started_from(folder: Path, trained: Path):
    config = dataclasses.replace(SMALL, data=folder, init=str(trained))
    whole = train(dataclasses.replace(config, out=folder.parent / "whole"))
    stopped = folder.parent / "stopped"
    next(runs.epochs(runs.start(dataclasses.replace(config, out=stopped))))
    trained.rename(folder.parent / "gone")
    assert whole.folder is not None
    runs.complete(resume(stopped))
    expected = (whole.folder / "model.safetensors").read_bytes()
    assert (stopped / "model.safetensors").read_bytes() == expected


def test_a_network_of_other_layers_is_no_start(folder: Path):
    with pytest.raises(
        UsageError, match=r"init: tiny1k has the layers conv3:7 .*choose the preset"
    ):
        runs.start(
            dataclasses.replace(SMALL, data=folder, init="tiny1k", out=folder.parent / "run")
        )


def test_the_layers_of_init_are_the_default(folder: Path, command: Any, monkeypatch: Any):
    seen = []
    monkeypatch.setattr("tinydigits.runs.start", lambda config: seen.append(config) or 1 / 0)
    for words in (("--init", "tiny1k"), ("--init=tiny1k",), ("tiny2k", "--init", "tiny1k")):
        with pytest.raises(ZeroDivisionError):
            command("train", *words, "--data", folder)
    assert [config.name for config in seen] == ["tiny1k", "tiny1k", "tiny2k"]


def test_evaluate_measures_on_the_data_of_the_run(folder: Path, trained: Path, command: Any):
    outcome = command("evaluate", trained)
    assert outcome.exit_code == 0, outcome.err
    assert "model.tdq in integers, on the 6 test pictures of bars" in outcome.out
    assert all(f"{name} " in outcome.out for name in NAMES)
    said = command("evaluate", trained, "--float").out
    summary = json.loads((trained / "summary.json").read_text())
    assert f"accuracy {summary['accuracy']:.2f} %" in said


def test_evaluate_measures_on_all_of_another_folder(trained: Path, tmp_path: Path, command: Any):
    new = fill(tmp_path / "new", NAMES[:2], each=3, seed=9)
    outcome = command("evaluate", trained, "--data", new)
    assert "on the 6 test pictures of new" in outcome.out
    (new / "bar").rename(new / "pub")
    assert (
        "new has the class pub, and this network only knows"
        in command("evaluate", trained, "--data", new).sentence
    )


def test_networks_are_not_measured_on_what_they_were_not_trained_on(
    folder: Path, trained: Path, tmp_path: Path, command: Any
):
    assert "bars has the class" in command("evaluate", "tiny2k", "--data", folder).sentence
    for name in ("model.safetensors", "model.tdq"):
        alone = shutil.copy(trained / name, tmp_path / name)
        assert "was not trained on MNIST: name" in command("evaluate", alone).sentence
    said = command("export", tmp_path / "model.safetensors", "--to", "c", "--out", tmp_path / "c")
    assert "was not trained on MNIST: name" in said.sentence
    assert "name it by --data" in command("evaluate", trained, "--dataset", "x").sentence


def test_a_run_whose_data_are_gone_says_so(folder: Path, trained: Path, command: Any):
    folder.rename(folder.with_name("moved"))
    said = command("evaluate", trained).sentence
    assert f"{folder}, which {trained} was trained on, is gone: bring it back" in said
    assert command("evaluate", trained, "--data", folder.with_name("moved")).exit_code == 0


def test_a_network_of_mnist_needs_no_config(few: Mnist, tmp_path: Path, command: Any):
    shutil.copy(find_model("tiny1k"), tmp_path / "model.safetensors")
    for content in ("{}", SMALL.to_json() | {"data": "/gone"}):
        (tmp_path / "config.json").write_text(json.dumps(content))
        outcome = command("evaluate", tmp_path)
        assert outcome.exit_code == 0, outcome.err
        assert "on the 200 test digits" in outcome.out


def test_a_shipped_network_is_measured_on_pictures_of_digits(tmp_path: Path, command: Any):
    own = fill(tmp_path / "mine", ("1", "7"), each=2)
    outcome = command("evaluate", "tiny2k", "--data", own)
    assert outcome.exit_code == 0, outcome.err
    assert "on the 4 test pictures of mine" in outcome.out
    assert re.search(r"^ +1 .* 100.00 %$", outcome.out, re.MULTILINE)  # the bar that stands


def test_a_network_too_wide_for_integers_ends_in_a_model_all_the_same(
    folder: Path, tmp_path: Path, undrawn: None, monkeypatch: Any, capsys: Any
):
    def refuse(*_: Any) -> None:
        raise UsageError("The sums of conv3:6 can leave 32 bits.")

    monkeypatch.setattr("tinydigits.runs.quantize", refuse)
    train(dataclasses.replace(SMALL, epochs=1, data=folder, out=tmp_path / "run"))
    assert "There is no model.tdq, the network in integers: The sums" in capsys.readouterr().err
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_a_hundred_long_names_go_into_a_file_and_out_again():
    names = tuple(f"{i:02}" + 98 * "\N{LINEAR B SYLLABLE B008 A}" for i in range(100))
    network = Network(("pool", "conv3:4"), class_names=names)
    integers = quantize(network, np.zeros((1, 28, 28), np.uint8))
    assert from_bytes(to_bytes(integers)).class_names == names


def test_summary_names_the_classes(trained: Path, command: Any):
    assert f"tells apart: {', '.join(sorted(NAMES))}" in command("summary", trained).out
    assert "tells apart" not in command("summary", "tiny2k").out


def test_train_says_what_it_reached_and_no_verdict(folder: Path, tmp_path: Path, command: Any):
    words = ("--layers", "pool", "pool", "conv3:4", "--epochs", "1", "--threads", "1")
    (tmp_path / "other").mkdir()
    data = folder.rename(tmp_path / "other" / "bars <i>")
    outcome = command("train", *words, "--data", data, "--out", tmp_path / "run")
    assert outcome.exit_code == 0, outcome.err
    assert "% of the 6 test pictures of bars <i>" in outcome.out
    assert "MET" not in outcome.out
    assert "MISSED" not in outcome.out
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "on bars &lt;i&gt; and measured on" in page
    assert "&lt;b&gt;ö &amp; $x$" in page
    assert "<b>ö" not in page
    assert "MNIST" not in page
    assert "digit" not in page.replace("tinydigits", "")
    outcome = command("report", tmp_path / "run")
    assert outcome.exit_code == 0, outcome.err
    assert (tmp_path / "run" / "report.html").read_text(encoding="utf-8") == page


def test_no_terminal_is_told_what_to_do_by_a_model():
    for name in ("\x1b[2J", "a\nb", "\ud800"):
        with pytest.raises(UsageError, match="no control characters"):
            Description(("conv3:2",), ("a", name))


def test_mnist_is_what_it_was(mnist: Mnist):
    found = load_dataset()
    assert found[4:] == ("MNIST", DIGITS, MEAN, STD, None)
    np.testing.assert_array_equal(found.test_labels, mnist.test_labels)


def test_the_name_says_whether_data_are_mnist(mnist: Mnist, folder: Path):
    assert load_dataset().is_mnist
    assert not loaded(folder).is_mnist
    assert not Dataset(*mnist, "drawn", DIGITS, MEAN, STD).is_mnist


def test_a_network_is_of_mnist_by_its_classes_and_its_normalization(folder: Path, trained: Path):
    for name in ("model.safetensors", "model.tdq"):
        network = trained / name
        of = (
            load_quantized(network).description
            if name.endswith(".tdq")
            else read_description(network)
        )
        assert not of.of_mnist
    assert read_description(find_model("tiny1k")).of_mnist
    assert load_quantized("tiny1k").description.of_mnist
    assert not Description(("conv3:2",), mean=0.13066, std=STD).of_mnist
    assert not Description(("conv3:2",), (*DIGITS, "none")).of_mnist


def test_a_configuration_says_where_its_data_are(tmp_path: Path):
    assert SMALL.data_source == DataSource()
    fields: dict[str, Any] = {"data": tmp_path, "dataset": "a", "as_is": True, "validation": True}
    source = dataclasses.replace(SMALL, **fields).data_source
    assert source == DataSource(tmp_path, "a", True, True)


# ----------------------------------------------------------------------------- what is required


def typed(cwd: Path, line: str) -> str:
    """What a line in a shell prints, in a folder where the examples are."""
    if not (cwd / "examples").exists():
        (cwd / "examples").symlink_to(ROOT / "examples")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    outcome = run("bash", "-c", line, cwd=cwd, env=os.environ | {"PATH": path}, timeout=600)
    assert outcome.exit_code == 0, outcome.err
    return outcome.out


def accuracy_in(said: str) -> float:
    """What `tinydigits evaluate` measured."""
    match = re.search(r"^accuracy ([\d.]+) %", said, re.MULTILINE)
    assert match, said
    return float(match[1])


@pytest.mark.slow
def test_ten_shapes_thirty_times_are_learned_from_a_shipped_network(tmp_path: Path):
    draw = "python examples/symbols/draw.py --symbols 10"
    typed(tmp_path, f"{draw} shapes && {draw} new --each 50 --seed 2")
    typed(tmp_path, "tinydigits train --data shapes --init tiny20k --out run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert len(summary["class_names"]) == 10
    assert summary["accuracy"] > 90
    assert accuracy_in(typed(tmp_path, "tinydigits evaluate run --data new")) > 90


@pytest.mark.slow
def test_the_whole_way_is_as_the_page_tells_it(tmp_path: Path):
    for tool in ("gcc", "make"):
        need_tool(tool)
    page = (ROOT / "docs" / "own-data.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    said = {line: typed(tmp_path, line) for line in lines}
    assert len([*(tmp_path / "symbols").rglob("*.png")]) == 12 * 30
    assert "on the 240 test pictures of new" in said["tinydigits evaluate runs/symbols --data new"]
    assert accuracy_in(said["tinydigits evaluate runs/symbols --data new"]) > 95
    *_, program = said.values()
    assert program == "heart\n"
    for line in said:
        if line.startswith("tinydigits predict"):
            assert said[line].startswith("heart")
    right = 0
    for picture in (tmp_path / "new").glob("*/001.png"):  # of every class
        Image.open(picture).save(tmp_path / "one.pgm")
        right += typed(tmp_path, "reader/digit one.pgm") == f"{picture.parent.name}\n"
    assert right >= 11


@pytest.mark.slow
def test_the_program_in_c_and_the_page_say_any_name(folder: Path, trained: Path, tmp_path: Path):
    for tool in ("gcc", "make"):
        need_tool(tool)
    typed(tmp_path, "tinydigits export run --to c --out c && make -s -C c")
    typed(tmp_path, "tinydigits export run --to wasm --out page")
    integers = load_quantized(trained)
    for picture in folder.glob("*/0.png"):
        Image.open(picture).save(tmp_path / "one.pgm")
        prediction = integers.logits(prepare(np.asarray(Image.open(picture)))[None]).argmax()
        assert typed(tmp_path, "c/digit one.pgm") == f"{integers.class_names[prediction]}\n"
    page = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    assert "Draw one of these: &lt;b&gt;ö &amp; $x$, bar, 字;" in page


@pytest.mark.slow
def test_onnx_is_compared_on_the_data_of_the_run(trained: Path, tmp_path: Path):
    onnx = pytest.importorskip("onnx")
    typed(tmp_path, "tinydigits export run --to onnx --out onnx")
    graph = onnx.load(tmp_path / "onnx" / "small.onnx")
    notes = {note.key: note.value for note in graph.metadata_props}
    assert json.loads(notes["class_names"]) == sorted(NAMES)
    assert notes["accuracy"].endswith("% of the 6 test pictures of bars")


FASHION = Path("/usr/share/datasets/fashion-mnist")


@pytest.fixture
def fashion() -> Path:
    """Where Debian's package puts Fashion-MNIST."""
    if not FASHION.exists():
        missing = "needs Fashion-MNIST: install the Debian package dataset-fashion-mnist"
        if os.environ.get("TINYDIGITS_REQUIRE_TOOLS"):
            pytest.fail(missing)
        pytest.skip(missing)
    return FASHION


def test_fashion_mnist_is_not_taken_for_mnist(fashion: Path):
    with pytest.raises(Failure, match="its images is not MNIST's"):
        loaded(fashion)


@pytest.mark.slow
def test_clothes_are_learned_as_well(fashion: Path, tmp_path: Path):
    words = f"--data {fashion} --dataset Fashion-MNIST --threads 1"
    said = typed(tmp_path, f"tinydigits train dash --epochs 1 {words} --out run")
    assert "of the 10,000 test pictures of Fashion-MNIST" in said
    assert "MISSED" not in said
    assert accuracy_in(typed(tmp_path, "tinydigits evaluate run")) > 80


def test_tiny20k_learns_fashion_mnist_to_over_90_percent():
    """What `python -m lab fashion` measured."""
    study = read_study(ROOT / "results" / "fashion.json", least=3)
    assert study["preset"] == "tiny20k"
    assert study["config"]["layers"] == [*preset("tiny20k").layers]
    assert study["config"]["dataset"] == "Fashion-MNIST"
    assert study["statistics"]["mean"] > 90
