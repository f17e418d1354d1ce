/* What process 1 and the program's process of a box share: how they give up their rights.
 *
 * The same steps in the same order, for the same reasons, as child/confine.py, which does without a
 * compiler.  System calls only, no C library: the text is part of a program that has none, too.
 * Every function returns 0 or more, or a negative errno.
 */
#ifndef ERA_STEPS_H
#define ERA_STEPS_H

#include <asm/unistd.h>
#include <linux/capability.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>

enum {
    O_READ_WRITE_CLOEXEC = 02 | 02000000,
    AT_HERE = -100,
    ERROR_INVALID = 22,
    OOM_SCORE = 500, /* when the host itself runs out of memory, boxes go before the service */
    LAST_CAPABILITY = 63,
    SIGNALS = 65,
    ALL_SIGNALS_BYTES = 8,
    SET_MASK = 2,
    NOT_EXECUTABLE = 126,
};

#if defined(__x86_64__)
static inline long call6(long n, long a, long b, long c, long d, long e, long f)
{
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}
#elif defined(__aarch64__)
static inline long call6(long n, long a, long b, long c, long d, long e, long f)
{
    register long x8 __asm__("x8") = n;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc 0"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
                     : "memory");
    return x0;
}
#else
#error "no system calls for this processor"
#endif

#define call(n, a, b, c, d, e) \
    call6((n), (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)

/* The kernel's own, which differs from the C library's. */
struct kernel_sigaction {
    void *handler;
    unsigned long flags;
    void *restorer;
    uint64_t mask;
};

/* struct sock_fprog of linux/filter.h. */
struct filter {
    unsigned short length;
    const void *code;
};

struct identity {
    int user_namespace;
    uint32_t uid, gid;
    int rootless;
};

static inline void leave(int code)
{
    for (;;)
        call(__NR_exit_group, code, 0, 0, 0, 0);
}

/* Ignored signals survive exec, and other handlers are nothing to a program. */
static inline void reset_signals(void)
{
    struct kernel_sigaction action = {0};
    uint64_t none = 0;
    for (int number = 1; number < SIGNALS; number++) /* refused for SIGKILL and SIGSTOP */
        call(__NR_rt_sigaction, number, &action, 0, ALL_SIGNALS_BYTES, 0);
    call(__NR_rt_sigprocmask, SET_MASK, &none, 0, ALL_SIGNALS_BYTES, 0);
}

/* Into cgroups, by descriptors of their cgroup.procs that the server opened. */
static inline long join(const int *cgroups, int count)
{
    for (int at = 0; at < count; at++) {
        long result = call(__NR_write, cgroups[at], "0", 1, 0, 0);
        if (result < 0)
            return result;
    }
    return 0;
}

/* Raise the OOM score; what root sets here, nothing in the box can lower again. */
static inline long be_first_to_go(void)
{
    char text[16];
    int score = 0, sign = 1;
    long fd = call(__NR_openat, AT_HERE, "/proc/self/oom_score_adj", O_READ_WRITE_CLOEXEC, 0, 0);
    if (fd < 0)
        return fd;
    long length = call(__NR_read, fd, text, sizeof text, 0, 0);
    for (long at = 0; at < length; at++) {
        if (text[at] == '-')
            sign = -1;
        else if (text[at] >= '0' && text[at] <= '9')
            score = score * 10 + (text[at] - '0');
    }
    long result = length;
    if (length > 0 && sign * score < OOM_SCORE)
        result = call(__NR_pwrite64, fd, "500", 3, 0, 0);
    call(__NR_close, fd, 0, 0, 0, 0);
    return result < 0 ? result : 0;
}

/* Become the box's user in its user namespace.  Not dumpable from before the change of user on: no
 * program of the box may look into a process that is not locked up yet; and after it, since a change of
 * user sets that anew (fs.suid_dumpable). */
static inline long become_user(const struct identity *who)
{
    long result = call(__NR_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);
    if (result >= 0 && !who->rootless)
        result = call(__NR_setgroups, 0, 0, 0, 0, 0);
    if (result >= 0)
        result = call(__NR_setns, who->user_namespace, CLONE_NEWUSER, 0, 0, 0);
    if (result >= 0)
        result = call(__NR_setresgid, who->gid, who->gid, who->gid, 0, 0);
    if (result >= 0)
        result = call(__NR_setresuid, who->uid, who->uid, who->uid, 0, 0);
    if (result >= 0)
        result = call(__NR_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);
    return result;
}

/* Close every descriptor from 3 on but these two. */
static inline void keep_only(int one, int other)
{
    int low = one < other ? one : other, high = one < other ? other : one;
    if (low > 3)
        call(__NR_close_range, 3, low - 1, 0, 0, 0);
    if (high > low + 1)
        call(__NR_close_range, low + 1, high - 1, 0, 0, 0);
    call(__NR_close_range, high + 1, ~0u, 0, 0, 0);
}

/* No capability in any of the five sets, none to be gained, and no system call but the allowed. */
static inline long drop_everything(const struct filter *filter)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct none[2] = {{0, 0, 0}, {0, 0, 0}};
    for (int capability = 0; capability <= LAST_CAPABILITY; capability++) {
        long result = call(__NR_prctl, PR_CAPBSET_DROP, capability, 0, 0, 0);
        if (result == -ERROR_INVALID)
            break; /* past this kernel's last capability */
        if (result < 0)
            return result;
    }
    long result = call(__NR_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    if (result >= 0)
        result = call(__NR_capset, &header, none, 0, 0, 0);
    if (result >= 0)
        result = call(__NR_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (result >= 0)
        result = call(__NR_seccomp, SECCOMP_SET_MODE_FILTER, 0, filter, 0, 0);
    return result;
}

#endif
