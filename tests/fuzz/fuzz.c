/* libFuzzer: whatever tinydigits_check lets pass, tinydigits_predict runs within its bounds.
 *
 * The checksum is mended first, or hardly an input would get past it. An image follows from the
 * input's bytes. Buffers have their exact sizes, so that the address sanitizer sees every step
 * beyond.
 */
#include <stdlib.h>
#include <string.h>

#include "tinydigits.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint32_t crc32(const uint8_t *bytes, size_t size)
{
    uint32_t crc = ~0u;
    for (; size; size--) {
        crc ^= *bytes++;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
    }
    return ~crc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint32_t *model = malloc(size ? size : 1);
    memcpy(model, data, size);
    if (size >= 12) {
        uint32_t length = (uint32_t)size, checksum = crc32((const uint8_t *)model + 12, size - 12);
        memcpy((uint8_t *)model + 4, &length, 4);
        memcpy((uint8_t *)model + 8, &checksum, 4);
    }
    if (tinydigits_check(model, size) == TINYDIGITS_OK && tinydigits_scratch(model) < 1 << 24) {
        int classes = tinydigits_classes(model);
        int32_t *logits = malloc(sizeof *logits * (size_t)classes);
        void *scratch = malloc(tinydigits_scratch(model));
        uint8_t *image = malloc(TINYDIGITS_SIZE * TINYDIGITS_SIZE);
        for (size_t i = 0; i < TINYDIGITS_SIZE * TINYDIGITS_SIZE; i++)
            image[i] = i % 3 ? data[i % size] : 0;
        int class = tinydigits_predict(model, image, logits, scratch);
        if (class < 0 || class >= classes)
            abort();
        for (int k = 0; k < classes; k++) {
            if (logits[k] > logits[class])
                abort();
            (void)strlen(tinydigits_class_name(model, k));
        }
        free(image), free(scratch), free(logits);
    }
    free(model);
    return 0;
}
