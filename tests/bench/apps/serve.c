/* A static binary that takes its socket as sd_listen_fds(3) has it: a thread a connection, and an end in order. On SIGTERM it
 * takes no more connections, and answers with `Connection: close` from then on; a connection that asks nothing for
 * LINGER is closed. */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define LISTENING 3
#define LINGER 1000 /* ms */
#define TICK 50     /* ms; how soon a connection hears of the end */

static atomic_int ending, connections;

static void end(int number) {
    (void)number;
    ending = 1;
}

/* The head of a request: 1, or 0 when there is none to come. */
static int read_request(int fd, char *data, size_t room) {
    size_t size = 0;
    for (int quiet = 0; size < room - 1;) {
        struct pollfd wait = {.fd = fd, .events = POLLIN};
        if (poll(&wait, 1, TICK) == 0) {
            quiet = ending ? quiet + TICK : 0;
            if (quiet >= LINGER)
                return 0;
            continue;
        }
        ssize_t got = recv(fd, data + size, room - 1 - size, 0);
        if (got <= 0)
            return 0;
        size += (size_t)got;
        data[size] = '\0';
        if (strstr(data, "\r\n\r\n"))
            return 1;
    }
    return 0;
}

static void *serve(void *given) {
    int fd = (int)(long)given, stays = 1;
    char data[4096], body[32];
    while (stays && read_request(fd, data, sizeof data)) {
        if (strncmp(data, "GET /slow ", 10) == 0)
            nanosleep(&(struct timespec){1, 200000000}, NULL);
        stays = !ending && !strcasestr(data, "\r\nConnection: close");
        int length = snprintf(body, sizeof body, "%d\n", getpid());
        int size = snprintf(data, sizeof data, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%s\r\n%s", length,
                            stays ? "" : "Connection: close\r\n", body);
        if (send(fd, data, (size_t)size, MSG_NOSIGNAL) != size)
            break;
    }
    close(fd);
    connections--;
    return NULL;
}

int main(void) {
    const char *passed = getenv("LISTEN_FDS");
    if (!passed || atoi(passed) != 1)
        return 2;
    /* All instances share it: who was told of a connection may find that another has taken it. */
    if (fcntl(LISTENING, F_SETFL, O_NONBLOCK) < 0)
        return 1;
    struct sigaction action = {.sa_handler = end};
    sigaction(SIGTERM, &action, NULL);
    pthread_attr_t detached;
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    puts("ready");
    fflush(stdout);
    while (!ending) {
        struct pollfd wait = {.fd = LISTENING, .events = POLLIN};
        if (poll(&wait, 1, TICK) <= 0)
            continue;
        int fd = accept4(LISTENING, NULL, NULL, SOCK_CLOEXEC);
        pthread_t thread;
        if (fd < 0)
            continue;
        connections++;
        if (pthread_create(&thread, &detached, serve, (void *)(long)fd)) {
            connections--;
            close(fd);
        }
    }
    close(LISTENING);
    while (connections)
        poll(NULL, 0, TICK);
    return 0;
}
