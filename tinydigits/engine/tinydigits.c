/* The integer engine; tinydigits.h says how to use it, docs/format.md what the model holds.
 *
 * An image goes through all stages a row at a time. Each stage keeps the last rows that came in,
 * as many as its window is high; as soon as they are there, it computes a row of its own and
 * hands it to the next stage. Values are bytes, the channels of a pixel side by side:
 * row[x][channel].
 *
 * This is C99 that relies on two habits of all compilers it has met: a conversion to a signed
 * type keeps the low bits, and >> of a negative number shifts copies of its sign in.
 */
#include "tinydigits.h"

#if defined(__SSE2__)
#include <emmintrin.h> /* for the faster form of one kernel on a PC */
#endif

#if defined(__AVR__)
#error "tinydigits needs a 32-bit processor: on AVR, an int has 16 bits."
#endif
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "tinydigits reads its models in place, so it needs a little-endian processor."
#endif

/* ------------------------------------------------------------------------------- the model */

enum { CONV = 1, DEPTHWISE = 2, SEPARABLE = 3, CLASSES = 4 };

enum {
    MAGIC = 0x31514454, /* "TDQ1" */
    MOST_CHANNELS = 9999,
    MOST_INPUTS = 65535, /* to one sum */
    MOST_SHIFT = 30,
    LARGEST_WINDOW = 7,
    MOST_POOLS = 4
};

struct header {
    uint32_t magic, size, checksum;
    uint8_t stages, pools, activation_bits, weight_bits; /* pools: those before all stages */
    uint32_t text;                                       /* offset of the names and words */
    uint32_t floats[4];                                  /* for the host; see docs/format.md */
};

struct stage {
    uint8_t kind, window, pools, size; /* size: height and width of what comes in */
    uint32_t channels_in, channels_out;
    uint8_t shift_in, shift_sum, shift_out, zero;
    uint32_t weights, table; /* offsets */
};

static const struct header *header_of(const void *model) { return (const struct header *)model; }

static const struct stage *stages_of(const void *model)
{
    return (const struct stage *)(header_of(model) + 1);
}

static const struct stage *last_stage(const void *model)
{
    return stages_of(model) + header_of(model)->stages - 1;
}

static const uint8_t *at(const void *model, uint32_t offset)
{
    return (const uint8_t *)model + offset;
}

static uint32_t padded(uint32_t bytes) { return (bytes + 3) & ~3u; }

/* Weights of the depthwise convolution. */
static uint32_t taps(const struct stage *stage)
{
    uint32_t area = (uint32_t)stage->window * stage->window;
    return stage->kind == DEPTHWISE || stage->kind == SEPARABLE ? area * stage->channels_in : 0;
}

/* Inputs to each sum over channels, two by two; the last pair may be half empty. */
static uint32_t pairs(const struct stage *stage)
{
    uint32_t area = (uint32_t)stage->window * stage->window;
    if (stage->kind == DEPTHWISE)
        return 0;
    return ((stage->kind == CONV ? area : 1) * stage->channels_in + 1) / 2;
}

static int32_t half(uint32_t shift) { return (int32_t)((1u << shift) >> 1); }

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

/* ------------------------------------------------------------------------------- the check */

/* CRC-32 as zlib computes it. */
static uint32_t checksum(const uint8_t *bytes, uint32_t size)
{
    uint32_t crc = ~0u;
    for (; size; size--) {
        crc ^= *bytes++;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (0xEDB88320u & (0u - (crc & 1)));
    }
    return ~crc;
}

static int inside(uint32_t offset, uint32_t bytes, uint32_t size)
{
    return offset % 4 == 0 && offset <= size && bytes <= size - offset;
}

