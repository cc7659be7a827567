/* The integer engine; tinydigits.h says how to use it, docs/format.md what the model holds.
 *
 * An image goes through all stages a row at a time. Each stage keeps the last rows that came in,
 * as many as its kernel is high; as soon as they are there, it computes a row of its own and
 * hands it to the next stage. Values are bytes, the channels of a pixel side by side:
 * row[x][channel]. The pixels that a kernel lies on are its window.
 *
 * This is C99 that relies on two habits of all compilers it has met: a conversion to a signed
 * type keeps the low bits, and >> of a negative number shifts copies of its sign in.
 */
#include "kernels.h"

int tinydigits_classes(const void *model) { return (int)last_stage(model)->channels_out; }

const char *tinydigits_class_name(const void *model, int k)
{
    const char *name = (const char *)at(model, header_of(model)->text);
    for (; k > 0; k--) {
        while (*name)
            name++;
        name++;
    }
    return name;
}

/* ----------------------------------------------------------------------------- the scratch */

/* The stages whose rows have at least so many pixels skip blank windows; see below. */
enum { SEES_PAPER = 12 };

/* What a stage knows of the rows that came in. A row is a word with a bit for each pixel that has
 * ink, followed by the pixels. Offsets count bytes from the start of the scratch. */
struct band {
    uint32_t rows;       /* offset of kernel_size rows; for CLASSES, of the sums and one row */
    uint32_t paper;      /* offset of what a blank window gives: channels_out values */
    uint8_t came;        /* rows that came in: 0 to size */
    uint8_t oldest;      /* where in `rows` the next one goes: 0 to kernel_size - 1 */
    uint8_t paper_known; /* whether `paper` is filled in: 0 or 1 */
    uint8_t zero;        /* 0; fills the record up */
};

/* What the scratch begins with. */
struct buffers {
    uint32_t inputs;     /* offset of the inputs to one pixel's sums, int16_t */
    uint32_t sums;       /* offset of the sums, uint32_t, and of the pixel that becomes of them */
    struct band bands[]; /* one a stage */
};

static uint32_t row_bytes(const struct stage *stage)
{
    uint32_t width = stage->size;
#ifndef TINYDIGITS_ON_ROW
    /* Each pixel is added to the sums at once, unless a pool has still to complete it. */
    if (stage->kind == CLASSES && stage[-1].pools == 0)
        width = 1;
#endif
    return 4 + padded(width * stage->channels_in);
}

/* Where everything goes; fills `buffers` in unless it is NULL. Returns the bytes in all. */
static uint32_t lay_out(const void *model, struct buffers *buffers)
{
    const struct stage *stage = stages_of(model), *last = last_stage(model);
    uint32_t offset = (uint32_t)sizeof *buffers;
    uint32_t inputs = 0, sums = 0, i = 0;
    offset += header_of(model)->stages * (uint32_t)sizeof(struct band);
    for (; stage <= last; stage++, i++) {
        uint32_t most = stage->kind == DEPTHWISE ? stage->channels_in : 2 * pairs(stage);
        uint32_t rows = offset;
        offset += row_bytes(stage) * stage->kernel_size;
        if (stage->kind == CLASSES)
            offset += 4 * stage->channels_in;
        if (buffers) {
            struct band band = {rows, offset, 0, 0, 0, 0};
            buffers->bands[i] = band;
        }
        if (stage->size >= SEES_PAPER)
            offset += padded(stage->channels_out);
        inputs = most > inputs ? most : inputs;
        sums = stage->channels_out > sums ? stage->channels_out : sums;
    }
    if (buffers) {
        buffers->inputs = offset;
        buffers->sums = offset + padded(2 * inputs);
    }
    return offset + padded(2 * inputs) + 4 * padded(sums);
}

size_t tinydigits_scratch(const void *model) { return lay_out(model, NULL); }

/* ------------------------------------------------------------------ skipping blank windows */

/* Most of an image is paper, and where a window holds nothing else, a stage gives the same pixel
 * each time. It computes the first of them, keeps it, and copies it from then on. To find such
 * windows, every row begins with a bit for each of its pixels that isn't what a blank image would
 * give there: that has ink. The later stages, whose rows are short, seldom see paper: they take
 * every window for one with ink. */

/* The columns that have ink in any of the rows that came in to `stage`, a bit for each. */
static uint32_t find_ink(const struct stage *stage, const uint8_t *rows)
{
    if (stage->size < SEES_PAPER)
        return ~0u;
    uint32_t ink = 0, bytes = row_bytes(stage);
    const uint8_t *end = rows + bytes * stage->kernel_size;
    do {
        ink |= *(const uint32_t *)(const void *)rows;
        rows += bytes;
    } while (rows < end);
    return ink;
}

