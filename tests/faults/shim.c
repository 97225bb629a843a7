/* LD_PRELOAD: lets calls on chosen paths fail, and moves the clock of the day.
 *
 * A fault is "CALL PART NTH TIMES ERRNO FIRED": from the NTH call of CALL (open, write, read,
 * fsync, rename, mkdir) on a path that holds PART on, TIMES calls fail (0: all) with ERRNO; the
 * first writes half of its bytes. Or "clock - MILLISECONDS 0 JUMP FIRED": after so long the clock
 * of the day is JUMP seconds off. When it strikes, the file FIRED is made.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static struct {
    char call[16], part[256], fired[512];
    long nth, times, error;
    double from;
} fault;
static long seen;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static double uptime(void) {
    struct timespec now;
    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

static void strike(void) {
    long file = syscall(SYS_openat, AT_FDCWD, fault.fired, O_CREAT | O_WRONLY, 0600);
    if (file >= 0) syscall(SYS_close, file);
}

void fault_arm(const char *text) {
    seen = 0;
    fault.call[0] = 0;
    char call[16];
    if (sscanf(text, "%15s %255s %ld %ld %ld %511s", call, fault.part, &fault.nth, &fault.times,
               &fault.error, fault.fired) == 6) {
        fault.from = uptime();
        memcpy(fault.call, call, sizeof call);
    }
}

__attribute__((constructor)) static void from_environment(void) {
    const char *text = getenv("FAULT");
    if (text) fault_arm(text);
}

/* How often this fault has struck, this call included; 0: not now. */
static long struck(const char *call, const char *path) {
    if (!fault.call[0] || strcmp(call, fault.call) || !path || !strstr(path, fault.part)) return 0;
    long number = __sync_add_and_fetch(&seen, 1) - fault.nth + 1;
    if (number < 1 || (fault.times && number > fault.times)) return 0;
    strike();
    errno = (int)fault.error;
    return number;
}

static long struck_file(const char *call, int file) {
    if (!fault.call[0] || strcmp(call, fault.call)) return 0;
    char link[64], path[512];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    long length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return struck(call, path);
}

#define OPEN(name)                                                  \
    int name(const char *path, int flags, ...) {                    \
        va_list more;                                               \
        va_start(more, flags);                                      \
        int mode = va_arg(more, int);                               \
        va_end(more);                                               \
        if (struck("open", path)) return -1;                        \
        return REAL(name)(path, flags, mode);                       \
    }
OPEN(open)
OPEN(open64)

ssize_t write(int file, const void *from, size_t size) {
    long number = struck_file("write", file);
    if (number == 1 && size > 1) size /= 2;
    else if (number) return -1;
    return REAL(write)(file, from, size);
}

ssize_t read(int file, void *to, size_t size) {
    return struck_file("read", file) ? -1 : REAL(read)(file, to, size);
}

int fsync(int file) { return struck_file("fsync", file) ? -1 : REAL(fsync)(file); }

int rename(const char *from, const char *to) {
    return struck("rename", to) ? -1 : REAL(rename)(from, to);
}

int mkdir(const char *path, mode_t mode) {
    return struck("mkdir", path) ? -1 : REAL(mkdir)(path, mode);
}

static long jump(void) {
    if (strcmp(fault.call, "clock") || uptime() - fault.from < fault.nth / 1e3) return 0;
    if (!seen) seen = 1, strike();
    return fault.error;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = (int)syscall(SYS_clock_gettime, clock, now);
    if (clock == CLOCK_REALTIME) now->tv_sec += jump();
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    int result = (int)syscall(SYS_gettimeofday, now, zone);
    now->tv_sec += jump();
    return result;
}

time_t time(time_t *to) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (to) *to = now.tv_sec;
    return now.tv_sec;
}
