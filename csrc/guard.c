/* The daemon's parent: starts it again when it dies, keeps copies of its fds, reaps what it has left, passes signals
 * on. It knows nothing of apps.
 *
 *     oxmgr-guard STATE TOLD DAEMON [WORD...]
 *     oxmgr-guard check
 *
 * STATE is the fd of what an earlier guard has left (guard.h), TOLD that of a pipe to keep under the name "told", by
 * which the daemon answers whoever has started us; "-" for none. The daemon gets its end of the socketpair as fd
 * OX_GUARD_FD. `check` prints OX_GUARD_VERSION: of which version a state has to be.
 *
 * Nothing is allocated after the start: every table has its place.
 */
#include "guard.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/reboot.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

#include "guard_kernel.h"
#include "guard_rest.h"

#define LIVED_WELL 1000 /* milliseconds: who dies sooner is started again with a delay from the second time on */
#define DELAY_FIRST 10
#define DELAY_MOST 5000
#define OOM_SCORE_ADJ "-900"
#define FDS_SPARE 6       /* that nothing is kept in: a socketpair, a file of /proc, what a replacement takes */
#define MESSAGES_MOST 256 /* read in a row: a daemon that never stops talking holds up nothing else */
#define WORDS_SIZE 16384  /* of a command line */
#define WORDS_MOST 128
#define LINE_(number) #number "\n"
#define LINE(number) LINE_(number)
#define VERSION_LINE LINE(OX_GUARD_VERSION)

/* All that can be caught, but those that a fault of our own raises. */
#define HEARD                                                                                                          \
    (~(BIT(SIGKILL) | BIT(SIGSTOP) | BIT(SIGSEGV) | BIT(SIGBUS) | BIT(SIGFPE) | BIT(SIGILL) | BIT(SIGTRAP) |           \
       BIT(SIGSYS) | BIT(SIGABRT) | BIT(SIGTTIN) | BIT(SIGTTOU) | BIT(SIGPIPE)))

static struct ox_kept kept[OX_KEPT_MOST];
static uint32_t kept_end; /* the places from here on were never used */
static struct ox_guard_exit exits[OX_EXITS_MOST];
static uint64_t exits_first, exits_told, exits_end; /* counted from the start: a place is the number modulo the room */

static char **daemon_argv, **environment;
static struct rlimit files;
static char oom_score_adj[16];
static int daemon_pid, daemon_socket = -1, signals_fd = -1;
static int64_t started_at;
static int deaths;       /* soon after the start, in a row */
static int came_up;      /* this daemon has said hello */
static int answered;     /* one has come up */
static int above;        /* all that we know is the daemon's pid, for it is becoming the guard (take_daemon) */
static int64_t due = -1; /* when the next one is started; -1: it runs */
static int ending, ending_code;
static int64_t ending_grace;
static uint64_t signals, from_kernel;                   /* to be told of */
static int stopping;                                    /* SIGTERM has come: also the next daemon is told */
static enum { QUIET, BEGINNING, LISTING } saying_hello; /* LISTING: what is kept, from `next_kept` on, then all exits */
static uint32_t next_kept, told_kept;

/* ---- what is kept ---- */

static uint32_t hash(const char *name) {
    uint32_t value = 2166136261u; /* FNV-1a */
    while (*name)
        value = (value ^ (unsigned char)*name++) * 16777619u;
    return value;
}

static struct ox_kept *find(const char *name) {
    uint32_t wanted = hash(name);
    for (uint32_t i = 0; i < kept_end; i++)
        if (kept[i].fd >= 0 && kept[i].hash == wanted && !memcmp(kept[i].name, name, strlen(name) + 1))
            return &kept[i];
    return NULL;
}

static int keep(const char *name, int fd) {
    struct ox_kept *place = find(name);
    if (place) {
        close_fd(place->fd);
    } else {
        uint32_t i = 0;
        while (i < kept_end && kept[i].fd >= 0)
            i++;
        if (i == OX_KEPT_MOST)
            return ENOSPC;
        /* The kernel gives the lowest number that is free. */
        if ((rlim_t)fd + FDS_SPARE >= files.rlim_max)
            return EMFILE;
        if (i == kept_end)
            kept_end++;
        place = &kept[i];
    }
    place->hash = hash(name);
    memcpy(place->name, name, strlen(name) + 1);
    place->fd = fd;
    return 0;
}

