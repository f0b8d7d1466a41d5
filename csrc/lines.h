/* Between format.c and journal.c, and not for Python: how bytes are cut into lines. */
#ifndef OXMGR_LINES_H
#define OXMGR_LINES_H

#include "oxmgr.h"

struct ox_line {
    const char *text;
    int64_t length; /* of the text */
    int64_t taken;  /* with the newline */
    int partial;    /* the line goes on */
    int kept;       /* the rate limit has room for it */
};

/* The first line of what is left, or a piece of it; 0: it has no end yet. Nothing is counted before ox_take_line. */
int ox_next_line(const struct ox_format *format, const struct ox_formatted *done, const char *in, int64_t size,
                 struct ox_line *line);

/* Goes past the line. */
void ox_take_line(struct ox_formatted *done, const struct ox_line *line);

#endif