/* Whether the window that begins at column x has ink. */
static int has_ink(uint32_t ink, uint32_t x, const struct stage *stage)
{
    return (ink >> x & ((1u << stage->kernel_size) - 1)) != 0;
}

/* Whether what a window gives is known: it is blank, and not the first such one. */
static int is_known(struct band *band, int ink)
{
    int known = !ink && band->paper_known;
    if (!ink)
        band->paper_known = 1;
    return known;
}

/* ------------------------------------------------------------------------------ the stages */

/* One pixel of a convolution, from the window that begins at `pixel` to `out`. `count` are the
 * stage's pairs, and `matrix` the weights of its matvec. */
static void convolve(const void *model, const struct stage *stage, uint32_t count,
                     const uint8_t *matrix, const uint8_t *pixel, const int32_t *steps,
                     int16_t *inputs, uint32_t *sums, uint8_t *out)
{
    const uint8_t *weights = at(model, stage->weights);
    uint32_t channels = stage->channels_out, total;
    if (count)
        inputs[2 * count - 1] = 0; /* which stays so where the number of inputs is odd */
    if (stage->kind == CONV)
        total = im2col(inputs, stage, pixel, steps);
    else if (stage->kernel_size == 3)
        total = depthwise3(inputs, stage, pixel, steps, weights);
    else
        total = depthwise(inputs, stage, pixel, steps, weights);
    if (count)
        matvec(sums, sums + channels, inputs, count, matrix,
               (uint32_t)half(stage->shift_sum) - 128 * total);
    else
        for (uint32_t c = 0; c < channels; c++)
            sums[c] = (uint32_t)(half(stage->shift_sum) + inputs[c]);
    rescale(out, sums, channels, (const uint32_t *)at(model, stage->table), stage,
            (1 << header_of(model)->activation_bits) - 1);
}

/* A row on its way from one stage to the next, through the pools between them, which keep the
 * largest of 2^pools x 2^pools pixels. */
struct passage {
    uint32_t *row;     /* of the next stage: the bits of the ink, then the pixels */
    uint32_t *sums;    /* for CLASSES, the sums over all pixels, one a channel; or NULL */
    uint32_t channels; /* of a pixel, 1 or more */
    uint32_t step;     /* from pixel to pixel, in bytes; 0 where only the sums are kept */
    uint32_t pools;    /* 0 to MOST_POOLS */
    uint32_t y;        /* which row it is before the pools, from 0 */
};

/* Where pixel x goes. */
static uint8_t *place(const struct passage *way, uint32_t x)
{
    return (uint8_t *)(way->row + 1) + (x >> way->pools) * way->step;
}

/* Put pixel x where it goes, unless it is there. */
static void put(const struct passage *way, uint32_t x, const uint8_t *pixel, int ink)
{
    uint32_t block = (1u << way->pools) - 1;
    uint8_t *to = place(way, x);
    if (ink)
        *way->row |= 1u << (x >> way->pools);
    int first = ((x | way->y) & block) == 0;
    /* Paper has nothing to add to a block that has it already. */
    if (to != pixel && (ink || first || *way->row >> (x >> way->pools) & 1)) {
        if (first)
            copy(to, pixel, way->channels);
        else
            keep_larger(to, pixel, way->channels);
    }
    if (way->sums && (x & way->y & block) == block)
        for (uint32_t c = 0; c < way->channels; c++)
            way->sums[c] += to[c];
}

/* The next row of `stage`, from the rows that came in to the stage that follows. Returns whether
 * that one's row is complete, which a pool may delay. */
static int next_row(const void *model, const struct stage *stage, struct buffers *buffers,
                    struct band *band)
{
    uint8_t *scratch = (uint8_t *)buffers;
    const struct stage *next = stage + 1;
    struct passage way;
    way.y = band->came - (uint32_t)stage->kernel_size;
    way.pools = stage->pools;
    way.channels = stage->channels_out;
    way.step = way.channels;
    if (way.y >> way.pools >= next->size)
        return 0; /* a pool leaves the last row of an odd number out */
    way.sums = NULL;
    way.row = (uint32_t *)(scratch + band[1].rows + row_bytes(next) * band[1].oldest);
    if (next->kind == CLASSES) {
        way.sums = way.row;
        way.row += way.channels;
        if (row_bytes(next) < 4 + padded(next->size * way.channels))
            way.step = 0;
    }
    uint32_t block = (1u << way.pools) - 1;
    if ((way.y & block) == 0)
        *way.row = 0;

    int32_t steps[LARGEST_KERNEL]; /* from row to row, and from the last back to the first */
    uint32_t bytes = row_bytes(stage), kernel_size = stage->kernel_size;
    for (uint32_t i = 0, y = band->oldest; i < kernel_size; i++) {
        steps[i] = (int32_t)bytes;
        if (++y == kernel_size) {
            y = 0;
            steps[i] -= (int32_t)(bytes * kernel_size);
        }
    }

