import ctypes
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tdq
from conftest import need_tool
from test_integer import sealed

from lab import engines, parity
from tinydigits import Mnist, load_model
from tinydigits.quant.integer import IntegerNetwork
from tinydigits.quant.ptq import quantize
from tinydigits.quant.tdq import from_bytes, save, to_bytes

FUZZ = Path(__file__).parent / "fuzz"
SANITIZERS = "-fsanitize=address,undefined"


@pytest.fixture(scope="module", params=engines.COMPILERS)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    need_tool(request.param)
    library = engines.build_native(request.param, tmp_path_factory.mktemp("engine"))
    return engines.open_native(library)


@pytest.fixture(scope="module")
def tiny1k(mnist: Mnist) -> IntegerNetwork:
    return quantize(load_model("tiny1k"), mnist.train_images[:500])


@pytest.fixture(params=sorted(engines.BOARDS))
def board(request: pytest.FixtureRequest) -> engines.Board:
    need_tool("arm-none-eabi-gcc")
    need_tool("qemu-system-arm")
    return engines.BOARDS[request.param]


def check(engine: Any, raw: bytes) -> int:
    words = np.frombuffer(raw + bytes(-len(raw) % 4), np.uint32).copy()
    return engine.tinydigits_check(words.ctypes.data, len(raw))


# ------------------------------------------------------------------------------------- parity


def test_random_networks_have_the_same_bits_in_c(engine: Any):
    for seed in range(40):
        network, images = parity.random_network(seed), parity.noise_images(4, seed)
        expected = network.logits(images)
        logits, classes = engines.run_native(engine, to_bytes(network), images)
        assert (logits == expected).all(), (seed, network.layers)
        assert (classes == expected.argmax(axis=1)).all(), (seed, network.layers)


def test_digits_have_the_same_bits_in_c(engine: Any, tiny1k: IntegerNetwork, mnist: Mnist):
    images = np.concatenate([mnist.test_images[:100], parity.noise_images(50)])
    logits, _ = engines.run_native(engine, to_bytes(tiny1k), images)
    assert (logits == tiny1k.logits(images)).all()


def test_boards_have_the_same_bits(
    board: engines.Board, engine: Any, tiny1k: IntegerNetwork, mnist: Mnist, tmp_path: Path
):
    target = engines.build_engine(board, tmp_path)
    for network, images in (
        (tiny1k, mnist.test_images[:3]),
        (parity.random_network(3), parity.noise_images(3)),
    ):
        raw = to_bytes(network)
        scratch = engines.scratch_of(engine, raw)
        done = engines.run_board(board, target, raw, scratch, images, tmp_path)
        expected = network.logits(images)
        assert (done.logits == expected).all()
        assert (done.classes == expected.argmax(axis=1)).all()
        assert done.instructions.min() > 10_000
        assert 50 < done.stack < 600


@pytest.mark.parametrize("level", ["-Os", "-O2", "-O3"])
@pytest.mark.parametrize("core", sorted(engines.BOARDS))
def test_no_library_is_called(core: str, level: str, tmp_path: Path):
    need_tool("arm-none-eabi-gcc")
    target = engines.build_engine(engines.BOARDS[core], tmp_path, level)
    assert "tinydigits_predict" in engines.functions(target)


def test_the_engine_keeps_no_state(tmp_path: Path):
    need_tool("arm-none-eabi-gcc")
    target = engines.build_engine(engines.BOARDS["cortex-m0"], tmp_path)
    text, data, bss = engines.run("arm-none-eabi-size", target).splitlines()[1].split()[:3]
    assert int(text) > 1000
    assert (data, bss) == ("0", "0")


# -------------------------------------------------------------------------------------- check


def test_names_are_those_of_the_model(engine: Any):
    network = parity.random_network(5)
    words = np.frombuffer(to_bytes(network), np.uint32).copy()
    count = engine.tinydigits_classes(words.ctypes.data)
    names = [engine.tinydigits_class_name(words.ctypes.data, k).decode() for k in range(count)]
    assert tuple(names) == network.class_names


def test_each_thing_wrong_has_its_code(engine: Any):
    raw = to_bytes(parity.random_network(4))
    words = np.frombuffer(raw + bytes(4), np.uint32).copy()
    shifted = ctypes.create_string_buffer(len(raw) + 8)
    start = ctypes.addressof(shifted)
    for offset in (1, 2, 3):
        assert engine.tinydigits_check(start - start % 4 + 4 + offset, len(raw)) == 1
    assert engine.tinydigits_check(words.ctypes.data, len(raw)) == 0
    assert check(engine, b"TDQ2" + raw[4:]) == 2
    assert check(engine, raw[:20]) == 2
    assert check(engine, raw[:-4]) == 3
    assert check(engine, raw + bytes(4)) == 3
    for i in range(8, len(raw), 97):
        assert check(engine, raw[:i] + bytes([raw[i] ^ 0x40]) + raw[i + 1 :]) == 4
    assert check(engine, sealed(raw[:12] + b"\0" + raw[13:])) == 5
    assert check(engine, sealed(raw[:16] + struct.pack("<I", len(raw)) + raw[20:])) == 5
    (table,) = struct.unpack_from("<I", raw, 36 + 20)
    extreme = raw[:table] + struct.pack("<hh", -(2**15), -(2**15)) + raw[table + 4 :]
    extreme = extreme[: 36 + 14] + bytes([30]) + extreme[36 + 15 :]
    assert check(engine, sealed(extreme)) == 6


