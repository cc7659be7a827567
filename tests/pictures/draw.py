"""Draws the pictures beside it: a kind of picture each, named KIND-ANSWER.FORMAT.

    python tests/pictures/draw.py

Some were drawn elsewhere: tight-marker-row, strip-of-cells, small-form-box, pen-in-printed-cells,
page-edge, table-wide-cells, corner-shadow, touching-narrow, pen-that-skips.
An answer holds the digits of each line, lines parted by _; "none" stands for no digit at all.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pillow_heif import register_heif_opener
from scipy import ndimage

HERE = Path(__file__).parent

STROKES: dict[str, list[list[tuple[float, float]]]] = {
    "0": [[(0.5, 0.02), (0.2, 0.15), (0.08, 0.5), (0.2, 0.88), (0.5, 0.98), (0.78, 0.85),
           (0.9, 0.5), (0.78, 0.15), (0.5, 0.02)]],
    "1": [[(0.55, 0), (0.5, 0.5), (0.46, 1)]],
    "2": [[(0.12, 0.25), (0.3, 0.05), (0.65, 0.03), (0.8, 0.25), (0.65, 0.55), (0.3, 0.8),
           (0.1, 0.96), (0.4, 0.95), (0.9, 0.93)]],
    "3": [[(0.15, 0.1), (0.5, 0), (0.78, 0.2), (0.6, 0.43), (0.35, 0.48), (0.7, 0.55),
           (0.84, 0.78), (0.55, 0.98), (0.1, 0.9)]],
    "4": [[(0.3, 0.02), (0.2, 0.3), (0.1, 0.55), (0.5, 0.56), (0.9, 0.52)],
          [(0.68, 0.1), (0.64, 0.5), (0.6, 1)]],
    "5": [[(0.25, 0.05), (0.22, 0.25), (0.2, 0.45), (0.55, 0.42), (0.8, 0.65), (0.62, 0.92),
           (0.15, 0.95)], [(0.25, 0.05), (0.55, 0.05), (0.82, 0.02)]],
    "6": [[(0.7, 0.02), (0.35, 0.25), (0.15, 0.65), (0.3, 0.95), (0.65, 0.95), (0.8, 0.72),
           (0.55, 0.55), (0.2, 0.7)]],
    "7": [[(0.1, 0.06), (0.45, 0.07), (0.85, 0.04), (0.62, 0.4), (0.45, 0.7), (0.38, 1)]],
    "8": [[(0.72, 0.15), (0.5, 0.02), (0.25, 0.15), (0.35, 0.4), (0.65, 0.6), (0.75, 0.82),
           (0.5, 0.98), (0.22, 0.85), (0.32, 0.6), (0.62, 0.4), (0.72, 0.15)]],
    "9": [[(0.78, 0.25), (0.55, 0.02), (0.22, 0.15), (0.2, 0.4), (0.5, 0.5), (0.76, 0.28),
           (0.74, 0.6), (0.62, 1)]],
}  # fmt: skip
"""Digits as pen strokes through points (x, y), from the upper left."""


def pen(
    draw: ImageDraw.ImageDraw, text: str, x: float, y: float, height: float, width: float,
    advance: float = 0.95, slant: float = 0.0, tone: int = 255,
) -> None:  # fmt: skip
    """Write digits with a round pen."""
    for k, character in enumerate(text):
        left, top = x + k * advance * height, y + slant * k * advance * height
        for line in STROKES[character]:
            points = np.array(line) * (0.75 * height, height) + (left, top)
            along = np.linspace(0, len(points) - 1, 10 * len(points))
            columns = [
                ndimage.map_coordinates(c, [along], order=3, mode="nearest") for c in points.T
            ]
            smooth = [tuple(p) for p in np.stack(columns, 1)]
            draw.line(smooth, tone, round(width), joint="curve")
            for px, py in (smooth[0], smooth[-1]):
                half = width / 2
                draw.ellipse((px - half, py - half, px + half, py + half), tone)


def ink(size: tuple[int, int], write: Callable[[ImageDraw.ImageDraw], object]) -> np.ndarray:
    """Ink drawn at four times the size and reduced: float64 (height, width), 0 to 1."""
    image = Image.new("L", (4 * size[0], 4 * size[1]))
    write(ImageDraw.Draw(image))
    return np.asarray(image.reduce(4)) / 255


def digits(
    text: str, size: tuple[int, int], height: float, width: float, advance: float = 0.95
) -> np.ndarray:
    """The ink of a line of digits in the middle of a picture."""
    x = (size[0] - height * (advance * (len(text) - 1) + 0.75)) / 2
    y = (size[1] - height) / 2
    return ink(size, lambda d: pen(d, text, 4 * x, 4 * y, 4 * height, 4 * width, advance))


def digit_at(
    text: str, size: tuple[int, int], x: float, y: float, height: float, width: float
) -> np.ndarray:
    """The ink of a digit whose upper left corner is at (x, y)."""
    return ink(size, lambda d: pen(d, text, 4 * x, 4 * y, 4 * height, 4 * width))


def on(paper: np.ndarray | float, strokes: np.ndarray, tone: np.ndarray | float) -> np.ndarray:
    """Ink of a tone on paper."""
    return paper * (1 - strokes) + tone * strokes


def grain(rng: np.random.Generator, page: np.ndarray, sigma: float = 3) -> Image.Image:
    """A page as a camera sees it."""
    noisy = ndimage.gaussian_filter(page, 0.7) + rng.normal(0, sigma, page.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def grid(
    size: tuple[int, int], step: int, width: int, angle: float = 0.0, both: bool = True
) -> np.ndarray:
    """Squared paper, or ruled paper: 1 on a line."""
    y, x = np.mgrid[0 : size[1], 0 : size[0]]
    u, v = x + angle * y, y - angle * x
    lines = (v % step) < width
    return (lines | ((u % step) < width) if both else lines).astype(float)


def main() -> None:
    register_heif_opener()
    rng = np.random.default_rng(0)
    small = (160, 160)
    paper = 200 - 20 * grid(small, 40, 2, 0.02)
    squared = on(200 - 60 * grid(small, 45, 2, 0.02), digits("5", small, 80, 5), 45)
    save("squared-5.jpg", grain(rng, squared), quality=85)
    dark_grid = on(200 - 110 * grid(small, 45, 2, -0.03), digits("3", small, 90, 6), 60)
    save("squared-as-dark-3.jpg", grain(rng, dark_grid), quality=85)
    ruled = on(210 - 70 * grid((300, 160), 50, 2, 0.01, False),
               digits("4271", (300, 160), 60, 4), 40)  # fmt: skip
    save("ruled-4271.jpg", grain(rng, ruled), quality=85)
    save("pale-2.jpg", grain(rng, on(225.0, digits("2", small, 90, 5), 190), 2), quality=85)
    save("thick-8.png", grain(rng, on(240.0, digits("8", small, 110, 19), 30)))
    save("thin-6.png", grain(rng, on(240.0, digits("6", small, 110, 1.6), 60), 1))
    y, x = np.mgrid[0:160, 0:160] / 160
    light = 230 - 120 * (0.7 * x + 0.3 * y)
    save("uneven-light-9.jpg", grain(rng, on(light, digits("9", small, 80, 6), 0.3 * light)))
    shadow = ndimage.gaussian_filter(np.where(x + 0.4 * y < 0.75, 220.0, 120.0), 4)
    save("shadow-4.jpg", grain(rng, on(shadow, digits("4", small, 90, 6), 0.25 * shadow)))
    table = 90 + 25 * np.sin(np.mgrid[0:240, 0:320][0] / 3.0 + rng.normal(0, 0.3, (240, 320)))
    card = np.zeros((240, 320), bool)
    card[50:200, 70:260] = True
    card = ndimage.rotate(card, 6, reshape=False, order=0)
    on_card = np.where(card, on(225.0, digits("7", (320, 240), 90, 6), 40), table)
    save("card-on-table-7.jpg", grain(rng, on_card), quality=80)
    box = ink(small, lambda d: d.rectangle((60, 60, 580, 580), outline=255, width=10))
    save("frame-2.png", grain(rng, on(235.0, np.maximum(box, digits("2", small, 80, 6)), 30)))
    back = ndimage.gaussian_filter(digits("8352", (300, 160), 55, 7)[:, ::-1], 1.5)
    through = on(on(230.0, 0.22 * back, 90), digits("61", (300, 160), 80, 6), 30)
    save("back-page-61.jpg", grain(rng, through), quality=85)
    board = on(35.0, digits("3", small, 90, 8), 225)
    save("blackboard-3.jpg", grain(rng, board, 5), quality=85)
    strip = on(5.0, digits("5", small, 90, 9), 250)
    strip[:, :9] = strip[:2] = strip[-2:] = strip[:, -2:] = 255
    save("white-strip-5.png", Image.fromarray(strip.astype(np.uint8)))
    clear = np.zeros((60, 60, 4), np.uint8)
    clear[:, :, :3] = (255, 240, 80)
    clear[:, :, 3] = 255 * digits("2", (60, 60), 44, 6)
    clear[clear[:, :, 3] == 0] = (255, 255, 255, 0)
    save("transparent-light-2.png", Image.fromarray(clear))
    clear[:, :, :3] = (20, 20, 40)
    save("transparent-dark-2.webp", Image.fromarray(clear), lossless=True)
    deep = on(3.0 + paper, digits("9", small, 80, 5), 60) * 130 + rng.normal(0, 200, (160, 160))
    save("16bit-9.png", Image.fromarray(deep.clip(0, 65535).astype(np.uint16)))
    plain = Image.fromarray(on(230.0, digits("6", small, 90, 7), 40).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 3
    save("exif-6.jpg", plain.rotate(180), exif=exif, quality=85)
    save("palette-6.gif", plain.convert("P", palette=Image.Palette.ADAPTIVE))
    save("dithered-6.png", plain.convert("1"))
    save("1bit-6.tif", plain.convert("1", dither=Image.Dither.NONE), compression="group4")
    save("telephone-6.heic", plain.convert("RGB"), quality=60)
    save("cmyk-6.jpg", plain.convert("CMYK"), quality=85)
    other = Image.fromarray(on(230.0, digits("1", small, 90, 7), 40).astype(np.uint8))
    save("animated-6.gif", plain, save_all=True, append_images=[other])
    yellow = np.stack([on(250.0, digits("3", small, 90, 9), c) for c in (245, 225, 60)], 2)
    save("yellow-3.png", Image.fromarray(yellow.astype(np.uint8)))
    broken = digits("5", small, 90, 5)
    broken[44:49] = 0
    save("broken-5.png", grain(rng, on(235.0, broken, 40)))
    touching = digits("35", (200, 140), 80, 7, advance=0.71)
    save("touching-35.png", grain(rng, on(235.0, touching, 40)))
    rows = np.zeros((260, 380))
    for k, text in enumerate(("31415", "92653", "58979")):
        rows = np.maximum(rows, ink((380, 260), lambda d, k=k, text=text: pen(
            d, text, 80, 80 + k * 300, 190, 16, 1.25, 0.07)))  # fmt: skip
    save("slanting-31415_92653_58979.jpg", grain(rng, on(225.0, rows, 50)), quality=85)
    screen = Image.new("RGB", (220, 90), "#1e1e2e")
    ImageDraw.Draw(screen).text((110, 45), "2048", "#cdd6f4", ImageFont.load_default(52), "mm")
    save("screenshot-2048.png", screen)
    save("blank-none.jpg", grain(rng, np.full((160, 160), 215.0)), quality=85)
    letters = Image.new("L", (240, 90), 235)
    ImageDraw.Draw(letters).text((120, 45), "A W K", 30, ImageFont.load_default(60), "mm")
    save("letters-none.png", letters)
    divide = Image.new("L", (120, 120), 235)
    ImageDraw.Draw(divide).line((25, 60, 95, 60), 30, 8)
    for y in (32, 88):
        ImageDraw.Draw(divide).ellipse((54, y - 6, 66, y + 6), 30)
    save("divide-none.png", divide)
    points = rng.uniform(100, 540, (14, 2))
    line = ink(small, lambda d: d.line([tuple(p) for p in points], 255, 16, joint="curve"))
    save("scribble-none.png", grain(rng, on(235.0, line, 40)))
    save("empty-box-none.png", grain(rng, on(235.0, box, 40)))
    note = np.full((240, 320, 3), 70.0) * (1 - 0.5 * np.mgrid[0:240, 0:320][1] / 320)[:, :, None]
    yellow_note = np.stack([on(c, digits("2", small, 90, 7), 40) for c in (235.0, 215.0, 90.0)], 2)
    note[40:200, 100:260] = yellow_note
    save("sticky-note-2.jpg", grain(rng, note), quality=80)
    away = ((np.mgrid[0:240, 0:320][0] - 120) / 200) ** 2 + (
        (np.mgrid[0:240, 0:320][1] - 160) / 200
    ) ** 2
    vignette = 200.0 - 130 * away
    small_seven = digits("7", (320, 240), 40, 3)
    save("dark-corners-7.jpg", grain(rng, on(vignette, small_seven, 0.3 * vignette)), quality=85)
    night = on(170.0, digits("4", small, 100, 9), 70)
    save("little-light-4.jpg", grain(rng, night, 22), quality=80)
    stems_and_rulings()
    frames_and_cells()
    strips_and_wide_cells()
    shadows_with_straight_edges()
    pens_that_skip()
    narrow_pairs_and_halves()


def save(name: str, image: Image.Image, **options: Any) -> None:
    """Write a picture beside this file."""
    image.save(HERE / name, **options)


def stems_and_rulings() -> None:
    """Rows whose stems are as high as the picture, and rulings as dark as strokes."""
    rng = np.random.default_rng(1)
    row = digits("1147", (420, 190), 178, 9, 0.6)
    save("high-row-1147.png", grain(rng, on(215.0, row, 60)))
    row = digits("1417", (250, 110), 102, 5, 0.55)
    save("high-chalk-1417.jpg", grain(rng, on(60.0, row, 210), 2), quality=85)
    ruled = np.maximum(grid((320, 240), 60, 3, 0.02, False), digits("714", (320, 240), 50, 4))
    save("dark-rulings-714.jpg", grain(rng, on(225.0, ruled, 50)), quality=85)
    size = (240, 40)
    cells = ink(size, lambda d: [d.line((x, 0, x, 160), 255, 9) for x in range(20, 960, 220)])
    written = ink(
        size, lambda d: [pen(d, text, 120 + 220 * k, 36, 90, 10) for k, text in enumerate("7049")]
    )
    strip = on(on(205.0, cells, 60), written, 40)
    save("low-strip-7049.png", grain(rng, strip, 2))
    size = (260, 100)
    edge = ink(size, lambda d: d.line((0, 380, 1040, 384), 255, 16))
    foot = np.maximum(edge, ink(size, lambda d: pen(d, "172", 90, 90, 290, 22)))
    save("line-along-border-172.png", grain(rng, on(225.0, foot, 50), 2))


def frames_and_cells() -> None:
    """Digits near their frame, across it or standing on it, and a grid as wide as strokes."""
    rng = np.random.default_rng(2)

    def box(size: tuple[int, int], edges: tuple[float, ...], width: float) -> np.ndarray:
        corners = [4 * edge for edge in edges]
        return ink(size, lambda d: d.rectangle(corners, outline=255, width=round(4 * width)))

    size = (90, 40)
    close = np.maximum(box(size, (5, 4, 84, 35), 2), digits("582", size, 22, 2.5))
    save("close-box-582.png", grain(rng, on(70.0, close, 230), 1))
    size = (150, 110)
    tails = np.maximum(box(size, (20, 10, 130, 66), 4), digits("97", size, 70, 5, 0.9))
    tails = np.roll(tails, 5, axis=0)
    save("tail-across-box-97.png", grain(rng, on(235.0, tails, 60), 2))
    size = (190, 90)
    on_line = np.maximum(box(size, (12, 10, 178, 76), 4), digits("245", size, 60, 6))
    save("on-the-frame-245.jpg", grain(rng, on(220.0, on_line, 30), 2), quality=85)
    cells = [(0.3 + k % 3, 0.2 + k // 3, text) for k, text in enumerate("417141714")]
    size = (204, 204)
    lines = ink(
        size,
        lambda d: [
            d.line(line, 255, 16)
            for k in range(4)
            for line in (
                (24 + 252 * k, 16, 24 + 252 * k, 788),
                (16, 24 + 252 * k, 788, 24 + 252 * k),
            )
        ],
    )
    written = ink(
        size, lambda d: [pen(d, text, 24 + 252 * x, 24 + 252 * y, 150, 16) for x, y, text in cells]
    )
    sudoku = on(230.0, np.maximum(lines, written), 40)
    save("dark-grid-417_141_714.png", grain(rng, sudoku, 2))


def strips_and_wide_cells() -> None:
    """A table's edge along a border, and lines of digits far apart that stand at other heights."""
    rng = np.random.default_rng(3)
    size = (300, 220)
    page = on(225.0, digits("583", size, 60, 5), 60)
    page[150:210, -8:] = 45
    save("table-at-right-583.png", grain(rng, page, 2))
    page = on(190.0, digits("264", (260, 150), 70, 8), 50)
    page[:6, 30:120] = 20
    page[90:148, :12] = 30
    save("page-at-left-264.jpg", grain(rng, page, 2), quality=85)
    high = on(220.0, ink((240, 130), lambda d: pen(d, "147", 8, 90, 330, 30, 0.85)), 50)
    save("one-at-border-147.png", grain(rng, high[:, 20:], 2))
    for name, tones, height in (
        ("far-apart-9203_5019_7042", (235, 40), 34),
        ("far-apart-on-dark-5019_7040", (40, 220), 42),
    ):
        lines = name.split("-")[-1].split("_")
        size = 18 * height, 20 + 2 * len(lines) * height
        written = np.zeros(size[::-1])
        for r, line in enumerate(lines):
            for c, digit in enumerate(line):
                small = 0.55 if digit == "0" else 1.0
                x = 30 + (4.5 * c + 0.15 * (digit == "0")) * height
                y = 12 + (1.9 * r + 1.2 * (1 - small)) * height
                written = np.maximum(written, digit_at(digit, size, x, y, small * height, 3.5))
        save(f"{name}.png", grain(rng, on(float(tones[0]), written, tones[1]), 2))


