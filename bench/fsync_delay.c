/* Makes a fast disk slow: every fsync and fdatasync takes FSYNC_DELAY_US microseconds longer. For LD_PRELOAD, in benchmarks only. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

static void wait_longer(void) {
    const char *delay = getenv("FSYNC_DELAY_US");
    if (delay) usleep((useconds_t)atoi(delay));
}

int fsync(int fd) {
    static int (*real)(int);
    if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    wait_longer();
    return real(fd);
}

int fdatasync(int fd) {
    static int (*real)(int);
    if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    wait_longer();
    return real(fd);
}