/* Whether `stage` makes sense in a model of `size` bytes, for `channels` of `side` pixels. */
static int well_formed(const struct stage *stage, uint32_t channels, uint32_t side, int last,
                       uint32_t size)
{
    if (stage->channels_in != channels || stage->size != side)
        return 0;
    if (stage->channels_out < 1 || stage->channels_out > MOST_CHANNELS)
        return 0;
    if (stage->kind < CONV || stage->kind > CLASSES || (stage->kind == CLASSES) != last)
        return 0;
    if (stage->kind == DEPTHWISE && stage->channels_out != channels)
        return 0;
    if (taps(stage) && stage->window == 1)
        return 0;
    if (stage->window % 2 == 0 || stage->window > LARGEST_WINDOW || stage->window > side)
        return 0;
    if (stage->pools > MOST_POOLS || (last && (stage->window > 1 || stage->pools > 0)))
        return 0;
    if (stage->shift_in > MOST_SHIFT || stage->shift_sum > MOST_SHIFT ||
        stage->shift_out > MOST_SHIFT)
        return 0;
    if ((stage->kind == CONV && stage->shift_in) || (last && (stage->shift_sum || stage->shift_out)))
        return 0;
    if (2 * pairs(stage) > MOST_INPUTS)
        return 0;
    return inside(stage->weights,
                  padded(taps(stage)) + 8 * pairs(stage) * ((stage->channels_out + 3) / 4), size) &&
           (last || inside(stage->table, 4 * stage->channels_out, size));
}

static uint32_t magnitude(int32_t value) { return (uint32_t)(value < 0 ? -value : value); }

/* Whether no sum of `stage` can leave its range, whatever inputs of 0 to `largest` come in. */
static int in_range(const void *model, const struct stage *stage, uint32_t largest)
{
    const uint8_t *weights = at(model, stage->weights);
    uint32_t area = (uint32_t)stage->window * stage->window;
    uint32_t input = stage->kind == CLASSES ? largest * stage->size * stage->size : largest;
    if (taps(stage)) {
        uint32_t widest = 0;
        for (uint32_t channel = 0; channel < stage->channels_in; channel++) {
            uint32_t sum = 0;
            for (uint32_t i = 0; i < area; i++)
                sum += magnitude(*weights++ - 128) * largest;
            widest = sum > widest ? sum : widest;
        }
        weights += padded(taps(stage)) - taps(stage);
        input = widest;
    }
    input = (input + (uint32_t)half(stage->shift_in)) >> stage->shift_in;
    if (input > INT16_MAX)
        return 0;
    for (uint32_t k = 0; k < stage->channels_out; k++) {
        uint32_t sum = (uint32_t)half(stage->shift_sum);
        const uint8_t *w = weights + 8 * pairs(stage) * (k / 4) + k % 4 * 2;
        for (uint32_t i = 0; i < pairs(stage) && sum <= INT32_MAX; i++, w += 8)
            sum += (magnitude(w[0] - 128) + magnitude(w[1] - 128)) * input;
        if (stage->kind == DEPTHWISE)
            sum += input;
        if (sum > INT32_MAX)
            return 0;
        if (stage->kind != CLASSES) {
            uint32_t entry = ((const uint32_t *)at(model, stage->table))[k];
            sum >>= stage->shift_sum;
            if (sum > INT16_MAX)
                return 0;
            sum = (sum + magnitude((int16_t)entry)) * magnitude((int32_t)entry >> 16);
            if (sum + (uint32_t)half(stage->shift_out) > INT32_MAX)
                return 0;
        }
    }
    return 1;
}

int tinydigits_check(const void *model, size_t size)
{
    const struct header *header = header_of(model);
    if ((uintptr_t)model % 4)
        return TINYDIGITS_UNALIGNED;
    if (size < sizeof *header || header->magic != MAGIC)
        return TINYDIGITS_NO_MODEL;
    if (header->size != size)
        return TINYDIGITS_TRUNCATED;
    if (header->checksum != checksum(at(model, 12), header->size - 12))
        return TINYDIGITS_ALTERED;
    if (header->stages < 1 || header->activation_bits < 1 || header->activation_bits > 8 ||
        header->pools > MOST_POOLS ||
        !inside(sizeof *header, header->stages * (uint32_t)sizeof(struct stage), header->size))
        return TINYDIGITS_MALFORMED;

    const struct stage *stage = stages_of(model), *last = last_stage(model);
    uint32_t channels = 1, side = TINYDIGITS_SIZE >> header->pools, largest = 255;
    for (; stage <= last; stage++) {
        if (!well_formed(stage, channels, side, stage == last, header->size))
            return TINYDIGITS_MALFORMED;
        if (!in_range(model, stage, largest))
            return TINYDIGITS_OVERFLOW;
        channels = stage->channels_out;
        side = (side - stage->window + 1) >> stage->pools;
        largest = (1u << header->activation_bits) - 1;
    }

    uint32_t strings = 0;
    for (uint32_t i = header->text; i < header->size; i++)
        strings += *at(model, i) == 0;
    return strings > channels ? TINYDIGITS_OK : TINYDIGITS_MALFORMED;
}

