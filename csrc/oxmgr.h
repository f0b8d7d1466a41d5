/* The extension's whole interface. build.py hands what stands between the two marks to cffi.
 *
 * Functions return 0 or a count, or -errno; results come through pointers, which are left alone on failure
 * unless said otherwise. Nothing here keeps a pointer that it was given. One thread calls it, but for ox_spawn and
 * ox_watch_add.
 */
#ifndef OXMGR_H
#define OXMGR_H

#include <stddef.h>
#include <stdint.h>

/* cdef begin */

/* The step of a start that failed, in the order in which they are taken. */
enum {
    OX_STEP_NONE,
    OX_STEP_MEMORY,
    OX_STEP_CLONE,
    OX_STEP_SESSION,
    OX_STEP_TERMINAL,
    OX_STEP_SIGNALS,
    OX_STEP_CGROUP,
    OX_STEP_NETWORK,
    OX_STEP_MOUNTS,
    OX_STEP_FDS,
    OX_STEP_CLOSE,
    OX_STEP_NICE,
    OX_STEP_OOM,
    OX_STEP_LIMITS,
    OX_STEP_GROUPS,
    OX_STEP_BOUNDING,
    OX_STEP_PRIVILEGES,
    OX_STEP_USER,
    OX_STEP_CAPABILITIES,
    OX_STEP_FOLDER,
    OX_STEP_EXEC
};

#define OX_UNSET -1000000 /* a number of ox_request that is not to be set */
#define OX_FDS_MOST 512   /* fds that a child can get */
#define OX_PID_NAMES 2
#define OX_PID_NAME 16

/* What a child is to be. "Packed" strings have a NUL behind each and stand one behind the other.
 *
 * The child's environment is env, and of base what env does not name. argv[0] without a slash is looked up in the
 * child's own PATH, after the change to the folder. fds[i] becomes the child's fd i, or where numbers is given its fd
 * numbers[i], which rise, and it gets no other. Of pid_names, each is a variable that holds the child's own pid. limits
 * holds nlimits triples of (resource, soft, hard). The child leads a session of its own, with every signal unblocked
 * and at its default action; with a terminal that is our session's, a process group of our session instead, which that
 * terminal has in its foreground.
 *
 * With mounts, it has a mount namespace of its own, into which the host's later mounts come, and out of which none
 * goes. Each is a letter and a path: r, from there on read-only; t, an empty folder that anybody may write to (tmpfs);
 * h, an empty folder; n, /dev/null in its place. capabilities are the bits that it shall have and no others. */
struct ox_request {
    const char *argv, *env, *base; /* packed */
    size_t argv_size, env_size, base_size;
    const char *folder;
    const int *fds, *numbers; /* numbers: NULL for 0, 1, 2, … */
    size_t nfds;
    const char *pid_names; /* packed, OX_PID_NAMES at most, of OX_PID_NAME bytes at most */
    size_t pid_names_size;
    const uint64_t *limits;
    size_t nlimits;
    unsigned mask;      /* umask */
    int cgroup;         /* an fd of its folder in cgroup v2; -1: ours */
    int network;        /* an fd of a network namespace; -1: ours; -2: one of its own */
    int terminal;       /* an fd; -1: none */
    const char *mounts; /* packed */
    size_t mounts_size;
    int nice;          /* or OX_UNSET */
    int oom_score_adj; /* or OX_UNSET */
    int uid, gid;      /* -1: ours */
    const int *groups; /* with gid */
    size_t ngroups;
    int set_capabilities;
    uint64_t capabilities;
    int no_new_privileges;
    int *told; /* where the kernel writes the child's pid before that runs, in ox_notes; NULL: nowhere */
};

struct ox_child {
    int pid;
    int pidfd;  /* close-on-exec; -1 where the kernel or a filter has no pidfds */
    int step;   /* when ox_spawn failed: where, */
    int error;  /* with which errno, */
    int detail; /* and at which of the mounts */
};

struct ox_exit {
    int pid;
    int code;   /* the exit status, or -1 when a signal ended it */
    int signal; /* that signal, or 0 */
};

/* Returns 0 when the program runs, or -errno with child->step and child->error set. Calls may run beside each other in
 * several threads; child->pidfd is that of the child, which is not running its program yet, as soon as there is one. */
int ox_spawn(const struct ox_request *request, struct ox_child *child);

/* How children are made: 0 clone3 with a pidfd, born in their cgroup; 1 clone with a pidfd, entering their cgroup
 * before they execute; 2 the same, and then pidfd_open. It goes up by itself when the kernel or a seccomp filter
 * refuses a way. A rung >= 0 sets it. Returns the one in force. */
int ox_spawn_rung(int rung);

/* Reaps up to room children that have ended, whoever made them, and returns their number; room means: call again. Of
 * each it makes a note first, where ox_note_ends has said so. */
int ox_reap(struct ox_exit *exits, int room);

/* An end as a note in a file has it. */
struct ox_end {
    int pid;
    int status;    /* as of waitpid(2) */
    uint64_t when; /* nanoseconds of CLOCK_BOOTTIME at which it was known */
};

/* Has ox_reap write the `count` ends that there is room for at `offset` of the file, one behind the other and round
 * again, the next one at number `next`. fd -1: nowhere. */
void ox_note_ends(int fd, int64_t offset, unsigned count, unsigned next);

/* The memory of so many bytes of a file, shared, or NULL. Only the kernel may write there: where the disk is full, it
 * passes that over, and we would be ended by SIGBUS. */
void *ox_map(int fd, size_t size);

/* The exit of a process that is somebody else's child, through a pidfd on it (Linux 6.15, PIDFD_GET_INFO).
 * -EAGAIN: it has not been reaped yet. Other errors: this kernel cannot tell. */
