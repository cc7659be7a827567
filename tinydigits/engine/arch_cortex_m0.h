/* What kernels.h is made of, on a Cortex-M0; arch_portable.h says what each word means.
 *
 * A Cortex-M0 has eight registers to compute with, which a compiler doesn't make suffice by
 * itself. It can add to the other ones, so that is where ADD keeps its sum, by HIGH; KERNEL keeps
 * the code around a kernel from sharing its registers.
 */
#ifndef TINYDIGITS_ARCH_CORTEX_M0_H
#define TINYDIGITS_ARCH_CORTEX_M0_H

#define KERNEL __attribute__((noinline))

#define ADD(sum, value, weights, i)                        \
    do {                                                   \
        uint32_t product;                                  \
        __asm__(".syntax unified\n\tldrb %1, [%2, %4]\n\t" \
                "muls %1, %3, %1\n\tadd %0, %1"            \
                : "+r"(sum), "=&l"(product)                \
                : "l"(weights), "l"(value), "I"(i)         \
                : "cc");                                   \
    } while (0)

#define HIGH(number) __asm__("r" #number)

#define PIN(variable) __asm__("" : "+r"(variable))

#endif
