/**
 * tinydigits in a browser and in Node: an ES module around tinydigits.wasm, which is the C engine,
 * and so gives the bits of the other engines.
 *
 *     import { load } from "./tinydigits.js";
 *     const network = await load("tiny20k.tdq");
 *     const image = network.prepare(gray, width, height); // one digit, as it was drawn or scanned
 *     const { name, probabilities } = network.predict(image);
 *
 * @module
 */

/**
 * What a network says about an image.
 *
 * @typedef {object} Prediction
 * @property {string} name the most probable class
 * @property {number} index its place among the classes, from 0
 * @property {Int32Array} logits the scores, one a class
 * @property {Float64Array} probabilities one a class, 0 to 1, calibrated
 */

/**
 * A network that is ready to read digits.
 *
 * @typedef {object} Network
 * @property {readonly string[]} classNames what the logits and probabilities stand for
 * @property {(image: Uint8Array | Uint8ClampedArray) => Prediction} predict
 *     Classifies an image of 28 rows of 28 pixels, 0 for paper to 255 for ink. Throws a TypeError
 *     for anything else.
 * @property {(gray: Uint8Array | Uint8ClampedArray, width: number, height: number,
 *     paper?: number | null) => Uint8Array} prepare
 *     Makes such an image of a gray picture of one digit: `height` rows of `width` pixels, 0 for
 *     black to 255 for white, dark ink on light paper or light on dark, sides of 1 to 4096 pixels.
 *     `paper` is the paper's gray level, if it is known. The image is all 0 where there is no ink.
 *     Throws a TypeError or a RangeError for anything else.
 */

/**
 * A file: its bytes, or its address; in Node (20.19 or later), also its path.
 *
 * @typedef {ArrayBuffer | Uint8Array | URL | string} Source
 */

const PIXELS = 28 * 28;
const LONGEST_SIDE = 4096; // TINYDIGITS_LONGEST_SIDE of tinydigits.h
const PREPARE_SCRATCH = 2512; // TINYDIGITS_PREPARE_SCRATCH of tinydigits.h
const PAGE = 65536;

/** What tinydigits_check finds wrong with a model, by its code. */
const FLAWS = [
  "",
  "it is not aligned",
  "it is no .tdq file of a version that this engine knows",
  "it is longer or shorter than it says",
  "its bytes do not have its checksum",
  "a part of it makes no sense",
  "its sums could leave 32 bits",
];

/** Where a .tdq file has the scale of its logits and its temperature; see docs/format.md. */
const SCALE = 28;
const TEMPERATURE = 32;

/**
 * Read bytes from wherever they are.
 *
 * @param {Source} source
 * @returns {Promise<Uint8Array>}
 */
async function read(source) {
  if (source instanceof Uint8Array) return source;
  if (source instanceof ArrayBuffer) return new Uint8Array(source);
  if (!(source instanceof URL) && typeof source !== "string") {
    throw new TypeError(
      "A model is given as its bytes (Uint8Array or ArrayBuffer) or its address.",
    );
  }
  const address = String(source);
  const inNode = typeof process === "object" && Boolean(process.versions?.node);
  if (inNode && !/^(https?|data|blob):/.test(address)) {
    const { readFile } = await import("node:fs/promises");
    return readFile(address.startsWith("file:") ? new URL(address) : address);
  }
  const response = await fetch(address);
  if (!response.ok) throw new Error(`Cannot read ${address}: the server says ${response.status}.`);
  return new Uint8Array(await response.arrayBuffer());
}

/**
 * Make sure that pixels are bytes, and how many.
 *
 * @param {unknown} pixels
 * @param {number} count
 * @param {string} what
 */
function needBytes(pixels, count, what) {
  const isBytes = pixels instanceof Uint8Array || pixels instanceof Uint8ClampedArray;
  if (!isBytes || pixels.length !== count) {
    const given = isBytes ? `${pixels.length} bytes` : typeof pixels;
    throw new TypeError(`${what} is a Uint8Array of ${count} bytes, not ${given}.`);
  }
}

