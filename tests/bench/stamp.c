/* The app that is measured: its first act is to read the clock. Appends "pid nanoseconds\n" to a file. */
#include <fcntl.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    char line[64];
    int size = snprintf(line, sizeof line, "%d %lld\n", getpid(), now.tv_sec * 1000000000LL + now.tv_nsec);
    int fd = open(argv[argc - 1], O_WRONLY | O_APPEND | O_CREAT, 0600);
    if (fd < 0 || write(fd, line, size) != size)
        return 1;
    close(fd);
    for (;;)
        pause();
}
