/* The program's process of a box, without a C library, up to the program: what child/program.py and
 * child/gate.py do, for programs that the launcher starts itself.
 *
 *     gate start built user_namespace filter uid gid rootless groups [group ...] limits [kind value ...]
 *     [cwd program argument ...]
 *
 * The descriptors are those of child/program.py, the streams in their places.  What follows the limits is
 * an interpreter that waits at the gate itself, with the environment that this process has.
 */
#include "first.h"

enum {
    AHEAD_GATE = 3,
    AHEAD_START = 4,
    HIGH = 64,
    DUP_CLOEXEC = 1030,
    SET_FD = 2,
    CLOSE_ON_EXEC = 1,
    NOT_FOUND = 127,
    SEEK_TO_END = 2,
    READ_WRITE = 3,
    PRIVATE_ANONYMOUS = 0x22,
    CLOCK_STEADY = 1,
    NO_SUCH_FILE = 2,
    TOO_BIG = 7,
    NOT_A_PROGRAM = 8,
    NO_MEMORY = 12,
    NOT_PERMITTED = 13,
};

struct plain_limit {
    uint64_t soft, hard;
};

static size_t length_of(const char *text)
{
    size_t length = 0;
    while (text[length])
        length++;
    return length;
}

static void say(int fd, const char *text)
{
    call(__NR_write, fd, text, length_of(text), 0, 0);
}

static void stop(int gate, const char *step, long error)
{
    say_failed(gate, step, error);
    leave(NOT_EXECUTABLE);
}

static void say_started(int gate)
{
    char text[64] = "{\"event\":\"started\",\"at_ns\":";
    char digits[24];
    struct {
        int64_t seconds, nanoseconds;
    } now;
    call(__NR_clock_gettime, CLOCK_STEADY, &now, 0, 0, 0);
    uint64_t value = (uint64_t)now.seconds * 1000000000u + (uint64_t)now.nanoseconds;
    size_t count = 0, at = length_of(text);
    do {
        digits[count++] = (char)('0' + value % 10);
        value /= 10;
    } while (value);
    while (count)
        text[at++] = digits[--count];
    text[at++] = '}';
    text[at] = 0;
    say(gate, text);
}

static uint64_t large_number(const char *text)
{
    uint64_t value = 0;
    while (*text)
        value = value * 10 + (uint64_t)(*text++ - '0');
    return value;
}

static long limit(char **pairs, int count)
{
    for (int at = 0; at < count; at++) {
        int kind = number(pairs[2 * at]);
        struct plain_limit now, wanted;
        uint64_t bound = large_number(pairs[2 * at + 1]);
        long result = call(__NR_prlimit64, 0, kind, 0, &now, 0);
        if (result < 0)
            return result;
        if (now.hard < bound)
            bound = now.hard; /* the largest number stands for no limit */
        wanted.soft = wanted.hard = bound;
        result = call(__NR_prlimit64, 0, kind, &wanted, 0, 0);
        if (result < 0)
            return result;
    }
    return 0;
}

/* As a shell says it. */
static void become(char **argv, char **env)
{
    const char *why = "cannot be started";
    long error = call(__NR_execve, argv[0], argv, env, 0, 0);
    if (error == -NO_SUCH_FILE)
        why = "No such file or directory";
    else if (error == -NOT_PERMITTED)
        why = "Permission denied";
    else if (error == -NOT_A_PROGRAM)
        why = "Exec format error";
    else if (error == -TOO_BIG)
        why = "Argument list too long";
    else if (error == -NO_MEMORY)
        why = "Cannot allocate memory";
    say(2, argv[0]);
    say(2, ": ");
    say(2, why);
    say(2, "\n");
    leave(error == -NO_SUCH_FILE ? NOT_FOUND : NOT_EXECUTABLE);
}

/* Descriptor 3 is the gate, 4 the start; both survive exec. */
static void become_ahead(int gate, int start, char **rest, char **env)
{
    long error = call(__NR_chdir, rest[0], 0, 0, 0, 0);
    if (error < 0)
        stop(gate, "working directory", error);
    long high = call(__NR_fcntl, gate, DUP_CLOEXEC, HIGH, 0, 0);
    long told = call(__NR_fcntl, start, DUP_CLOEXEC, HIGH, 0, 0);
    if (high < 0 || told < 0)
        stop(gate, "program", high < 0 ? high : told);
    call(__NR_dup3, high, AHEAD_GATE, 0, 0, 0);
    call(__NR_dup3, told, AHEAD_START, 0, 0, 0);
    become(rest + 1, env);
}

