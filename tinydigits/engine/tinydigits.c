/* tinydigits: see tinydigits.h. Integers only; no division, for a small core has none. */

#include "tinydigits.h"

/* ---- Prepare: from a grey picture of one digit to the form of MNIST ---------------------------
 *
 * The rules, and the reasons, are those of `prepare` in tinydigits/preparation.py, which gives the
 * same bits. Here the picture streams: each row is filtered to at most 20 values, and these are
 * added to the at most 20 rows of sums that they take part in.
 */

enum {
    PREPARE_SIZE = 28,
    PREPARE_FITTED = 20,
    PREPARE_MIDDLE = 14,
    PREPARE_WINDOW = 32,
    PREPARE_STEPS = 64,
    PREPARE_SPAN = 3 * PREPARE_STEPS,
    PREPARE_FRACTION = 64
};

/* Lanczos-3 in units of 1/256, at 0, 1/64 ... 191/64. */
static const int16_t prepare_lanczos[PREPARE_SPAN] = {
    256, 256, 256, 255, 254, 253, 252, 250, 249, 247, 245, 242, 240, 237, 234, 231, 228, 224,
    221, 217, 213, 209, 205, 200, 196, 191, 186, 181, 176, 171, 166, 161, 156, 150, 145, 139,
    134, 129, 123, 118, 112, 107, 101, 96, 90, 85, 80, 74, 69, 64, 59, 54, 49, 44, 40, 35, 31,
    27, 22, 18, 14, 11, 7, 3, 0, -3, -6, -9, -12, -15, -17, -20, -22, -24, -26, -27, -29, -30,
    -32, -33, -34, -35, -36, -36, -37, -37, -37, -38, -38, -38, -37, -37, -37, -36, -36, -35,
    -35, -34, -33, -32, -31, -30, -29, -28, -27, -26, -25, -23, -22, -21, -20, -19, -17, -16,
    -15, -14, -12, -11, -10, -9, -8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 2, 3, 4, 4, 5, 5, 6,
    6, 6, 7, 7, 7, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 7, 7, 7, 7, 7, 6, 6, 6, 6, 5, 5, 5, 5, 4, 4,
    4, 3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0
};

/* The argument of the filter, in steps of its table: whole steps, and a remainder in parts. */
struct prepare_argument {
    int32_t steps;
    uint32_t parts;
};

/* How the filter makes one target pixel. */
struct prepare_target {
    int32_t first, end;            /* the source pixels that have a weight, `end` excluded */
    struct prepare_argument start; /* the argument at `first` */
    uint32_t total;                /* the sum of the weights */
};

/* How the filter makes one side of the image from one side of the box. */
struct prepare_axis {
    int32_t length;
    uint32_t parts;               /* in a step */
    struct prepare_argument move; /* from one source pixel to the next */
    struct prepare_target target[PREPARE_FITTED];
};

struct prepare_scratch {
    struct prepare_axis across, down;
    int32_t row[PREPARE_FITTED];
    union {
        uint32_t margin[256]; /* a histogram */
        int32_t sums[PREPARE_FITTED * PREPARE_FITTED];
    } of;
};

typedef char prepare_scratch_suffices
    [sizeof(struct prepare_scratch) <= TINYDIGITS_PREPARE_SCRATCH ? 1 : -1];

/* What is ink: the distance from the paper, towards the ink, if it is greater than `floor`. */
struct prepare_ink {
    int paper, sign, floor;
};

/* a / b. Rounds down; b is not 0. */
static uint32_t prepare_divide(uint32_t a, uint32_t b)
{
    uint32_t quotient = 0, bit = 1;
    while (b <= a >> 1) {
        b <<= 1;
        bit <<= 1;
    }
    for (; bit; bit >>= 1, b >>= 1)
        if (a >= b) {
            a -= b;
            quotient |= bit;
        }
    return quotient;
}

/* a / b. Rounds to the nearest, halves away from 0. */
static int32_t prepare_divide_rounded(int32_t a, uint32_t b)
{
    uint32_t size = a < 0 ? 0u - (uint32_t)a : (uint32_t)a;
    int32_t quotient = (int32_t)prepare_divide(size + (b >> 1), b);
    return a < 0 ? -quotient : quotient;
}

static int32_t prepare_weight(int32_t steps)
{
    if (steps < 0)
        steps = -steps;
    return steps < PREPARE_SPAN ? prepare_lanczos[steps] : 0;
}

static void prepare_move(struct prepare_argument *argument, const struct prepare_axis *axis)
{
    argument->steps += axis->move.steps;
    argument->parts += axis->move.parts;
    if (argument->parts >= axis->parts) {
        argument->parts -= axis->parts;
        argument->steps++;
    }
}