def shadows_with_straight_edges() -> None:
    """What looks like a sheet and is none: digits stand beside it."""
    rng = np.random.default_rng(4)
    size = (320, 260)
    light = np.full(size[::-1], 225.0)
    light[-120:, -130:] = 110
    light = ndimage.gaussian_filter(light, 2)
    corner = digit_at("4", size, 50, 60, 70, 6) + digit_at("7", size, 150, 50, 70, 6)
    save("shadow-in-corner-47.jpg", grain(rng, on(light, corner, 0.25 * light)), quality=85)
    bright = np.full((240, 300), 200.0)
    bright[:150, :90] = 70
    bright = ndimage.gaussian_filter(bright, 1.5)
    beside = digit_at("6", (300, 240), 200, 40, 75, 7) + digit_at("2", (300, 240), 120, 130, 75, 7)
    save("dark-in-corner-6_2.png", grain(rng, on(bright, beside, 0.2 * bright)))


def pens_that_skip() -> None:
    """Rows in which some digits are doubtful, and others clear."""
    for seed, text, size, height, tones in (
        (2, "53409", (420, 130), 74, (190, 90)),
        (1, "904726", (520, 130), 70, (200, 120)),
    ):
        rng = np.random.default_rng(seed)
        skips = ndimage.gaussian_filter(rng.normal(size=size[::-1]), 5)
        left = np.clip(1 - 0.35 * (skips / skips.std() + 0.6), 0.05, 1)
        row = digits(text, size, height, 3 if seed == 2 else 4) * left
        save(f"uneven-pen-{text}.png", grain(rng, on(float(tones[0]), row, tones[1]), 2))


def narrow_pairs_and_halves() -> None:
    """Digits that touch and together are hardly wider than high, and digits a gap cuts in two."""
    rng = np.random.default_rng(5)
    size = 340, 150
    small = np.zeros(size[::-1])
    for digit, x, y, height in (("4", 40, 30, 80), ("0", 97, 60, 50), ("3", 190, 30, 80),
                                ("0", 250, 60, 50)):  # fmt: skip
        small = np.maximum(small, digit_at(digit, size, x, y, height, 6))
    save("touching-small-4030.png", grain(rng, on(225.0, small, 45), 2))
    size = 320, 130
    halves = digits("0206", size, 80, 6)
    for column in (48, 124, 200):
        halves[:, column : column + 8] = 0
    save("halves-0206.png", grain(rng, on(225.0, halves, 45), 2))
    size = 330, 130
    pale = digits("40971", size, 70, 4)
    pale[48:66, :58] *= 0.3
    pale[48:66, 132:190] *= 0.3
    save("pale-middle-40971.png", grain(rng, on(215.0, pale, 90), 1.5))


if __name__ == "__main__":
    main()
