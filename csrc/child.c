/* What a child does between clone and exec, step by step.
 *
 * It shares the parent's memory and runs on a stack of its own, so it may only make system calls: no malloc, no stdio,
 * no lock (signal-safety(7)); and it makes them raw, because an interposed wrapper would write to state that is the
 * parent's too. It tells of a failure by writing to the order.
 */
#include "spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_close_range
#define SYS_close_range 436
#endif

/* rt_sigaction's own struct (the C library's differs); zero is SIG_DFL with no flags on every architecture. */
struct kernel_sigaction {
    unsigned long words[8];
};

IN_CHILD static int fail(struct order *order, int step) {
    order->error = errno;
    order->step = step;
    /* Zero, which a child has as it begins, to where its pid was written: nothing runs. A system call writes it, for a
     * store would end us all where the file has no room left. */
    if (order->request->told)
        syscall(SYS_prctl, PR_GET_PDEATHSIG, order->request->told, 0, 0, 0);
    return 127;
}

IN_CHILD static int default_signals(void) {
    struct kernel_sigaction action;
    for (size_t i = 0; i < sizeof action.words / sizeof *action.words; i++)
        action.words[i] = 0;
    for (int number = 1; number <= SIGNALS; number++)
        if (number != SIGKILL && number != SIGSTOP && syscall(SYS_rt_sigaction, number, &action, NULL, SIGNALS / 8))
            return -1;
    uint64_t none = 0;
    return (int)syscall(SYS_rt_sigprocmask, SIG_SETMASK, &none, NULL, SIGNALS / 8);
}

/* A group in the background is stopped when it takes the terminal, unless SIGTTOU is blocked (tcsetpgrp(3)): so this
 * comes before the signals are unblocked. A terminal that is not our session's has no job control to give. */
IN_CHILD static int take_terminal(int terminal) {
    int group = (int)syscall(SYS_getpid);
    if (syscall(SYS_setpgid, 0, 0))
        return -1;
    return syscall(SYS_ioctl, terminal, TIOCSPGRP, &group) && errno != ENOTTY ? -1 : 0;
}

