"""Draws the ten digits that the firmware reads, with strokes of its own, and writes digits.h."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import tinydigits

# A stroke is a line through points, (0, 0) top left to (10, 14) bottom right.
STROKES = {
    0: ["5,0 2,2 1,7 2,12 5,14 8,12 9,7 8,2 5,0"],
    1: ["5,0 5,14"],
    2: ["1,3 3,0 7,0 9,3 8,6 1,14 9,14"],
    3: ["1,1 4,0 8,1 9,4 7,6 4,7 8,8 9,11 7,14 3,14 1,12"],
    4: ["2,0 1,8 9,8", "8,0 7,14"],
    5: ["9,0 2,0 2,6 6,5 9,8 9,11 6,14 1,13"],
    6: ["7,0 3,4 1,9 2,13 5,14 8,13 9,10 7,8 4,8 2,10"],
    7: ["1,0 9,0 4,14"],
    8: ["5,6 2,4 2,1 5,0 8,1 8,4 5,6 1,9 2,13 5,14 8,13 9,9 5,6"],
    9: ["8,3 6,0 3,0 1,3 2,6 5,7 8,5 8,2 8,8 6,14"],
}
SCALE = 16

lines = [
    "/* Ten digits, 28 x 28 pixels each, ink 255 on paper 0; drawn by draw.py. */",
    "#include <stdint.h>",
    "",
    "static const uint8_t digits[10][28 * 28] = {",
]
for digit, strokes in STROKES.items():
    picture = Image.new("L", (14 * SCALE, 18 * SCALE))
    draw = ImageDraw.Draw(picture)
    for stroke in strokes:
        points = [tuple(SCALE * (int(n) + 2) for n in p.split(",")) for p in stroke.split()]
        draw.line(points, fill=255, width=SCALE * 3 // 2, joint="curve")
    image = tinydigits.prepare(np.asarray(picture.resize((28, 36), Image.Resampling.BOX)), paper=0)
    lines.append(f"    {{ /* {digit} */")
    lines += ["        " + ", ".join(map(str, row)) + "," for row in image.tolist()]
    lines.append("    },")
lines.append("};")
Path(__file__).with_name("digits.h").write_text("\n".join(lines) + "\n", encoding="utf-8")