/* ----------------------------------------------------------------------------- the scratch */

/* What a stage knows of the rows that came in. A row is a word with a bit for each pixel that
 * isn't what a blank image would give there ("ink"), followed by the pixels.
 *
 * The stages that see much paper, the first ones, remember what a window of paper gives. */
enum { SEES_PAPER = 12 }; /* pixels a side */

struct band {
    uint32_t rows;        /* offset of `window` rows; of the sums for the classes */
    uint32_t paper;       /* offset of what a window of paper gives */
    uint8_t came, oldest; /* rows that came in; where in `rows` the next one goes */
    uint8_t paper_known, zero;
};

struct buffers {
    uint32_t inputs; /* offset of the inputs to one pixel's sums, int16_t */
    uint32_t sums;   /* offset of the sums, and of the pixel that becomes of them */
    struct band bands[];
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
        offset += row_bytes(stage) * stage->window;
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

/* ----------------------------------------------------------------------------- the kernels */

/* All weights are stored as w + 128, since a Cortex-M0 loads unsigned bytes sooner than signed
 * ones. The 128 is taken back at the end, by the sum of the inputs; on the way sums may wrap, so
 * they are unsigned.
 *
 * A Cortex-M0 has eight registers to compute with, which a compiler doesn't make suffice by itself.
 * It can add to the other ones, so that is where ADD keeps its sum; KERNEL keeps the code around a
 * kernel from sharing its registers. */
#if defined(__GNUC__) && defined(__ARM_ARCH_6M__)
#define KERNEL __attribute__((noinline))
#define ADD(sum, value, weights, i)                                   \
    do {                                                              \
        uint32_t product;                                             \
        __asm__(".syntax unified\n\tldrb %1, [%2, %4]\n\t"                \
                "muls %1, %3, %1\n\tadd %0, %1"                         \
                : "+r"(sum), "=&l"(product)                           \
                : "l"(weights), "l"(value), "I"(i)                    \
                : "cc");                                              \
    } while (0)
#define HIGH(number) __asm__("r" #number)
#else
#define KERNEL
#define ADD(sum, value, weights, i) ((sum) += (value) * (weights)[i]) /* all that it means */
#define HIGH(number)
#endif

/* PIN keeps a compiler for such processors from making a call of its library out of a loop. */
#if defined(__GNUC__) && defined(__thumb__)
#define PIN(variable) __asm__("" : "+r"(variable))
#else
#define PIN(variable) ((void)0)
#endif

/* All sums over channels, four at a time, to `sums`, which has room for whole fours. Each starts
 * as `start`; the weights are stored in the order in which they are read: two inputs for each of
 * four sums. */
#if defined(__SSE2__)
static void mix(uint32_t *sums, const uint32_t *sums_end, const int16_t *inputs, uint32_t count,
                const uint8_t *weights, uint32_t start)
{
    const __m128i zero = _mm_setzero_si128();
    do {
        /* Two pairs of inputs at once, with sums of their own that don't wait for each other. */
        __m128i even = _mm_set1_epi32((int32_t)start), odd = zero;
        const int16_t *x = inputs;
        uint32_t left = count;
        for (; left >= 2; left -= 2, x += 4, weights += 16) {
            __m128i pairs = _mm_loadl_epi64((const __m128i *)(const void *)x);
            __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)weights);
            __m128i first = _mm_shuffle_epi32(pairs, 0x00), second = _mm_shuffle_epi32(pairs, 0x55);
            even = _mm_add_epi32(even, _mm_madd_epi16(first, _mm_unpacklo_epi8(bytes, zero)));
            odd = _mm_add_epi32(odd, _mm_madd_epi16(second, _mm_unpackhi_epi8(bytes, zero)));
        }
        if (left) {
            uint32_t pair = (uint16_t)x[0] | (uint32_t)(uint16_t)x[1] << 16;
            __m128i bytes = _mm_loadl_epi64((const __m128i *)(const void *)weights);
            __m128i wide = _mm_unpacklo_epi8(bytes, zero);
            even = _mm_add_epi32(even, _mm_madd_epi16(_mm_set1_epi32((int32_t)pair), wide));
            weights += 8;
        }
        _mm_storeu_si128((__m128i *)(void *)sums, _mm_add_epi32(even, odd));
        sums += 4;
    } while (sums < sums_end);
}
#else
static KERNEL void mix(uint32_t *sums, const uint32_t *sums_end, const int16_t *inputs,
                       uint32_t count, const uint8_t *weights, uint32_t start)
{
    /* The offset from the end of the inputs, in bytes, counts the loop as well. */
    const uint8_t *even = (const uint8_t *)(inputs + 2 * count), *odd = even + 2;
    PIN(odd);
    do {
        uint32_t a = start;
        register uint32_t b HIGH(10) = start;
        register uint32_t c HIGH(9) = start;
        register uint32_t d HIGH(8) = start;
        int32_t i = -(int32_t)(4 * count);
        do {
            uint32_t x = (uint32_t)(int32_t) * (const int16_t *)(const void *)(even + i);
            ADD(a, x, weights, 0);
            ADD(b, x, weights, 2);
            ADD(c, x, weights, 4);
            ADD(d, x, weights, 6);
            x = (uint32_t)(int32_t) * (const int16_t *)(const void *)(odd + i);
            ADD(a, x, weights, 1);
            ADD(b, x, weights, 3);
            ADD(c, x, weights, 5);
            ADD(d, x, weights, 7);
            weights += 8;
            i += 4;
            PIN(weights);
        } while (i);
        *sums++ = a, *sums++ = b, *sums++ = c, *sums++ = d;
    } while (sums < sums_end);
}
#endif

