/* Feeds csrc/format.c random bytes, under the sanitizers: fuzz ROUNDS [SEED]. With clang's -fsanitize=fuzzer and
 * -DLIBFUZZER it is a target of that. Ends with 1 when another cutting of the same bytes gives other lines. */
#include "../../csrc/oxmgr.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROOM (512 * 1024)

/* All that comes of the bytes when they come in blocks of that size. Each block and its output are allocations of
 * their own, so that a step over an edge is seen. */
static int64_t run(struct ox_format format, const char *in, int64_t size, int64_t block, int64_t room, char *out) {
    int64_t start = 0, made = 0, end = 0;
    while (start < size) {
        end = end + block < size ? end + block : size;
        format.final = end == size;
        for (;;) {
            struct ox_formatted done;
            char *copy = malloc((size_t)(end - start) + 1), *piece = malloc((size_t)room);
            memcpy(copy, in + start, (size_t)(end - start));
            int64_t some = ox_format(&format, copy, end - start, piece, room, &done);
            if (some < 0 || some > room || done.used > end - start)
                abort();
            if (made + some <= ROOM)
                memcpy(out + made, piece, (size_t)some);
            made += some;
            free(copy);
            free(piece);
            start += done.used;
            format.inside = done.inside;
            if (format.allowed >= 0)
                format.allowed -= done.lines;
            if (!done.used)
                break;
        }
        if (end == size && start < size)
            abort(); /* what is final must be used */
    }
    return made;
}

static int differs(const uint8_t *data, size_t size) {
    static char whole[ROOM], cut[ROOM];
    if (size < 4)
        return 0;
    struct ox_format format = {.kind = data[0] & 3,
                               .limit = 4 + (data[1] & 63),
                               .allowed = data[2] & 128 ? data[2] & 15 : -1,
                               .stamp = "2026-01-02T03:04:05.000000006Z",
                               .stream = "stdout"};
    int64_t block = 1 + data[3], room = 256 + 6 * (format.limit + 1);
    const char *in = (const char *)data + 4;
    int64_t left = (int64_t)size - 4;
    int64_t made = run(format, in, left, left + 1, 64 * 1024, whole);
    int64_t again = run(format, in, left, block, room, cut);
    return made != again || memcmp(whole, cut, (size_t)(made < ROOM ? made : ROOM));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (differs(data, size))
        abort();
    return 0;
}

#ifndef LIBFUZZER
static uint64_t state;

static uint32_t dice(uint32_t sides) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % sides;
}

int main(int argc, char **argv) {
    long rounds = argc > 1 ? atol(argv[1]) : 10000;
    state = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    static const char *const likely[] = {"\n",           "\n",       "\"",           "\\",
                                         "\x7f",         "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80",
                                         "\xed\xa0\x80", "\xf0\x9f", "\xff",         "xxxxxxxxxxxxxxxxxxxx"};
    static uint8_t data[4 + 4096];
    for (long round = 0; round < rounds; round++) {
        size_t size = 4, most = 4 + dice(dice(8) ? 300 : 4000);
        for (int i = 0; i < 4; i++)
            data[i] = (uint8_t)dice(256);
        while (size < most) {
            if (dice(2)) {
                data[size++] = (uint8_t)dice(256);
                continue;
            }
            const char *some = likely[dice(sizeof likely / sizeof *likely)];
            size_t length = strlen(some) < most - size ? strlen(some) : most - size;
            memcpy(data + size, some, length);
            size += length;
        }
        if (differs(data, size)) {
            fprintf(stderr, "round %ld: another cutting gives other lines\n", round);
            return 1;
        }
    }
    return 0;
}
#endif
