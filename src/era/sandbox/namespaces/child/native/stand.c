/* The standing Python's loop: what child/standby/forks.py does, without touching Python.
 *
 * A page that a fork writes to is copied, and Python writes to nearly every page it reads.  So the loop
 * and all that a program's process does up to its gate are here: loaded into the standing process, which
 * runs inside the launcher's namespaces with its capabilities.
 *
 * A request of the launcher is a `struct request` and these descriptors: the box's pid namespace, its mnt,
 * net, ipc and uts namespaces, its control socket; then the program's stdin, stdout, stderr, gate,
 * start, built, user namespace and cgroups.
 */
#define _GNU_SOURCE
#include "steps.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    MAX_LIMITS = 32,
    MAX_FDS = 32,
    MAX_PROGRAMS = 512,
    SPACES = 5,
    CONTROL = SPACES,
    GIVEN = CONTROL + 1,
    USUAL = GIVEN + 7, /* so many at least; cgroups follow */
};

struct limit {
    uint32_t resource, unused;
    uint64_t value;
};

struct request {
    uint32_t run, uid, gid, rootless, limit_count, unused;
    struct limit limits[MAX_LIMITS];
};

struct program {
    pid_t pid;
    int control;
};

/* pollfds[0] is the launcher's socket; pollfds[n] the pidfd of programs[n]. */
static struct pollfd pollfds[1 + MAX_PROGRAMS];
static struct program programs[1 + MAX_PROGRAMS];
static int count = 1;
static int own_pids;

/* Of the interpreter that this is loaded into. */
extern void PyOS_BeforeFork(void);
extern void PyOS_AfterFork_Parent(void);
extern void PyOS_AfterFork_Child(void);

static void close_all(const int *fds, int number)
{
    for (int at = 0; at < number; at++)
        close(fds[at]);
}

/* The server, or the launcher, may have gone: then nobody needs to know. */
static void tell(int fd, const char *text)
{
    if (write(fd, text, strlen(text)) < 0)
        return;
}

static void tell_failed(int fd, const char *step, int number)
{
    char text[128];
    snprintf(text, sizeof text, "{\"event\":\"failed\",\"step\":\"%s\",\"errno\":%d}", step, number);
    tell(fd, text);
}

static long limit(const struct request *request)
{
    for (uint32_t at = 0; at < request->limit_count; at++) {
        const struct limit *one = &request->limits[at];
        struct rlimit now;
        if (getrlimit((int)one->resource, &now) < 0)
            return -errno;
        rlim_t bound = one->value;
        if (now.rlim_max != RLIM_INFINITY && now.rlim_max < bound)
            bound = now.rlim_max;
        now.rlim_cur = now.rlim_max = bound;
        if (setrlimit((int)one->resource, &now) < 0)
            return -errno;
    }
    return 0;
}

static long enter(int fd, int kind)
{
    return call(__NR_setns, fd, kind, 0, 0, 0);
}

/* In the child: into the box, and locked up there.  See child/program.py, lock_up. */
static long lock_up(const struct request *request, const int *fds, int number,
                    const struct filter *filter)
{
    static const int kinds[SPACES] = {0, CLONE_NEWNS, CLONE_NEWNET, CLONE_NEWIPC, CLONE_NEWUTS};
    const int *given = fds + GIVEN;
    struct identity who = {given[6], request->uid, request->gid, (int)request->rootless};
    long result;
    char word;
    for (int at = 1; at < SPACES; at++)
        if ((result = enter(fds[at], kinds[at])) < 0)
            return result;
    reset_signals();
    result = join(given + 7, number - USUAL);
    if (result >= 0)
        result = call(__NR_unshare, CLONE_NEWCGROUP, 0, 0, 0, 0);
    if (result >= 0)
        result = call(__NR_setsid, 0, 0, 0, 0, 0);
    if (result < 0)
        return result;
    for (int stream = 0; stream < 3; stream++)
        if (dup2(given[stream], stream) < 0)
            return -errno;
    result = limit(request);
    if (result < 0)
        return result;
    call(__NR_umask, 022, 0, 0, 0, 0);
    if (read(given[5], &word, 1) != 1)
        _exit(NOT_EXECUTABLE); /* process 1 has told why */
    result = be_first_to_go();
    if (result >= 0)
        result = become_user(&who);
    if (result < 0)
        return result;
    keep_only(given[3], given[4]);
    return drop_everything(filter);
}