/* `count` sums to activations of at most `largest`. `out` may be where the sums are. */
static KERNEL void rescale(uint8_t *out, const uint32_t *sums, uint32_t count,
                           const uint32_t *table, const struct stage *stage, int32_t largest)
{
    uint32_t shift_sum = stage->shift_sum, shift_out = stage->shift_out;
    int32_t rounding = half(shift_out);
    const uint8_t *end = out + count;
    do {
        uint32_t entry = *table++;
        int32_t value = ((int32_t)*sums++ >> shift_sum) + (int16_t)entry;
        value = (value * ((int32_t)entry >> 16) + rounding) >> shift_out;
        if (value < 0)
            value = 0;
        if (value > largest)
            value = largest;
        *out++ = (uint8_t)value;
    } while (out < end);
}

/* One tap of a depthwise convolution. */
#define TAP(pixel, weights, i)             \
    do {                                   \
        uint32_t value = pixel;            \
        PIN(value);                        \
        total += value;                    \
        ADD(sum, value, weights, i);       \
    } while (0)

/* Three taps side by side; `pixel` is left at the second. */
#define TAPS(i)                               \
    do {                                      \
        TAP(pixel[0], weights, i);            \
        TAP(pixel[channels], weights, i + 1); \
        pixel += channels;                    \
        TAP(pixel[channels], weights, i + 2); \
    } while (0)

/* What the taps come to. */
#define STORE()                                                   \
    do {                                                          \
        int32_t shifted = (int32_t)(sum - 128 * total) >> shift;  \
        *inputs++ = (int16_t)shifted;                             \
        all += (uint32_t)shifted;                                 \
    } while (0)

/* A depthwise convolution: each channel's window times its weights, shifted to 16 bits.
 * steps[y] leads from the first pixel in a window's row y to the one in the next row, the last
 * step back to the first row. Returns the sum of all channels. */
static KERNEL uint32_t filter(int16_t *inputs, const struct stage *stage, const uint8_t *pixel,
                              const int32_t *steps, const uint8_t *weights)
{
    uint32_t channels = stage->channels_in, window = stage->window, all = 0;
    uint32_t shift = stage->shift_in, start = (uint32_t)half(shift);
    const int16_t *end = inputs + channels;
    do {
        uint32_t sum = start, total = 0;
        for (uint32_t y = 0; y < window; y++) {
            const uint8_t *next = pixel + steps[y];
            for (uint32_t x = 0; x < window; x++, pixel += channels, weights++)
                TAP(*pixel, weights, 0);
            pixel = next;
        }
        pixel++;
        STORE();
    } while (inputs < end);
    return all;
}