static void *memory(size_t size)
{
    long at = call6(__NR_mmap, 0, (long)size, READ_WRITE, PRIVATE_ANONYMOUS, -1, 0);
    return at < 0 && at > -4096 ? 0 : (void *)at;
}

/* Behind the JSON that others read: the working directory, how many arguments and variables there are,
 * these; each ended by a zero, as the JSON is (plan.tail). */
static void become_told(int gate, int start)
{
    char *word, *end;
    long size = call(__NR_lseek, start, 0, SEEK_TO_END, 0, 0);
    char *text = size > 0 ? memory((size_t)size + 1) : 0;
    if (!text || call(__NR_pread64, start, text, size, 0, 0) != size)
        stop(gate, "program", -NO_MEMORY);
    end = text + size;
    word = text + length_of(text) + 1;
    const char *directory = word;
    int counts[2];
    for (int at = 0; at < 2; at++) {
        word += word < end ? length_of(word) + 1 : 0;
        counts[at] = word < end ? number(word) : -1;
    }
    if (counts[0] < 1 || counts[1] < 0)
        stop(gate, "program", -ERROR_INVALID);
    int total = counts[0] + counts[1];
    char **words = memory(((size_t)total + 2) * sizeof *words), **next = words;
    if (!words)
        stop(gate, "program", -NO_MEMORY);
    for (int at = 0; at < total; at++) {
        word += length_of(word) + 1;
        if (word >= end)
            stop(gate, "program", -ERROR_INVALID);
        *next++ = word;
        if (at == counts[0] - 1)
            next++; /* memory is zero */
    }
    long error = call(__NR_chdir, directory, 0, 0, 0, 0);
    if (error < 0)
        stop(gate, "working directory", error);
    say_started(gate);
    become(words, words + counts[0] + 1);
}

void be_program(char **argv, char **env)
{
    char word[64];
    int gate = number(argv[1]), start = number(argv[2]), built = number(argv[3]);
    int count = number(argv[9]), groups[MAX_GROUPS];
    struct filter filter;
    struct identity who = {
        .user_namespace = number(argv[4]),
        .uid = (uint32_t)number(argv[6]),
        .gid = (uint32_t)number(argv[7]),
        .rootless = number(argv[8]),
    };
    if (count > MAX_GROUPS)
        leave(NOT_EXECUTABLE);
    for (int at = 0; at < count; at++)
        groups[at] = number(argv[10 + at]);
    reset_signals();
    long result = read_filter(number(argv[5]), &filter);
    argv += 10 + count;
    int limits = number(*argv++);
    if (result >= 0)
        result = join(groups, count);
    if (result >= 0)
        result = call(__NR_unshare, CLONE_NEWCGROUP, 0, 0, 0, 0);
    if (result >= 0)
        result = call(__NR_setsid, 0, 0, 0, 0, 0);
    if (result >= 0)
        result = limit(argv, limits);
    if (result < 0)
        stop(gate, "program", result);
    argv += 2 * limits;
    call(__NR_umask, 022, 0, 0, 0, 0);
    if (call(__NR_read, built, word, 1, 0, 0) != 1)
        leave(NOT_EXECUTABLE); /* process 1 has told why */
    result = be_first_to_go();
    if (result >= 0)
        result = become_user(&who);
    if (result >= 0) {
        keep_only(gate, start);
        result = drop_everything(&filter);
    }
    if (result < 0)
        stop(gate, "program", result);
    /* Nothing of the launcher's may stay open in the program. */
    call(__NR_fcntl, gate, SET_FD, CLOSE_ON_EXEC, 0, 0);
    call(__NR_fcntl, start, SET_FD, CLOSE_ON_EXEC, 0, 0);
    say(gate, "{\"event\":\"ready\"}");
    if (*argv)
        become_ahead(gate, start, argv, env);
    if (call(__NR_read, gate, word, sizeof word, 0, 0) <= 0)
        leave(0); /* the server is gone */
    become_told(gate, start);
}