/* "0" means the writer (cgroup-v2.rst, cgroup.procs). */
IN_CHILD static int enter_cgroup(int folder) {
    int fd = (int)syscall(SYS_openat, folder, "cgroup.procs", O_WRONLY | O_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    long written = syscall(SYS_write, fd, "0", 1);
    int error = errno;
    syscall(SYS_close, fd);
    errno = error;
    return written == 1 ? 0 : -1;
}

IN_CHILD static int number_of(const struct ox_request *request, size_t i) {
    return request->numbers ? request->numbers[i] : (int)i;
}

/* Two passes, so that no source is overwritten before it has been copied. */
IN_CHILD static int place_fds(const struct ox_request *request) {
    int from[OX_FDS_MOST];
    const size_t count = request->nfds;
    if (count > OX_FDS_MOST) {
        errno = EMFILE;
        return -1;
    }
    const int above = count ? number_of(request, count - 1) + 1 : 0;
    for (size_t i = 0; i < count; i++) {
        from[i] = request->fds[i];
        if (from[i] < above && from[i] != number_of(request, i)) {
            from[i] = (int)syscall(SYS_fcntl, from[i], F_DUPFD_CLOEXEC, above);
            if (from[i] < 0)
                return -1;
        }
    }
    for (size_t i = 0; i < count; i++) {
        const int to = number_of(request, i);
        if (from[i] == to) {
            if (syscall(SYS_fcntl, to, F_SETFD, 0))
                return -1;
        } else if (syscall(SYS_dup3, from[i], to, 0) < 0) {
            return -1;
        }
    }
    return 0;
}

/* A filter or an old kernel without close_range: every fd of ours is close-on-exec anyhow, so what is left
 * are fds that somebody else's library opened; the limit's first thousands are walked for those. */
IN_CHILD static void close_between(unsigned first, unsigned last) {
    if (first <= last && syscall(SYS_close_range, first, last, 0))
        for (unsigned fd = first; fd <= last && fd < 4096; fd++)
            syscall(SYS_close, fd);
}

IN_CHILD static void close_others(const struct ox_request *request) {
    unsigned next = 0;
    for (size_t i = 0; i < request->nfds; i++) {
        const unsigned number = (unsigned)number_of(request, i);
        if (number > next)
            close_between(next, number - 1);
        next = number + 1;
    }
    close_between(next, ~0U);
}

/* Where it is born its pid is known to nobody else yet. */
IN_CHILD static void write_pids(struct order *order) {
    const long pid = syscall(SYS_getpid);
    for (int i = 0; i < order->npids; i++) {
        char digits[12], *at = order->pids[i];
        int count = 0;
        while (*at)
            at++;
        long left = pid;
        do {
            digits[count++] = (char)('0' + left % 10);
            left /= 10;
        } while (left > 0);
        while (count)
            *at++ = digits[--count];
        *at = '\0';
    }
}

IN_CHILD static int set_limits(const uint64_t *limits, size_t count) {
    for (size_t i = 0; i < count; i++) {
        struct {
            uint64_t soft, hard;
        } limit = {limits[3 * i + 1], limits[3 * i + 2]};
        if (syscall(SYS_prlimit64, 0, (int)limits[3 * i], &limit, NULL))
            return -1;
    }
    return 0;
}

/* As execvp(3): a folder of PATH where the program is not, or may not be read, is passed over. */
IN_CHILD static void execute(char **argv, char **envp, const char *path) {
    const char *program = argv[0];
    size_t length = 0;
    for (; program[length]; length++)
        if (program[length] == '/') {
            syscall(SYS_execve, program, argv, envp);
            return;
        }
    int refused = 0;
    for (const char *end = path;; path = end + 1) {
        for (end = path; *end && *end != ':'; end++)
            ;
        size_t folder = (size_t)(end - path);
        char full[PATH_MAX];
        if (length && folder + length + 2 <= sizeof full) {
            size_t at = 0;
            for (size_t i = 0; i < folder; i++)
                full[at++] = path[i];
            if (folder)
                full[at++] = '/';
            for (size_t i = 0; i <= length; i++)
                full[at++] = program[i];
            syscall(SYS_execve, full, argv, envp);
            if (errno == EACCES)
                refused = 1;
            else if (errno != ENOENT && errno != ENOTDIR && errno != ENAMETOOLONG && errno != ELOOP)
                return;
        }
        if (!*end)
            break;
    }
    errno = refused ? EACCES : ENOENT;
}

/* The user comes as late as can be: from then on that user's other processes may stop this one, and the parent
 * waits for it. */
IN_CHILD int ox_child_main(void *argument) {
    struct order *order = argument;
    const struct ox_request *request = order->request;
    if (request->terminal < 0 && syscall(SYS_setsid) < 0)
        return fail(order, OX_STEP_SESSION);
    if (request->terminal >= 0 && take_terminal(request->terminal))
        return fail(order, OX_STEP_TERMINAL);
    if (default_signals())
        return fail(order, OX_STEP_SIGNALS);
    if (order->enter_cgroup && enter_cgroup(request->cgroup))
        return fail(order, OX_STEP_CGROUP);
    if (ox_enter_network(request->network))
        return fail(order, OX_STEP_NETWORK);
    if (ox_mount_all(request->mounts, request->mounts_size, &order->detail))
        return fail(order, OX_STEP_MOUNTS);
    if (place_fds(request))
        return fail(order, OX_STEP_FDS);
    close_others(request);
    write_pids(order);
    syscall(SYS_umask, request->mask);
    if (request->nice != OX_UNSET && syscall(SYS_setpriority, PRIO_PROCESS, 0, request->nice))
        return fail(order, OX_STEP_NICE);
    if (request->oom_score_adj != OX_UNSET && ox_set_oom_score(request->oom_score_adj))
        return fail(order, OX_STEP_OOM);
    if (set_limits(request->limits, request->nlimits))
        return fail(order, OX_STEP_LIMITS);
    if (ox_set_groups(request))
        return fail(order, OX_STEP_GROUPS);
    if (ox_bound_capabilities(request))
        return fail(order, OX_STEP_BOUNDING);
    if (request->no_new_privileges && syscall(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        return fail(order, OX_STEP_PRIVILEGES);
    if (ox_set_user(request))
        return fail(order, OX_STEP_USER);
    if (ox_set_capabilities(request))
        return fail(order, OX_STEP_CAPABILITIES);
    if (syscall(SYS_chdir, request->folder))
        return fail(order, OX_STEP_FOLDER);
    execute(order->argv, order->envp, order->path);
    return fail(order, OX_STEP_EXEC);
}