    const uint8_t *rows = scratch + band->rows, *window = rows + bytes * band->oldest + 4;
    uint32_t ink = find_ink(stage, rows), width = (uint32_t)next->size << way.pools;
    uint32_t *sums = (uint32_t *)(scratch + buffers->sums);
    int16_t *inputs = (int16_t *)(scratch + buffers->inputs);
    uint32_t count = pairs(stage);
    const uint8_t *matrix = at(model, stage->weights) + padded(depthwise_weights(stage));
    for (uint32_t x = 0; x < width; x++, window += stage->channels_in) {
        int inked = has_ink(ink, x, stage);
        uint8_t *pixel = way.pools ? (uint8_t *)sums : place(&way, x);
        if (!inked)
            pixel = scratch + band->paper;
        if (!is_known(band, inked))
            convolve(model, stage, count, matrix, window, steps, inputs, sums, pixel);
        put(&way, x, pixel, inked);
    }
    return (way.y & block) == block;
}

/* A row of the image, through the pools that precede all stages. Returns as next_row does. */
static int image_row(const void *model, struct buffers *buffers, const uint8_t *image, uint32_t y)
{
    const struct stage *stage = stages_of(model);
    const struct band *band = buffers->bands;
    uint32_t block = (1u << header_of(model)->pools) - 1, ink = 0, bit = 1;
    uint32_t *row = (uint32_t *)((uint8_t *)buffers + band->rows +
                                 row_bytes(stage) * band->oldest);
    uint8_t *pixel = (uint8_t *)(row + 1), *end = pixel + stage->size;
    for (; pixel < end; pixel++, bit <<= 1) {
        uint32_t value = y & block ? *pixel : 0, i = block;
        do
            if (*image++ > value)
                value = image[-1];
        while (i--);
        *pixel = (uint8_t)value;
        if (value)
            ink |= bit;
    }
    *row = ink;
    return (y & block) == block;
}

#ifdef TINYDIGITS_ON_ROW
/* Show the row that came in last, unless it is one of the image. */
static void show_row(const struct stage *stage, const struct buffers *buffers,
                     const struct band *band)
{
    if (band == buffers->bands)
        return;
    uint32_t newest = (band->oldest ? band->oldest : stage->kernel_size) - 1u;
    const uint8_t *values = (const uint8_t *)buffers + band->rows + 4;
    values += row_bytes(stage) * newest;
    if (stage->kind == CLASSES)
        values += 4 * stage->channels_in;
    TINYDIGITS_ON_ROW((int)(band - buffers->bands) - 1, band->came - 1, (int)stage->channels_in,
                      stage->size, values);
}
#endif

/* The scores, from the sums over all pixels. Returns the class with the highest. */
static int classify(const void *model, const struct stage *stage, const uint32_t *pixels,
                    int16_t *inputs, uint32_t *sums, int32_t *logits)
{
    uint32_t total = 0, best = 0;
    inputs[2 * pairs(stage) - 1] = 0;
    for (uint32_t c = 0; c < stage->channels_in; c++) {
        uint32_t input = (pixels[c] + (uint32_t)half(stage->shift_in)) >> stage->shift_in;
        inputs[c] = (int16_t)input;
        total += input;
    }
    matvec(sums, sums + stage->channels_out, inputs, pairs(stage), at(model, stage->weights),
           0u - 128 * total);
    for (uint32_t k = 0; k < stage->channels_out; k++) {
        logits[k] = (int32_t)sums[k];
        if (logits[k] > logits[best])
            best = k;
    }
    return (int)best;
}

int tinydigits_predict(const void *model, const uint8_t *image, int32_t *logits, void *scratch)
{
    struct buffers *buffers = (struct buffers *)scratch;
    lay_out(model, buffers);
    const struct stage *last = last_stage(model);
    uint32_t *sums = (uint32_t *)((uint8_t *)scratch +
                                  buffers->bands[header_of(model)->stages - 1].rows);
    for (uint32_t c = 0; c < last->channels_in; c++)
        sums[c] = 0;

    for (uint32_t y = 0; y < TINYDIGITS_SIZE; y++, image += TINYDIGITS_SIZE) {
        const struct stage *stage = stages_of(model);
        struct band *band = buffers->bands;
        int complete = image_row(model, buffers, image, y);
        for (; complete; stage++, band++) {
            band->came++;
            if (++band->oldest == stage->kernel_size)
                band->oldest = 0;
#ifdef TINYDIGITS_ON_ROW
            show_row(stage, buffers, band);
#endif
            if (stage == last || band->came < stage->kernel_size)
                break;
            complete = next_row(model, stage, buffers, band);
        }
    }
    return classify(model, last, sums, (int16_t *)((uint8_t *)scratch + buffers->inputs),
                    (uint32_t *)((uint8_t *)scratch + buffers->sums), logits);
}
