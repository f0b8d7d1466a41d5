/* Whose a socket is: proc(5), /proc/PID/fd. */
#include "oxmgr.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Some 80 entries: the kernel makes an inode for each that it lists, whether it is looked at or not. */
#define LISTED 2048

static int is_one_of(const char *target, const uint64_t *inodes, int count) {
    if (strncmp(target, "socket:[", 8))
        return 0;
    uint64_t inode = strtoull(target + 8, NULL, 10);
    for (int i = 0; i < count; i++)
        if (inodes[i] == inode)
            return 1;
    return 0;
}

static int look_at(int folder, const char *name, const uint64_t *inodes, int count) {
    char target[64];
    ssize_t size = readlinkat(folder, name, target, sizeof target - 1);
    if (size < 0)
        return 0; /* it has been closed meanwhile */
    target[size] = 0;
    return is_one_of(target, inodes, count);
}

static int look_at_all(int folder, const uint64_t *inodes, int count, int64_t *budget) {
    _Alignas(struct dirent64) char listed[LISTED];
    long size;
    while ((size = syscall(SYS_getdents64, folder, listed, sizeof listed)) > 0) {
        for (long at = 0; at < size;) {
            const struct dirent64 *entry = (const struct dirent64 *)(listed + at);
            at += entry->d_reclen;
            if (entry->d_name[0] == '.')
                continue;
            if (--*budget < 0)
                return -EAGAIN;
            if (look_at(folder, entry->d_name, inodes, count))
                return 1;
        }
    }
    return size < 0 ? -errno : 0;
}

int ox_has_socket(int pid, const uint64_t *inodes, int count, int64_t *budget) {
    char path[32];
    snprintf(path, sizeof path, "/proc/%d/fd", pid);
    int folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0)
        return -errno;
    int found = look_at_all(folder, inodes, count, budget);
    close(folder);
    return found;
}
