/* Starts a program: one call, no Python in the child, no copy of the page tables.
 *
 * The child shares our memory until it executes (CLONE_VM) and we stand still meanwhile (CLONE_VFORK), so it
 * tells of a failure by writing to our struct. What it does is in child.c.
 */
#include "spawn.h"

#include <errno.h>
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_clone3
#define SYS_clone3 435
#endif
#define P_PIDFD_VALUE 3 /* linux/wait.h; the C library has its name since 2.36 */
#ifndef CLONE_PIDFD
#define CLONE_PIDFD 0x00001000
#endif
#ifndef CLONE_INTO_CGROUP
#define CLONE_INTO_CGROUP 0x200000000ULL
#endif

#define STACK_SIZE (64 * 1024)
#define GUARD_SIZE (16 * 1024)
#define DEFAULT_PATH "/usr/local/bin:/usr/bin:/bin"

/* clone_args as of Linux 5.7; a kernel before it takes the first 64 bytes alone. */
struct clone3_args {
    uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
};
#define CLONE3_FIRST_SIZE 64

static int rung;

/* What a call works with. One set is kept for the next call; a call beside it makes its own. */
struct room {
    char *stack;
    char **words;
    size_t size;
};
static struct room kept;
static int kept_is_taken;

/* clone3(2) has no wrapper in the C library, and with a stack of its own the child cannot return from one. */
static long raw_clone3(struct clone3_args *args, size_t size, int (*function)(void *), void *argument) {
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
                     : "a"((long)SYS_clone3), "D"(args), "S"(size), "r"(fn), "r"(arg), [exit] "i"(SYS_exit)
                     : "rcx", "r11", "memory", "cc");
    return result;
