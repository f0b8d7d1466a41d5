/* Tells of changes in folders: inotify(7). Whoever reads the fd takes its events apart. */
#include "oxmgr.h"

#include <errno.h>
#include <sys/inotify.h>

_Static_assert(OX_WATCH_HEAD == sizeof(struct inotify_event) && OX_WATCH_WRITTEN == IN_CLOSE_WRITE &&
                   OX_WATCH_MOVED_FROM == IN_MOVED_FROM && OX_WATCH_MOVED_TO == IN_MOVED_TO &&
                   OX_WATCH_MADE == IN_CREATE && OX_WATCH_REMOVED == IN_DELETE &&
                   OX_WATCH_SELF_REMOVED == IN_DELETE_SELF && OX_WATCH_SELF_MOVED == IN_MOVE_SELF &&
                   OX_WATCH_OVERFLOW == IN_Q_OVERFLOW && OX_WATCH_FORGOTTEN == IN_IGNORED &&
                   OX_WATCH_FOLDER == IN_ISDIR,
               "the header is for Python, which has no sys/inotify.h");

int ox_watch(void) {
    int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

int ox_watch_add(int fd, const char *folder, int written) {
    const uint32_t mask = IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE | IN_DELETE_SELF | IN_MOVE_SELF |
                          IN_ONLYDIR | IN_EXCL_UNLINK | IN_MASK_ADD | (written ? IN_CLOSE_WRITE : 0);
    int number = inotify_add_watch(fd, folder, mask);
    return number < 0 ? -errno : number;
}

int ox_watch_remove(int fd, int number) {
    return inotify_rm_watch(fd, number) ? -errno : 0;
}
