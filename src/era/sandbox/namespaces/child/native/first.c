/* Process 1 of a box, without a C library: finishes the box from inside, then passes on a request to
 * stop.  What child/first.py does, in a process of a few pages instead of some hundreds.
 *
 * Run by the launcher in the box's namespaces, with its capabilities, which end here.  By the name
 * era-program it is the program's process (program.c); by any other, with these arguments, process 1:
 *
 *     control built user_namespace filter uid gid rootless groups [group ...] [mPATH | rPATH ...]
 *
 * The first four and the groups are descriptors: the server's control socket, the write end of the pipe
 * that says `built`, the box's user namespace, a file with the seccomp program, and cgroup.procs files.
 * mPATH of /proc is to be covered, rPATH to be read-only.
 *
 * It ignores SIGCHLD, so the kernel reaps orphans itself (wait(2), NOTES).
 */
#include "first.h"

#include <linux/mount.h>
#include <linux/stat.h>

enum {
    AT_NO_FOLLOW = 0x100,
    AT_EMPTY = 0x1000,
    AT_WHOLE_TREE = 0x8000,
    TREE_CLOEXEC = 02000000,
    SIGNAL_KILL = 9,
    SIGNAL_TERM = 15,
    SIGNAL_CHILD = 17,
    SIGNAL_CONTINUE = 18,
    MAX_FILTER_BYTES = 8 * 4096,
    KIND = 0170000,
    DIRECTORY = 0040000,
    MAKE_PRIVATE = 1 << 18,
    DETACH = 2,
    OLD_NOSUID = 2,
    OLD_NODEV = 4,
    OLD_NOEXEC = 8,
};

static unsigned char code[MAX_FILTER_BYTES] __attribute__((aligned(8)));

/* A compiler may ask for these on its own. */
void *memset(void *at, int value, size_t length)
{
    unsigned char *to = at;
    while (length--)
        *to++ = (unsigned char)value;
    return at;
}

void *memcpy(void *to, const void *from, size_t length)
{
    unsigned char *at = to;
    const unsigned char *source = from;
    while (length--)
        *at++ = *source++;
    return to;
}

int number(const char *text)
{
    int value = 0;
    while (*text)
        value = value * 10 + (*text++ - '0');
    return value;
}

static char *put(char *at, const char *text)
{
    while (*text)
        *at++ = *text++;
    return at;
}

void say_failed(int fd, const char *step, long error)
{
    char text[128], *at = put(text, "{\"event\":\"failed\",\"step\":\"");
    unsigned value = (unsigned)-error;
    at = put(put(at, step), "\",\"errno\":");
    for (unsigned unit = value >= 100 ? 100 : value >= 10 ? 10 : 1; unit; unit /= 10)
        *at++ = (char)('0' + value / unit % 10);
    *at++ = '}';
    call(__NR_write, fd, text, at - text, 0, 0);
}

long read_filter(int fd, struct filter *filter)
{
    long length = call(__NR_pread64, fd, code, sizeof code, 0, 0);
    if (length <= 0 || length % 8 || length == sizeof code)
        return -ERROR_INVALID;
    filter->length = (unsigned short)(length / 8);
    filter->code = code;
    return 0;
}

/* A copy of the mount at `source`, read-only, laid over `target`. */
static long lay_over(const char *source, const char *target, int whole_tree)
{
    struct mount_attr attributes = {
        .attr_set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC,
        .propagation = MAKE_PRIVATE,
    };
    int depth = whole_tree ? AT_WHOLE_TREE : 0;
    long fd = call(__NR_open_tree, AT_HERE, source, OPEN_TREE_CLONE | TREE_CLOEXEC | depth, 0, 0);
    if (fd < 0)
        return fd;
    long result =
        call(__NR_mount_setattr, fd, "", AT_EMPTY | depth, &attributes, sizeof attributes);
    if (result >= 0)
        result = call(__NR_move_mount, fd, "", AT_HERE, target, MOVE_MOUNT_F_EMPTY_PATH);
    call(__NR_close, fd, 0, 0, 0, 0);
    return result;
}

