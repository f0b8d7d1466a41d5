/* Raw bytes into lines with a time: as Kubernetes' container runtimes write them (CRI), or one JSON object a line.
 *
 * What comes out depends on what comes in alone and not on how it was cut, so that after a kill the same block gives
 * the same bytes again. A line that is longer than OX_LINE_LIMIT comes in pieces, all but its last marked partial.
 */
#include "oxmgr.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define HEAD_ROOM 256 /* what stands around a line's text, at most */

/* How many bytes the UTF-8 sequence at `text` has; 0 if it is none (RFC 3629: no surrogates, shortest form). */
static int sequence(const unsigned char *text, int64_t left) {
    unsigned char first = text[0];
    if (first < 0x80)
        return 1;
    int size = first >= 0xc2 && first <= 0xdf ? 2 : (first & 0xf0) == 0xe0 ? 3 : first >= 0xf0 && first <= 0xf4 ? 4 : 0;
    if (!size || size > left)
        return 0;
    for (int i = 1; i < size; i++)
        if ((text[i] & 0xc0) != 0x80)
            return 0;
    unsigned char second = text[1];
    if ((first == 0xe0 && second < 0xa0) || (first == 0xed && second > 0x9f) || (first == 0xf0 && second < 0x90) ||
        (first == 0xf4 && second > 0x8f))
        return 0;
    return size;
}

/* Where a piece that starts at `text` and has no newline within OX_LINE_LIMIT ends: between two characters. */
static int64_t piece_end(const char *text) {
    int64_t end = OX_LINE_LIMIT;
    for (int back = 1; back < 4; back++) {
        const unsigned char *start = (const unsigned char *)text + end - back;
        if ((*start & 0xc0) == 0x80)
            continue;
        /* What is there of it is cut off: then it goes with the next piece. */
        int wants = *start >= 0xf0 ? 4 : *start >= 0xe0 ? 3 : *start >= 0xc0 ? 2 : 1;
        return wants > back ? end - back : end;
    }
    return end;
}

static char *put(char *at, const char *text) {
    size_t size = strlen(text);
    memcpy(at, text, size);
    return at + size;
}

static char *put_escaped(char *at, const char *text, int64_t size) {
    static const char hex[] = "0123456789abcdef";
    for (int64_t i = 0; i < size;) {
        unsigned char byte = (unsigned char)text[i];
        if (byte >= 0x20 && byte < 0x7f && byte != '"' && byte != '\\') {
            *at++ = text[i++];
            continue;
        }
        int known = sequence((const unsigned char *)text + i, size - i);
        if (known > 1) {
            memcpy(at, text + i, (size_t)known);
            at += known;
            i += known;
            continue;
        }
        i++;
        if (!known)
            at = put(at, "\\ufffd");
        else if (byte == '"' || byte == '\\') {
            *at++ = '\\';
            *at++ = (char)byte;
        } else if (byte == '\n' || byte == '\t' || byte == '\r') {
            *at++ = '\\';
            *at++ = byte == '\n' ? 'n' : byte == '\t' ? 't' : 'r';
        } else {
            at = put(at, "\\u00");
            *at++ = hex[byte >> 4];
            *at++ = hex[byte & 15];
        }
    }
    return at;
}

static char *put_line(char *at, const struct ox_format *format, const char *text, int64_t size, int partial) {
    if (format->kind == OX_CRI) {
        at = put(put(at, format->stamp), " ");
        at = put(put(at, format->stream), partial ? " P " : " F ");
        memcpy(at, text, (size_t)size);
        at += size;
    } else {
        at = put(put(put(at, "{\"time\":\""), format->stamp), "\",\"stream\":\"");
        at = put(put(put(at, format->stream), partial ? "\",\"partial\":true" : "\""), ",\"message\":\"");
        at = put(put_escaped(at, text, size), "\"}");
    }
    *at++ = '\n';
    return at;
}

int64_t ox_format(const struct ox_format *format, const char *in, int64_t size, char *out, int64_t room,
                  int64_t *used) {
    char *at = out;
    *used = 0;
    while (*used < size) {
        const char *text = in + *used;
        int64_t left = size - *used;
        int64_t scanned = left < OX_LINE_LIMIT + 1 ? left : OX_LINE_LIMIT + 1;
        const char *newline = memchr(text, '\n', (size_t)scanned);
        int64_t length, taken;
        int partial = 0;
        if (newline) {
            length = newline - text;
            taken = length + 1;
        } else if (left > OX_LINE_LIMIT) {
            length = taken = piece_end(text);
            partial = 1;
        } else if (format->final) {
            length = taken = left;
        } else {
            break;
        }
        int64_t most = HEAD_ROOM + (format->kind == OX_CRI ? length : 6 * length);
        if (out + room - at < most)
            break;
        at = put_line(at, format, text, length, partial);
        *used += taken;
    }
    return at - out;
}

int64_t ox_format_file(const struct ox_format *format, int from, int64_t from_offset, int to, int64_t to_offset,
                       int64_t *used) {
    static char in[128 * 1024], out[1024 * 1024];
    ssize_t got = pread(from, in, sizeof in, from_offset);
    if (got < 0)
        return -errno;
    int64_t size = ox_format(format, in, got, out, sizeof out, used);
    for (int64_t done = 0; done < size;) {
        ssize_t written = pwrite(to, out + done, (size_t)(size - done), to_offset + done);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return -errno;
        done += written;
    }
    return size;
}
