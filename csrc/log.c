/* Moves what apps print from their pipes to where it goes.
 *
 * The raw path is one step, splice(2) from the pipe to the file at an explicit offset: a kill of this process falls
 * before or after it, so a byte is in the pipe or in the file, and never in neither or both.
 */
#include "oxmgr.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/types.h>
#include <unistd.h>

#define PIECE (256 * 1024)

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

int64_t ox_copy(int pipe, int target, const int *scratch, int64_t budget) {
    static char buffer[64 * 1024];
    int64_t moved = 0;
    while (moved < budget) {
        /* Looked at first and taken only once it is written, so that a kill between doubles and never loses. */
        ssize_t seen = tee(pipe, scratch[1], sizeof buffer, SPLICE_F_NONBLOCK);
        if (seen < 0 && errno == EINTR)
            continue;
        if (seen < 0 && errno != EAGAIN)
            return moved ? moved : -errno;
        if (seen <= 0)
            break;
        ssize_t got = read(scratch[0], buffer, (size_t)seen);
        if (got < 0)
            return moved ? moved : -errno;
        ssize_t written = write(target, buffer, (size_t)got);
        int error = errno;
        for (ssize_t taken = 0; written > 0 && taken < written;) {
            ssize_t more = read(pipe, buffer, (size_t)(written - taken));
            if (more <= 0)
                return -EIO;
            taken += more;
        }
        if (written < 0)
            return moved || error == EAGAIN ? moved : -error;
        moved += written;
        if (written < got)
            break;
    }
    return moved;
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