int ox_pidfd_exit(int pidfd, struct ox_exit *exit);

/* A copy, close-on-exec, of an fd of another process; the right to trace that one is needed (pidfd_getfd(2), Linux 5.6).
 */
int ox_pidfd_getfd(int pidfd, int fd);

/* Blocks the signals and returns a non-blocking, close-on-exec signalfd for them, or -errno. */
int ox_signalfd(const int *signals, int count);

/* Reads up to room signal numbers; 0 when none is pending. */
int ox_read_signals(int fd, int *signals, int room);

/* A non-blocking, close-on-exec timerfd on CLOCK_MONOTONIC, or -errno. */
int ox_timerfd(void);

/* Sets it to that moment of CLOCK_MONOTONIC; 0 disarms it. */
int ox_timerfd_set(int fd, int64_t nanoseconds);

/* A non-blocking, close-on-exec timerfd on CLOCK_REALTIME, or -errno. */
int ox_wall_timerfd(void);

/* Sets it to that moment of CLOCK_REALTIME; 0 disarms it. It is readable as well, and a read of it fails with ECANCELED,
 * when that clock was set, or the machine slept; -ECANCELED: just now, and it is armed all the same. */
int ox_wall_timerfd_set(int fd, int64_t nanoseconds);

/* --- what is watched --- */

/* A non-blocking, close-on-exec inotify fd, or -errno. */
int ox_watch(void);

/* Has it tell of what is made, moved or removed in a folder, and with `written` of what is written to the end in it.
 * Returns the number by which its events name the folder, the same for one that it knows, of which it then tells no
 * less than before; or -errno, -ENOTDIR where it is none. */
int ox_watch_add(int fd, const char *folder, int written);

int ox_watch_remove(int fd, int number);

#define OX_WATCH_HEAD 16 /* bytes of struct inotify_event before the name: int wd; uint32_t mask, cookie, len */

#define OX_WATCH_WRITTEN 0x8
#define OX_WATCH_MOVED_FROM 0x40
#define OX_WATCH_MOVED_TO 0x80
#define OX_WATCH_MADE 0x100
#define OX_WATCH_REMOVED 0x200
#define OX_WATCH_SELF_REMOVED 0x400
#define OX_WATCH_SELF_MOVED 0x800
#define OX_WATCH_OVERFLOW 0x4000
#define OX_WATCH_FORGOTTEN 0x8000
#define OX_WATCH_FOLDER 0x40000000

/* --- sockets --- */

/* Whether a process has one of these sockets open, by their inodes. Looks at *budget fds at most, and counts them off.
 * Returns 1, 0, -EAGAIN when there are more, or -errno where it cannot be looked at. */
int ox_has_socket(int pid, const uint64_t *inodes, int count, int64_t *budget);

/* --- logs --- */

/* Moves up to budget bytes from a pipe to a file at *offset, and *offset on. Returns how many; 0: there are none. */
int64_t ox_splice(int pipe, int file, int64_t *offset, int64_t budget);

/* The same for a file that takes no splice; scratch are both ends of a pipe that is empty. A kill may double some. */
int64_t ox_copy(int pipe, int file, int64_t *offset, const int *scratch, int64_t budget);

/* How many bytes of a pipe the first line in it has, with its newline; 0: it has no end yet. They stay in the pipe. */
int64_t ox_line_end(int pipe, const int *scratch);

/* Takes up to about budget bytes out of a pipe and gives them to /dev/null. */
int64_t ox_discard(int pipe, int null, int64_t budget);

/* Gives the room of these bytes of a file back; they read as zeros. */
int ox_punch(int file, int64_t offset, int64_t size);

#define OX_RAW 0
#define OX_CRI 1
#define OX_JSON 2
#define OX_PREFIXED 3

#define OX_LINE_LIMIT 16384 /* bytes of a line's text in one piece, as container runtimes have it */
#define OX_BLOCK 65536      /* bytes that ox_format_file takes a call, at most */

/* Where in a line a block begins or ends. */
#define OX_BETWEEN 0
#define OX_KEPT 1    /* in one whose beginning was written */
#define OX_DROPPED 2 /* in one whose beginning was dropped */

/* stamp and stream are written as they stand, at most 64 bytes each; with OX_PREFIXED, stream is the prefix. final:
 * what has no newline is a line as well. limit: bytes of a line's text in one piece, at least 4, for pieces end between
 * characters. allowed: lines that are written, those behind them are dropped; -1: all. inside: where in a line the
 * block begins. notice: a line of ours that goes before, at most 256 bytes, or NULL. */
struct ox_format {
    int kind;
    int final;
    int inside;
    int64_t limit;
    int64_t allowed;
    const char *stamp;
    const char *stream;
    const char *notice;
};

/* used: bytes of the input that are done with; lines: how many were written; dropped: how many were not. */
struct ox_formatted {
    int64_t used;
    int64_t lines;
    int64_t dropped;
    int inside;
};

/* Formats whole lines of `in` into `out` as far as there is room. Returns the bytes of out. */
int64_t ox_format(const struct ox_format *format, const char *in, int64_t size, char *out, int64_t room,
                  struct ox_formatted *done);

/* The same from one file to another. -errno: what was written up to then is to be written again. */
int64_t ox_format_file(const struct ox_format *format, int from, int64_t from_offset, int64_t size, int to,
                       int64_t to_offset, struct ox_formatted *done);

/* Sends each line to journald's socket, a datagram each: fields (of its native protocol), then MESSAGE. One that is too
 * large goes as a memfd. Returns 0; 1: journald takes no more now, and done->used says how far it came; or -errno. */
int ox_send_lines(const struct ox_format *format, int journal, const char *fields, int64_t fields_size, const char *in,
                  int64_t size, struct ox_formatted *done);

/* cdef end */

#endif
