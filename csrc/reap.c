/* Learns of ends: children's by waitid(2), other processes' by pidfd, and of signals and time by fds. And what else
 * there is to have of another process by its pidfd. */
#include "oxmgr.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif

/* linux/pidfd.h of Linux 6.15; older headers have neither. */
struct pidfd_info_exit {
    uint64_t mask, cgroup;
    uint32_t pid, tgid, ppid, ids[8];
    int32_t exit_code;
};
#define PIDFD_GET_INFO_EXIT _IOWR(0xFF, 11, struct pidfd_info_exit)
#define PIDFD_INFO_EXIT_BIT (UINT64_C(1) << 3)

int ox_reap(struct ox_exit *exits, int room) {
    int count = 0;
    while (count < room) {
        siginfo_t info = {.si_pid = 0};
        if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG) < 0) {
            if (errno == EINTR)
                continue;
            break; /* ECHILD: no children at all */
        }
        if (!info.si_pid)
            break;
        struct ox_exit *one = &exits[count++];
        one->pid = info.si_pid;
        one->code = info.si_code == CLD_EXITED ? info.si_status : -1;
        one->signal = info.si_code == CLD_EXITED ? 0 : info.si_status;
    }
    return count;
}

int ox_pidfd_exit(int pidfd, struct ox_exit *out) {
    struct pidfd_info_exit info;
    memset(&info, 0, sizeof info);
    info.mask = PIDFD_INFO_EXIT_BIT;
    if (ioctl(pidfd, PIDFD_GET_INFO_EXIT, &info))
        return errno == ESRCH ? -EAGAIN : -errno;
    if (!(info.mask & PIDFD_INFO_EXIT_BIT))
        return -EAGAIN;
    int status = info.exit_code;
    out->pid = (int)info.pid;
    out->code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    out->signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    return 0;
}

int ox_pidfd_getfd(int pidfd, int fd) {
    int copy = (int)syscall(SYS_pidfd_getfd, pidfd, fd, 0);
    return copy < 0 ? -errno : copy;
}

int ox_signalfd(const int *signals, int count) {
    sigset_t set;
    sigemptyset(&set);
    for (int i = 0; i < count; i++)
        if (sigaddset(&set, signals[i]))
            return -errno;
    if (sigprocmask(SIG_BLOCK, &set, NULL))
        return -errno;
    int fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

int ox_read_signals(int fd, int *signals, int room) {
    struct signalfd_siginfo infos[16];
    if (room > (int)(sizeof infos / sizeof *infos))
        room = sizeof infos / sizeof *infos;
    ssize_t got = read(fd, infos, (size_t)room * sizeof *infos);
    if (got < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    int count = (int)((size_t)got / sizeof *infos);
    for (int i = 0; i < count; i++)
        signals[i] = (int)infos[i].ssi_signo;
    return count;
}

int ox_timerfd(void) {
    int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

static int set(int fd, int64_t nanoseconds, int flags) {
    struct itimerspec when = {
        .it_value = {.tv_sec = nanoseconds / 1000000000, .tv_nsec = nanoseconds % 1000000000},
    };
    return timerfd_settime(fd, flags, &when, NULL) ? -errno : 0;
}

int ox_timerfd_set(int fd, int64_t nanoseconds) {
    return set(fd, nanoseconds, TFD_TIMER_ABSTIME);
}

int ox_wall_timerfd(void) {
    int fd = timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK | TFD_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

int ox_wall_timerfd_set(int fd, int64_t nanoseconds) {
    return set(fd, nanoseconds, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET);
}
