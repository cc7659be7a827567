/* A gray picture of one digit becomes an image as MNIST has them. The rules are those of `prepare`
 * in tinydigits/images/preprocess.py, which gives the same bits.
 *
 * The picture streams: each row is filtered to at most 20 values, and these are added to the at
 * most 20 rows of sums that they take part in. Nothing is divided by the processor, for small
 * ones can't.
 */
#include "tinydigits.h"

enum {
    FITTED = 20,      /* pixels of the ink's longer side in the image */
    MIDDLE = 14,      /* where its center of mass goes */
    WINDOW = 32,      /* gray levels among which the paper's are looked for */
    STEPS = 64,       /* of the filter's table, in a pixel */
    SPAN = 3 * STEPS, /* where the filter ends */
    FRACTION = 64     /* values on the way come in units of 1 / FRACTION */
};

/* Lanczos-3 in units of 1/256, at 0, 1/64 ... 191/64. */
static const int16_t lanczos[SPAN] = {
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

/* The argument of the filter, in steps of its table: steps + parts / axis.parts. */
struct argument {
    int32_t steps;  /* rounded down */
    uint32_t parts; /* 0 to axis.parts - 1 */
};

/* How the filter makes one target pixel. */
struct target {
    int32_t first, end;    /* the source pixels that have a weight, `end` excluded */
    struct argument start; /* the argument at `first` */
    uint32_t total;        /* the sum of the weights */
};

/* How the filter makes one side of the image from one side of the box. */
struct axis {
    int32_t length;                /* of the side in the image, 1 to FITTED */
    uint32_t parts;                /* in a step */
    struct argument move;          /* from one source pixel to the next */
    struct target targets[FITTED]; /* `length` of them */
};

struct workspace {
    struct axis across, down;
    int32_t row[FITTED]; /* one row of the box, filtered */
    union {
        uint32_t margin[256];          /* pixels of each gray level in the margin */
        int32_t sums[FITTED * FITTED]; /* down.length rows of across.length values */
    } of;
};

typedef char scratch_suffices[sizeof(struct workspace) <= TINYDIGITS_PREPARE_SCRATCH ? 1 : -1];

/* What is ink: the distance from the paper, toward the ink, if it is greater than `floor`. */
struct ink {
    int paper; /* gray level, 0 to 255 */
    int sign;  /* 1 for ink lighter than the paper, -1 for darker */
    int floor; /* a distance, 0 to 255 */
};

/* a / b. Rounds down; b is not 0. */
static uint32_t divide(uint32_t a, uint32_t b)
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
static int32_t divide_rounded(int32_t a, uint32_t b)
{
    uint32_t size = a < 0 ? 0u - (uint32_t)a : (uint32_t)a;
    int32_t quotient = (int32_t)divide(size + (b >> 1), b);
    return a < 0 ? -quotient : quotient;
}

/* The filter's weight for an argument. */
static int32_t weight_at(int32_t steps)
{
    if (steps < 0)
        steps = -steps;
    return steps < SPAN ? lanczos[steps] : 0;
}

/* From one source pixel to the next. */
static void advance(struct argument *argument, const struct axis *axis)
{
    argument->steps += axis->move.steps;
    argument->parts += axis->move.parts;
    if (argument->parts >= axis->parts) {
        argument->parts -= axis->parts;
        argument->steps++;
    }
}

/* Plan how a side of n pixels is fitted, where `longer` pixels become 20. */
static void plan(struct axis *axis, int32_t n, int32_t longer)
{
    /* Added to make an argument positive before it is divided: no target is farther away. */
    const uint32_t positive = FITTED * STEPS;
    uint32_t m = divide((uint32_t)(2 * FITTED * n + longer), 2 * (uint32_t)longer);
    if (m == 0)
        m = 1;
    uint32_t largest = (uint32_t)n > m ? (uint32_t)n : m;
    axis->length = (int32_t)m;
    axis->parts = 2 * largest;
    uint32_t dividend = 2 * STEPS * m;
    axis->move.steps = (int32_t)divide(dividend, axis->parts);
    axis->move.parts = dividend - (uint32_t)axis->move.steps * axis->parts;

    for (int32_t i = 0; i < axis->length; i++) {
        struct target *target = &axis->targets[i];
        dividend = positive * axis->parts + largest + STEPS * m -
                   STEPS * (uint32_t)((2 * i + 1) * n);
        struct argument argument;
        argument.steps = (int32_t)divide(dividend, axis->parts);
        argument.parts = dividend - (uint32_t)argument.steps * axis->parts;
        argument.steps -= (int32_t)positive;

        int32_t j = 0;
        for (; argument.steps <= -SPAN; j++)
            advance(&argument, axis);
        target->first = j;
        target->start = argument;
        target->total = 0;
        for (; j < n && argument.steps < SPAN; j++) {
            target->total += (uint32_t)weight_at(argument.steps);
            advance(&argument, axis);
        }
        target->end = j;
    }
}

/* The lower median of the fullest window of gray levels in the margin. */
static int find_paper(const uint32_t *margin)
{
    uint32_t inside = 0, most = 0;
    int paper = 0;
    for (int level = 0; level < 256; level++) {
        inside += margin[level];
        if (level >= WINDOW)
            inside -= margin[level - WINDOW];
        if (level >= WINDOW - 1 && inside > most) {
            most = inside;
            paper = level - (WINDOW - 1);
        }
    }
    for (inside = margin[paper]; inside < (most + 1) >> 1; inside += margin[paper])
        paper++;
    return paper;
}

static int distance(const struct ink *ink, int gray) { return ink->sign * (gray - ink->paper); }

/* The third quartile of the distances from the paper in the margin, none above `furthest`. */
static int find_noise(const uint32_t *margin, const struct ink *ink, int furthest)
{
    const int start = ink->sign > 0 ? 0 : 255;
    uint32_t total = 0, nearer = 0;
    for (int level = start; distance(ink, level) <= furthest; level += ink->sign)
        total += margin[level];
    int level = start;
    for (; 4 * (nearer += margin[level]) < 3 * total; level += ink->sign)
        ;
    int noise = distance(ink, level);
    return noise > 0 ? noise : 0;
}

/* Filter one row of the box; values come in units of 1 / FRACTION. */
static void filter_row(const uint8_t *gray, const struct ink *ink, const struct axis *axis,
                       int32_t *row)
{
    for (int32_t i = 0; i < axis->length; i++) {
        const struct target *target = &axis->targets[i];
        struct argument argument = target->start;
        int32_t sum = 0;
        for (int32_t j = target->first; j < target->end; j++) {
            const int value = distance(ink, gray[j]);
            if (value > ink->floor)
                sum += weight_at(argument.steps) * value;
            advance(&argument, axis);
        }
        row[i] = divide_rounded(sum * FRACTION, target->total);
    }
}

/* Where the ink goes along one axis, given its mass and the first moment of it. */
static int32_t place(uint32_t mass, uint32_t moment, int32_t length)
{
    const int32_t start = MIDDLE - (int32_t)divide(2 * moment + mass, 2 * mass);
    if (start < 0)
        return 0;
    return start < TINYDIGITS_SIZE - length ? start : TINYDIGITS_SIZE - length;
}

/* Volatile, or the compiler calls memset. */
static void clear(volatile uint8_t *bytes, uint32_t size)
{
    while (size--)
        *bytes++ = 0;
}

/* Fit the box at `gray` and return the greatest value; all come in 1 / FRACTION, cut. */
static int32_t fit(struct workspace *s, const uint8_t *gray, int stride, int width, int height,
                   const struct ink *ink, int32_t greatest)
{
    plan(&s->across, width, width > height ? width : height);
    plan(&s->down, height, width > height ? width : height);
    for (int y = 0; y < height; y++, gray += stride) {
        filter_row(gray, ink, &s->across, s->row);
        int32_t *sum = s->of.sums;
        for (int i = 0; i < s->down.length; i++) {
            struct target *target = &s->down.targets[i];
            int32_t weight = 0;
            if (y >= target->first && y < target->end) {
                weight = weight_at(target->start.steps);
                advance(&target->start, &s->down);
            }
            for (int j = 0; j < s->across.length; j++, sum++) /* the first row begins the sums */
                *sum = (y ? *sum : 0) + weight * s->row[j];
        }
    }
    int32_t *sum = s->of.sums, most = 0;
    for (int i = 0; i < s->down.length; i++)
        for (int j = 0; j < s->across.length; j++, sum++) {
            *sum = *sum < 0 ? 0 : divide_rounded(*sum, s->down.targets[i].total);
            if (*sum > greatest)
                *sum = greatest;
            if (*sum > most)
                most = *sum;
        }
    return most;
}

int tinydigits_prepare(const uint8_t *gray, int width, int height, int paper, uint8_t *image,
                       void *scratch)
{
    if (width < 1 || width > TINYDIGITS_LONGEST_SIDE || height < 1 ||
        height > TINYDIGITS_LONGEST_SIDE)
        return TINYDIGITS_BAD_SIDE;
    clear(image, TINYDIGITS_SIZE * TINYDIGITS_SIZE);

    /* The margin and the extremes. */
    struct workspace *const s = scratch;
    clear((uint8_t *)s->of.margin, sizeof s->of.margin);
    const int margin_x = (int)divide((uint32_t)width, 24) + 1;
    const int margin_y = (int)divide((uint32_t)height, 24) + 1;
    int darkest = 255, lightest = 0;
    const uint8_t *pixel = gray;
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++, pixel++) {
            if (*pixel < darkest)
                darkest = *pixel;
            if (*pixel > lightest)
                lightest = *pixel;
            if (y < margin_y || y >= height - margin_y || x < margin_x || x >= width - margin_x)
                s->of.margin[*pixel]++;
        }

    /* The paper, the side that the ink is on, the noise. */
    struct ink ink;
    ink.paper = paper < 0 || paper > 255 ? find_paper(s->of.margin) : paper;
    ink.sign = lightest - ink.paper > ink.paper - darkest ? 1 : -1;
    const int top = distance(&ink, ink.sign > 0 ? lightest : darkest);
    const int other = -distance(&ink, ink.sign > 0 ? darkest : lightest);
    const int noise = find_noise(s->of.margin, &ink, 3 * top >> 3);
    if (top == 0 || (top <= 16 * noise && top <= 2 * other))
        return TINYDIGITS_NO_INK;
    const int limit = 6 * noise < top >> 1 ? 6 * noise : top >> 1;
    ink.floor = limit >> 1;

    /* The box. */
    int left = width, right = 0, upper = height, lower = 0;
    pixel = gray;
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++, pixel++)
            if (distance(&ink, *pixel) > limit) {
                if (y < upper)
                    upper = y;
                lower = y;
                if (x < left)
                    left = x;
                if (x > right)
                    right = x;
            }

    /* The fit, the stretch and the center of mass. */
    const int32_t most = fit(s, gray + upper * width + left, width, right - left + 1,
                             lower - upper + 1, &ink, FRACTION * top);
    if (most == 0)
        return TINYDIGITS_NO_INK;
    uint32_t mass = 0, moment_x = 0, moment_y = 0;
    int32_t *value = s->of.sums;
    for (int y = 0; y < s->down.length; y++)
        for (int x = 0; x < s->across.length; x++, value++) {
            *value = divide_rounded(255 * *value, (uint32_t)most);
            mass += (uint32_t)*value;
            moment_x += (uint32_t)(*value * x);
            moment_y += (uint32_t)(*value * y);
        }
    image += TINYDIGITS_SIZE * place(mass, moment_y, s->down.length) +
             place(mass, moment_x, s->across.length);
    value = s->of.sums;
    for (int y = 0; y < s->down.length; y++, image += TINYDIGITS_SIZE)
        for (int x = 0; x < s->across.length; x++)
            image[x] = (uint8_t)*value++;
    return TINYDIGITS_PREPARED;
}
