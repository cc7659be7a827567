/* What kernels.h is made of, on a PC: its matvec multiplies eight pairs at once. */
#ifndef TINYDIGITS_ARCH_SSE2_H
#define TINYDIGITS_ARCH_SSE2_H

#include <emmintrin.h>

#include "arch_portable.h"

#define ARCH_MATVEC

/* As in kernels.h. */
static void matvec(uint32_t *sums, const uint32_t *sums_end, const int16_t *inputs,
                   uint32_t count, const uint8_t *weights, uint32_t start)
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

#endif