/**
 * Load a network.
 *
 * @param {Source} model a .tdq file
 * @param {Source} [engine] tinydigits.wasm, if it is not beside this module
 * @returns {Promise<Network>} rejected with an Error that says why, if the model cannot be read or
 *     is none that the engine can run
 */
export async function load(model, engine = new URL("tinydigits.wasm", import.meta.url)) {
  const [bytes, program] = await Promise.all([read(model), read(engine)]);
  const instance = await WebAssembly.instantiate(
    await WebAssembly.compile(/** @type {BufferSource} */ (program)),
  );
  const wasm = /** @type {any} */ (instance.exports);

  // Memory: the model, then what the engine works in, then what goes in and out.
  let used = wasm.__heap_base.value;
  /** @param {number} size */
  const allocate = (size) => {
    const start = (used + 7) & ~7;
    used = start + size;
    const missing = used - wasm.memory.buffer.byteLength;
    if (missing > 0) wasm.memory.grow(Math.ceil(missing / PAGE));
    return start;
  };
  /** @param {number} start @param {number} size */
  const view = (start, size) => new Uint8Array(wasm.memory.buffer, start, size);

  const at = allocate(bytes.length);
  view(at, bytes.length).set(bytes);
  const flaw = wasm.tinydigits_check(at, bytes.length);
  if (flaw) throw new Error(`The model cannot run: ${FLAWS[flaw]}.`);

  const classes = wasm.tinydigits_classes(at);
  const scratch = allocate(Math.max(wasm.tinydigits_scratch(at), PREPARE_SCRATCH));
  const image = allocate(PIXELS);
  const scores = allocate(4 * classes);
  const gray = allocate(0);

  const classNames = Object.freeze(
    Array.from({ length: classes }, (_, k) => {
      const start = wasm.tinydigits_class_name(at, k);
      const rest = new Uint8Array(wasm.memory.buffer, start);
      return new TextDecoder().decode(rest.subarray(0, rest.indexOf(0)));
    }),
  );
  const floats = new DataView(wasm.memory.buffer, at);
  const scale = floats.getFloat32(SCALE, true) / floats.getFloat32(TEMPERATURE, true);
  if (!(scale > 0 && scale < Infinity)) {
    throw new Error("The model cannot run: its logits have no scale.");
  }

  /** @type {Network["predict"]} */
  function predict(pixels) {
    needBytes(pixels, PIXELS, "An image");
    view(image, PIXELS).set(pixels);
    const index = wasm.tinydigits_predict(at, image, scores, scratch);
    const logits = new Int32Array(wasm.memory.buffer, scores, classes).slice();
    const odds = Float64Array.from(logits, (x) => Math.exp((x - logits[index]) * scale));
    const sum = odds.reduce((a, b) => a + b);
    return { name: classNames[index], index, logits, probabilities: odds.map((x) => x / sum) };
  }

  /** @type {Network["prepare"]} */
  function prepare(pixels, width, height, paper = null) {
    const fits = (/** @type {number} */ side) =>
      Number.isInteger(side) && side >= 1 && side <= LONGEST_SIDE;
    if (!fits(width) || !fits(height)) {
      throw new RangeError(
        `The sides of a picture are whole numbers from 1 to ${LONGEST_SIDE}, not ${width} x ${height}.`,
      );
    }
    if (paper !== null && !(Number.isInteger(paper) && paper >= 0 && paper <= 255)) {
      throw new RangeError(`The paper is a gray level from 0 to 255, or null, not ${paper}.`);
    }
    needBytes(pixels, width * height, `A picture of ${width} x ${height} pixels`);
    used = gray;
    allocate(pixels.length);
    view(gray, pixels.length).set(pixels);
    wasm.tinydigits_prepare(gray, width, height, paper ?? -1, image, scratch);
    return view(image, PIXELS).slice();
  }

  return Object.freeze({ classNames, predict, prepare });
}
