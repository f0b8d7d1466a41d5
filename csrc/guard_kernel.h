/* What the guard needs of the kernel, and that knows nothing of a daemon. */
#ifndef OXMGR_GUARD_KERNEL_H
#define OXMGR_GUARD_KERNEL_H

#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <time.h>

#include "bare.h"

#define SIGNALS_SIZE 8 /* of the kernel's signal set (rt_sigprocmask(2)) */
#define BIT(signal) (UINT64_C(1) << ((signal) - 1))

static int64_t now_ms(void) {
    struct timespec now = {0, 0};
    CALL(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void say(const char *text) {
    CALL(SYS_write, 2, text, strlen(text));
}

static void close_fd(int fd) {
    CALL(SYS_close, fd);
}

static void set_cloexec(int fd, int on) {
    CALL(SYS_fcntl, fd, F_SETFD, on ? FD_CLOEXEC : 0);
}

static __attribute__((noreturn)) void leave(int code) {
    for (;;)
        CALL(SYS_exit_group, code);
}

static int write_all(int fd, const void *data, size_t size) {
    return !size || CALL(SYS_write, fd, data, size) == (long)size;
}

static int read_all(int fd, void *data, size_t size) {
    return !size || CALL(SYS_read, fd, data, size) == (long)size;
}

static int number(const char *word) {
    int value = 0;
    if (*word < '0' || *word > '9')
        return -1;
    while (*word >= '0' && *word <= '9' && value < 1000000)
        value = value * 10 + (*word++ - '0');
    return value;
}

/* What is opened must not get the number of a standard file, to which a daemon and its apps print. */
static void open_standard_files(void) {
    int fd;
    do
        fd = (int)CALL(SYS_openat, AT_FDCWD, "/dev/null", O_RDWR);
    while (fd >= 0 && fd <= 2);
    close_fd(fd);
}

/* Field 22 of /proc/PID/stat, when a process began; 0 when it cannot be read. */
static uint64_t ticks_of(int pid) {
    char path[32] = "/proc/", digits[12], text[1024];
    int count = 0;
    for (int left = pid; left > 0; left /= 10)
        digits[count++] = (char)('0' + left % 10);
    char *at = path + 6;
    while (count)
        *at++ = digits[--count];
    memcpy(at, "/stat", 6);
    int fd = (int)CALL(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    long got = CALL(SYS_read, fd, text, sizeof text - 1);
    close_fd(fd);
    if (got <= 0)
        return 0;
    /* The name may hold anything, so what counts is the last parenthesis: field 3 begins two bytes behind it. */
    long end = got;
    while (end > 0 && text[end - 1] != ')')
        end--;
    text[got] = 0;
    const char *field = text + end;
    for (int number = 2; number < 22; number++) {
        while (*field && *field != ' ')
            field++;
        while (*field == ' ')
            field++;
    }
    uint64_t ticks = 0;
    while (*field >= '0' && *field <= '9')
        ticks = ticks * 10 + (uint64_t)(*field++ - '0');
    return ticks;
}

static int status_of(const siginfo_t *info) {
    if (info->si_code == CLD_EXITED)
        return (info->si_status & 0xFF) << 8;
    return info->si_status | (info->si_code == CLD_DUMPED ? 0x80 : 0);
}

#endif
