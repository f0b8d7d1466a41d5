/* Prints lines of 100 bytes as fast as it can, MiB of them or, with 0, for ever. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv) {
    static char lines[32700];
    long left = argc > 1 ? atol(argv[1]) * 1024 * 1024 : 0;
    memset(lines, 'x', sizeof lines);
    for (size_t end = 99; end < sizeof lines; end += 100)
        lines[end] = '\n';
    for (long done = 0; !left || done < left; done += (long)sizeof lines)
        for (size_t at = 0; at < sizeof lines;) {
            ssize_t written = write(1, lines + at, sizeof lines - at);
            if (written < 0)
                return 1;
            at += (size_t)written;
        }
    return 0;
}
