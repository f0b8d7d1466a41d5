/* Ways to end an accept(2) that finds nobody, at the socket of that fd: says in which one it has ended. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

static volatile sig_atomic_t heard;
static int fd;

static void on_signal(int number) {
    heard = number;
}

static void hear(int number, int flags) {
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = flags};
    sigaction(number, &action, NULL);
}

static void *take(void *result) {
    *(int *)result = accept(fd, NULL, NULL) < 0 ? errno : 0;
    return NULL;
}

/* The errno of one that is sent a signal again and again until it has been heard, and some more times. */
static int signalled(pthread_t thread, int number, const int *result) {
    for (int more = 3; more && *result == -1;) {
        pthread_kill(thread, number);
        usleep(20000);
        more -= heard == number;
    }
    return *result;
}

int main(int argc, char **argv) {
    if (argc != 2)
        return 2;
    fd = atoi(argv[1]);
    pthread_t thread;
    int result = -1;
    struct timeval limit = {.tv_usec = 50000}, none = {0};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    take(&result);
    printf("SO_RCVTIMEO: %s\n", strerror(result));
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &none, sizeof none);

    hear(SIGUSR1, 0);
    hear(SIGUSR2, SA_RESTART);
    result = -1;
    pthread_create(&thread, NULL, take, &result);
    printf("SA_RESTART: %d\n", signalled(thread, SIGUSR2, &result));
    while (result == -1)
        signalled(thread, SIGUSR1, &result);
    printf("a signal: %s\n", strerror(result));
    pthread_join(thread, NULL);

    void *end;
    pthread_create(&thread, NULL, take, &result);
    pthread_cancel(thread);
    pthread_join(thread, &end);
    printf("cancelled: %d\n", end == PTHREAD_CANCELED);
}
