/* A daemon for a guard to have, whose strings a test pulls: puppet SOCKET. It connects there, hands over its end of the
 * guard's socketpair and does what it reads, a `struct order` each; at the end of the connection it ends with 0. With
 * PUPPET_EXIT in the environment it only ends, with that code; when the file PUPPET_CRASH is there, it writes to it when
 * it began (CLOCK_MONOTONIC, in ns) and is killed. */
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define GUARD_FD 3

enum { EXIT = 'x', ORPHANS = 'o' };

struct order {
    int32_t what, value;
};

static void fail(const char *what) {
    perror(what);
    exit(99);
}

static void hand_over(int to, int fd) {
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int))];
    } control;
    memset(&control, 0, sizeof control);
    control.header =
        (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof fd), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    memcpy(CMSG_DATA(&control.header), &fd, sizeof fd);
    int32_t pid = getpid();
    struct iovec part = {&pid, sizeof pid};
    struct msghdr packet = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control.room};
    if (sendmsg(to, &packet, MSG_NOSIGNAL) < 0)
        fail("sendmsg");
}

/* So many processes whose parent ends once a byte has come; then each ends, the one of number i with i % 251, every
 * fifth by SIGKILL. Their pids are told first, and a byte when they are orphans. */
static void make_orphans(int to, int count) {
    int gate[2];
    if (pipe(gate) < 0)
        fail("pipe");
    int32_t *pids = calloc((size_t)count, sizeof *pids);
    pid_t middle = fork();
    if (middle < 0)
        fail("fork");
    if (middle > 0) {
        close(gate[0]);
        close(gate[1]);
        free(pids);
        if (waitpid(middle, NULL, 0) != middle || write(to, "", 1) != 1)
            exit(97);
        return;
    }
    for (int i = 0; i < count; i++) {
        pid_t pid = fork();
        if (pid < 0)
            fail("fork");
        if (pid == 0) {
            char byte;
            close(gate[1]);
            close(to);
            if (read(gate[0], &byte, 1) == 0 && i % 5 == 4)
                raise(SIGKILL);
            _exit(i % 251);
        }
        pids[i] = pid;
    }
    char byte;
    if (write(to, pids, (size_t)count * sizeof *pids) < 0 || read(to, &byte, 1) < 0)
        _exit(98);
    _exit(0);
}

int main(int argc, char **argv) {
    const char *code = getenv("PUPPET_EXIT");
    if (code)
        return atoi(code);
    const char *crash = getenv("PUPPET_CRASH");
    FILE *times = crash ? fopen(crash, "r+") : NULL;
    if (times) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        fseek(times, 0, SEEK_END);
        fprintf(times, "%lld\n", (long long)now.tv_sec * 1000000000 + now.tv_nsec);
        fclose(times);
        raise(SIGKILL);
    }
    if (argc < 2)
        return 2;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path, argv[1], sizeof address.sun_path - 1);
    int test = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (test < 0 || connect(test, (struct sockaddr *)&address, sizeof address) < 0)
        fail(argv[1]);
    hand_over(test, GUARD_FD);
    close(GUARD_FD);
    struct order order;
    while (read(test, &order, sizeof order) == (ssize_t)sizeof order) {
        if (order.what == EXIT)
            return order.value;
        if (order.what == ORPHANS)
            make_orphans(test, order.value);
    }
    return 0;
}
