/* System calls, with the C library (OX_LIBC, and on machines that are not known here) or without: it alone would be more
 * than twice the address space of the whole guard. */
#ifndef OXMGR_BARE_H
#define OXMGR_BARE_H

#include <errno.h>
#include <stddef.h>
#include <sys/syscall.h>

/* What the kernel returns: -errno for an error. */
#if defined(OX_LIBC) || !(defined(__x86_64__) || defined(__aarch64__))
#include <string.h>
#include <unistd.h>
static long sys(long number, long a, long b, long c, long d, long e) {
    long result = syscall(number, a, b, c, d, e);
    return result < 0 ? -errno : result;
}
#define WITH_LIBC 1
#else
static long sys(long number, long a, long b, long c, long d, long e) {
#if defined(__x86_64__)
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
                     : "rcx", "r11", "memory");
    return result;
#else
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
    return x0;
#endif
}

/* The compiler may call these by itself, and must not make them calls to themselves. */
__attribute__((optimize("no-tree-loop-distribute-patterns"))) void *memset(void *to, int byte, size_t size) {
    for (char *at = to; size--;)
        *at++ = (char)byte;
    return to;
}

__attribute__((optimize("no-tree-loop-distribute-patterns"))) void *memcpy(void *restrict to, const void *restrict from,
                                                                           size_t size) {
    const char *source = from;
    for (char *at = to; size--;)
        *at++ = *source++;
    return to;
}

__attribute__((optimize("no-tree-loop-distribute-patterns"))) size_t strlen(const char *text) {
    size_t length = 0;
    while (text[length])
        length++;
    return length;
}

__attribute__((optimize("no-tree-loop-distribute-patterns"))) int memcmp(const void *one, const void *other,
                                                                         size_t size) {
    const unsigned char *a = one, *b = other;
    for (; size--; a++, b++)
        if (*a != *b)
            return *a - *b;
    return 0;
}
#endif

#define CALL(number, ...) CALL_(number, __VA_ARGS__, 0, 0, 0, 0, 0)
#define CALL_(number, a, b, c, d, e, ...) sys(number, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e))

#endif
