/* What kernels.h is made of, on any processor. Each arch_*.h has the same words, and may have a
 * matvec of its own, which it tells by ARCH_MATVEC.
 */
#ifndef TINYDIGITS_ARCH_PORTABLE_H
#define TINYDIGITS_ARCH_PORTABLE_H

/* Before a function: what keeps its loop fast. */
#define KERNEL

/* sum += value * weights[i], for a constant i. */
#define ADD(sum, value, weights, i) ((sum) += (value) * (weights)[i])

/* After the name of a variable: the register to keep it in. */
#define HIGH(number)

/* Keeps a compiler for small processors from making a call of its library out of a loop. */
#if defined(__GNUC__) && defined(__thumb__)
#define PIN(variable) __asm__("" : "+r"(variable))
#else
#define PIN(variable) ((void)0)
#endif

#endif
