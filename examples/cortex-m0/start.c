/* What runs before main on a Cortex-M0: the vector table, memory as C expects it, and a way to
 * speak to the debugger or emulator that watches (Arm semihosting). */
#include <stdint.h>

#include "semihosting.h"

extern uint32_t data_image[], data_begin[], data_end[], bss_begin[], bss_end[], stack_top[];
int main(void);

void reset(void);
static void fault(void);

/* The first word is the stack pointer, then come the handlers; see the ARMv6-M manual, B1.5.3. */
__attribute__((section(".vectors"), used)) static void *const vectors[] = {
    stack_top, (void *)reset, (void *)fault, (void *)fault,
};

void reset(void)
{
    const uint32_t *from = data_image;
    for (volatile uint32_t *to = data_begin; to != data_end;) *to++ = *from++;
    for (volatile uint32_t *to = bss_begin; to != bss_end;) *to++ = 0;
    leave(main());
}

static void fault(void)
{
    write_text("fault\n");
    leave(1);
}

/* A request to whoever watches: the operation in r0, its argument in r1, the answer in r0. */
static int32_t ask(uint32_t operation, const void *argument)
{
    register uint32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return (int32_t)r0;
}

void write_text(const char *text)
{
    ask(0x04, text); /* SYS_WRITE0 */
}

void leave(int code)
{
    const uint32_t stopped = 0x20026; /* ADP_Stopped_ApplicationExit */
    const uint32_t failed = 0x20023;  /* ADP_Stopped_RunTimeErrorUnknown */
    ask(0x18, (const void *)(uintptr_t)(code ? failed : stopped)); /* SYS_EXIT */
    for (;;) {
    }
}