static void forget(const char *name) {
    struct ox_kept *place = find(name);
    if (place) {
        close_fd(place->fd);
        place->fd = -1;
    }
}

/* ---- to the daemon ---- */

/* Whether it was taken; `fd` goes with it if it is not negative. */
static int send_message(const struct ox_guard_message *message, int fd) {
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec part = {(void *)message, sizeof *message};
    struct msghdr packet = {.msg_iov = &part, .msg_iovlen = 1};
    if (fd >= 0) {
        memset(&control, 0, sizeof control);
        control.header =
            (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
        memcpy(CMSG_DATA(&control.header), &fd, sizeof fd);
        packet.msg_control = &control;
        packet.msg_controllen = sizeof control.room;
    }
    return CALL(SYS_sendmsg, daemon_socket, &packet, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0;
}

static int is_owed(void) {
    return came_up && (saying_hello || exits_told < exits_end || signals);
}

/* Whether all were taken. */
static int tell_kept(void) {
    for (; next_kept < kept_end; next_kept++) {
        if (kept[next_kept].fd < 0)
            continue;
        struct ox_guard_message message = {.kind = OX_KEPT};
        memcpy(message.name, kept[next_kept].name, OX_KEPT_NAME);
        if (!send_message(&message, kept[next_kept].fd))
            return 0;
        told_kept++;
    }
    return 1;
}

static int tell_exits(void) {
    for (; exits_told < exits_end; exits_told++) {
        const struct ox_guard_exit *one = &exits[exits_told % OX_EXITS_MOST];
        struct ox_guard_message message = {.kind = OX_EXIT, .value = one->pid, .a = one->status, .b = one->ticks};
        if (!send_message(&message, -1))
            return 0;
    }
    return 1;
}

static int say_hello(void) {
    if (saying_hello == BEGINNING) {
        struct ox_guard_message message = {.kind = OX_BEGINS};
        if (!send_message(&message, -1))
            return 0;
        saying_hello = LISTING;
    }
    if (!tell_kept() || !tell_exits())
        return 0;
    struct ox_guard_message message = {
        .kind = OX_LISTED, .value = (int32_t)told_kept, .a = OX_GUARD_VERSION, .b = (uint64_t)CALL(SYS_getpid, 0)};
    if (stopping)
        memcpy(message.name, OX_STOPPING, sizeof OX_STOPPING);
    if (!send_message(&message, -1))
        return 0;
    saying_hello = QUIET;
    return 1;
}

/* All that it is owed, as far as it takes it. */
static void tell(void) {
    if ((saying_hello && !say_hello()) || !tell_exits())
        return;
    for (int number = 1; number <= 64 && signals; number++)
        if (signals & BIT(number)) {
            struct ox_guard_message message = {
                .kind = OX_SIGNAL, .value = number, .a = (from_kernel & BIT(number)) != 0};
            if (!send_message(&message, -1))
                return;
            signals &= ~BIT(number);
            from_kernel &= ~BIT(number);
        }
}

/* ---- the daemon ---- */

static __attribute__((noreturn)) void become_daemon(int end) {
    uint64_t none = 0;
    struct {
        void *handler;
        unsigned long flags, restorer, mask;
    } standard = {SIG_DFL, 0, 0, 0};
    /* A group of its own: what a terminal sends comes through us, and not twice. */
    CALL(SYS_setpgid, 0, 0);
    /* Whatever we were started with; but it may print to a terminal that another group has. */
    for (int number = 1; number <= 64; number++)
        if (number != SIGTTOU)
            CALL(SYS_rt_sigaction, number, &standard, 0, SIGNALS_SIZE);
    CALL(SYS_rt_sigprocmask, SIG_SETMASK, &none, 0, SIGNALS_SIZE);
    CALL(SYS_prlimit64, 0, RLIMIT_NOFILE, &files, 0);
    int fd = (int)CALL(SYS_openat, AT_FDCWD, "/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd >= 0)
        CALL(SYS_write, fd, oom_score_adj, strlen(oom_score_adj));
    if (end == OX_GUARD_FD)
        set_cloexec(end, 0);
    else if (CALL(SYS_dup3, end, OX_GUARD_FD, 0) < 0)
        leave(126);
    CALL(SYS_execve, daemon_argv[0], daemon_argv, environment);
    say("oxmgr: cannot execute ");
    say(daemon_argv[0]);
    say("\n");
    leave(127);
}

static void start_daemon(void) {
    int ends[2];
    due = -1;
    above = 0;
    started_at = now_ms();
    if (CALL(SYS_socketpair, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) < 0) {
        due = started_at + DELAY_MOST;
        return;
    }
    long pid = CALL(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (pid == 0)
        become_daemon(ends[1]);
    close_fd(ends[1]);
    if (pid < 0) {
        close_fd(ends[0]);
        due = started_at + DELAY_MOST;
        return;
    }
    daemon_pid = (int)pid;
    daemon_socket = ends[0];
}

static void hang_up(void) {
    if (daemon_socket >= 0)
        close_fd(daemon_socket);
    daemon_socket = -1;
    came_up = 0;
    saying_hello = QUIET;
}

static int listen_to_daemon(void);

/* Whoever has started us has gone without an answer: the pipe has no reader any more (poll(2), POLLERR). */
static int is_forsaken(void) {
    const struct ox_kept *told = find("told");
    struct pollfd one = {.fd = told ? told->fd : -1, .events = POLLOUT};
    struct timespec now = {0, 0};
    return CALL(SYS_ppoll, &one, 1, &now, 0, SIGNALS_SIZE) == 1 && (one.revents & POLLERR);
}

static void end_with(int code) {
    ending = 1;
    ending_code = code;
}

static void on_daemon_end(int status) {
    daemon_pid = 0;
    /* What it said last, and above all that it ends on purpose. */
    while (daemon_socket >= 0 && listen_to_daemon())
        continue;
    hang_up();
    int64_t now = now_ms();
    int ended_by_itself = (status & 0x7F) == 0;
    if (!ending && !answered && ended_by_itself)
        /* It cannot start, and has said why. */
        end_with(status >> 8);
    if (!ending && !answered && is_forsaken()) {
        say("oxmgr: the daemon is killed by a signal at each start, and nobody waits for it any more\n");
        end_with(128 + (status & 0x7F));
    }
    if (ending)
        return;
    deaths = now - started_at < LIVED_WELL ? deaths + 1 : 0;
    int64_t delay = 0;
    if (deaths > 1) {
        delay = deaths < 12 ? (int64_t)DELAY_FIRST << (deaths - 2) : DELAY_MOST;
        delay = delay < DELAY_MOST ? delay : DELAY_MOST;
    }
    due = now + delay;
}

/* ---- ends ---- */

/* Every child that has ended; where there is no room to remember more of them, the kernel does. */
static void reap(void) {
    siginfo_t info;
    info.si_pid = 0;
    if (daemon_pid && CALL(SYS_waitid, P_PID, daemon_pid, &info, WEXITED | WNOHANG, 0) == 0 && info.si_pid)
        on_daemon_end(status_of(&info));
    while (exits_end - exits_first < OX_EXITS_MOST) {
        info.si_pid = 0;
        if (CALL(SYS_waitid, P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT, 0) < 0 || !info.si_pid)
            return;
        int pid = info.si_pid;
        if (pid == daemon_pid) {
            CALL(SYS_waitid, P_PID, pid, &info, WEXITED | WNOHANG, 0);
            on_daemon_end(status_of(&info));
            continue;
        }
        /* Its start time can be read as long as it is not reaped. */
        exits[exits_end++ % OX_EXITS_MOST] =
            (struct ox_guard_exit){.pid = pid, .status = status_of(&info), .ticks = ticks_of(pid)};
        CALL(SYS_waitid, P_PID, pid, &info, WEXITED | WNOHANG, 0);
        if (above)
            /* Nobody asks. */
            exits_first = exits_told = exits_end;
    }
}

/* ---- one guard after another ---- */

static void set_all_cloexec(int on) {
    for (uint32_t i = 0; i < kept_end; i++)
        if (kept[i].fd >= 0)
            set_cloexec(kept[i].fd, on);
    if (daemon_socket >= 0)
        set_cloexec(daemon_socket, on);
}

/* Execute a guard's program with all that we have; the errno when that cannot be. `from` holds its words. */
static int replace(int from, int count) {
    static char text[WORDS_SIZE], *words[WORDS_MOST + 1], nothing[] = "-", digits[12];
    long size = CALL(SYS_pread64, from, text, sizeof text - 1, 0);
    int at = 0;
    text[size > 0 ? size : 0] = 0;
    for (long i = 0; i < size && at < WORDS_MOST; i += (long)strlen(text + i) + 1)
        words[at++] = text + i;
    int file = (int)CALL(SYS_memfd_create, "oxmgr-guard", 0);
    /* What is longer than there is room for was cut, and is not what was meant. */
    if (file < 0 || count < 4 || at != count || size > (long)sizeof text - 2) {
        close_fd(file);
        return file < 0 ? -file : count > WORDS_MOST || size > (long)sizeof text - 2 ? E2BIG : EINVAL;
    }
    words[at] = NULL;
    struct ox_guard_head head = {.magic = OX_GUARD_MAGIC,
                                 .daemon = daemon_pid,
                                 .socket = daemon_socket,
                                 .files_soft = files.rlim_cur,
                                 .files_hard = files.rlim_max,
                                 .kept = kept_end,
                                 .exits = (uint32_t)(exits_end - exits_first),
                                 .signals = signals,
                                 .stopping = stopping,
                                 .told = (uint32_t)(exits_told - exits_first)};
    memcpy(head.oom_score_adj, oom_score_adj, sizeof oom_score_adj);
    long why = -ENOSPC;
    int fine = write_all(file, &head, sizeof head) && write_all(file, kept, kept_end * sizeof *kept);
    for (uint64_t i = exits_first; fine && i < exits_end; i++)
        fine = write_all(file, &exits[i % OX_EXITS_MOST], sizeof *exits);
    if (fine) {
        words[1] = digits + sizeof digits - 1;
        for (int left = file; left > 0; left /= 10)
            *--words[1] = (char)('0' + left % 10);
        words[2] = nothing;
        CALL(SYS_lseek, file, 0, SEEK_SET);
        /* Signals stay blocked, so that none is lost on the way. */
        set_all_cloexec(0);
        why = CALL(SYS_execve, words[0], words, environment);
        set_all_cloexec(1);
    }
    close_fd(file);
    return (int)-why;
}

/* The state is none that we understand, but who the daemon is. Another one beside it would start all apps a second
 * time, and if we are process 1 our end would end them: so we are but its parent. All that was kept is closed, by
 * which it hears that it has lost its guard, and becomes one; it has its own copies. Its end is ours. */
static int take_daemon(int pid) {
    siginfo_t info;
    if (pid <= 0 || CALL(SYS_waitid, P_PID, pid, &info, WEXITED | WNOHANG | WNOWAIT, 0) < 0)
        return 0;
    for (int fd = 3; fd < OX_KEPT_MOST + 64; fd++)
        close_fd(fd);
    kept_end = 0;
    daemon_pid = pid;
    above = 1;
    say("oxmgr: the guard does not understand what the one before has left, and leaves all to the daemon\n");
    return 1;
}

static int take_state(int file) {
    struct ox_guard_head head;
    memset(&head, 0, sizeof head);
    if (!read_all(file, &head, sizeof head) || memcmp(head.magic, OX_GUARD_MAGIC, sizeof head.magic) ||
        head.kept > OX_KEPT_MOST || head.exits > OX_EXITS_MOST || head.told > head.exits ||
        !read_all(file, kept, head.kept * sizeof *kept) || !read_all(file, exits, head.exits * sizeof *exits)) {
        CALL(SYS_prlimit64, 0, RLIMIT_NOFILE, 0, &files);
        return !memcmp(head.magic, OX_GUARD_MAGIC, sizeof head.magic - 1) && take_daemon(head.daemon);
    }
    kept_end = head.kept;
    for (uint32_t i = 0; i < kept_end; i++)
        kept[i].name[OX_KEPT_NAME - 1] = 0;
    exits_end = head.exits;
    exits_told = head.told;
    daemon_pid = head.daemon;
    daemon_socket = head.socket;
    files.rlim_cur = head.files_soft;
    files.rlim_max = head.files_hard;
    signals = head.signals;
    stopping = head.stopping;
    memcpy(oom_score_adj, head.oom_score_adj, sizeof oom_score_adj);
    oom_score_adj[sizeof oom_score_adj - 1] = 0;
    answered = 1;
    came_up = daemon_pid != 0;
    set_all_cloexec(1);
    close_fd(file);
    return 1;
}

/* ---- what the daemon says ---- */

static void refuse(const struct ox_guard_message *message, int why) {
    struct ox_guard_message refused = {.kind = OX_REFUSED, .value = why, .a = message->kind};
    memcpy(refused.name, message->name, OX_KEPT_NAME);
    send_message(&refused, -1);
}

/* `fd` came with it or is negative; whether it is kept. */
static int obey(struct ox_guard_message *message, int fd) {
    switch (message->kind) {
    case OX_HELLO:
        came_up = 1;
        saying_hello = BEGINNING;
        next_kept = message->value == 1 ? kept_end : 0;
        told_kept = 0;
        exits_told = exits_first;
        if (stopping && message->value != 1)
            signals |= BIT(SIGTERM);
        break;
    case OX_KEEP: {
        if (!message->name[0])
            break;
        int why = fd < 0 ? EMFILE : keep(message->name, fd);
        if (why)
            refuse(message, why);
        return !why;
    }
    case OX_FORGET:
        forget(message->name);
        break;
    case OX_TAKEN:
        if (message->value > 0 && (uint64_t)message->value <= exits_told - exits_first)
            exits_first += (uint64_t)message->value;
        break;
    case OX_ANSWERS:
        answered = 1;
        break;
    case OX_END:
        end_with(message->value & 0xFF);
        ending_grace = message->a;
        break;
    case OX_REPLACE:
        if (fd >= 0 && daemon_pid)
            refuse(message, replace(fd, message->value));
        break;
    default:
        break;
    }
    return 0;
}

/* Whether there may be more. */
static int listen_to_daemon(void) {
    for (int messages = 0; messages < MESSAGES_MOST; messages++) {
        struct ox_guard_message message;
        union {
            struct cmsghdr header;
            char room[CMSG_SPACE(8 * sizeof(int))];
        } control;
        struct iovec part = {&message, sizeof message};
        struct msghdr packet = {
            .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
        long got = CALL(SYS_recvmsg, daemon_socket, &packet, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        /* ECONNRESET is told once, before all that it had said, when it ended without having read all that we said. */
        if (got == -EINTR || got == -ECONNRESET)
            continue;
        if (got <= 0) {
            if (!got)
                /* It has closed its end, and most likely ends; if not, it is told of nothing any more. */
                hang_up();
            return 0;
        }
        int first = -1, count = 0;
        for (struct cmsghdr *one = CMSG_FIRSTHDR(&packet); one; one = NULL)
            if (one->cmsg_level == SOL_SOCKET && one->cmsg_type == SCM_RIGHTS) {
                count = (int)((one->cmsg_len - CMSG_LEN(0)) / sizeof(int));
                for (int i = 0; i < count; i++) {
                    int fd;
                    memcpy(&fd, CMSG_DATA(one) + (size_t)i * sizeof fd, sizeof fd);
                    if (i == 0)
                        first = fd;
                    else
                        close_fd(fd);
                }
            }
        int fine = got == (long)sizeof message && !(packet.msg_flags & MSG_TRUNC) && count <= 1;
        message.name[OX_KEPT_NAME - 1] = 0;
        int taken = fine && obey(&message, first);
        if (!taken && first >= 0)
            close_fd(first);
        if (daemon_socket < 0)
            return 0;
    }
    return 1;
}

static void listen_to_signals(void) {
    struct signalfd_siginfo info;
    while (CALL(SYS_read, signals_fd, &info, sizeof info) == (long)sizeof info) {
        if (info.ssi_signo == SIGCHLD)
            continue;
        if (above && daemon_pid) {
            CALL(SYS_kill, daemon_pid, info.ssi_signo);
            continue;
        }
        signals |= BIT(info.ssi_signo);
        if (info.ssi_code == SI_KERNEL)
            from_kernel |= BIT(info.ssi_signo);
        if (info.ssi_signo == SIGTERM)
            stopping = 1;
    }
}

/* ---- the whole ---- */

/* What the daemon is to have is what we had, unless an earlier guard has said so. */
static void lower_oom_score(void) {
    int fd = (int)CALL(SYS_openat, AT_FDCWD, "/proc/self/oom_score_adj", O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return;
    if (!oom_score_adj[0]) {
        long got = CALL(SYS_read, fd, oom_score_adj, sizeof oom_score_adj - 1);
        oom_score_adj[got > 0 ? got : 0] = 0;
    }
    CALL(SYS_pwrite64, fd, OOM_SCORE_ADJ, sizeof OOM_SCORE_ADJ - 1, 0);
    close_fd(fd);
}

static int run(int argc, char **argv, char **envp) {
    open_standard_files();
    if (argc == 2 && !memcmp(argv[1], "check", sizeof "check"))
        return CALL(SYS_write, 1, VERSION_LINE, sizeof VERSION_LINE - 1) < 0;
    if (argc < 4) {
        say("usage: oxmgr-guard STATE TOLD DAEMON [WORD...]; oxmgr starts it\n");
        return 2;
    }
    daemon_argv = argv + 3;
    environment = envp;
    uint64_t heard = HEARD;
    struct {
        void *handler;
        unsigned long flags, restorer, mask;
    } ignore = {SIG_IGN, 0, 0, 0};
    CALL(SYS_rt_sigprocmask, SIG_SETMASK, &heard, 0, SIGNALS_SIZE);
    CALL(SYS_rt_sigaction, SIGTTOU, &ignore, 0, SIGNALS_SIZE);
    CALL(SYS_rt_sigaction, SIGTTIN, &ignore, 0, SIGNALS_SIZE);
    CALL(SYS_rt_sigaction, SIGPIPE, &ignore, 0, SIGNALS_SIZE);
    CALL(SYS_prctl, PR_SET_CHILD_SUBREAPER, 1);
    if (is_machines_init())
        /* Ctrl-Alt-Del is a SIGINT to us then, and does not reset the machine at once (reboot(2)). */
        CALL(SYS_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_CAD_OFF, 0);
    int state = number(argv[1]), told = number(argv[2]);
    if (state < 0) {
        CALL(SYS_prlimit64, 0, RLIMIT_NOFILE, 0, &files);
    } else if (!take_state(state)) {
        say("oxmgr: the guard does not understand what the one before has left\n");
        return 1;
    }
    lower_oom_score();
    struct rlimit most = {files.rlim_max, files.rlim_max};
    CALL(SYS_prlimit64, 0, RLIMIT_NOFILE, &most, 0);
    if (told >= 0) {
        set_cloexec(told, 1);
        keep("told", told);
    }
    signals_fd = (int)CALL(SYS_signalfd4, -1, &heard, SIGNALS_SIZE, SFD_NONBLOCK | SFD_CLOEXEC);
    if (signals_fd < 0)
        return 1;
    if (!daemon_pid)
        start_daemon();
    for (;;) {
        reap();
        if (ending && !daemon_pid) {
            end_the_rest(signals_fd, ending_grace);
            if (is_machines_init())
                switch_off(signals_fd, ending_code);
            return ending_code;
        }
        if (due >= 0 && now_ms() >= due)
            start_daemon();
        if (came_up)
            tell();
        int64_t left = due >= 0 ? due - now_ms() : 0;
        struct timespec wait = {left > 0 ? left / 1000 : 0, left > 0 ? left % 1000 * 1000000 : 0};
        struct pollfd fds[2] = {{.fd = signals_fd, .events = POLLIN},
                                {.fd = daemon_socket, .events = (short)(POLLIN | (is_owed() ? POLLOUT : 0))}};
        if (CALL(SYS_ppoll, fds, 2, due >= 0 ? &wait : NULL, 0, SIGNALS_SIZE) < 0)
            continue;
        if (fds[0].revents)
            listen_to_signals();
        if (fds[1].revents && daemon_socket >= 0)
            listen_to_daemon();
    }
}

#ifdef WITH_LIBC
int main(int argc, char **argv, char **envp) {
    return run(argc, argv, envp);
}
#else
/* System V ABI, "Process Initialization": the stack begins with argc, argv, NULL, envp. */
__attribute__((noreturn, used)) static void begin(long *stack) {
    char **argv = (char **)(stack + 1);
    leave(run((int)stack[0], argv, argv + stack[0] + 1));
}

#if defined(__x86_64__)
__asm__(".globl _start\n_start: xor %ebp, %ebp\n mov %rsp, %rdi\n and $-16, %rsp\n call begin\n");
#else
__asm__(".globl _start\n_start: mov x29, #0\n mov x30, #0\n mov x0, sp\n bl begin\n");
#endif
#endif
