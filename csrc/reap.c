/* Learns of ends: children's by waitid(2), other processes' by pidfd, and of signals and time by fds. And what else
 * there is to have of another process by its pidfd. */
#include "oxmgr.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
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

static struct {
    int fd;
    unsigned count, next;
    int64_t offset;
} notes = {.fd = -1};

void ox_note_ends(int fd, int64_t offset, unsigned count, unsigned next) {
    notes.fd = fd;
    notes.offset = offset;
    notes.count = count;
    notes.next = next;
}

/* That it cannot be written is no reason to leave the child unreaped: then the journal alone has its end. */
static void note(const siginfo_t *info) {
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    struct ox_end end = {
        .pid = info->si_pid,
        .status = info->si_code == CLD_EXITED ? (info->si_status & 0xFF) << 8 : info->si_status & 0x7F,
        .when = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec,
    };
    off_t at = notes.offset + (off_t)(notes.next * sizeof end);
    if (pwrite(notes.fd, &end, sizeof end, at) == (ssize_t)sizeof end)
        notes.next = (notes.next + 1) % notes.count;
}

int ox_reap(struct ox_exit *exits, int room) {
    int count = 0;
    while (count < room) {
        siginfo_t info = {.si_pid = 0};
        idtype_t which = P_ALL;
        id_t id = 0;
        if (notes.fd >= 0 && !waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT)) {
            if (!info.si_pid)
                break;
            /* Whoever dies before the note leaves a zombie, for another to reap. */
            note(&info);
            which = P_PID;
            id = (id_t)info.si_pid;
            info.si_pid = 0;
        }
        if (waitid(which, id, &info, WEXITED | WNOHANG) < 0) {
            if (errno == EINTR || (errno == ECHILD && which == P_PID))
                continue; /* the thread that made it has reaped it */
            break;        /* ECHILD: no children at all */
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

void *ox_map(int fd, size_t size) {
    void *got = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return got == MAP_FAILED ? NULL : got;
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
