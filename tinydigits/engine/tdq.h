/* The model as its file has it, for the engine alone; docs/format.md describes it.
 *
 * It is read in place. Offsets count bytes from its start.
 */
#ifndef TINYDIGITS_TDQ_H
#define TINYDIGITS_TDQ_H

#include "tinydigits.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "tinydigits reads its models in place, so it needs a little-endian processor."
#endif

enum { CONV = 1, DEPTHWISE = 2, SEPARABLE = 3, CLASSES = 4 };

enum {
    MAGIC = 0x31514454, /* "TDQ1" */
    MOST_CHANNELS = 9999,
    MOST_INPUTS = 65535, /* to one sum */
    MOST_SHIFT = 30,
    LARGEST_KERNEL = 7,
    MOST_POOLS = 4
};

/* What the file begins with. */
struct header {
    uint32_t magic;          /* MAGIC */
    uint32_t size;           /* of the file in bytes, a multiple of 4 */
    uint32_t checksum;       /* CRC-32 of all that comes after it */
    uint8_t stages;          /* 1 or more; their records follow the header */
    uint8_t pools;           /* of the image, before the first stage: 0 to MOST_POOLS */
    uint8_t activation_bits; /* of the values that go from stage to stage: 1 to 8 */
    uint8_t weight_bits;     /* 2 to 8, for the host; here all weights are bytes */
    uint32_t text;           /* offset of the names of the classes, each ended by a zero */
    uint32_t floats[4];      /* for the host: mean, std, logit scale, temperature */
};

/* A convolution and the pools that follow it, or the sums for the classes. A pool keeps the
 * largest of 2x2 values. */
struct stage {
    uint8_t kind;          /* CONV, DEPTHWISE, SEPARABLE; CLASSES for the last stage alone */
    uint8_t kernel_size;   /* height and width: 1, 3, 5, 7; 1 only for CONV and CLASSES */
    uint8_t pools;         /* 0 to MOST_POOLS; none for CLASSES */
    uint8_t size;          /* height and width of what comes in: kernel_size to 28 */
    uint32_t channels_in;  /* 1 for the first stage, else channels_out of the one before */
    uint32_t channels_out; /* 1 to MOST_CHANNELS; as many as come in for DEPTHWISE */
    uint8_t shift_in;      /* right, of each input to the sums: 0 to MOST_SHIFT; 0 for CONV */
    uint8_t shift_sum;     /* right, of each sum: 0 to MOST_SHIFT; 0 for CLASSES */
    uint8_t shift_out;     /* right, of sum x multiplier: 0 to MOST_SHIFT; 0 for CLASSES */
    uint8_t zero;          /* 0; fills the record up */
    uint32_t weights;      /* offset of the depthwise weights, then those of the matvec */
    uint32_t table;        /* offset of a word for each channel that goes out: a bias in the lower
                              16 bits, a multiplier in the upper; 0 for CLASSES */
};

static inline const struct header *header_of(const void *model)
{
    return (const struct header *)model;
}

static inline const struct stage *stages_of(const void *model)
{
    return (const struct stage *)(header_of(model) + 1);
}

static inline const struct stage *last_stage(const void *model)
{
    return stages_of(model) + header_of(model)->stages - 1;
}

static inline const uint8_t *at(const void *model, uint32_t offset)
{
    return (const uint8_t *)model + offset;
}

static inline uint32_t padded(uint32_t bytes) { return (bytes + 3) & ~3u; }

/* How many depthwise weights there are. */
static inline uint32_t depthwise_weights(const struct stage *stage)
{
    uint32_t area = (uint32_t)stage->kernel_size * stage->kernel_size;
    return stage->kind == DEPTHWISE || stage->kind == SEPARABLE ? area * stage->channels_in : 0;
}

/* Inputs to each sum of the matvec, two by two; the last pair may be half empty. */
static inline uint32_t pairs(const struct stage *stage)
{
    uint32_t area = (uint32_t)stage->kernel_size * stage->kernel_size;
    if (stage->kind == DEPTHWISE)
        return 0;
    return ((stage->kind == CONV ? area : 1) * stage->channels_in + 1) / 2;
}

/* What makes a shift to the right round to the nearest. */
static inline int32_t half(uint32_t shift) { return (int32_t)((1u << shift) >> 1); }

#endif
