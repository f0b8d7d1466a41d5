/* Raw bytes into lines: as they are, with a prefix, with a time as Kubernetes' container runtimes write them (CRI), or
 * one JSON object a line.
 *
 * What comes out depends on what comes in alone and not on how it was cut, so that after a kill the same block gives
 * the same bytes again. A line that is longer than the limit comes in pieces, all but its last marked partial; a rate
 * limit keeps or drops whole lines.
 */
#include "lines.h"

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

/* Where a piece that starts at `text` and has no newline within the limit ends: between two characters. */
static int64_t piece_end(const char *text, int64_t limit) {
    int64_t end = limit;
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

static char *put_line(char *at, const struct ox_format *format, const struct ox_line *line) {
    if (format->kind == OX_JSON) {
        at = put(put(put(at, "{\"time\":\""), format->stamp), "\",\"stream\":\"");
        at = put(put(put(at, format->stream), line->partial ? "\",\"partial\":true" : "\""), ",\"message\":\"");
        at = put(put_escaped(at, line->text, line->length), "\"}\n");
        return at;
    }
    if (format->kind == OX_CRI) {
        at = put(put(at, format->stamp), " ");
        at = put(put(at, format->stream), line->partial ? " P " : " F ");
    } else if (format->kind == OX_PREFIXED) {
        at = put(at, format->stream);
    }
    memcpy(at, line->text, (size_t)line->length);
    at += line->length;
    if (format->kind != OX_RAW || line->taken > line->length)
        *at++ = '\n';
    return at;
}

int ox_next_line(const struct ox_format *format, const struct ox_formatted *done, const char *in, int64_t size,
                 struct ox_line *line) {
    int64_t left = size - done->used;
    if (left <= 0)
        return 0;
    line->text = in + done->used;
    line->partial = 0;
    int64_t scanned = left < format->limit + 1 ? left : format->limit + 1;
    const char *newline = memchr(line->text, '\n', (size_t)scanned);
    if (newline) {
        line->length = newline - line->text;
        line->taken = line->length + 1;
    } else if (left > format->limit) {
        line->length = line->taken = piece_end(line->text, format->limit);
        line->partial = 1;
    } else if (format->final) {
        line->length = line->taken = left;
    } else {
        return 0;
    }
    if (done->inside)
        line->kept = done->inside == OX_KEPT;
    else
        line->kept = format->allowed < 0 || done->lines < format->allowed;
    return 1;
}

void ox_take_line(struct ox_formatted *done, const struct ox_line *line) {
    if (!done->inside && line->kept)
        done->lines++;
    else if (!done->inside)
        done->dropped++;
    done->inside = !line->partial ? OX_BETWEEN : line->kept ? OX_KEPT : OX_DROPPED;
    done->used += line->taken;
}

int64_t ox_format(const struct ox_format *format, const char *in, int64_t size, char *out, int64_t room,
                  struct ox_formatted *done) {
    char *at = out;
    struct ox_line line;
    *done = (struct ox_formatted){.inside = format->inside};
    if (format->notice) {
        int64_t length = (int64_t)strlen(format->notice);
        at = put_line(at, format, &(struct ox_line){format->notice, length, length + 1, 0, 1});
    }
    while (ox_next_line(format, done, in, size, &line)) {
        if (line.kept) {
            if (out + room - at < HEAD_ROOM + (format->kind == OX_JSON ? 6 : 1) * line.length)
                break;
            at = put_line(at, format, &line);
        }
        ox_take_line(done, &line);
    }
    return at - out;
}

int64_t ox_format_file(const struct ox_format *format, int from, int64_t from_offset, int64_t size, int to,
                       int64_t to_offset, struct ox_formatted *done) {
    static char in[OX_BLOCK], out[4 * OX_BLOCK];
    ssize_t got = pread(from, in, size < OX_BLOCK ? (size_t)size : OX_BLOCK, from_offset);
    if (got < 0)
        return -errno;
    int64_t made = ox_format(format, in, got, out, sizeof out, done);
    for (int64_t written = 0; written < made;) {
        ssize_t some = pwrite(to, out + written, (size_t)(made - written), to_offset + written);
        if (some < 0 && errno == EINTR)
            continue;
        if (some < 0)
            return -errno;
        written += some;
    }
    return made;
}
