/* The steps of a start that give a child its rights, and take away those that it shall not have.
 *
 * Run by the child, under child.c's rules. Each gives all that was asked for or fails; none is left out.
 */
#include "spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#ifndef SYS_mount_setattr
#define SYS_mount_setattr 442
#endif
#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif

/* linux/mount.h's struct mount_attr and MOUNT_ATTR_RDONLY (Linux 5.12); it cannot be included with sys/mount.h. */
struct mount_attributes {
    uint64_t set, clear, propagation, userns_fd;
};
#define ATTRIBUTE_READ_ONLY 1

/* statfs(2)'s flags: the C library has no name for the last one in all its versions. */
#define ST_FLAGS_KEPT 0x41e /* nosuid, nodev, noexec, sync, noatime: the same bits for mount(2) */
#define ST_FLAG_NODIRATIME 0x800
#define ST_FLAG_RELATIME 0x1000

IN_CHILD int ox_enter_network(int network) {
    if (network == -2)
        return (int)syscall(SYS_unshare, CLONE_NEWNET);
    return network < 0 ? 0 : (int)syscall(SYS_setns, network, CLONE_NEWNET);
}

/* What the kernel has locked on a mount must be asked for again, or the remount is refused (mount_namespaces(7)). */
IN_CHILD static int remount_read_only(const char *path) {
    struct statfs status;
    if (syscall(SYS_statfs, path, &status))
        return -1;
    unsigned long has = (unsigned long)status.f_flags;
    unsigned long kept = has & ST_FLAGS_KEPT & ~(unsigned long)MS_SYNCHRONOUS;
    if (has & ST_FLAG_NODIRATIME)
        kept |= MS_NODIRATIME;
    if (has & ST_FLAG_RELATIME)
        kept |= MS_RELATIME;
    return (int)syscall(SYS_mount, NULL, path, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | kept, NULL);
}

IN_CHILD static int is_below(const char *folder, const char *path) {
    size_t same = 0;
    while (folder[same] && folder[same] == path[same])
        same++;
    return !folder[same] && (path[same] == '/' || (same == 1 && path[same]));
}

IN_CHILD static void unescape(char *text) {
    char *to = text;
    for (; *text; text++)
        if (text[0] == '\\' && text[1] && text[2] && text[3]) {
            *to++ = (char)((text[1] - '0') << 6 | (text[2] - '0') << 3 | (text[3] - '0'));
            text += 3;
        } else {
            *to++ = *text;
        }
    *to = '\0';
}

/* A mount that another one covers is not found under its path any more, and needs not be. */
IN_CHILD static int remount_below(const char *folder, char *path) {
    unescape(path);
    if (!is_below(folder, path) || !remount_read_only(path))
        return 0;
    return errno == ENOENT || errno == ENOTDIR || errno == EINVAL ? 0 : -1;
}

