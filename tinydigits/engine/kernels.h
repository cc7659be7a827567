/* The inner loops: over the weights, the channels and the pixels under a kernel. For predict alone.
 *
 * All weights are stored as w + 128, since a Cortex-M0 loads unsigned bytes sooner than signed
 * ones. The 128 is taken back at the end, by the sum of the inputs; on the way sums may wrap, so
 * they are unsigned.
 */
#ifndef TINYDIGITS_KERNELS_H
#define TINYDIGITS_KERNELS_H

#include "tdq.h"

#if defined(__GNUC__) && defined(__ARM_ARCH_6M__)
#include "arch_cortex_m0.h"
#elif defined(__SSE2__)
#include "arch_sse2.h"
#else
#include "arch_portable.h"
#endif

/* The matvec: all sums over channels, four at a time, to `sums`, which has room for whole fours.
 * Each starts as `start`. `count` are the pairs of inputs; the weights are stored in the order in
 * which they are read: two inputs for each of four sums. */
#ifndef ARCH_MATVEC
static KERNEL void matvec(uint32_t *sums, const uint32_t *sums_end, const int16_t *inputs,
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

/* One weight of a depthwise kernel: value x weight to `sum`, the value alone to `total`. */
#define ADD_PIXEL(sum, total, pixel, weights, i) \
    do {                                         \
        uint32_t value = pixel;                  \
        PIN(value);                              \
        total += value;                          \
        ADD(sum, value, weights, i);             \
    } while (0)

/* Three weights side by side; `pixel` is left at the second. */
#define ADD_THREE_PIXELS(sum, total, pixel, channels, weights, i)   \
    do {                                                            \
        ADD_PIXEL(sum, total, (pixel)[0], weights, i);              \
        ADD_PIXEL(sum, total, (pixel)[channels], weights, (i) + 1); \
        pixel += channels;                                          \
        ADD_PIXEL(sum, total, (pixel)[channels], weights, (i) + 2); \
    } while (0)

/* A depthwise kernel's sum, the 128 of each weight taken back, as an input to the matvec. */
static inline int32_t depthwise_input(uint32_t sum, uint32_t total, uint32_t shift)
{
    return (int32_t)(sum - 128 * total) >> shift;
}

/* A depthwise convolution: each channel's window times its weights, shifted to 16 bits.
 * steps[y] leads from the first pixel in a window's row y to the one in the next row, the last
 * step back to the first row. Returns the sum of all channels. */
static KERNEL uint32_t depthwise(int16_t *inputs, const struct stage *stage, const uint8_t *pixel,
                                 const int32_t *steps, const uint8_t *weights)
{
    uint32_t channels = stage->channels_in, kernel_size = stage->kernel_size, all = 0;
    uint32_t shift = stage->shift_in, start = (uint32_t)half(shift);
    const int16_t *end = inputs + channels;
    do {
        uint32_t sum = start, total = 0;
        for (uint32_t y = 0; y < kernel_size; y++) {
            const uint8_t *next = pixel + steps[y];
            for (uint32_t x = 0; x < kernel_size; x++, pixel += channels, weights++)
                ADD_PIXEL(sum, total, *pixel, weights, 0);
            pixel = next;
        }
        pixel++;
        int32_t input = depthwise_input(sum, total, shift);
        *inputs++ = (int16_t)input;
        all += (uint32_t)input;
    } while (inputs < end);
    return all;
}

/* The same for the kernel that is met most, 3x3. */
static KERNEL uint32_t depthwise3(int16_t *inputs, const struct stage *stage, const uint8_t *pixel,
                                  const int32_t *steps, const uint8_t *weights)
{
    uint32_t channels = stage->channels_in, all = 0;
    uint32_t shift = stage->shift_in, start = (uint32_t)half(shift);
    int32_t across = (int32_t)channels; /* where ADD_THREE_PIXELS leaves `pixel` */
    int32_t first = steps[0] - across, second = steps[1] - across, last = steps[2] - across + 1;
    const int16_t *end = inputs + channels;
    do {
        register uint32_t sum HIGH(8) = start;
        register uint32_t total HIGH(9) = 0;
        ADD_THREE_PIXELS(sum, total, pixel, channels, weights, 0);
        pixel += first;
        ADD_THREE_PIXELS(sum, total, pixel, channels, weights, 3);
        pixel += second;
        ADD_THREE_PIXELS(sum, total, pixel, channels, weights, 6);
        pixel += last;
        weights += 9;
        int32_t input = depthwise_input(sum, total, shift);
        *inputs++ = (int16_t)input;
        all += (uint32_t)input;
    } while (inputs < end);
    return all;
}

/* What a convolution's matvec takes: the window of all channels, one value after the other.
 * Returns their sum. */
static KERNEL uint32_t im2col(int16_t *inputs, const struct stage *stage, const uint8_t *pixel,
                              const int32_t *steps)
{
    uint32_t length = stage->kernel_size * stage->channels_in, total = 0;
    const int32_t *end = steps + stage->kernel_size;
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

#endif