/* Plan how a side of n pixels is fitted, where `longer` pixels become 20. */
static void prepare_plan(struct prepare_axis *axis, int32_t n, int32_t longer)
{
    /* Added to make an argument positive before it is divided: no target is farther away. */
    const uint32_t positive = PREPARE_FITTED * PREPARE_STEPS;
    int32_t i, j;
    uint32_t m = prepare_divide((uint32_t)(2 * PREPARE_FITTED * n + longer), 2 * (uint32_t)longer);
    uint32_t largest, dividend;

    if (m == 0)
        m = 1;
    largest = (uint32_t)n > m ? (uint32_t)n : m;
    axis->length = (int32_t)m;
    axis->parts = 2 * largest;
    dividend = 2 * PREPARE_STEPS * m;
    axis->move.steps = (int32_t)prepare_divide(dividend, axis->parts);
    axis->move.parts = dividend - (uint32_t)axis->move.steps * axis->parts;

    for (i = 0; i < axis->length; i++) {
        struct prepare_target *target = &axis->target[i];
        struct prepare_argument argument;
        dividend = positive * axis->parts + largest + PREPARE_STEPS * m
                   - PREPARE_STEPS * (uint32_t)((2 * i + 1) * n);
        argument.steps = (int32_t)prepare_divide(dividend, axis->parts);
        argument.parts = dividend - (uint32_t)argument.steps * axis->parts;
        argument.steps -= (int32_t)positive;

        for (j = 0; argument.steps <= -PREPARE_SPAN; j++)
            prepare_move(&argument, axis);
        target->first = j;
        target->start = argument;
        target->total = 0;
        for (; j < n && argument.steps < PREPARE_SPAN; j++) {
            target->total += (uint32_t)prepare_weight(argument.steps);
            prepare_move(&argument, axis);
        }
        target->end = j;
    }
}

/* The lower median of the fullest window of grey levels in the margin. */
static int prepare_find_paper(const uint32_t *margin)
{
    uint32_t inside = 0, most = 0;
    int level, paper = 0;
    for (level = 0; level < 256; level++) {
        inside += margin[level];
        if (level >= PREPARE_WINDOW)
            inside -= margin[level - PREPARE_WINDOW];
        if (level >= PREPARE_WINDOW - 1 && inside > most) {
            most = inside;
            paper = level - (PREPARE_WINDOW - 1);
        }
    }
    for (inside = margin[paper]; inside < (most + 1) >> 1; inside += margin[paper])
        paper++;
    return paper;
}

static int prepare_distance(const struct prepare_ink *ink, int grey)
{
    return ink->sign * (grey - ink->paper);
}

/* The third quartile of the distances from the paper in the margin, none above `furthest`. */
static int prepare_noise(const uint32_t *margin, const struct prepare_ink *ink, int furthest)
{
    const int start = ink->sign > 0 ? 0 : 255;
    uint32_t total = 0, nearer = 0;
    int level;
    for (level = start; prepare_distance(ink, level) <= furthest; level += ink->sign)
        total += margin[level];
    for (level = start; 4 * (nearer += margin[level]) < 3 * total; level += ink->sign)
        ;
    level = prepare_distance(ink, level);
    return level > 0 ? level : 0;
}

/* Filter one row of the box; values come in units of 1 / PREPARE_FRACTION. */
static void prepare_filter_row(const uint8_t *grey, const struct prepare_ink *ink,
                               const struct prepare_axis *axis, int32_t *row)
{
    int32_t i, j;
    for (i = 0; i < axis->length; i++) {
        const struct prepare_target *target = &axis->target[i];
        struct prepare_argument argument = target->start;
        int32_t sum = 0;
        for (j = target->first; j < target->end; j++) {
            const int distance = prepare_distance(ink, grey[j]);
            if (distance > ink->floor)
                sum += prepare_weight(argument.steps) * distance;
            prepare_move(&argument, axis);
        }
        row[i] = prepare_divide_rounded(sum * PREPARE_FRACTION, target->total);
    }
}

/* Where the ink goes along one axis, given its mass and the first moment of it. */
static int32_t prepare_place(uint32_t mass, uint32_t moment, int32_t length)
{
    const int32_t start = PREPARE_MIDDLE - (int32_t)prepare_divide(2 * moment + mass, 2 * mass);
    if (start < 0)
        return 0;
    return start < PREPARE_SIZE - length ? start : PREPARE_SIZE - length;
}

/* Volatile, or the compiler calls memset. */
static void prepare_clear(volatile uint8_t *bytes, uint32_t size)
{
    while (size--)
        *bytes++ = 0;
}

