"""What `tinydigits export` writes, compiled, run and read back."""

import functools
import re
import shutil
import subprocess
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from conftest import need_tool

from tinydigits import Failure, UsageError, load_quantized
from tinydigits.data.mnist import Mnist
from tinydigits.engine.export import ENGINE, export, onnx_graph
from tinydigits.network.model import load_model, save_model
from tinydigits.quant.tdq import save, to_bytes

FIRMWARE = Path(__file__).parents[1] / "examples" / "cortex-m0"


def pgm(image: np.ndarray, header: str = "P5\n# drawn\n{w} {h}\n255\n") -> bytes:
    height, width = image.shape
    return header.format(w=width, h=height).encode() + image.astype(np.uint8).tobytes()


@pytest.fixture(scope="module")
def digit_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `export tiny2k --to c` writes, made."""
    need_tool("make")
    need_tool("gcc")
    out = tmp_path_factory.mktemp("c") / "reader"
    export("tiny2k", "c", out)
    strict = "-std=c99 -O1 -Wall -Wextra -Wpedantic -Wconversion -Werror"
    subprocess.run(["make", "-s", "CC=gcc", f"CFLAGS={strict}"], cwd=out, check=True)
    return out


def read(folder: Path, content: bytes) -> subprocess.CompletedProcess[str]:
    (folder / "picture.pgm").write_bytes(content)
    return subprocess.run(["./digit", "picture.pgm"], cwd=folder, capture_output=True, text=True)


def test_program_says_what_the_engine_says(digit_program: Path, mnist: Mnist):
    for image in mnist.test_images[:20]:
        expected = load_quantized("tiny2k").logits(image[None]).argmax()
        done = read(digit_program, pgm(image))
        assert (done.returncode, done.stdout) == (0, f"{expected}\n"), done.stderr


def test_program_reads_dark_ink_on_gray_paper_of_any_size(digit_program: Path, mnist: Mnist):
    image, label = mnist.test_images[0], mnist.test_labels[0]
    large = np.kron(np.pad(image, ((20, 3), (5, 40))), np.ones((3, 3)))
    done = read(digit_program, pgm(220 - 0.7 * large))
    assert done.stdout == f"{label}\n"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no binary PGM"),
        (b"P2\n2 2\n255\n0 0 0 0", "no binary PGM"),
        (b"P5\n28 28\n255\nshort", "no binary PGM"),
        (b"P5\n5000 1\n255\n" + bytes(5000), "no binary PGM"),
        (b"P5\n2 2\n65535\n" + bytes(8), "no binary PGM"),
        (pgm(np.full((28, 28), 200)), "no ink"),
    ],
)
def test_program_refuses_what_it_cannot_read(digit_program: Path, content: bytes, says: str):
    done = read(digit_program, content)
    assert done.returncode == 1
    assert says in done.stderr


def test_program_asks_for_a_picture(digit_program: Path):
    done = subprocess.run(["./digit"], cwd=digit_program, capture_output=True, text=True)
    assert done.returncode == 2
    assert "usage" in done.stderr
    done = subprocess.run(["./digit", "none"], cwd=digit_program, capture_output=True, text=True)
    assert done.returncode == 1


def test_folder_is_an_arduino_library_that_refuses_avr(digit_program: Path):
    properties = (digit_program / "library.properties").read_text()
    keys = {line.partition("=")[0] for line in properties.splitlines()}
    assert keys >= {"name", "version", "author", "maintainer", "sentence", "paragraph", "category"}
    assert keys >= {"url", "architectures", "includes"}
    sources = {path.name for path in (digit_program / "src").iterdir()}
    assert sources == {path.name for path in ENGINE.glob("*.[ch]")} | {"tiny2k.c", "tiny2k.h"}
    done = subprocess.run(
        ["gcc", "-D__AVR__", "-fsyntax-only", digit_program / "src" / "tinydigits.c"],
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "32-bit" in done.stderr


def test_names_that_c_does_not_allow(tmp_path: Path):
    need_tool("gcc")
    model = tmp_path / "8.erste-Über.tdq"
    save(load_quantized("tiny1k"), model)
    out = tmp_path / "out"
    export(model, "c", out)
    assert (out / "src" / "8_erste__ber.h").exists()
    subprocess.run(
        ["gcc", "-std=c99", "-Wall", "-Werror", "-c", "src/8_erste__ber.c"], cwd=out, check=True
    )


def test_network_that_is_called_as_a_file_of_the_engine(tmp_path: Path):
    model = tmp_path / "prepare.tdq"
    save(load_quantized("tiny1k"), model)
    with pytest.raises(UsageError, match="another name"):
        export(model, "c", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_network_without_integers_gets_them(tmp_path: Path, mnist: Mnist):
    path = tmp_path / "own.safetensors"
    save_model(path, load_model("tiny1k"), "own")
    export(path, "c", tmp_path / "out")
    text = (tmp_path / "out" / "src" / "own.c").read_text()
    words = text.partition("= {")[2].replace("};", "").split(",")
    content = np.array([int(word, 16) for word in words if word.strip()], "<u4").tobytes()
    (tmp_path / "own.tdq").write_bytes(content)
    images, labels = mnist.test_images[:500], mnist.test_labels[:500]
    assert (load_quantized(tmp_path / "own.tdq").logits(images).argmax(1) == labels).mean() > 0.97


@pytest.mark.parametrize("to", ["c", "wasm", "onnx"])
def test_folder_with_other_files_is_left_alone(tmp_path: Path, to: str):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="choose another --out"):
        export("tiny1k", to, tmp_path)  # pyright: ignore[reportArgumentType]
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_bad_requests_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = tmp_path / "out"
    with pytest.raises(UsageError, match="exported to c, wasm, onnx"):
        export("tiny1k", "coreml", out)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match="no model"):
        export("tiny3k", "c", out)
    (tmp_path / "damaged.tdq").write_bytes(to_bytes(load_quantized("tiny1k"))[:-4])
    with pytest.raises(Failure, match="damaged"):
        export(tmp_path / "damaged.tdq", "wasm", out)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(Failure, match="No space left"):
        export("tiny1k", "c", out)
    assert {path.name for path in tmp_path.iterdir()} == {"damaged.tdq"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny2k", "classic"])
def test_onnx_answers_as_pytorch(tmp_path: Path, name: str, mnist: Mnist):
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    (path,) = export(name, "onnx", tmp_path / "out")
    model = onnx.load(path)
    notes = {entry.key: entry.value for entry in model.metadata_props}
    assert notes["name"] == name
    assert notes["license"] == "Apache-2.0"
    assert notes["accuracy"].startswith("99.")
    session = onnxruntime.InferenceSession(path)
    expected = load_model(name).log_probs(mnist.test_images)
    for count in (1, 3, 10_000):
        (log_probs,) = session.run(None, {"images": mnist.test_images[:count]})
        assert np.abs(log_probs - expected[:count]).max() < 1e-4
        assert (log_probs.argmax(1) == expected[:count].argmax(1)).all()


@pytest.mark.slow
def test_onnx_that_answers_otherwise_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("onnxruntime")
    other = onnx_graph(load_model("tiny1k"))
    monkeypatch.setattr("tinydigits.engine.export.onnx_graph", lambda network: other)
    with pytest.raises(Failure, match="differ"):
        export("tiny2k", "onnx", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_firmware_reads_its_ten_digits(tmp_path: Path):
    for tool in ("arm-none-eabi-gcc", "qemu-system-arm", "make"):
        need_tool(tool)
    folder = tmp_path / "cortex-m0"
    shutil.copytree(FIRMWARE, folder, ignore=shutil.ignore_patterns("model", "*.elf"))
    export("tiny2k", "c", folder / "model")
    done = subprocess.run(["make", "-s", "run"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines == [*(f"{k} is read as {k}" for k in range(10)), "all ten are right"]


@pytest.mark.slow
def test_page_reads_what_is_drawn(tmp_path: Path):
    chromium = need_tool("chromium")
    sync_api = pytest.importorskip("playwright.sync_api")
    out = tmp_path / "page"
    export("tiny2k", "wasm", out)
    handler = functools.partial(QuietHandler, directory=str(out))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with sync_api.sync_playwright() as playwright:
            options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
            browser = playwright.chromium.launch(executable_path=chromium, args=options)
            page = browser.new_page()
            complaints: list[str] = []
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.goto(f"http://127.0.0.1:{server.server_port}/index.html")
            page.wait_for_function("document.querySelector('canvas').ondblclick !== null")
            box = page.locator("canvas").bounding_box()
            assert box is not None
            strokes = {"7": [(60, 50), (220, 50), (120, 240)], "1": [(140, 40), (140, 240)]}
            for digit, points in strokes.items():
                page.mouse.move(box["x"] + points[0][0], box["y"] + points[0][1])
                page.mouse.down()
                for x, y in points[1:]:
                    page.mouse.move(box["x"] + x, box["y"] + y, steps=8)
                page.mouse.up()
                said = page.locator("output").evaluate("output => output.value")
                assert re.fullmatch(rf"{digit} \(\d+\.\d %\)", said), said
                page.locator("canvas").dblclick(position={"x": 5, "y": 5})
                # The click itself is a stroke of no length, so wipe once more by hand.
                page.locator("canvas").evaluate("canvas => canvas.ondblclick()")
            browser.close()
        server.shutdown()
    assert complaints == []


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        pass
