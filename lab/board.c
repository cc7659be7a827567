/* The engine on an emulated Cortex-M: classifies the images of a file and writes what came out.
 *
 * The model is in flash, the images and the results are files on the host, reached through
 * semihosting. Counts instructions with SysTick (QEMU's -icount makes time of them) and measures
 * the stack by painting it. Needs no library. MODEL is the path of the model, SCRATCH its
 * scratch in bytes.
 */
#include "tinydigits.h"

extern uint32_t stack_top[], data_end[]; /* from board.ld; nothing is initialized but to 0 */
extern const uint32_t model[];
extern const uint32_t model_end[];

__asm__(".section .rodata.model, \"a\"\n.balign 4\n.global model, model_end\n"
        "model: .incbin \"" MODEL "\"\nmodel_end:\n.previous");

static uint32_t scratch[(SCRATCH + 3) / 4];

static struct {
    uint32_t class, ticks, stack;
    int32_t logits[100];
} result;

enum { OPEN = 1, WRITE = 5, READ = 6, EXIT = 0x20 };
enum { READ_BINARY = 1, WRITE_BINARY = 5 };

static uint32_t host(uint32_t operation, uint32_t a, uint32_t b, uint32_t c)
{
    uint32_t arguments[3] = {a, b, c};
    register uint32_t r0 __asm__("r0") = operation;
    register uint32_t *r1 __asm__("r1") = arguments;
    __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static void leave(uint32_t code) { host(EXIT, 0x20026, code, 0); }

#define SYSTICK ((volatile uint32_t *)0xE000E010) /* control, reload, value */
enum { PAINT = 0xA5A5A5A5 };

static void paint(void)
{
    uint32_t here;
    for (volatile uint32_t *word = data_end; (uintptr_t)word < (uintptr_t)&here - 64; word++)
        *word = (uint32_t)PAINT;
}

/* How far below stack_top anything was written. */
static uint32_t painted_over(void)
{
    const volatile uint32_t *word = data_end;
    while (*word == (uint32_t)PAINT)
        word++;
    return (uint32_t)((const char *)stack_top - (const char *)word);
}

static __attribute__((noinline)) void classify(const uint8_t *image)
{
    uint32_t frame, before;
    paint();
    SYSTICK[1] = 0xFFFFFF;
    SYSTICK[2] = 0;
    SYSTICK[0] = 5; /* count the processor's clock */
    before = SYSTICK[2];
    result.class = (uint32_t)tinydigits_predict(model, image, result.logits, scratch);
    result.ticks = (before - SYSTICK[2]) & 0xFFFFFF;
    result.stack = painted_over() - (uint32_t)((char *)stack_top - (char *)&frame);
}

static uint8_t image[TINYDIGITS_SIZE * TINYDIGITS_SIZE];

void start(void)
{
    size_t size = (size_t)((const char *)model_end - (const char *)model);
    int wrong = tinydigits_check(model, size);
    if (wrong || tinydigits_scratch(model) > sizeof scratch)
        leave(100u + (uint32_t)wrong);
    uint32_t length = 12 + 4 * (uint32_t)tinydigits_classes(model);
    uint32_t in = host(OPEN, (uint32_t) "images", READ_BINARY, 6);
    uint32_t out = host(OPEN, (uint32_t) "results", WRITE_BINARY, 7);
    while (host(READ, in, (uint32_t)image, sizeof image) == 0) {
        classify(image);
        if (host(WRITE, out, (uint32_t)&result, length))
            leave(99);
    }
    leave(0);
}

__attribute__((section(".vectors"), used)) static void *const vectors[16] = {
    stack_top, (void *)start,
};