/* Fit the box at `grey` and return the greatest value; all come in 1 / PREPARE_FRACTION, cut. */
static int32_t prepare_fit(struct prepare_scratch *s, const uint8_t *grey, int stride, int width,
                           int height, const struct prepare_ink *ink, int32_t greatest)
{
    int32_t *sum, most = 0;
    int i, j, y;

    prepare_plan(&s->across, width, width > height ? width : height);
    prepare_plan(&s->down, height, width > height ? width : height);
    for (y = 0; y < height; y++, grey += stride) {
        prepare_filter_row(grey, ink, &s->across, s->row);
        for (sum = s->of.sums, i = 0; i < s->down.length; i++) {
            struct prepare_target *target = &s->down.target[i];
            int32_t weight = 0;
            if (y >= target->first && y < target->end) {
                weight = prepare_weight(target->start.steps);
                prepare_move(&target->start, &s->down);
            }
            for (j = 0; j < s->across.length; j++, sum++) /* the first row begins the sums */
                *sum = (y ? *sum : 0) + weight * s->row[j];
        }
    }
    for (sum = s->of.sums, i = 0; i < s->down.length; i++)
        for (j = 0; j < s->across.length; j++, sum++) {
            *sum = *sum < 0 ? 0 : prepare_divide_rounded(*sum, s->down.target[i].total);
            if (*sum > greatest)
                *sum = greatest;
            if (*sum > most)
                most = *sum;
        }
    return most;
}

int tinydigits_prepare(const uint8_t *grey, int width, int height, int paper, uint8_t *image,
                       void *scratch)
{
    struct prepare_scratch *const s = scratch;
    const uint8_t *pixel;
    struct prepare_ink ink;
    int darkest = 255, lightest = 0, top, other, noise, limit, margin_x, margin_y, x, y;
    int left = width, right = 0, upper = height, lower = 0;
    int32_t most, *value;
    uint32_t mass = 0, moment_x = 0, moment_y = 0;

    if (width < 1 || width > TINYDIGITS_LONGEST_SIDE || height < 1
        || height > TINYDIGITS_LONGEST_SIDE)
        return TINYDIGITS_BAD_SIDE;
    prepare_clear(image, PREPARE_SIZE * PREPARE_SIZE);

    /* The margin and the extremes. */
    prepare_clear((uint8_t *)s->of.margin, sizeof s->of.margin);
    margin_x = (int)prepare_divide((uint32_t)width, 24) + 1;
    margin_y = (int)prepare_divide((uint32_t)height, 24) + 1;
    for (pixel = grey, y = 0; y < height; y++)
        for (x = 0; x < width; x++, pixel++) {
            if (*pixel < darkest)
                darkest = *pixel;
            if (*pixel > lightest)
                lightest = *pixel;
            if (y < margin_y || y >= height - margin_y || x < margin_x || x >= width - margin_x)
                s->of.margin[*pixel]++;
        }

    /* The paper, the side that the ink is on, the noise. */
    ink.paper = paper < 0 || paper > 255 ? prepare_find_paper(s->of.margin) : paper;
    ink.sign = lightest - ink.paper > ink.paper - darkest ? 1 : -1;
    top = prepare_distance(&ink, ink.sign > 0 ? lightest : darkest);
    other = -prepare_distance(&ink, ink.sign > 0 ? darkest : lightest);
    noise = prepare_noise(s->of.margin, &ink, 3 * top >> 3);
    if (top == 0 || (top <= 16 * noise && top <= 2 * other))
        return TINYDIGITS_NO_INK;
    limit = 6 * noise < top >> 1 ? 6 * noise : top >> 1;
    ink.floor = limit >> 1;

    /* The box. */
    for (pixel = grey, y = 0; y < height; y++)
        for (x = 0; x < width; x++, pixel++)
            if (prepare_distance(&ink, *pixel) > limit) {
                if (y < upper)
                    upper = y;
                lower = y;
                if (x < left)
                    left = x;
                if (x > right)
                    right = x;
            }

    /* The fit, the stretch and the centre of mass. */
    most = prepare_fit(s, grey + upper * width + left, width, right - left + 1, lower - upper + 1,
                       &ink, PREPARE_FRACTION * top);
    if (most == 0)
        return TINYDIGITS_NO_INK;
    for (value = s->of.sums, y = 0; y < s->down.length; y++)
        for (x = 0; x < s->across.length; x++, value++) {
            *value = prepare_divide_rounded(255 * *value, (uint32_t)most);
            mass += (uint32_t)*value;
            moment_x += (uint32_t)(*value * x);
            moment_y += (uint32_t)(*value * y);
        }
    image += PREPARE_SIZE * prepare_place(mass, moment_y, s->down.length)
             + prepare_place(mass, moment_x, s->across.length);
    for (value = s->of.sums, y = 0; y < s->down.length; y++, image += PREPARE_SIZE)
        for (x = 0; x < s->across.length; x++)
            image[x] = (uint8_t)*value++;
    return TINYDIGITS_PREPARED;
}