def test_c_refuses_what_python_refuses(engine: Any):
    """The other way round, Python also wants the words to say what the records say."""
    random = np.random.default_rng(1)
    raw = to_bytes(parity.random_network(2))
    seen = set()
    for _ in range(300):
        i = int(random.integers(12, 36 + 24 * raw[12]))
        hostile = sealed(raw[:i] + bytes([int(random.integers(256))]) + raw[i + 1 :])
        code = check(engine, hostile)
        seen.add(code)
        if code:
            with pytest.raises(Exception, match="holds no network"):
                from_bytes(hostile)
    assert seen == {0, 5, 6}


# ------------------------------------------------------------------------------- to look inside


def test_rows_that_the_callback_gets_are_the_stages_outputs(tmp_path: Path):
    need_tool("gcc")
    (tmp_path / "rows.c").write_text(
        "#include <stdio.h>\n#include <stdlib.h>\n#include <tinydigits.h>\n"
        "void on_row(int stage, int row, int channels, int width, const uint8_t *values)\n"
        "{ printf("
        '"%d %d %d %d", stage, row, channels, width);\n'
        'for (int i = 0; i < channels * width; i++) printf(" %d", values[i]);\n'
        'printf("\\n"); }\n'
        "int main(int count, char **names) {\n"
        "static uint32_t model[5000], scratch[5000]; static uint8_t image[784];\n"
        "static int32_t logits[100];\n"
        'size_t size = fread(model, 1, sizeof model, fopen(names[1], "rb"));\n'
        'if (fread(image, 1, 784, fopen(names[2], "rb")) != 784 || count != 3) return 1;\n'
        "if (tinydigits_check(model, size) || tinydigits_scratch(model) > sizeof scratch)\n"
        "return 2;\n"
        "tinydigits_predict(model, image, logits, scratch); return 0; }\n"
    )
    network, image = parity.random_network(10, widest=5), parity.noise_images(3)[2]
    save(network, tmp_path / "model.tdq")
    (tmp_path / "image").write_bytes(image.tobytes())
    program = tmp_path / "rows"
    engines.run(
        *("gcc", "-std=c99", "-DTINYDIGITS_ON_ROW=on_row", f"-I{engines.ENGINE}"),
        *(SANITIZERS, "-fno-sanitize-recover=all", tmp_path / "rows.c"),
        *(*engines.SOURCES, "-o", program),
    )
    said = engines.run(program, tmp_path / "model.tdq", tmp_path / "image")
    _, outputs = tdq.classify(tdq.read(to_bytes(network)), image)
    expected = [
        [stage, y, values.shape[2], len(values), *values[y].reshape(-1).tolist()]
        for stage, values in enumerate(outputs)
        for y in range(len(values))
    ]
    got = [[int(word) for word in line.split()] for line in said.splitlines()]
    assert sorted(got) == sorted(expected)


# ------------------------------------------------------------------------------------- fuzzing


def build_fuzzer(folder: Path) -> Path:
    program = folder / "fuzz"
    engines.run(
        *("clang", "-std=c99", "-O1", "-g", "-fsanitize=fuzzer,address,undefined"),
        *("-fno-sanitize-recover=all", f"-I{engines.ENGINE}", FUZZ / "fuzz.c"),
        *(*engines.SOURCES, "-o", program),
    )
    return program


@pytest.mark.slow
def test_nothing_that_passes_the_check_leaves_its_bounds(tmp_path: Path):
    need_tool("clang")
    (tmp_path / "corpus").mkdir()
    fuzzer = build_fuzzer(tmp_path)
    for seed in range(30):  # beside the committed ones: sound networks of every kind
        raw = to_bytes(parity.random_network(seed, widest=6))
        (tmp_path / "corpus" / str(seed)).write_bytes(raw)
    done = subprocess.run(
        [fuzzer, "-max_total_time=60", "-max_len=8192", tmp_path / "corpus", FUZZ / "corpus"],
        capture_output=True, text=True, cwd=tmp_path, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_no_logit_differs_between_engines(tmp_path: Path) -> None:
    for tool in ("gcc", "clang", "node", "arm-none-eabi-gcc", "qemu-system-arm"):
        need_tool(tool)
    value = parity.parity(tmp_path, digits=1000, on_board=50, random_networks=40)
    assert set(value["engines"]) == {"gcc", "clang", "wasm", "cortex-m0", "cortex-m4"}
    for row in value["engines"].values():
        assert row["logits"] > 0
        assert row["differing"] == 0