/* fork(2) with the child in the pid namespace `pids`. */
static pid_t fork_into(int pids)
{
    long result = enter(pids, CLONE_NEWPID);
    if (result < 0) {
        errno = (int)-result;
        return -1;
    }
    PyOS_BeforeFork();
    pid_t pid = fork();
    int error = errno;
    if (pid == 0) {
        PyOS_AfterFork_Child();
        return 0;
    }
    PyOS_AfterFork_Parent();
    if (enter(own_pids, CLONE_NEWPID) < 0)
        _exit(1); /* the next child would be in the box */
    errno = error;
    return pid;
}

static void watch(pid_t pid, int control)
{
    int pidfd = (int)call(__NR_pidfd_open, pid, 0, 0, 0, 0);
    if (pidfd < 0) { /* nobody would learn of its end */
        kill(pid, SIGKILL);
        waitpid(pid, 0, 0);
        tell_failed(control, "fork", -pidfd);
        close(control);
        return;
    }
    pollfds[count] = (struct pollfd){pidfd, POLLIN, 0};
    programs[count++] = (struct program){pid, control};
}

static void ended(int at)
{
    char text[160];
    int status = 0;
    struct rusage used;
    struct timespec now;
    wait4(programs[at].pid, &status, 0, &used);
    clock_gettime(CLOCK_MONOTONIC, &now);
    long long cpu_ns = (used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000000000LL +
                       (used.ru_utime.tv_usec + used.ru_stime.tv_usec) * 1000LL;
    snprintf(text, sizeof text,
             "{\"event\":\"ended\",\"status\":%d,\"cpu_ns\":%lld,\"at_ns\":%lld}", status, cpu_ns,
             now.tv_sec * 1000000000LL + now.tv_nsec);
    tell(programs[at].control, text);
    close(programs[at].control);
    close(pollfds[at].fd);
    count--;
    pollfds[at] = pollfds[count];
    programs[at] = programs[count];
}

static int received_fds(struct msghdr *message, int *fds)
{
    int number = 0;
    for (struct cmsghdr *part = CMSG_FIRSTHDR(message); part; part = CMSG_NXTHDR(message, part)) {
        if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS)
            continue;
        number = (int)((part->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(fds, CMSG_DATA(part), (size_t)number * sizeof(int));
    }
    return number;
}

/* One request; 1 in a program's process, locked up, with its gate and start in `at_gate`. */
static int serve_one(int launcher, const struct filter *filter, int *at_gate)
{
    struct request request;
    int fds[MAX_FDS], control;
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof fds)];
    } room;
    struct iovec whole = {&request, sizeof request};
    struct msghdr message = {.msg_iov = &whole, .msg_iovlen = 1};
    message.msg_control = room.bytes;
    message.msg_controllen = sizeof room.bytes;
    ssize_t size = recvmsg(launcher, &message, MSG_CMSG_CLOEXEC);
    if (size <= 0)
        _exit(0); /* the launcher is gone */
    int number = received_fds(&message, fds);
    if ((message.msg_flags & MSG_CTRUNC) || number < USUAL || count > MAX_PROGRAMS) {
        char text[64];
        close_all(fds, number);
        snprintf(text, sizeof text, "{\"event\":\"unable\",\"run\":%u}", request.run);
        tell(launcher, text); /* the box's own control socket may be among what did not come */
        return 0;
    }
    control = fds[CONTROL];
    pid_t pid = fork_into(fds[0]);
    if (pid == 0) {
        memset(programs, 0, sizeof programs); /* other boxes' are nothing for a program to see */
        memset(pollfds, 0, sizeof pollfds);
        long result = lock_up(&request, fds, number, filter);
        if (result < 0) {
            tell_failed(fds[GIVEN + 3], "program", (int)-result);
            _exit(NOT_EXECUTABLE);
        }
        at_gate[0] = fds[GIVEN + 3];
        at_gate[1] = fds[GIVEN + 4];
        return 1;
    }
    if (pid < 0) { /* the box has ended, or no process can be made */
        tell_failed(control, "fork", errno);
        close(control);
    } else {
        watch(pid, control);
    }
    close_all(fds, CONTROL);
    close_all(fds + GIVEN, number - GIVEN);
    return 0;
}

/* Serve the launcher.  Returns in a program's process only, with the descriptors of its gate and of the
 * memory file with the start. */
void era_stand(int launcher, int pids, const void *code, unsigned length, int *at_gate)
{
    struct filter filter = {(unsigned short)(length / 8), code};
    own_pids = pids;
    pollfds[0] = (struct pollfd){launcher, POLLIN, 0};
    tell(launcher, "{\"event\":\"standing\"}");
    for (;;) {
        if (poll(pollfds, (nfds_t)count, -1) < 0)
            continue;
        for (int at = count - 1; at > 0; at--)
            if (pollfds[at].revents)
                ended(at);
        if (pollfds[0].revents && serve_one(launcher, &filter, at_gate))
            return;
    }
}
