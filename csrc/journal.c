/* Lines to journald by its native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL): a datagram a line. */
#include "lines.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define PARTS 5
#define PARTIAL "OXMGR_PARTIAL=1\n" /* the line goes on in the next message */

/* What does not fit into a datagram goes into a file in memory that nobody can change any more. -errno when not. */
static int send_as_file(int journal, struct iovec *parts) {
    int file = memfd_create("oxmgr-line", MFD_ALLOW_SEALING | MFD_CLOEXEC);
    if (file < 0)
        return -errno;
    size_t size = 0;
    for (int i = 0; i < PARTS; i++)
        size += parts[i].iov_len;
    ssize_t sent = writev(file, parts, PARTS);
    int error = sent < 0 ? errno : (size_t)sent < size ? ENOSPC : 0;
    if (!error && fcntl(file, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) < 0)
        error = errno;
    if (!error) {
        union {
            struct cmsghdr header;
            char room[CMSG_SPACE(sizeof(int))];
        } control = {.header = {.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
        memcpy(CMSG_DATA(&control.header), &file, sizeof file);
        struct msghdr message = {.msg_control = &control, .msg_controllen = sizeof control.room};
        if (sendmsg(journal, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
            error = errno;
    }
    close(file);
    return -error;
}

static int send_line(int journal, const char *fields, int64_t fields_size, const struct ox_line *line) {
    /* "MESSAGE", a newline, the length in 8 bytes, little-endian, the text, a newline: any bytes may be in the text. */
    char head[16] = "MESSAGE\n";
    for (int i = 0; i < 8; i++)
        head[8 + i] = (char)((uint64_t)line->length >> 8 * i);
    struct iovec parts[PARTS] = {{(void *)fields, (size_t)fields_size},
                                 {PARTIAL, line->partial ? sizeof PARTIAL - 1 : 0},
                                 {head, sizeof head},
                                 {(void *)line->text, (size_t)line->length},
                                 {"\n", 1}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = PARTS};
    for (;;) {
        if (sendmsg(journal, &message, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
            return 0;
        if (errno == EMSGSIZE || errno == ENOBUFS)
            return send_as_file(journal, parts);
        if (errno != EINTR)
            return -errno;
    }
}

int ox_send_lines(const struct ox_format *format, int journal, const char *fields, int64_t fields_size, const char *in,
                  int64_t size, struct ox_formatted *done) {
    struct ox_line line;
    *done = (struct ox_formatted){.inside = format->inside};
    while (ox_next_line(format, done, in, size, &line)) {
        int sent = line.kept ? send_line(journal, fields, fields_size, &line) : 0;
        if (sent == -EAGAIN)
            return 1;
        if (sent < 0)
            return done->used ? 0 : sent;
        ox_take_line(done, &line);
    }
    return 0;
}