/* What is not there need not be covered. */
static long cover(const char *order)
{
    struct statx facts;
    const char *path = order + 1;
    if (call(__NR_statx, AT_HERE, path, AT_NO_FOLLOW, STATX_TYPE, &facts) < 0)
        return 0;
    if (*order == 'r')
        return lay_over(path, path, 1);
    return lay_over((facts.stx_mode & KIND) == DIRECTORY ? "/.empty.d" : "/.empty", path, 0);
}

static long mount_proc(char **orders, int rootless)
{
    long result = call(__NR_mount, "proc", "/proc", "proc", OLD_NOSUID | OLD_NODEV | OLD_NOEXEC,
                       "hidepid=2");
    if (result >= 0 && rootless)
        result = call(__NR_umount2, "/.proc", DETACH, 0, 0, 0);
    for (; result >= 0 && *orders; orders++)
        result = cover(*orders);
    return result;
}

static long lock_up(int control, int built, const struct identity *who, int filter_fd,
                    char **orders, const int *groups, int count)
{
    struct filter filter;
    struct kernel_sigaction ignore = {.handler = (void *)1};
    long result = read_filter(filter_fd, &filter);
    if (result < 0)
        return result;
    call(__NR_prctl, PR_SET_PDEATHSIG, SIGNAL_KILL, 0, 0, 0);
    call(__NR_prctl, PR_SET_NAME, "era-box", 0, 0, 0);
    reset_signals();
    call(__NR_rt_sigaction, SIGNAL_CHILD, &ignore, 0, ALL_SIGNALS_BYTES, 0);
    result = join(groups, count);
    if (result >= 0)
        result = mount_proc(orders, who->rootless);
    if (result >= 0)
        result = be_first_to_go();
    if (result >= 0)
        result = become_user(who);
    if (result >= 0) {
        /* A change of user clears the parent-death signal (prctl(2)). */
        call(__NR_prctl, PR_SET_PDEATHSIG, SIGNAL_KILL, 0, 0, 0);
        keep_only(control, built);
        result = drop_everything(&filter);
    }
    return result;
}

/* Until the server is done with the box, or gone; whatever is left in the box ends with this. */
static void tend(int control)
{
    char request[64];
    while (call6(__NR_recvfrom, control, (long)request, sizeof request, 0, 0, 0) > 0) {
        if (request[0] == 'T') { /* every process of this pid namespace but this one (kill(2)) */
            call(__NR_kill, -1, SIGNAL_TERM, 0, 0, 0);
            call(__NR_kill, -1, SIGNAL_CONTINUE, 0, 0, 0); /* to act, it must wake */
        }
    }
    leave(0);
}

__attribute__((used)) void begin(long *stack)
{
    int argc = (int)stack[0];
    char **argv = (char **)(stack + 1);
    int groups[MAX_GROUPS];
    if (argc < 9)
        leave(1);
    if (argv[0][4] == 'p')
        be_program(argv, argv + argc + 1);
    int control = number(argv[1]), built = number(argv[2]), count = number(argv[8]);
    struct identity who = {
        .user_namespace = number(argv[3]),
        .uid = (uint32_t)number(argv[5]),
        .gid = (uint32_t)number(argv[6]),
        .rootless = number(argv[7]),
    };
    if (count > MAX_GROUPS || argc < 9 + count)
        leave(1);
    for (int at = 0; at < count; at++)
        groups[at] = number(argv[9 + at]);
    long result =
        lock_up(control, built, &who, number(argv[4]), argv + 9 + count, groups, count);
    if (result < 0) {
        say_failed(control, "process 1", result);
        leave(1);
    }
    call(__NR_write, built, "1", 1, 0, 0);
    call(__NR_close, built, 0, 0, 0, 0);
    tend(control);
}

#if defined(__x86_64__)
__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall begin\n");
#else
__asm__(".globl _start\n_start:\n\tmov x29, xzr\n\tmov x0, sp\n\tbl begin\n");
#endif
