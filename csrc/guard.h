/* What the guard and the daemon say to each other, and what a guard leaves to the one that takes its place.
 *
 * A socketpair of SOCK_SEQPACKET, a message a packet, all of one size. The daemon says OX_HELLO and is told
 * OX_BEGINS, all that is kept (OX_KEPT each, with the fd), every exit that no daemon has taken note of yet, then OX_LISTED;
 * from then on of exits and signals as they come. Who was executed in the place of another daemon passes over the exits
 * that come before OX_BEGINS, for they are told again. Both sides never wait for each other: what the guard cannot send
 * now it still knows later.
 */
#ifndef OXMGR_GUARD_H
#define OXMGR_GUARD_H

#include <stdint.h>

#define OX_GUARD_VERSION 1
#define OX_KEPT_NAME 88   /* bytes of a name with its final NUL */
#define OX_KEPT_MOST 4096 /* fds */
#define OX_EXITS_MOST 4096
#define OX_STOPPING "stopping"
#define OX_GUARD_FD 3 /* the daemon's end of the socketpair */

enum ox_guard_kind {
    /* From the daemon. */
    OX_HELLO = 1,   /* `value` is 1: only the exits are asked for, for it has the fds */
    OX_KEEP = 2,    /* `name`, with one fd; one that is kept under that name is closed */
    OX_FORGET = 3,  /* `name` */
    OX_TAKEN = 4,   /* of the exits that it was told of since OX_BEGINS, the next `value` are on record */
    OX_END = 5,     /* it ends on purpose: the guard ends with the code `value`, after a grace of `a` milliseconds for
                       what is left where the guard is process 1 */
    OX_REPLACE = 6, /* execute a guard's program: with the fd of a file of its `value` words, NUL after each */
    OX_ANSWERS = 7, /* it is up: from now on its end is a death, before it was a start that failed */
    /* From the guard. */
    OX_KEPT = 16,   /* `name`, with the fd */
    OX_LISTED = 17, /* that were all: `value` of them; `a` is the guard's OX_GUARD_VERSION, `b` its pid; `name` is
                       OX_STOPPING when SIGTERM has come, of which it is told again */
    OX_EXIT = 18,   /* `value` is the pid, `a` the status as of waitpid(2), `b` when it began, in clock ticks after boot
                        (field 22 of proc(5)'s stat), 0 when that is not known */
    OX_SIGNAL = 19, /* `value` was sent to the guard; `a` is 1 when the kernel sent it (a key of the terminal) */
    OX_REFUSED = 20, /* of a message of the kind `a`: `name` is not kept, or nobody takes our place; `value` is the
                        errno */
    OX_BEGINS = 21,  /* what follows answers OX_HELLO */
};

struct ox_guard_message {
    uint32_t kind;
    int32_t value;
    int64_t a;
    uint64_t b;
    char name[OX_KEPT_NAME];
};

struct ox_kept {
    uint32_t hash;
    int32_t fd; /* -1: the place is free */
    char name[OX_KEPT_NAME];
};

struct ox_guard_exit {
    int32_t pid;
    int32_t status;
    uint64_t ticks;
};

/* A file in memory, for a guard that begins with what another had: this head, the kept fds, the exits that no daemon
 * has taken note of. Where it changes, so does OX_GUARD_VERSION; but `magic`, whose last digit it is, and `daemon` stay
 * as they are. */
#define OX_GUARD_MAGIC "oxguard1"
struct ox_guard_head {
    char magic[8];
    int32_t daemon; /* its pid, 0: it is to be started */
    int32_t socket;
    uint64_t files_soft, files_hard; /* the limit on open files that the daemon is to have */
    uint32_t kept, exits;
    uint64_t signals;       /* a bit each, still to be told of */
    char oom_score_adj[16]; /* what the daemon is to have */
    int32_t stopping;
    uint32_t told; /* of the exits, so many were told to the daemon that is there */
};

#endif
