/* Starts a program: one call, no Python in the child, no copy of the page tables.
 *
 * The child shares our memory until it executes (CLONE_VM) and we stand still meanwhile (CLONE_VFORK), so it
 * tells of a failure by writing to our struct. It runs on a stack of its own. Between clone and exec it may
 * only make system calls: no malloc, no stdio, no lock (signal-safety(7)); and it makes them raw, because
 * an interposed wrapper would write to state that is the parent's too.
 */
#include "oxmgr.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_clone3
#define SYS_clone3 435
#endif
#ifndef CLONE_PIDFD
#define CLONE_PIDFD 0x00001000
#endif

#define STACK_SIZE (64 * 1024)
#define GUARD_SIZE (16 * 1024)
#define SIGNALS 64
#define DEFAULT_PATH "/usr/local/bin:/usr/bin:/bin"

/* A sanitizer keeps notes on each stack frame; a child that executes never takes its notes back. */
#define IN_CHILD __attribute__((no_sanitize("address"), no_sanitize("undefined"), noinline))

/* clone_args up to the field that the first version had (Linux 5.3). */
struct clone3_args {
    uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls;
};

struct request {
    char **argv;
    char **envp;
    const char *folder;
    const char *path;
    const int *fds;
    int nfds;
    const uint64_t *limits;
    size_t nlimits;
    unsigned mask;
    volatile int step;
    volatile int error;
};

/* rt_sigaction's own struct (the C library's differs); zero is SIG_DFL with no flags on every architecture. */
struct kernel_sigaction {
    unsigned long words[8];
};

static int rung;
static char *stack;
static char **words;
static size_t words_room;

