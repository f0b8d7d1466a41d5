/* Between spawn.c (the parent), child.c (what runs between clone and exec) and sandbox.c (its rights). */
#ifndef OXMGR_SPAWN_H
#define OXMGR_SPAWN_H

#include "oxmgr.h"

#include <stddef.h>
#include <stdint.h>

#define SIGNALS 64

/* A sanitizer keeps notes on each stack frame; a child that executes never takes its notes back. */
#define IN_CHILD __attribute__((no_sanitize("address"), no_sanitize("undefined"), noinline))

/* The request as the child needs it, and what it tells of a failure. */
struct order {
    const struct ox_request *request;
    char **argv;
    char **envp;
    const char *path;
    char pids[OX_PID_NAMES][OX_PID_NAME + 16]; /* variables that the child completes with its pid */
    int npids;
    int enter_cgroup; /* it was not born in it */
    volatile int step;
    volatile int error;
    volatile int detail;
};

/* Runs as the child and returns only when it failed. */
int ox_child_main(void *order);

/* The steps that need rights. 0, or -1 with errno. */
int ox_enter_network(int network);
int ox_mount_all(const char *mounts, size_t size, volatile int *which);
int ox_set_oom_score(int adjustment);
int ox_set_groups(const struct ox_request *request);
int ox_bound_capabilities(const struct ox_request *request);
int ox_set_user(const struct ox_request *request);
int ox_set_capabilities(const struct ox_request *request);

#endif
