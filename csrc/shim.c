/* Loaded into programs that bind by themselves (LD_PRELOAD), so that they take the sockets that are held for them: a
 * bind(2) to an address of OXMGR_BIND puts the held socket in the place of the one that was to be bound. The first
 * listen(2) at such an address writes a newline to the pipe of OXMGR_READY. And once there is something to read in the pipe of
 * OXMGR_DRAIN, accept(2) finds nobody waiting at a held one: others have it too, and take whoever comes. All else is the
 * kernel's.
 *
 * OXMGR_BIND is `fd:inode:backlog:kind:hex` with | between them. kind: 4, 6, d4, d6 (the letter: datagrams) or u; hex are
 * the bytes of port and address in network order, or of the path. OXMGR_READY and OXMGR_DRAIN are `fd:inode`. An fd is
 * what it is said to be when its inode is.
 *
 * It has no C library of its own, so that it fits beside any: of the program's, it uses errno, environ, and what lets a
 * thread be cancelled in accept(2) (pthreads(7)).
 */
#include "bare.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>

#define SHOWN __attribute__((visibility("default")))

extern char **environ;
/* Not there where they are in libraries of their own (glibc before 2.34), which the program may have not. */
#pragma weak dlsym
#pragma weak pthread_setcanceltype

struct held {
    int fd;
    int backlog;
    uint64_t inode;
};

static int fail(long error) {
    errno = (int)-error;
    return -1;
}

/* The value of a variable, or an empty text. `name` ends with "=". */
static const char *value_of(const char *name) {
    size_t length = strlen(name);
    for (char **one = environ; one && *one; one++) {
        size_t at = 0;
        while (at < length && (*one)[at] == name[at])
            at++;
        if (at == length)
            return *one + length;
    }
    return "";
}

static uint64_t number(const char **at) {
    uint64_t value = 0;
    for (; **at >= '0' && **at <= '9'; (*at)++)
        value = value * 10 + (uint64_t)(**at - '0');
    if (**at == ':')
        (*at)++;
    return value;
}

/* 0: there is no such fd. */
static uint64_t inode_of(int fd) {
    struct stat found;
    return CALL(SYS_fstat, fd, &found) < 0 ? 0 : (uint64_t)found.st_ino;
}

static int is_hex(const char *text, const unsigned char *bytes, size_t size) {
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < size; i++)
        if (text[2 * i] != digits[bytes[i] >> 4] || text[2 * i + 1] != digits[bytes[i] & 15])
            return 0;
    return text[2 * size] == '\0' || text[2 * size] == '|';
}

/* Whether an entry, from its kind on, is this address. */
static int is_address(const char *text, int datagrams, const struct sockaddr *address, socklen_t size) {
    if (*text == 'd') {
        if (!datagrams)
            return 0;
        text++;
    } else if (datagrams) {
        return 0;
    }
    unsigned char bytes[18];
    const char kind = *text++;
    if (*text++ != ':')
        return 0;
    if (kind == '4' && address->sa_family == AF_INET && size >= sizeof(struct sockaddr_in)) {
        const struct sockaddr_in *four = (const void *)address;
        memcpy(bytes, &four->sin_port, 2);
        memcpy(bytes + 2, &four->sin_addr, 4);
        return is_hex(text, bytes, 6);
    }
    if (kind == '6' && address->sa_family == AF_INET6 && size >= 24) {
        const struct sockaddr_in6 *six = (const void *)address;
        memcpy(bytes, &six->sin6_port, 2);
        memcpy(bytes + 2, &six->sin6_addr, 16);
        return is_hex(text, bytes, 18);
    }
    if (kind == 'u' && address->sa_family == AF_UNIX && size > offsetof(struct sockaddr_un, sun_path)) {
        const char *path = (const char *)address + offsetof(struct sockaddr_un, sun_path);
        size_t length = 0;
        while (length < size - offsetof(struct sockaddr_un, sun_path) && path[length])
            length++;
        return is_hex(text, (const unsigned char *)path, length);
    }
    return 0;
}

/* The one that is held for an address, or, with none, that has this inode. fd -1: there is none. */
static struct held find(const struct sockaddr *address, socklen_t size, int datagrams, uint64_t wanted) {
    for (const char *at = value_of("OXMGR_BIND="); *at; at++) {
        struct held one = {(int)number(&at), 0, 0};
        one.inode = number(&at);
        one.backlog = (int)number(&at);
        if (one.inode && (address ? is_address(at, datagrams, address, size) : one.inode == wanted))
            return one;
        while (*at && *at != '|')
            at++;
        if (!*at)
            break;
    }
    return (struct held){-1, 0, 0};
}

/* Whether clients find what is held there: a unix socket's file may have been removed as a stale one. */
static int is_there(const struct sockaddr *address, socklen_t size) {
    if (address->sa_family != AF_UNIX)
        return 1;
    char path[sizeof(struct sockaddr_un)] = "";
    const size_t before = offsetof(struct sockaddr_un, sun_path);
    memcpy(path, (const char *)address + before, (size < sizeof path ? size : sizeof path) - before);
    struct stat found;
    return CALL(SYS_newfstatat, AT_FDCWD, path, &found, AT_SYMLINK_NOFOLLOW) == 0 && S_ISSOCK(found.st_mode);
}