#elif defined(__aarch64__)
    register long x0 __asm__("x0") = (long)args;
    register long x1 __asm__("x1") = (long)size;
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
    (void)size;
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
static int make_child(struct order *order, char *stack, int *pidfd) {
    const uint64_t flags = CLONE_VM | CLONE_VFORK;
    const int cgroup = order->request->cgroup;
    int *told = order->request->told;
    char *top = stack + GUARD_SIZE + STACK_SIZE;
    *pidfd = -1;
    if (rung == 0) {
        struct clone3_args args = {
            .flags = flags | CLONE_PIDFD | (cgroup >= 0 ? CLONE_INTO_CGROUP : 0) | (told ? CLONE_PARENT_SETTID : 0),
            .pidfd = (uint64_t)(uintptr_t)pidfd,
            .parent_tid = (uint64_t)(uintptr_t)told,
            .exit_signal = SIGCHLD,
            .stack = (uint64_t)(uintptr_t)(stack + GUARD_SIZE),
            .stack_size = STACK_SIZE,
            .cgroup = cgroup >= 0 ? (uint64_t)cgroup : 0,
        };
        size_t size = cgroup >= 0 ? sizeof args : CLONE3_FIRST_SIZE;
        long pid = raw_clone3(&args, size, ox_child_main, order);
        if (pid > 0 || !is_refusal((int)-pid))
            return (int)pid;
        rung = 1;
    }
    order->enter_cgroup = cgroup >= 0;
    if (rung == 1) {
        /* It has one place for the pidfd and the pid (clone(2)): so the child has its pid written as it begins to run
         * (schedule_tail in kernel/sched/core.c), in the kernel still. */
        const int settid = told ? CLONE_CHILD_SETTID : 0;
        int pid = clone(ox_child_main, top, (int)flags | settid | CLONE_PIDFD | SIGCHLD, order, pidfd, NULL, told);
        if (pid > 0 || !is_refusal(errno))
            return pid > 0 ? pid : -errno;
        rung = 2;
    }
    int pid = clone(ox_child_main, top, (int)flags | (told ? CLONE_PARENT_SETTID : 0) | SIGCHLD, order, told);
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

static int fill_words(struct order *order, struct room *room) {
    const struct ox_request *from = order->request;
    size_t needed = count_strings(from->argv, from->argv_size) + count_strings(from->env, from->env_size) +
                    count_strings(from->base, from->base_size) + OX_PID_NAMES + 2;
    if (needed > room->size) {
        char **grown = realloc(room->words, needed * sizeof *grown);
        if (!grown)
            return -ENOMEM;
        room->words = grown;
        room->size = needed;
    }
    char **at = room->words;
    order->argv = at;
    for (const char *text = from->argv; text < from->argv + from->argv_size; text += strlen(text) + 1)
        at = add_string(at, text);
    *at++ = NULL;
    order->envp = at;
    for (const char *name = from->pid_names; name < from->pid_names + from->pid_names_size; name += strlen(name) + 1) {
        if (order->npids == OX_PID_NAMES || strlen(name) > OX_PID_NAME)
            return -EINVAL;
        char *text = order->pids[order->npids++];
        at = add_string(at, text);
        while (*name)
            *text++ = *name++;
        *text++ = '=';
        *text = '\0';
    }
    for (const char *text = from->env; text < from->env + from->env_size; text += strlen(text) + 1)
        at = add_string(at, text);
    char **own = at;
    for (const char *text = from->base; text < from->base + from->base_size; text += strlen(text) + 1)
        if (!names_variable(order->envp, own, text))
            at = add_string(at, text);
    *at = NULL;
    order->path = DEFAULT_PATH;
    for (char **variable = order->envp; *variable; variable++)
        if (!strncmp(*variable, "PATH=", 5))
            order->path = *variable + 5;
    return 0;
}

static int prepare_stack(struct room *room) {
    if (room->stack)
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
    room->stack = got;
    return 0;
}

static void free_room(struct room *room) {
    if (room->stack)
        munmap(room->stack, GUARD_SIZE + STACK_SIZE);
    free(room->words);
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

/* Whether the numbers of its fds do. */
static int rise(const struct ox_request *request) {
    for (size_t i = 0; request->numbers && i < request->nfds; i++)
        if (request->numbers[i] < 0 || (i && request->numbers[i] <= request->numbers[i - 1]))
            return 0;
    return 1;
}

/* A child that changes its user takes the right to look into our memory from our own user (commit_creds in
 * kernel/cred.c: the memory is still ours as well), and debuggers with it; so it is given back. What it was is asked
 * while no such child is under way in another thread: one asked beside it would be told what that child has made it. */
static pthread_mutex_t rights_mutex = PTHREAD_MUTEX_INITIALIZER;
static int children_that_change, dumpable;

static void before_change(void) {
    pthread_mutex_lock(&rights_mutex);
    if (!children_that_change++)
        dumpable = prctl(PR_GET_DUMPABLE, 0, 0, 0, 0);
    pthread_mutex_unlock(&rights_mutex);
}

static void after_change(void) {
    pthread_mutex_lock(&rights_mutex);
    children_that_change--;
    if (dumpable == 1)
        prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
    pthread_mutex_unlock(&rights_mutex);
}

/* It has left our memory, so it is past its end: this wait is for microseconds. By its pidfd, since another thread may
 * have reaped it already, and its number be somebody else's. */
static void wait_for(int pid, int pidfd) {
    siginfo_t info;
    if (pidfd >= 0)
        while (waitid((idtype_t)P_PIDFD_VALUE, (id_t)pidfd, &info, WEXITED) < 0 && errno == EINTR)
            ;
    else
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
            ;
}

static int spawn(const struct ox_request *request, struct ox_child *child, struct room *room) {
    struct order order = {.request = request, .detail = -1};
    int error = prepare_stack(room);
    if (!error)
        error = fill_words(&order, room);
    if (error)
        return report(child, OX_STEP_MEMORY, -error);
    int changes = request->uid >= 0 || request->gid >= 0 || request->set_capabilities;
    if (changes)
        before_change();

    /* No handler of ours may run in a child that shares our memory. */
    uint64_t all = ~UINT64_C(0), before;
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &before, SIGNALS / 8);
    int pid = make_child(&order, room->stack, &child->pidfd);
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &before, NULL, SIGNALS / 8);

    if (changes)
        after_change();
    if (pid < 0)
        return report(child, OX_STEP_CLONE, -pid);
    if (order.step != OX_STEP_NONE) {
        int pidfd = child->pidfd;
        wait_for(pid, pidfd);
        report(child, order.step, order.error);
        child->detail = order.detail;
        if (pidfd >= 0)
            close(pidfd);
        return -order.error;
    }
    child->pid = pid;
    child->step = OX_STEP_NONE;
    child->error = 0;
    return 0;
}

int ox_spawn(const struct ox_request *request, struct ox_child *child) {
    if (!request->argv_size || !ends_with_nul(request->argv, request->argv_size) ||
        !ends_with_nul(request->env, request->env_size) || !ends_with_nul(request->base, request->base_size) ||
        !ends_with_nul(request->mounts, request->mounts_size) ||
        !ends_with_nul(request->pid_names, request->pid_names_size) || !rise(request))
        return report(child, OX_STEP_MEMORY, EINVAL);
    if (!__atomic_exchange_n(&kept_is_taken, 1, __ATOMIC_ACQUIRE)) {
        int result = spawn(request, child, &kept);
        __atomic_store_n(&kept_is_taken, 0, __ATOMIC_RELEASE);
        return result;
    }
    struct room own = {0};
    int result = spawn(request, child, &own);
    free_room(&own);
    return result;
}

int ox_spawn_rung(int wanted) {
    if (wanted >= 0)
        rung = wanted;
    return rung;
}
