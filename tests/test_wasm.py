"""The engine in WebAssembly: the bits of NumPy in Node and in a browser, and plain errors."""

import functools
import http.server
import json
import re
import struct
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import need_tool
from test_integer import sealed
from test_prepare import random_crop
from test_report import BROWSER

from lab import engines, parity
from tinydigits import Mnist, load_model, prepare
from tinydigits.quant.integer import IntegerNetwork
from tinydigits.quant.ptq import quantize
from tinydigits.quant.tdq import save, to_bytes

SHIPPED = engines.ENGINE / "tinydigits.wasm"


@pytest.fixture(scope="module")
def network(mnist: Mnist) -> IntegerNetwork:
    return quantize(load_model("tiny1k"), mnist.train_images[:500], temperature=1.3)


@pytest.fixture(scope="module", params=["shipped", "built"])
def wasm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The module of the package, and what its source gives now."""
    need_tool("node")
    if request.param == "shipped":
        return SHIPPED
    need_tool("clang")
    need_tool("wasm-ld")
    target = tmp_path_factory.mktemp("wasm") / "tinydigits.wasm"
    engines.build_wasm(target)
    return target


def in_node(script: str, folder: Path, engine: Path = SHIPPED, **values: Any) -> Any:
    """What `script` puts in `result`; `network` is that of model.tdq, `fails` tells an error."""
    need_tool("node")
    constants = [f"const {name} = {json.dumps(value)};" for name, value in values.items()]
    words = f"""
    const network = await load("model.tdq", {json.dumps(str(engine))});
    const fails = async (act) => {{
      try {{ await act(); }} catch (error) {{ return `${{error.name}}: ${{error.message}}`; }}
      return "nothing";
    }};
    let result;
    {script}
    console.log(JSON.stringify(result));
    """
    return json.loads(engines.run_node("\n".join([*constants, words]), folder))


@pytest.fixture
def folder(tmp_path: Path, network: IntegerNetwork) -> Path:
    save(network, tmp_path / "model.tdq")
    return tmp_path


def test_digits_have_the_same_bits(
    wasm: Path, network: IntegerNetwork, mnist: Mnist, tmp_path: Path
) -> None:
    images = np.concatenate([mnist.test_images[:100], parity.noise_images(50)])
    logits, classes = engines.run_wasm(to_bytes(network), images, tmp_path, wasm)
    expected = network.logits(images)
    assert (logits == expected).all()
    assert (classes == expected.argmax(axis=1)).all()


def test_random_networks_have_the_same_bits(wasm: Path, folder: Path) -> None:
    networks = [parity.random_network(seed) for seed in range(20)]
    images = parity.noise_images(6)
    for seed, network in enumerate(networks):
        save(network, folder / f"{seed}.tdq")
    said = in_node(
        """
        result = [];
        for (let seed = 0; seed < count; seed++) {
          const network = await load(`${seed}.tdq`, wasm);
          result.push(images.map((image) => [...network.predict(Uint8Array.from(image)).logits]));
        }
        """,
        *(folder, wasm),
        wasm=str(wasm),
        count=len(networks),
        images=images.reshape(len(images), -1).tolist(),
    )
    for network, logits in zip(networks, said, strict=True):
        assert (np.array(logits) == network.logits(images)).all(), network.layers


def test_prepare_has_the_same_bits(wasm: Path, folder: Path) -> None:
    rng = np.random.default_rng(6)
    crops = [random_crop(rng) for _ in range(150)]
    crops += [rng.integers(0, 256, shape).astype(np.uint8) for shape in [(1, 4096), (2000, 500)]]
    papers = [None if rng.random() < 0.5 else int(rng.integers(256)) for _ in crops]
    (folder / "crops").write_bytes(b"".join(crop.tobytes() for crop in crops))
    images = in_node(
        """
        const crops = readFileSync("crops");
        let at = 0;
        result = papers.map((paper, i) => {
          const [height, width] = shapes[i], start = at;
          at += width * height;
          return [...network.prepare(crops.subarray(start, at), width, height, paper)];
        });
        """,
        *(folder, wasm),
        shapes=[crop.shape for crop in crops],
        papers=papers,
    )
    expected = [prepare(*case) for case in zip(crops, papers, strict=True)]
    assert (np.array(images).reshape(-1, 28, 28) == expected).all()


def test_a_prediction(folder: Path, network: IntegerNetwork, mnist: Mnist) -> None:
    """Also: a large picture in between, and a second network beside the first, change nothing."""
    save(network, folder / "other.tdq")
    digit = mnist.test_images[:1]
    said = in_node(
        """
        const image = Uint8ClampedArray.from(digit);
        const first = network.predict(image);
        const other = await load(readFileSync("other.tdq"));
        network.prepare(new Uint8Array(3000 * 1000), 3000, 1000);
        other.predict(new Uint8Array(784).fill(255));
        const again = network.predict(image);
        const plain = (p) => ({ ...p, logits: [...p.logits], probabilities: [...p.probabilities] });
        result = { first: plain(first), again: plain(again), names: network.classNames };
        """,
        folder,
        digit=digit.ravel().tolist(),
    )
    first = said["first"]
    assert first == said["again"]
    assert tuple(said["names"]) == network.class_names
    assert (first["logits"] == network.logits(digit)[0]).all()
    assert np.allclose(np.log(first["probabilities"]), network.log_probs(digit)[0], atol=1e-4)
    assert first["index"] == np.argmax(first["probabilities"])
    assert first["name"] == network.class_names[first["index"]] == "7"


def test_damaged_models_are_refused(folder: Path, network: IntegerNetwork) -> None:
    raw = to_bytes(network)
    models = {
        "no .tdq file": b"PK" + raw[2:],
        "longer or shorter": raw[:-4],
        "checksum": raw[:200] + bytes([raw[200] ^ 1]) + raw[201:],
        "makes no sense": sealed(raw[:12] + b"\0" + raw[13:]),
        "no scale": sealed(raw[:32] + struct.pack("<f", 0) + raw[36:]),
    }
    for i, model in enumerate(models.values()):
        (folder / f"{i}.tdq").write_bytes(model)
    said = in_node(
        """
        result = [];
        for (let i = 0; i < count; i++) result.push(await fails(() => load(`${i}.tdq`)));
        result.push(await fails(() => load("missing.tdq")), await fails(() => load(7)));
        """,
        folder,
        count=len(models),
    )
    for what, sentence in zip([*models, "missing.tdq", "as its bytes"], said, strict=True):
        assert what in sentence


MISUSE = {
    "predict(new Uint8Array(783))": "TypeError: An image .* 784 bytes, not 783 bytes",
    "predict(new Float32Array(784))": "TypeError: An image .* not object",
    "predict(null)": "TypeError: An image",
    "prepare(new Uint8Array(6), 2, 2)": "TypeError: A picture of 2 x 2 .* not 6 bytes",
    "prepare([0, 0], 2, 1)": "TypeError: A picture",
    "prepare(new Uint8Array(0), 0, 5)": "RangeError: The sides",
    "prepare(new Uint8Array(4097), 4097, 1)": "RangeError: The sides .* 4096, not 4097 x 1",
    "prepare(new Uint8Array(2), 0.5, 4)": "RangeError: The sides",
    "prepare(new Uint8Array(4), 2, 2, 256)": "RangeError: The paper",
    "prepare(new Uint8Array(4), 2, 2, 'white')": "RangeError: The paper",
    "prepare(new Uint8Array(4), 2, 2, undefined)": "nothing",
}


def test_usage_error(folder: Path) -> None:
    calls = ", ".join(f"await fails(() => network.{call})" for call in MISUSE)
    said = in_node(f"result = [{calls}];", folder)
    for (call, says), sentence in zip(MISUSE.items(), said, strict=True):
        assert re.match(says, sentence), call


def test_the_module_is_small_and_needs_nothing(folder: Path) -> None:
    assert SHIPPED.stat().st_size < 16_000
    needs, gives = in_node(
        """
        const module = new WebAssembly.Module(readFileSync(wasm));
        result = [WebAssembly.Module.imports(module), WebAssembly.Module.exports(module)];
        """,
        folder,
        wasm=str(SHIPPED),
    )
    assert needs == []
    assert {item["name"] for item in gives} == {*engines.FUNCTIONS, "memory", "__heap_base"}


def test_javascript_has_the_constants_of_the_header() -> None:
    header = (engines.ENGINE / "tinydigits.h").read_text()
    script = (engines.ENGINE / "tinydigits.js").read_text()
    for name in ("LONGEST_SIDE", "PREPARE_SCRATCH"):
        (value,) = re.findall(rf"#define TINYDIGITS_{name} (\d+)", header)
        assert f"const {name} = {value};" in script


@pytest.mark.slow
def test_in_a_browser(folder: Path, network: IntegerNetwork, mnist: Mnist) -> None:
    """A page that a plain server serves, as `python -m http.server` does."""
    chromium = need_tool("chromium")
    sync_api = pytest.importorskip("playwright.sync_api")
    for file in engines.ENGINE.glob("tinydigits.*"):
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "index.html").write_text("<!doctype html><title>digits</title>")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with sync_api.sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=BROWSER)
            page = browser.new_page()
            page.goto(f"http://127.0.0.1:{server.server_port}/")
            logits, missing = page.evaluate(
                """async (crop) => {
                  const { load } = await import("./tinydigits.js");
                  const network = await load("model.tdq");
                  const image = network.prepare(Uint8Array.from(crop), 28, 28);
                  const missing = await load("none.tdq").catch((error) => error.message);
                  return [[...network.predict(image).logits], missing];
                }""",
                (255 - mnist.test_images[0]).ravel().tolist(),
            )
            browser.close()
        server.shutdown()
    assert (logits == network.logits(prepare(255 - mnist.test_images[0])[None])[0]).all()
    assert "none.tdq" in missing
    assert "404" in missing
