/* An app that answers every connection at 127.0.0.1:PORT with a short HTTP response, and costs next to nothing. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static const char ANSWER[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";

int main(int argc, char **argv) {
    struct sockaddr_in place = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    place.sin_port = htons((unsigned short)atoi(argc > 1 ? argv[1] : "0"));
    int listening = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (listening < 0 || bind(listening, (struct sockaddr *)&place, sizeof place) || listen(listening, 64))
        return 1;
    for (;;) {
        char question[4096];
        int one = accept4(listening, NULL, NULL, SOCK_CLOEXEC);
        if (one < 0)
            continue;
        /* Who only connects has hung up by now, and reads nothing. */
        if (read(one, question, sizeof question) > 0 && write(one, ANSWER, sizeof ANSWER - 1) < 0)
            (void)0;
        close(one);
    }
}
