/* Moves what apps print from their pipes to where it goes.
 *
 * The raw path is one step, splice(2) from the pipe to the file at an explicit offset: a kill of this process falls
 * before or after it, so a byte is in the pipe or in the file, and never in neither or both.
 */
#include "oxmgr.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#define PIECE (256 * 1024)

/* What was looked at of a pipe without being taken out. */
static char peeked[64 * 1024];

int64_t ox_splice(int pipe, int file, int64_t *offset, int64_t budget) {
    int64_t moved = 0;
    while (moved < budget) {
        size_t size = budget - moved < PIECE ? (size_t)(budget - moved) : PIECE;
        loff_t at = *offset;
        ssize_t got = splice(pipe, NULL, file, &at, size, SPLICE_F_NONBLOCK | SPLICE_F_MOVE);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && errno == EAGAIN)
            break;
        if (got < 0)
            return moved ? moved : -errno;
        if (!got)
            break;
        *offset = at;
        moved += got;
    }
    return moved;
}

/* Copies up to `most` bytes that are in a pipe to `peeked`; how many, 0 when there are none, or -errno. */
static ssize_t peek(int pipe, const int *scratch, size_t most) {
    ssize_t seen;
    do
        seen = tee(pipe, scratch[1], most, SPLICE_F_NONBLOCK);
    while (seen < 0 && errno == EINTR);
    if (seen < 0)
        return errno == EAGAIN ? 0 : -errno;
    ssize_t got = seen ? read(scratch[0], peeked, (size_t)seen) : 0;
    return got < 0 ? -errno : got;
}

int64_t ox_copy(int pipe, int file, int64_t *offset, const int *scratch, int64_t budget) {
    int64_t moved = 0;
    while (moved < budget) {
        /* Looked at first and taken only once it is written, so that a kill between doubles and never loses. */
        size_t most = budget - moved < (int64_t)sizeof peeked ? (size_t)(budget - moved) : sizeof peeked;
        ssize_t got = peek(pipe, scratch, most);
        if (got <= 0)
            return moved ? moved : got;
        ssize_t written = pwrite(file, peeked, (size_t)got, *offset);
        if (written < 0)
            return moved ? moved : -errno;
        for (ssize_t taken = 0; taken < written;) {
            ssize_t more = read(pipe, peeked, (size_t)(written - taken));
            if (more <= 0)
                return -EIO;
            taken += more;
        }
        *offset += written;
        moved += written;
    }
    return moved;
}

int64_t ox_line_end(int pipe, const int *scratch) {
    ssize_t got = peek(pipe, scratch, sizeof peeked);
    if (got <= 0)
        return got;
    const char *newline = memchr(peeked, '\n', (size_t)got);
    return newline ? newline + 1 - peeked : 0;
}

int64_t ox_discard(int pipe, int null, int64_t budget) {
    int64_t moved = 0;
    while (moved < budget) {
        ssize_t got = splice(pipe, NULL, null, NULL, PIECE, SPLICE_F_NONBLOCK | SPLICE_F_MOVE);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        moved += got;
    }
    return moved;
}

int ox_punch(int file, int64_t offset, int64_t size) {
    return fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, size) < 0 ? -errno : 0;
}
