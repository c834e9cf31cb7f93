/* A wall clock that is off by CLOCK_OFF seconds, for a process that is started with this in LD_PRELOAD.
   The clock that only counts, by which threads wait, stays as it is: libfaketime breaks Python's waits with it. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t id, struct timespec *now)
{
    int failed = syscall(SYS_clock_gettime, id, now);
    const char *off = getenv("CLOCK_OFF");
    if (!failed && off && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE))
        now->tv_sec += atol(off);
    return failed;
}
