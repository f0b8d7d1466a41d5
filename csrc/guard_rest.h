/* How process 1 ends: what is left besides it is asked to end first and, where it is a machine's, that is switched off. */
#ifndef OXMGR_GUARD_REST_H
#define OXMGR_GUARD_REST_H

#include <linux/reboot.h>
#include <poll.h>
#include <sys/signalfd.h>
#include <sys/wait.h>

#include "guard_kernel.h"

#define KILLED_WELL 5000 /* milliseconds for what was killed to be gone: what a dead disk holds, is not */
#define LOOK_AGAIN 10    /* milliseconds */

/* Process 1 of the machine, not of some container: the first pid namespace has this number (PROC_PID_INIT_INO of
 * include/linux/proc_ns.h). */
static int is_machines_init(void) {
    static const char first[] = "pid:[4026531836]";
    char found[sizeof first];
    return CALL(SYS_getpid, 0) == 1 &&
           CALL(SYS_readlinkat, AT_FDCWD, "/proc/self/ns/pid", found, sizeof found) == (long)sizeof first - 1 &&
           !memcmp(found, first, sizeof first - 1);
}

/* Until nothing is left, or that time has come; a second SIGTERM hurries. */
static void wait_for_the_rest(int signals_fd, int64_t end) {
    for (;;) {
        siginfo_t info;
        info.si_pid = 0;
        long got = CALL(SYS_waitid, P_ALL, 0, &info, WEXITED | WNOHANG, 0);
        /* On a machine all come from us, and what else may be asked by kill(2) are the kernel's threads. */
        if (got == -ECHILD && (is_machines_init() || CALL(SYS_kill, -1, 0) == -ESRCH))
            return;
        if (got == 0 && info.si_pid)
            continue;
        int64_t left = end - now_ms();
        if (left <= 0)
            return;
        /* Of what came from outside (`docker exec`) the parent is outside, and nobody tells us of its end. */
        if (got == -ECHILD && left > LOOK_AGAIN)
            left = LOOK_AGAIN;
        struct timespec wait = {left / 1000, left % 1000 * 1000000};
        struct pollfd one = {.fd = signals_fd, .events = POLLIN};
        CALL(SYS_ppoll, &one, 1, &wait, 0, SIGNALS_SIZE);
        struct signalfd_siginfo heard;
        while (CALL(SYS_read, signals_fd, &heard, sizeof heard) > 0)
            if (heard.ssi_signo == SIGTERM)
                return; /* asked twice: no grace */
    }
}

/* What outlives the daemon where we are process 1: asked to end, and after a grace the kernel ends it with us. */
static void end_the_rest(int signals_fd, int64_t grace) {
    if (CALL(SYS_getpid, 0) != 1)
        return;
    CALL(SYS_kill, -1, SIGTERM);
    CALL(SYS_kill, -1, SIGCONT);
    wait_for_the_rest(signals_fd, now_ms() + grace);
}

/* The kernel panics when its process 1 ends, with nothing written to the disks: so the machine ends first. Comes back
 * where we may not (CAP_SYS_BOOT). */
static void switch_off(int signals_fd, int code) {
    char digits[] = "000\n", *at = digits + 3;
    do
        *--at = (char)('0' + code % 10);
    while (code /= 10);
    CALL(SYS_kill, -1, SIGKILL);
    wait_for_the_rest(signals_fd, now_ms() + KILLED_WELL);
    CALL(SYS_sync, 0);
    say("oxmgr: switching the machine off; exit code ");
    say(at);
    CALL(SYS_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_POWER_OFF, 0);
}

#endif
