/* tinydigits: handwritten-digit recognition in integers. No malloc, no float, no library. */

#ifndef TINYDIGITS_H
#define TINYDIGITS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What `tinydigits_prepare` returns. */
enum {
    TINYDIGITS_PREPARED = 0,
    TINYDIGITS_NO_INK = 1,
    TINYDIGITS_BAD_SIDE = 2
};

/* Pixels of the longest side of a picture that `tinydigits_prepare` takes. */
#define TINYDIGITS_LONGEST_SIDE 4096

/* Bytes of memory that `tinydigits_prepare` works in, however large the picture. */
#define TINYDIGITS_PREPARE_SCRATCH 2512

/*
 * Bring a grey picture of one digit into the form of MNIST: paper 0, ink 255, the ink's longer
 * side 20 pixels, its centre of mass in the middle.
 *
 *   grey     height rows of width bytes, black 0 and white 255; dark on light or light on dark
 *   paper    the grey level of the paper, 0 to 255; -1 (or what else is no level) to find it
 *   image    receives 28 rows of 28 bytes, as `tinydigits_predict` takes them
 *   scratch  TINYDIGITS_PREPARE_SCRATCH bytes, aligned to 4; used during the call only
 *
 * TINYDIGITS_PREPARED: `image` holds the digit. TINYDIGITS_NO_INK: the picture is empty, `image` is
 * all 0. TINYDIGITS_BAD_SIDE: a side is not in 1 ... TINYDIGITS_LONGEST_SIDE, `image` is untouched.
 */
int tinydigits_prepare(const uint8_t *grey, int width, int height, int paper, uint8_t *image,
                       void *scratch);

#ifdef __cplusplus
}
#endif

#endif
