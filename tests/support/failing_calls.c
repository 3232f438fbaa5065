/* Makes calls of the operating system fail on chosen paths, for LD_PRELOAD; see failing_calls.py.

   The rules are in a file that all processes of a test share in memory: whoever makes the next call that a rule is for
   meets the fault, and the counters say that it did. A path that no rule is for is never touched. */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MOST 96

/* As failing_calls.py packs it: 640 bytes. */
struct rule {
    char calls[64];     /* names with a comma behind each, such as "open,read," */
    char pattern[256];  /* of fnmatch, of the whole path */
    int32_t error;      /* errno */
    int32_t skip;       /* calls that pass before the first one fails */
    int32_t left;       /* calls that are still to fail; below 0: all */
    int32_t every;      /* of the calls after `skip`, each so-manieth fails */
    int32_t seen;       /* calls that the rule was for */
    int32_t struck;     /* calls that failed */
    char last[296];     /* the path of the last one */
};

struct rules {
    int32_t count;
    char free[636];
    struct rule rule[MOST];
};

static struct rules *shared;

/* Use the rules in the file at `path`; NULL: none. Returns 0 when it is done. */
int failing_use(const char *path) {
    shared = NULL;
    if (!path || !*path) return 0;
    int (*really)(const char *, int, ...) = dlsym(RTLD_NEXT, "open");
    int file = really(path, O_RDWR | O_CLOEXEC);
    if (file < 0) return -1;
    void *found = mmap(NULL, sizeof(struct rules), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (found == MAP_FAILED) return -1;
    shared = found;
    return 0;
}

__attribute__((constructor)) static void begin(void) { failing_use(getenv("HYBRID_TEST_FAILING")); }

static int named(const struct rule *rule, const char *call) {
    size_t length = strlen(call);
    for (const char *at = rule->calls; (at = strstr(at, call)); at += length)
        if (at[length] == ',' && (at == rule->calls || at[-1] == ',')) return 1;
    return 0;
}

/* Whether any rule is for this call at all: then it is worth while to find out the path. */
static int watched(const char *call) {
    if (!shared) return 0;
    for (int i = 0; i < shared->count && i < MOST; i++)
        if (named(&shared->rule[i], call)) return 1;
    return 0;
}

/* The errno that this call is to fail with; 0: none. */
static int fault(const char *call, const char *path) {
    int32_t count = shared->count;
    for (int i = 0; i < count && i < MOST; i++) {
        struct rule *rule = &shared->rule[i];
        if (!named(rule, call) || fnmatch(rule->pattern, path, 0)) continue;
        int32_t seen = __atomic_fetch_add(&rule->seen, 1, __ATOMIC_SEQ_CST) - rule->skip;
        if (seen < 0 || seen % (rule->every > 0 ? rule->every : 1)) continue;
        int32_t left = __atomic_load_n(&rule->left, __ATOMIC_SEQ_CST);
        while (left > 0 && !__atomic_compare_exchange_n(&rule->left, &left, left - 1, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
            ;
        if (!left) continue;
        snprintf(rule->last, sizeof rule->last, "%s %s", call, path);
        __atomic_fetch_add(&rule->struck, 1, __ATOMIC_SEQ_CST);
        return rule->error;
    }
    return 0;
}

/* The absolute path of `path` from the folder behind `at`. */
static void absolute(int at, const char *path, char *whole) {
    char from[64], base[PATH_MAX] = "";
    if (path[0] == '/') {
        snprintf(whole, PATH_MAX, "%s", path);
        return;
    }
    if (at == AT_FDCWD) {
        if (!getcwd(base, sizeof base)) base[0] = 0;
    } else {
        snprintf(from, sizeof from, "/proc/self/fd/%d", at);
        ssize_t length = readlink(from, base, sizeof base - 1);
        base[length > 0 ? length : 0] = 0;
    }
    if (snprintf(whole, PATH_MAX, "%s%s%s", base, *path ? "/" : "", path) >= PATH_MAX) whole[0] = 0;
}

/* Whether a call on a path, or on an open file, is to fail; errno is set then. */
static int fails(const char *call, int at, const char *path) {
    char whole[PATH_MAX];
    int before = errno;
    if (!watched(call)) return 0;
    absolute(at, path, whole);
    int error = fault(call, whole);
    errno = error ? error : before;
    return error;
}

#define REAL(name) \
    static __typeof__(&name) really; \
    if (!really) really = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define OPENS(name, at, path, head, args) \
    int name head { \
        REAL(name); \
        mode_t mode = 0; \
        if (flags & (O_CREAT | O_TMPFILE)) { \
            va_list more; \
            va_start(more, flags); \
            mode = va_arg(more, mode_t); \
            va_end(more); \
        } \
        if (fails("open", at, path) || ((flags & (O_WRONLY | O_RDWR | O_CREAT)) && fails("create", at, path))) return -1; \
        return really args; \
    }

OPENS(open, AT_FDCWD, path, (const char *path, int flags, ...), (path, flags, mode))
OPENS(open64, AT_FDCWD, path, (const char *path, int flags, ...), (path, flags, mode))
OPENS(openat, at, path, (int at, const char *path, int flags, ...), (at, path, flags, mode))
OPENS(openat64, at, path, (int at, const char *path, int flags, ...), (at, path, flags, mode))

/* A call that fails with -1, or with NULL for opendir. */
#define CALL(result, bad, name, call, at, path, head, args) \
    result name head { \
        REAL(name); \
        if (fails(call, at, path)) return bad; \
        return really args; \
    }

CALL(ssize_t, -1, read, "read", file, "", (int file, void *to, size_t size), (file, to, size))
CALL(ssize_t, -1, write, "write", file, "", (int file, const void *from, size_t size), (file, from, size))
CALL(int, -1, fsync, "fsync", file, "", (int file), (file))
CALL(int, -1, fdatasync, "fsync", file, "", (int file), (file))
CALL(int, -1, mkdir, "mkdir", AT_FDCWD, path, (const char *path, mode_t mode), (path, mode))
CALL(int, -1, mkdirat, "mkdir", at, path, (int at, const char *path, mode_t mode), (at, path, mode))
CALL(DIR *, NULL, opendir, "list", AT_FDCWD, path, (const char *path), (path))
CALL(DIR *, NULL, fdopendir, "list", file, "", (int file), (file))
CALL(int, -1, stat, "stat", AT_FDCWD, path, (const char *path, struct stat *to), (path, to))
CALL(int, -1, lstat, "stat", AT_FDCWD, path, (const char *path, struct stat *to), (path, to))
CALL(int, -1, fstatat, "stat", at, path, (int at, const char *path, struct stat *to, int flags), (at, path, to, flags))
CALL(int, -1, stat64, "stat", AT_FDCWD, path, (const char *path, struct stat64 *to), (path, to))
CALL(int, -1, lstat64, "stat", AT_FDCWD, path, (const char *path, struct stat64 *to), (path, to))
CALL(int, -1, fstatat64, "stat", at, path, (int at, const char *path, struct stat64 *to, int flags), (at, path, to, flags))
CALL(int, -1, unlink, "unlink", AT_FDCWD, path, (const char *path), (path))
CALL(int, -1, unlinkat, "unlink", at, path, (int at, const char *path, int flags), (at, path, flags))
CALL(int, -1, rename, "rename", AT_FDCWD, to, (const char *from, const char *to), (from, to))
