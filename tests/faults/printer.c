/* Prints numbered lines, "0000000042 ..." and so on, in writes of all sizes: printer LINES [MICROSECONDS]. Lines have
 * up to 80 bytes. It sleeps so long after each write; it ends with 0 when all have been taken. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static void print(const char *data, size_t size) {
    while (size) {
        ssize_t done = write(1, data, size);
        if (done < 0)
            exit(1);
        data += done;
        size -= (size_t)done;
    }
}

int main(int argc, char **argv) {
    static const char filler[] = "......................................................................";
    long lines = argc > 1 ? atol(argv[1]) : 1000;
    long pause = argc > 2 ? atol(argv[2]) : 0;
    char buffer[16384];
    size_t used = 0, limit = 1;
    unsigned random = 12345;
    for (long number = 0; number < lines; number++) {
        random = random * 1103515245 + 12345;
        used += (size_t)sprintf(buffer + used, "%010ld %.*s\n", number, (int)(random >> 16) % 68, filler);
        if (used < limit && number + 1 < lines)
            continue;
        size_t cut = number + 1 < lines ? limit : used;
        print(buffer, cut);
        memmove(buffer, buffer + cut, used - cut);
        used -= cut;
        limit = 1 + (random >> 8) % 8000;
        if (pause)
            nanosleep(&(struct timespec){0, pause * 1000}, NULL);
    }
    return 0;
}
