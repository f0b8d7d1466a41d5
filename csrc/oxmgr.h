/* The extension's whole interface. build.py hands what stands between the two marks to cffi.
 *
 * Functions return 0 or a count, or -errno; results come through pointers, which are left alone on failure
 * unless said otherwise. Nothing here keeps a pointer that it was given. One thread calls it.
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

/* What a child is to be. "Packed" strings have a NUL behind each and stand one behind the other.
 *
 * The child's environment is env, and of base what env does not name. argv[0] without a slash is looked up in the
 * child's own PATH, after the change to the folder. fds[i] becomes the child's fd i, and it gets no other. limits
 * holds nlimits triples of (resource, soft, hard). The child leads a session of its own, with every signal unblocked
 * and at its default action.
 *
 * With mounts, it has a mount namespace of its own, into which the host's later mounts come, and out of which none
 * goes. Each is a letter and a path: r, from there on read-only; t, an empty folder that anybody may write to (tmpfs);
 * h, an empty folder; n, /dev/null in its place. capabilities are the bits that it shall have and no others. */
struct ox_request {
    const char *argv, *env, *base; /* packed */
    size_t argv_size, env_size, base_size;
    const char *folder;
    const int *fds;
    size_t nfds;
    const uint64_t *limits;
    size_t nlimits;
    unsigned mask;      /* umask */
    int cgroup;         /* an fd of its folder in cgroup v2; -1: ours */
    int network;        /* an fd of a network namespace; -1: ours; -2: one of its own */
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

/* Returns 0 when the program runs, or -errno with child->step and child->error set. */
int ox_spawn(const struct ox_request *request, struct ox_child *child);

/* How children are made: 0 clone3 with a pidfd, born in their cgroup; 1 clone with a pidfd, entering their cgroup
 * before they execute; 2 the same, and then pidfd_open. It goes up by itself when the kernel or a seccomp filter
 * refuses a way. A rung >= 0 sets it. Returns the one in force. */
int ox_spawn_rung(int rung);

/* Reaps up to room children that have ended, whoever made them, and returns their number; room means: call again.*/
int ox_reap(struct ox_exit *exits, int room);

/* The exit of a process that is somebody else's child, through a pidfd on it (Linux 6.15, PIDFD_GET_INFO).
 * -EAGAIN: it has not been reaped yet. Other errors: this kernel cannot tell. */
int ox_pidfd_exit(int pidfd, struct ox_exit *exit);

/* Blocks the signals and returns a non-blocking, close-on-exec signalfd for them, or -errno. */
int ox_signalfd(const int *signals, int count);

/* Reads up to room signal numbers; 0 when none is pending. */
int ox_read_signals(int fd, int *signals, int room);

/* A non-blocking, close-on-exec timerfd on CLOCK_MONOTONIC, or -errno. */
int ox_timerfd(void);

/* Sets it to that moment of CLOCK_MONOTONIC; 0 disarms it. */
int ox_timerfd_set(int fd, int64_t nanoseconds);

/* --- logs --- */

/* Moves up to budget bytes from a pipe to a file at *offset, and *offset on. Returns how many; 0: there are none. */
int64_t ox_splice(int pipe, int file, int64_t *offset, int64_t budget);

/* The same for a target that takes no splice and has no offset (a device, a FIFO, a terminal); scratch are both ends of
 * a pipe that is empty. 0 also when a target that does not wait takes nothing now. */
int64_t ox_copy(int pipe, int target, const int *scratch, int64_t budget);

/* Takes up to about budget bytes out of a pipe and gives them to /dev/null. */
int64_t ox_discard(int pipe, int null, int64_t budget);

#define OX_CRI 1
#define OX_JSON 2
#define OX_LINE_LIMIT 16384 /* bytes of a line's text in one piece, as container runtimes have it */

/* stamp and stream are written as they stand, at most 64 bytes each. final: what has no newline is a line as well. */
struct ox_format {
    int kind;
    int final;
    const char *stamp;
    const char *stream;
};

/* Formats whole lines of `in` into `out` as far as there is room. Returns the bytes of out; *used those of in. */
int64_t ox_format(const struct ox_format *format, const char *in, int64_t size, char *out, int64_t room, int64_t *used);

/* The same from one file to another, some 100 KB a call. -errno: what was written up to then may be written again. */
int64_t ox_format_file(const struct ox_format *format, int from, int64_t from_offset, int to, int64_t to_offset,
                       int64_t *used);

/* cdef end */

#endif
