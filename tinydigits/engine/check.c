/* Whether a model is what it says, and can't lead the engine out of its bounds. */
#include "tdq.h"

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

/* Whether a part at `offset` lies in a file of `size` bytes and starts at a word. */
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
    if (depthwise_weights(stage) && stage->kernel_size == 1)
        return 0;
    if (stage->kernel_size % 2 == 0 || stage->kernel_size > LARGEST_KERNEL ||
        stage->kernel_size > side)
        return 0;
    if (stage->pools > MOST_POOLS || (last && (stage->kernel_size > 1 || stage->pools > 0)))
        return 0;
    if (stage->shift_in > MOST_SHIFT || stage->shift_sum > MOST_SHIFT ||
        stage->shift_out > MOST_SHIFT)
        return 0;
    if ((stage->kind == CONV && stage->shift_in) ||
        (last && (stage->shift_sum || stage->shift_out)))
        return 0;
    if (2 * pairs(stage) > MOST_INPUTS)
        return 0;
    uint32_t fours = (stage->channels_out + 3) / 4;
    uint32_t weights = padded(depthwise_weights(stage)) + 8 * pairs(stage) * fours;
    return inside(stage->weights, weights, size) &&
           (last || inside(stage->table, 4 * stage->channels_out, size));
}

static uint32_t magnitude(int32_t value) { return (uint32_t)(value < 0 ? -value : value); }

/* Whether no sum of `stage` can leave its range, whatever inputs of 0 to `largest` come in. */
static int in_range(const void *model, const struct stage *stage, uint32_t largest)
{
    const uint8_t *weights = at(model, stage->weights);
    uint32_t area = (uint32_t)stage->kernel_size * stage->kernel_size;
    uint32_t input = stage->kind == CLASSES ? largest * stage->size * stage->size : largest;
    if (depthwise_weights(stage)) {
        uint32_t widest = 0;
        for (uint32_t channel = 0; channel < stage->channels_in; channel++) {
            uint32_t sum = 0;
            for (uint32_t i = 0; i < area; i++)
                sum += magnitude(*weights++ - 128) * largest;
            widest = sum > widest ? sum : widest;
        }
        weights += padded(depthwise_weights(stage)) - depthwise_weights(stage);
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
        side = (side - stage->kernel_size + 1) >> stage->pools;
        largest = (1u << header->activation_bits) - 1;
    }

    uint32_t strings = 0;
    for (uint32_t i = header->text; i < header->size; i++)
        strings += *at(model, i) == 0;
    return strings > channels ? TINYDIGITS_OK : TINYDIGITS_MALFORMED;
}
