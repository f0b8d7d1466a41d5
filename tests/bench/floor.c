/* The floor: the least that a supervisor can do. Runs its arguments, waits, runs them again. */
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv) {
    for (; argc > 1;) {
        pid_t pid = vfork();
        if (!pid) {
            execv(argv[1], argv + 1);
            _exit(127);
        }
        waitpid(pid, NULL, 0);
    }
    return 2;
}