/* The fifth word of each line of mountinfo is where a mount is, blanks in it as octal digits (proc(5)). */
IN_CHILD static int remount_all_below(const char *folder) {
    int fd = (int)syscall(SYS_openat, AT_FDCWD, "/proc/self/mountinfo", O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    char data[1024], path[PATH_MAX];
    size_t word = 0, length = 0;
    int result = 0;
    long size = 0;
    while (!result && (size = syscall(SYS_read, fd, data, sizeof data)) > 0)
        for (long at = 0; at < size && !result; at++) {
            if (data[at] == '\n') {
                word = length = 0;
            } else if (data[at] == ' ') {
                path[length] = '\0';
                if (word++ == 4)
                    result = remount_below(folder, path);
            } else if (word == 4 && length < sizeof path - 1) {
                path[length++] = data[at];
            }
        }
    int error = errno;
    syscall(SYS_close, fd);
    errno = error;
    return size < 0 ? -1 : result;
}

IN_CHILD static int make_read_only(const char *path) {
    /* A copy of all would lie over the root, where `/..` leads into it: past each mount that comes after this one. */
    const int is_root = path[0] == '/' && !path[1];
    if (!is_root && syscall(SYS_mount, path, path, NULL, MS_BIND | MS_REC, NULL))
        return -1;
    struct mount_attributes attributes = {.set = ATTRIBUTE_READ_ONLY};
    if (!syscall(SYS_mount_setattr, AT_FDCWD, path, AT_RECURSIVE, &attributes, sizeof attributes))
        return 0;
    if (errno != ENOSYS && errno != EPERM)
        return -1;
    /* Before Linux 5.12, or filtered: one by one. */
    return remount_read_only(path) ? -1 : remount_all_below(path);
}

IN_CHILD static int mount_one(char kind, const char *path) {
    const unsigned long plain = MS_NOSUID | MS_NODEV;
    switch (kind) {
    case 'r':
        return make_read_only(path);
    case 't':
        return (int)syscall(SYS_mount, "tmpfs", path, "tmpfs", plain, "mode=1777");
    case 'h':
        return (int)syscall(SYS_mount, "tmpfs", path, "tmpfs", plain | MS_NOEXEC | MS_RDONLY, "mode=755,size=4k");
    case 'n':
        return (int)syscall(SYS_mount, "/dev/null", path, NULL, MS_BIND, NULL);
    default:
        errno = EINVAL;
        return -1;
    }
}

IN_CHILD int ox_mount_all(const char *mounts, size_t size, volatile int *which) {
    *which = -1;
    if (!size)
        return 0;
    if (syscall(SYS_unshare, CLONE_NEWNS) || syscall(SYS_mount, NULL, "/", NULL, MS_REC | MS_SLAVE, NULL))
        return -1;
    for (size_t at = 0; at < size; at++) {
        ++*which;
        if (mount_one(mounts[at], mounts + at + 1))
            return -1;
        while (mounts[at])
            at++;
    }
    return 0;
}

IN_CHILD int ox_set_oom_score(int adjustment) {
    char text[16];
    int at = sizeof text;
    unsigned left = adjustment < 0 ? -(unsigned)adjustment : (unsigned)adjustment;
    do {
        text[--at] = (char)('0' + left % 10);
        left /= 10;
    } while (left);
    if (adjustment < 0)
        text[--at] = '-';
    int fd = (int)syscall(SYS_openat, AT_FDCWD, "/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    size_t size = sizeof text - (size_t)at;
    long written = syscall(SYS_write, fd, text + at, size);
    int error = errno;
    syscall(SYS_close, fd);
    errno = error;
    return written == (long)size ? 0 : -1;
}

IN_CHILD int ox_set_groups(const struct ox_request *request) {
    if (request->gid < 0)
        return 0;
    if (syscall(SYS_setgroups, request->ngroups, request->groups))
        return -1;
    return (int)syscall(SYS_setresgid, request->gid, request->gid, request->gid);
}

/* What is not in the bounding set can never be gained by executing a file (capabilities(7)). */
IN_CHILD int ox_bound_capabilities(const struct ox_request *request) {
    if (!request->set_capabilities)
        return 0;
    for (int bit = 0; bit < 64; bit++) {
        long is_there = syscall(SYS_prctl, PR_CAPBSET_READ, bit, 0, 0, 0);
        if (is_there < 0)
            break; /* past the last one that this kernel has */
        if (is_there && !(request->capabilities >> bit & 1) && syscall(SYS_prctl, PR_CAPBSET_DROP, bit, 0, 0, 0))
            return -1;
    }
    return 0;
}

IN_CHILD int ox_set_user(const struct ox_request *request) {
    if (request->uid < 0)
        return 0;
    /* Or they would all go with root; the exec takes the flag back. */
    if (request->set_capabilities && request->capabilities && syscall(SYS_prctl, PR_SET_KEEPCAPS, 1, 0, 0, 0))
        return -1;
    return (int)syscall(SYS_setresuid, request->uid, request->uid, request->uid);
}

/* Ambient ones are what a program that is not root's keeps over its exec. */
IN_CHILD int ox_set_capabilities(const struct ox_request *request) {
    if (!request->set_capabilities)
        return 0;
    const uint32_t low = (uint32_t)request->capabilities, high = (uint32_t)(request->capabilities >> 32);
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    struct __user_cap_data_struct data[2] = {{low, low, low}, {high, high, high}};
    if (syscall(SYS_capset, &header, data))
        return -1;
    if (syscall(SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
        return -1;
    for (int bit = 0; bit < 64; bit++)
        if (request->capabilities >> bit & 1 && syscall(SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, bit, 0, 0))
            return -1;
    return 0;
}