/* With the flags that the program has set on its own. What else it has set is lost. */
static long take(int held, int fd) {
    long flags = CALL(SYS_fcntl, fd, F_GETFL), kept = CALL(SYS_fcntl, held, F_GETFL);
    long on_exec = CALL(SYS_fcntl, fd, F_GETFD);
    if (flags < 0 || kept < 0 || on_exec < 0)
        return -EBADF;
    CALL(SYS_fcntl, held, F_SETFL, (kept & ~O_NONBLOCK) | (flags & O_NONBLOCK));
    long result = CALL(SYS_dup3, held, fd, on_exec & FD_CLOEXEC ? O_CLOEXEC : 0);
    return result < 0 ? result : 0;
}

static void tell_ready(void) {
    const char *at = value_of("OXMGR_READY=");
    if (*at) {
        int fd = (int)number(&at);
        uint64_t inode = number(&at);
        if (inode && inode_of(fd) == inode)
            CALL(SYS_write, fd, "\n", 1);
    }
}

/* The environment is read once, since other threads may be changing it. */
static int is_draining(void) {
    static int is_known, fd;
    static uint64_t inode;
    if (!__atomic_load_n(&is_known, __ATOMIC_ACQUIRE)) {
        const char *at = value_of("OXMGR_DRAIN=");
        fd = *at ? (int)number(&at) : -1;
        inode = number(&at);
        __atomic_store_n(&is_known, 1, __ATOMIC_RELEASE);
    }
    struct pollfd pipe = {.fd = fd, .events = POLLIN};
    struct timespec none = {0, 0};
    return fd >= 0 && CALL(SYS_ppoll, &pipe, 1, &none) == 1 && pipe.revents & POLLIN && inode_of(fd) == inode;
}

/* As accept(2) does when nobody comes, with all that ends its waiting: a signal, and whether SA_RESTART goes on with it,
 * SO_RCVTIMEO (signal(7); of a futex as of a socket, it is without SA_RESTART), and pthread_cancel(3). -errno, or 0 for
 * no reason. */
static long find_nobody(int fd) {
    static uint32_t never;
    long flags = CALL(SYS_fcntl, fd, F_GETFL);
    if (flags < 0 || flags & O_NONBLOCK)
        return flags < 0 ? flags : -EAGAIN;
    struct timeval limit = {0, 0};
    socklen_t size = sizeof limit;
    CALL(SYS_getsockopt, fd, SOL_SOCKET, SO_RCVTIMEO, &limit, &size);
    struct timespec wait = {limit.tv_sec, limit.tv_usec * 1000};
    int has_limit = wait.tv_sec || wait.tv_nsec, before = 0;
    if (pthread_setcanceltype)
        pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &before);
    long result = CALL(SYS_futex, &never, FUTEX_WAIT_PRIVATE, 0, has_limit ? &wait : NULL);
    if (pthread_setcanceltype)
        pthread_setcanceltype(before, NULL);
    return result == -ETIMEDOUT ? -EAGAIN : result;
}

typedef int accept4_type(int, struct sockaddr *restrict, socklen_t *restrict, int);

SHOWN int accept4(int fd, struct sockaddr *restrict address, socklen_t *restrict size, int flags) {
    static accept4_type *next;
    while (is_draining() && find(NULL, 0, 0, inode_of(fd)).fd >= 0) {
        long nobody = find_nobody(fd);
        if (nobody < 0)
            return fail(nobody);
    }
    accept4_type *known = __atomic_load_n(&next, __ATOMIC_RELAXED);
    if (!known && dlsym) {
        known = (accept4_type *)dlsym(RTLD_NEXT, "accept4");
        __atomic_store_n(&next, known, __ATOMIC_RELAXED);
    }
    if (known)
        return known(fd, address, size, flags);
    long result = CALL(SYS_accept4, fd, address, size, flags);
    return result < 0 ? fail(result) : (int)result;
}

SHOWN int accept(int fd, struct sockaddr *restrict address, socklen_t *restrict size) {
    return accept4(fd, address, size, 0);
}

SHOWN int bind(int fd, const struct sockaddr *address, socklen_t size) {
    if (address && size >= sizeof address->sa_family) {
        int type = 0;
        socklen_t room = sizeof type;
        CALL(SYS_getsockopt, fd, SOL_SOCKET, SO_TYPE, &type, &room);
        struct held one = find(address, size, type == SOCK_DGRAM, 0);
        if (one.fd >= 0 && one.fd != fd && inode_of(one.fd) == one.inode && is_there(address, size)) {
            long result = take(one.fd, fd);
            return result < 0 ? fail(result) : 0;
        }
    }
    long result = CALL(SYS_bind, fd, address, size);
    return result < 0 ? fail(result) : 0;
}

/* Whether it is bound, by itself, to the address of one that is held. */
static int is_instead(int fd) {
    struct sockaddr_storage address;
    socklen_t size = sizeof address;
    return CALL(SYS_getsockname, fd, &address, &size) == 0 && find((void *)&address, size, 0, 0).fd >= 0;
}

SHOWN int listen(int fd, int backlog) {
    struct held one = {-1, 0, 0};
    int has_any = *value_of("OXMGR_BIND=") != '\0';
    if (has_any)
        one = find(NULL, 0, 0, inode_of(fd));
    long result = CALL(SYS_listen, fd, one.fd >= 0 ? one.backlog : backlog);
    if (result < 0)
        return fail(result);
    if (one.fd >= 0 || (has_any && is_instead(fd)))
        tell_ready();
    return 0;
}
