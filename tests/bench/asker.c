/* The load: asks for a path over HTTP/1.1, and says of each request what became of it.
 *
 *     asker PORT PATH CONNECTIONS REQUESTS_PER_SECOND KEEP_ALIVE
 *
 * A thread a connection, each with pauses of random length, so that requests meet every moment of a server's end; 0
 * requests a second: without a pause. Runs until SIGTERM, lets each request have its answer, and prints one line of JSON.
 *
 * A request on a connection that has been used before, which the server closes before the first byte of an answer, is
 * `raced`: the server has closed it as idle in the moment in which the request was on its way. It is asked again on
 * another connection, as clients do (RFC 9112, 9.3.1), and what becomes of it then is counted as well.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { ANSWERED, REFUSED, RESET, CUT, WRONG, SILENT, RACED, OUTCOMES };
static const char *names[] = {"answered", "refused", "reset", "cut", "wrong", "silent", "raced"};

#define PATIENCE 10 /* seconds without a byte: silent */
#define MOST 4096   /* connections */

static int port, keep_alive;
static double rate;
static char request[512];
static atomic_int over;

struct asker {
    pthread_t thread;
    unsigned dice;
    int fd, used;
    long counts[OUTCOMES];
    long connections, closed_idle;
    float *waits; /* milliseconds, of answered requests */
    long room;
};

static double now(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (double)at.tv_sec + (double)at.tv_nsec / 1e9;
}

static void hang_up(struct asker *me) {
    if (me->fd >= 0)
        close(me->fd);
    me->fd = -1;
}

static int dial(struct asker *me) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    struct timeval patience = {.tv_sec = PATIENCE};
    int on = 1;
    me->used = 0;
    me->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (me->fd < 0)
        return 0;
    setsockopt(me->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(me->fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    setsockopt(me->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(me->fd, (struct sockaddr *)&to, sizeof to) == 0) {
        me->connections++;
        return 1;
    }
    hang_up(me);
    return 0;
}

/* Whether the server has closed a connection on which nothing is asked. */
static int is_closed(int fd) {
    char byte;
    return recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0 || (errno != EAGAIN && errno != EWOULDBLOCK);
}

/* The value of a header in a whole head, NULL without one. */
static const char *header(const char *head, const char *name) {
    const char *at = strcasestr(head, name);
    return at ? at + strlen(name) : NULL;
}

/* One answer, to its last byte; `stays`: the connection may be used again. */
static int read_answer(int fd, int used, int *stays) {
    char data[8192];
    size_t size = 0, whole = 0;
    *stays = 0;
    while (!whole || size < whole) {
        if (size == sizeof data - 1)
            return WRONG;
        ssize_t got = recv(fd, data + size, sizeof data - 1 - size, 0);
        if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return SILENT;
        if (got <= 0)
            return size ? CUT : used ? RACED : RESET;
        size += (size_t)got;
        data[size] = '\0';
        char *end = whole ? NULL : strstr(data, "\r\n\r\n");
        if (end) {
            *end = '\0';
            const char *length = header(data, "\r\nContent-Length: ");
            const char *connection = header(data, "\r\nConnection: ");
            if (strncmp(data, "HTTP/1.1 200 ", 13) != 0 || !length)
                return WRONG;
            *stays = !(connection && strncasecmp(connection, "close", 5) == 0);
            *end = '\r';
            whole = (size_t)(end - data) + 4 + strtoul(length, NULL, 10);
        }
    }
    return size == whole ? ANSWERED : WRONG;
}

static int ask(struct asker *me) {
    if (me->fd >= 0 && is_closed(me->fd)) {
        me->closed_idle++;
        hang_up(me);
    }
    if (me->fd < 0 && !dial(me))
        return REFUSED;
    int stays = 0, outcome;
    ssize_t length = (ssize_t)strlen(request);
    /* A server may have answered, and closed, a connection to which we can write no more: its answer counts. */
    ssize_t sent = send(me->fd, request, (size_t)length, MSG_NOSIGNAL);
    if (sent != length && errno != EPIPE && errno != ECONNRESET)
        outcome = SILENT;
    else
        outcome = read_answer(me->fd, me->used, &stays);
    me->used = 1;
    if (!stays || !keep_alive || outcome != ANSWERED)
        hang_up(me);
    return outcome;
}

static void note(struct asker *me, double milliseconds) {
    if (me->counts[ANSWERED] > me->room) {
        me->room = me->room ? 2 * me->room : 1024;
        me->waits = realloc(me->waits, (size_t)me->room * sizeof *me->waits);
        if (!me->waits)
            abort();
    }
    me->waits[me->counts[ANSWERED] - 1] = (float)milliseconds;
}

static void sleep_for(double seconds) {
    struct timespec pause = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    nanosleep(&pause, NULL);
}

static void *ask_on(void *given) {
    struct asker *me = given;
    for (; !over;) {
        if (rate > 0)
            sleep_for(2.0 * rand_r(&me->dice) / RAND_MAX / rate);
        double begun = now();
        int outcome;
        do {
            outcome = ask(me);
            me->counts[outcome]++;
        } while (outcome == RACED);
        if (outcome == ANSWERED)
            note(me, (now() - begun) * 1000);
        else if (rate <= 0)
            sleep_for(0.01);
    }
    hang_up(me);
    return NULL;
}

static int by_size(const void *one, const void *other) {
    float a = *(const float *)one, b = *(const float *)other;
    return (a > b) - (a < b);
}

static void report(struct asker *askers, int many) {
    long counts[OUTCOMES] = {0}, connections = 0, closed_idle = 0, at = 0;
    for (int i = 0; i < many; i++) {
        for (int j = 0; j < OUTCOMES; j++)
            counts[j] += askers[i].counts[j];
        connections += askers[i].connections;
        closed_idle += askers[i].closed_idle;
    }
    float *all = malloc((size_t)(counts[ANSWERED] + 1) * sizeof *all);
    if (!all)
        abort();
    for (int i = 0; i < many; i++)
        for (long j = 0; j < askers[i].counts[ANSWERED]; j++)
            all[at++] = askers[i].waits[j];
    all[at] = 0;
    qsort(all, (size_t)at, sizeof *all, by_size);
    printf("{");
    for (int j = 0; j < OUTCOMES; j++)
        printf("\"%s\": %ld, ", names[j], counts[j]);
    printf("\"connections\": %ld, \"closed_idle\": %ld, \"p50_ms\": %.2f, \"p99_ms\": %.2f, \"max_ms\": %.1f}\n",
           connections, closed_idle, all[at / 2], all[at * 99 / 100], all[at ? at - 1 : 0]);
    free(all);
}

int main(int argc, char **argv) {
    if (argc != 6)
        return 2;
    port = atoi(argv[1]);
    int many = atoi(argv[3]);
    rate = atof(argv[4]) / many;
    keep_alive = atoi(argv[5]);
    snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: localhost\r\n%s\r\n", argv[2],
             keep_alive ? "" : "Connection: close\r\n");
    struct asker *askers = calloc((size_t)many, sizeof *askers);
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    if (!askers || many < 1 || many > MOST)
        return 2;
    for (int i = 0; i < many; i++) {
        askers[i].dice = (unsigned)(i + 1);
        askers[i].fd = -1;
        if (pthread_create(&askers[i].thread, NULL, ask_on, &askers[i]))
            return 1;
    }
    int signal;
    sigwait(&signals, &signal);
    over = 1;
    for (int i = 0; i < many; i++)
        pthread_join(askers[i].thread, NULL);
    report(askers, many);
    return 0;
}