/* The same for the window that is met most, 3x3. */
static KERNEL uint32_t filter3(int16_t *inputs, const struct stage *stage, const uint8_t *pixel,
                               const int32_t *steps, const uint8_t *weights)
{
    uint32_t channels = stage->channels_in, all = 0;
    uint32_t shift = stage->shift_in, start = (uint32_t)half(shift);
    int32_t across = (int32_t)channels; /* where TAPS leaves `pixel` */
    int32_t first = steps[0] - across, second = steps[1] - across, last = steps[2] - across + 1;
    const int16_t *end = inputs + channels;
    do {
        register uint32_t sum HIGH(8) = start;
        register uint32_t total HIGH(9) = 0;
        TAPS(0);
        pixel += first;
        TAPS(3);
        pixel += second;
        TAPS(6);
        pixel += last;
        weights += 9;
        STORE();
    } while (inputs < end);
    return all;
}

/* The window of all channels, one value after the other. Returns their sum. */
static KERNEL uint32_t gather(int16_t *inputs, const struct stage *stage, const uint8_t *pixel,
                              const int32_t *steps)
{
    uint32_t length = stage->window * stage->channels_in, total = 0;
    const int32_t *end = steps + stage->window;
    do {
        const uint8_t *value = pixel, *last = pixel + length;
        do {
            uint32_t x = *value++;
            *inputs++ = (int16_t)x;
            total += x;
        } while (value < last);
        pixel += *steps++;
    } while (steps < end);
    return total;
}

/* One pixel of a convolution, from the window that begins at `pixel` to `out`. `count` are the
 * stage's pairs, and `mixing` its weights behind the taps. */
static void convolve(const void *model, const struct stage *stage, uint32_t count,
                     const uint8_t *mixing, const uint8_t *pixel, const int32_t *steps,
                     int16_t *inputs, uint32_t *sums, uint8_t *out)
{
    const uint8_t *weights = at(model, stage->weights);
    uint32_t channels = stage->channels_out, total;
    if (count)
        inputs[2 * count - 1] = 0; /* which stays so where the number of inputs is odd */
    if (stage->kind == CONV)
        total = gather(inputs, stage, pixel, steps);
    else if (stage->window == 3)
        total = filter3(inputs, stage, pixel, steps, weights);
    else
        total = filter(inputs, stage, pixel, steps, weights);
    if (count)
        mix(sums, sums + channels, inputs, count, mixing,
            (uint32_t)half(stage->shift_sum) - 128 * total);
    else
        for (uint32_t c = 0; c < channels; c++)
            sums[c] = (uint32_t)(half(stage->shift_sum) + inputs[c]);
    rescale(out, sums, channels, (const uint32_t *)at(model, stage->table), stage,
            (1 << header_of(model)->activation_bits) - 1);
}

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
    mix(sums, sums + stage->channels_out, inputs, pairs(stage), at(model, stage->weights),
        0u - 128 * total);
    for (uint32_t k = 0; k < stage->channels_out; k++) {
        logits[k] = (int32_t)sums[k];
        if (logits[k] > logits[best])
            best = k;
    }
    return (int)best;
}

/* ------------------------------------------------------------------------------ the stages */

/* A row on its way from one stage to the next, through the pools between them, which keep the
 * largest of 2^pools x 2^pools pixels. */
struct passage {
    uint32_t *row;      /* of the next stage: the bits of the ink, then the pixels */
    uint32_t *sums;     /* for the classes, the sums over all pixels; or NULL */
    uint32_t channels;
    uint32_t step;      /* from pixel to pixel, in bytes; 0 where only the sums are kept */
    uint32_t pools, y;
};

/* Where pixel x goes. */
static uint8_t *place(const struct passage *way, uint32_t x)
{
    return (uint8_t *)(way->row + 1) + (x >> way->pools) * way->step;
}

static KERNEL void copy(uint8_t *to, const uint8_t *from, uint32_t count)
{
    const uint8_t *end = from + count;
    do {
        uint32_t value = *from++;
        PIN(value);
        *to++ = (uint8_t)value;
    } while (from < end);
}

