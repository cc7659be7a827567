/* tinydigits: classifies 28x28 images with a small integer network, and makes such images.
 *
 * The network is data: the bytes of a .tdq file (docs/format.md), in flash or wherever they are.
 * Nothing here allocates, computes with floats, calls a library or keeps state, so all functions
 * may run in several threads and in interrupts at once, each with a scratch of its own.
 */
#ifndef TINYDIGITS_H
#define TINYDIGITS_H

#include <stddef.h>
#include <stdint.h>

#if defined(__AVR__)
#error "tinydigits needs a 32-bit processor: on AVR, an int has 16 bits."
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define TINYDIGITS_SIZE 28 /* height and width of an image, in pixels */

/* What tinydigits_check can find. */
enum {
    TINYDIGITS_OK = 0,
    TINYDIGITS_UNALIGNED = 1, /* the model doesn't start at a multiple of 4 bytes */
    TINYDIGITS_NO_MODEL = 2,  /* it isn't a model of this format and version */
    TINYDIGITS_TRUNCATED = 3, /* it is shorter or longer than it says */
    TINYDIGITS_ALTERED = 4,   /* its bytes don't have its checksum */
    TINYDIGITS_MALFORMED = 5, /* a part of it makes no sense or lies outside it */
    TINYDIGITS_OVERFLOW = 6   /* some image would make a sum leave 32 bits */
};

/* Look at `size` bytes before anything else uses them. Returns 0, or what is wrong with them.
 * The other functions take only a model that passed. */
int tinydigits_check(const void *model, size_t size);

/* How many bytes of memory tinydigits_predict needs beside the stack. */
size_t tinydigits_scratch(const void *model);

/* Classify an image of 28 rows of 28 pixels, 0 for paper to 255 for ink.
 * logits: room for a score a class. scratch: tinydigits_scratch bytes that start at a multiple
 * of 4; they need no clearing. Returns the class with the highest score, the first of equals. */
int tinydigits_predict(const void *model, const uint8_t *image, int32_t *logits, void *scratch);

/* How many classes the network tells apart. */
int tinydigits_classes(const void *model);

/* The name of class k, from 0 to tinydigits_classes - 1, in UTF-8. */
const char *tinydigits_class_name(const void *model, int k);

/* What tinydigits_prepare returns. */
enum {
    TINYDIGITS_PREPARED = 0,
    TINYDIGITS_NO_INK = 1,  /* the picture is empty, and the image all 0 */
    TINYDIGITS_BAD_SIDE = 2 /* a side is not in 1 ... TINYDIGITS_LONGEST_SIDE; image untouched */
};

#define TINYDIGITS_LONGEST_SIDE 4096    /* pixels of the longest side of a picture */
#define TINYDIGITS_PREPARE_SCRATCH 2512 /* bytes, however large the picture is */

/* Make an image for tinydigits_predict of a gray picture of one digit, as MNIST was made: the
 * paper 0, the strongest ink 255, the ink's longer side 20 pixels, its center of mass in the
 * middle. gray: height rows of width bytes, black 0 and white 255, dark ink on light paper or
 * light on dark. paper: its gray level, or -1 to find it. scratch: TINYDIGITS_PREPARE_SCRATCH
 * bytes that start at a multiple of 4; they need no clearing. */
int tinydigits_prepare(const uint8_t *gray, int width, int height, int paper, uint8_t *image,
                       void *scratch);

/* To look inside, compile with -DTINYDIGITS_ON_ROW=function and define this function. predict
 * calls it with each row that a convolution has finished, after the pools that follow it:
 * values[width][channels], valid during the call. Stages count the convolutions from 0. */
#ifdef TINYDIGITS_ON_ROW
void TINYDIGITS_ON_ROW(int stage, int row, int channels, int width, const uint8_t *values);
#endif

#ifdef __cplusplus
}
#endif

#endif