IN_CHILD static int fail(struct request *request, int step) {
    request->error = errno;
    request->step = step;
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

/* Two passes, so that no source is overwritten before it has been copied. */
IN_CHILD static int place_fds(const int *fds, int nfds) {
    int from[16];
    if (nfds > (int)(sizeof from / sizeof *from)) {
        errno = EMFILE;
        return -1;
    }
    for (int i = 0; i < nfds; i++) {
        from[i] = fds[i];
        if (fds[i] < nfds && fds[i] != i) {
            from[i] = (int)syscall(SYS_fcntl, fds[i], F_DUPFD_CLOEXEC, nfds);
            if (from[i] < 0)
                return -1;
        }
    }
    for (int i = 0; i < nfds; i++) {
        if (from[i] == i) {
            if (syscall(SYS_fcntl, i, F_SETFD, 0))
                return -1;
        } else if (syscall(SYS_dup3, from[i], i, 0) < 0) {
            return -1;
        }
    }
    return 0;
}

/* A filter or an old kernel without close_range: every fd of ours is close-on-exec anyhow, so what is left
 * are fds that somebody else's library opened; the limit's first thousands are walked for those. */
IN_CHILD static int close_others(int first) {
    if (!syscall(SYS_close_range, first, ~0U, 0))
        return 0;
    for (int fd = first; fd < 4096; fd++)
        syscall(SYS_close, fd);
    return 0;
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

IN_CHILD static int child_main(void *argument) {
    struct request *request = argument;
    if (syscall(SYS_setsid) < 0)
        return fail(request, OX_STEP_SESSION);
    if (default_signals())
        return fail(request, OX_STEP_SIGNALS);
    if (place_fds(request->fds, request->nfds))
        return fail(request, OX_STEP_FDS);
    if (close_others(request->nfds))
        return fail(request, OX_STEP_CLOSE);
    syscall(SYS_umask, request->mask);
    if (set_limits(request->limits, request->nlimits))
        return fail(request, OX_STEP_LIMITS);
    if (syscall(SYS_chdir, request->folder))
        return fail(request, OX_STEP_FOLDER);
    execute(request->argv, request->envp, request->path);
    return fail(request, OX_STEP_EXEC);
}

/* clone3(2) has no wrapper in the C library, and with a stack of its own the child cannot return from one. */
static long raw_clone3(struct clone3_args *args, int (*function)(void *), void *argument) {
#if defined(__x86_64__)
    long result;
    register int (*fn)(void *) __asm__("r8") = function;
    register void *arg __asm__("r9") = argument;
    __asm__ volatile("syscall\n\t"
                     "testq %%rax, %%rax\n\t"
                     "jnz 1f\n\t"
                     "xorl %%ebp, %%ebp\n\t"
                     "movq %%r9, %%rdi\n\t"
                     "callq *%%r8\n\t"
                     "movl %%eax, %%edi\n\t"
                     "movl %[exit], %%eax\n\t"
                     "syscall\n\t"
                     "hlt\n"
                     "1:"
                     : "=a"(result)
                     : "a"((long)SYS_clone3), "D"(args), "S"(sizeof *args), "r"(fn), "r"(arg), [exit] "i"(SYS_exit)
                     : "rcx", "r11", "memory", "cc");
    return result;
#elif defined(__aarch64__)
    register long x0 __asm__("x0") = (long)args;
    register long x1 __asm__("x1") = (long)sizeof *args;
    register long x8 __asm__("x8") = SYS_clone3;
    register int (*fn)(void *) __asm__("x9") = function;
    register void *arg __asm__("x10") = argument;
    __asm__ volatile("svc #0\n\t"
                     "cbnz x0, 1f\n\t"
                     "mov x29, #0\n\t"
                     "mov x0, x10\n\t"
                     "blr x9\n\t"
                     "mov x8, %[exit]\n\t"
                     "svc #0\n"
                     "1:"
                     : "+r"(x0)
                     : "r"(x1), "r"(x8), "r"(fn), "r"(arg), [exit] "i"(SYS_exit)
                     : "x30", "memory", "cc");
    return x0;
#else
    (void)args;
    (void)function;
    (void)argument;
    return -ENOSYS;
#endif
}

/* Refusals of a way to make children, not of this child: not known, filtered, flags or size not known. */
static int is_refusal(int error) {
    return error == ENOSYS || error == EPERM || error == EINVAL || error == E2BIG || error == EOPNOTSUPP;
}

/* The pid, or -errno. */
static int make_child(struct request *request, int *pidfd) {
    const uint64_t flags = CLONE_VM | CLONE_VFORK;
    char *top = stack + GUARD_SIZE + STACK_SIZE;
    *pidfd = -1;
    if (rung == 0) {
        struct clone3_args args = {
            .flags = flags | CLONE_PIDFD,
            .pidfd = (uint64_t)(uintptr_t)pidfd,
            .exit_signal = SIGCHLD,
            .stack = (uint64_t)(uintptr_t)(stack + GUARD_SIZE),
            .stack_size = STACK_SIZE,
        };
        long pid = raw_clone3(&args, child_main, request);
        if (pid > 0 || !is_refusal((int)-pid))
            return (int)pid;
        rung = 1;
    }
    if (rung == 1) {
        int pid = clone(child_main, top, (int)flags | CLONE_PIDFD | SIGCHLD, request, pidfd);
        if (pid > 0 || !is_refusal(errno))
            return pid > 0 ? pid : -errno;
        rung = 2;
    }
    int pid = clone(child_main, top, (int)flags | SIGCHLD, request);
    if (pid < 0)
        return -errno;
    *pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    return pid;
}

static size_t count_strings(const char *text, size_t size) {
    size_t count = 0;
    for (size_t i = 0; i < size; i++)
        count += text[i] == '\0';
    return count;
}

static char **add_string(char **at, const char *text) {
    *at = (char *)(uintptr_t)text; /* execve(2) takes char *const[] and does not write to them */
    return at + 1;
}

/* Whether one of the strings sets the same variable as `text`. */
static int names_variable(char **from, char **to, const char *text) {
    size_t length = strcspn(text, "=") + 1;
    for (; from < to; from++)
        if (!strncmp(*from, text, length))
            return 1;
    return 0;
}

static int fill_words(struct request *request, const char *argv, size_t argv_size, const char *env, size_t env_size,
                      const char *base, size_t base_size) {
    size_t needed = count_strings(argv, argv_size) + count_strings(env, env_size) + count_strings(base, base_size) + 2;
    if (needed > words_room) {
        char **grown = realloc(words, needed * sizeof *words);
        if (!grown)
            return -ENOMEM;
        words = grown;
        words_room = needed;
    }
    char **at = words;
    request->argv = at;
    for (const char *text = argv; text < argv + argv_size; text += strlen(text) + 1)
        at = add_string(at, text);
    *at++ = NULL;
    request->envp = at;
    for (const char *text = env; text < env + env_size; text += strlen(text) + 1)
        at = add_string(at, text);
    char **own = at;
    for (const char *text = base; text < base + base_size; text += strlen(text) + 1)
        if (!names_variable(request->envp, own, text))
            at = add_string(at, text);
    *at = NULL;
    request->path = DEFAULT_PATH;
    for (char **variable = request->envp; *variable; variable++)
        if (!strncmp(*variable, "PATH=", 5))
            request->path = *variable + 5;
    return 0;
}

static int prepare_stack(void) {
    if (stack)
        return 0;
    char *got =
        mmap(NULL, GUARD_SIZE + STACK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (got == MAP_FAILED)
        return -errno;
    if (mprotect(got, GUARD_SIZE, PROT_NONE)) {
        int error = errno;
        munmap(got, GUARD_SIZE + STACK_SIZE);
        return -error;
    }
    stack = got;
    return 0;
}

static int report(struct ox_child *child, int step, int error) {
    child->pid = 0;
    child->pidfd = -1;
    child->step = step;
    child->error = error;
    return -error;
}

static int ends_with_nul(const char *text, size_t size) {
    return !size || text[size - 1] == '\0';
}

int ox_spawn(const char *argv, size_t argv_size, const char *env, size_t env_size, const char *base, size_t base_size,
             const char *folder, const int *fds, size_t nfds, const uint64_t *limits, size_t nlimits, unsigned mask,
             struct ox_child *child) {
    struct request request = {
        .folder = folder,
        .fds = fds,
        .nfds = (int)nfds,
        .limits = limits,
        .nlimits = nlimits,
        .mask = mask,
    };
    if (!argv_size || !ends_with_nul(argv, argv_size) || !ends_with_nul(env, env_size) ||
        !ends_with_nul(base, base_size))
        return report(child, OX_STEP_MEMORY, EINVAL);
    int error = prepare_stack();
    if (!error)
        error = fill_words(&request, argv, argv_size, env, env_size, base, base_size);
    if (error)
        return report(child, OX_STEP_MEMORY, -error);

    /* No handler of ours may run in a child that shares our memory. */
    uint64_t all = ~UINT64_C(0), before;
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &before, SIGNALS / 8);
    int pidfd;
    int pid = make_child(&request, &pidfd);
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &before, NULL, SIGNALS / 8);

    if (pid < 0)
        return report(child, OX_STEP_CLONE, -pid);
    if (request.step != OX_STEP_NONE) {
        /* It has left our memory, so it is past its end: this wait is for microseconds. */
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
            ;
        if (pidfd >= 0)
            close(pidfd);
        return report(child, request.step, request.error);
    }
    child->pid = pid;
    child->pidfd = pidfd;
    child->step = OX_STEP_NONE;
    child->error = 0;
    return 0;
}

int ox_spawn_rung(int wanted) {
    if (wanted >= 0)
        rung = wanted;
    return rung;
}
