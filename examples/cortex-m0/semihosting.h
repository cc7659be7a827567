/* Text and an exit code for the debugger or emulator that watches. */
#ifndef SEMIHOSTING_H
#define SEMIHOSTING_H

void write_text(const char *text);
void leave(int code) __attribute__((noreturn));

#endif