static KERNEL void keep_larger(uint8_t *to, const uint8_t *from, uint32_t count)
{
    const uint8_t *end = from + count;
    do {
        uint8_t value = *from++;
        if (value > *to)
            *to = value;
        to++;
    } while (from < end);
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
    way.y = band->came - (uint32_t)stage->window;
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

    int32_t steps[LARGEST_WINDOW]; /* from row to row, and from the last back to the first */
    uint32_t bytes = row_bytes(stage), window = stage->window, ink = 0;
    const uint8_t *rows = scratch + band->rows, *first = rows + bytes * band->oldest;
    for (uint32_t i = 0, y = band->oldest; i < window; i++) {
        ink |= *(const uint32_t *)(const void *)(rows + bytes * y);
        steps[i] = (int32_t)bytes;
        if (++y == window) {
            y = 0;
            steps[i] -= (int32_t)(bytes * window);
        }
    }
    if (stage->size < SEES_PAPER)
        ink = ~0u;

    uint32_t width = (uint32_t)next->size << way.pools;
    uint32_t *sums = (uint32_t *)(scratch + buffers->sums);
    int16_t *inputs = (int16_t *)(scratch + buffers->inputs);
    uint32_t count = pairs(stage);
    const uint8_t *mixing = at(model, stage->weights) + padded(taps(stage));
    first += 4;
    for (uint32_t x = 0; x < width; x++, first += stage->channels_in) {
        int seen = (ink >> x & ((1u << stage->window) - 1)) != 0;
        uint8_t *pixel = way.pools ? (uint8_t *)sums : place(&way, x);
        if (!seen)
            pixel = scratch + band->paper;
        if (seen || !band->paper_known)
            convolve(model, stage, count, mixing, first, steps, inputs, sums, pixel);
        if (!seen)
            band->paper_known = 1;
        put(&way, x, pixel, seen);
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
            if (++band->oldest == stage->window)
                band->oldest = 0;
#ifdef TINYDIGITS_ON_ROW
            if (band > buffers->bands) {
                uint32_t newest = (band->oldest ? band->oldest : stage->window) - 1u;
                const uint8_t *values = (uint8_t *)scratch + band->rows + 4;
                values += row_bytes(stage) * newest;
                if (stage == last)
                    values += 4 * stage->channels_in;
                TINYDIGITS_ON_ROW((int)(band - buffers->bands) - 1, band->came - 1,
                                  (int)stage->channels_in, stage->size, values);
            }
#endif
            if (stage == last || band->came < stage->window)
                break;
            complete = next_row(model, stage, buffers, band);
        }
    }
    return classify(model, last, sums, (int16_t *)((uint8_t *)scratch + buffers->inputs),
                    (uint32_t *)((uint8_t *)scratch + buffers->sums), logits);
}

/* --------------------------------------------------------------------- preparing a picture */

/* A grey picture of one digit becomes an image as MNIST has them. The rules are those of `prepare`
 * in tinydigits/preparation.py, which gives the same bits.
 *
 * The picture streams: each row is filtered to at most 20 values, and these are added to the at
 * most 20 rows of sums that they take part in. Nothing is divided by the processor, for small
 * ones can't. */
enum {
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
        dividend = positive * axis->parts + largest + PREPARE_STEPS * m -
                   PREPARE_STEPS * (uint32_t)((2 * i + 1) * n);
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
    return start < TINYDIGITS_SIZE - length ? start : TINYDIGITS_SIZE - length;
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

    if (width < 1 || width > TINYDIGITS_LONGEST_SIDE || height < 1 ||
        height > TINYDIGITS_LONGEST_SIDE)
        return TINYDIGITS_BAD_SIDE;
    prepare_clear(image, TINYDIGITS_SIZE * TINYDIGITS_SIZE);

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
    image += TINYDIGITS_SIZE * prepare_place(mass, moment_y, s->down.length) +
             prepare_place(mass, moment_x, s->across.length);
    for (value = s->of.sums, y = 0; y < s->down.length; y++, image += TINYDIGITS_SIZE)
        for (x = 0; x < s->across.length; x++)
            image[x] = (uint8_t)*value++;
    return TINYDIGITS_PREPARED;
}
