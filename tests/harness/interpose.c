/* File operations of a process, counted, and at one of them something done.

   Loaded with LD_PRELOAD; does nothing until interpose_arm() is called (tests/harness/operations.py).
   Counted are operations on paths below one of the roots, of the classes that are asked for. Before
   operation NUMBER (from 1) is done, one of these happens: the process group is killed; the
   operation fails as on a full disk, once or from then on; the process tells the driver and waits.
*/
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { CHANGE = 1, CONTENT = 2, READ = 4 };
enum { NOTHING, KILL, FULL_ONCE, FULL, PAUSE };
#define LONGEST 4096

static char *roots[16];
static int root_count;
static unsigned classes;
static long number;
static int action, driver = -1, record = -1;
static atomic_long count;
static atomic_int armed;
static __thread int inside;

#define REAL(type, name, ...)                                                                      \
    static type (*real_##name)(__VA_ARGS__);                                                       \
    static type (*get_##name(void))(__VA_ARGS__) {                                                 \
        if (!real_##name) real_##name = dlsym(RTLD_NEXT, #name);                                   \
        return real_##name;                                                                        \
    }

REAL(int, openat, int, const char *, int, ...)
REAL(FILE *, fopen, const char *, const char *)
REAL(DIR *, opendir, const char *)
REAL(int, rename, const char *, const char *)
REAL(int, renameat, int, const char *, int, const char *)
REAL(int, renameat2, int, const char *, int, const char *, unsigned)
REAL(int, unlink, const char *)
REAL(int, unlinkat, int, const char *, int)
REAL(int, remove, const char *)
REAL(int, mkdir, const char *, mode_t)
REAL(int, mkdirat, int, const char *, mode_t)
REAL(int, rmdir, const char *)
REAL(int, link, const char *, const char *)
REAL(int, linkat, int, const char *, int, const char *, int)
REAL(int, symlink, const char *, const char *)
REAL(int, symlinkat, const char *, int, const char *)
REAL(int, truncate, const char *, off_t)
REAL(int, ftruncate, int, off_t)
REAL(int, fsync, int)
REAL(int, fdatasync, int)
REAL(ssize_t, write, int, const void *, size_t)
REAL(ssize_t, pwrite, int, const void *, size_t, off_t)
REAL(ssize_t, writev, int, const struct iovec *, int)
REAL(ssize_t, sendfile, int, int, off_t *, size_t)
REAL(ssize_t, copy_file_range, int, off64_t *, int, off64_t *, size_t, unsigned)
REAL(long, syscall, long, ...)

/* The absolute path without "." and ".."; an empty one where there is none. */
static void whole_path(int folder, const char *path, char *found) {
    char raw[2 * LONGEST], link[64], *rest;
    size_t length = 0;
    found[0] = 0;
    if (path == NULL || path[0] != '/') {
        ssize_t size;
        if (folder == AT_FDCWD) {
            size = readlink("/proc/self/cwd", raw, LONGEST - 1);
        } else {
            snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
            size = readlink(link, raw, LONGEST - 1);
        }
        if (size <= 0 || raw[0] != '/') return;
        length = size;
        raw[length++] = '/';
    }
    snprintf(raw + length, LONGEST, "%s", path == NULL ? "" : path);
    size_t end = 0;
    for (char *part = strtok_r(raw, "/", &rest); part;
         part = strtok_r(NULL, "/", &rest)) {
        if (!strcmp(part, ".")) continue;
        if (!strcmp(part, "..")) {
            while (end > 0 && found[--end] != '/') {}
            found[end] = 0;
            continue;
        }
        int size = snprintf(found + end, LONGEST - end, "/%s", part);
        if (size < 0 || end + size >= LONGEST) { found[0] = 0; return; }
        end += size;
    }
}

static int below_a_root(const char *path) {
    for (int i = 0; i < root_count; i++) {
        size_t length = strlen(roots[i]);
        if (!strncmp(path, roots[i], length) && (path[length] == '/' || !path[length])) return 1;
    }
    return 0;
}

/* Counts an operation, does what is to be done before it. Returns 1 if it is to fail with errno,
   2 if it is the one that is killed (so that a write can be cut in half first). */
static int counted(unsigned class, const char *name, int folder, const char *path, int other_folder,
                   const char *other) {
    static const char *cannot_be_full[] = {"unlink", "unlinkat", "remove", "rmdir", "read", "list"};
    char first[LONGEST], second[LONGEST];
    if (!(class & classes)) return 0;
    int before = errno;
    whole_path(folder, path, first);
    second[0] = 0;
    if (other) whole_path(other_folder, other, second);
    if (!below_a_root(first) && !(other && below_a_root(second))) { errno = before; return 0; }
    if (action == FULL || action == FULL_ONCE)
        for (size_t i = 0; i < sizeof cannot_be_full / sizeof *cannot_be_full; i++)
            if (!strcmp(name, cannot_be_full[i])) { errno = before; return 0; }
    long mine = atomic_fetch_add(&count, 1) + 1;
    if (record >= 0) {
        char line[2 * LONGEST + 64];
        int size = snprintf(line, sizeof line, "%ld\t%s\t%s%s%s\n", mine, name, first,
                            other ? "\t" : "", second);
        if (get_write()(record, line, size) < 0) {}
    }
    errno = before;
    if (mine == number && action == KILL) return 2;
    if (mine == number && action == PAUSE) {
        char byte = 'p';
        if (get_write()(driver, &byte, 1) == 1)
            while (read(driver, &byte, 1) < 0 && errno == EINTR) {}
        errno = before;
    }
    if ((mine == number && action == FULL_ONCE) || (mine >= number && action == FULL)) {
        errno = ENOSPC;
        return 1;
    }
    return 0;
}

static void killed(void) {
    kill(0, SIGKILL);
    for (;;) pause();
}

/* Whether the operation is to fail; does not return where the process is killed. */
static int stopped(unsigned class, const char *name, int folder, const char *path, int other_folder,
                   const char *other) {
    if (!atomic_load(&armed) || inside) return 0;
    inside = 1;
    int what = counted(class, name, folder, path, other_folder, other);
    inside = 0;
    if (what == 2) killed();
    return what;
}

void interpose_arm(const char *where, unsigned which, long at, int what, int driver_fd,
                   int record_fd) {
    char *copy = strdup(where), *rest;
    atomic_store(&armed, 0);
    root_count = 0;
    for (char *root = strtok_r(copy, "\n", &rest); root && root_count < 16;
         root = strtok_r(NULL, "\n", &rest))
        roots[root_count++] = root;
    classes = which; number = at; action = what; driver = driver_fd; record = record_fd;
    atomic_store(&count, 0);
    atomic_store(&armed, 1);
}

long interpose_count(void) { return atomic_load(&count); }

/* opening */

static int open_at(int folder, const char *path, int flags, mode_t mode) {
    int changes = (flags & O_ACCMODE) != O_RDONLY || flags & (O_CREAT | O_TRUNC);
    const char *name = changes ? (flags & O_CREAT ? "create" : "open") : "read";
    if (stopped(changes ? CHANGE : READ, name, folder, path, 0, NULL)) return -1;
    return get_openat()(folder, path, flags, mode);
}

#define MODE_OF(flags, last)                                                                       \
    mode_t mode = 0;                                                                               \
    if ((flags) & O_CREAT || ((flags) & O_TMPFILE) == O_TMPFILE) {                                 \
        va_list more;                                                                              \
        va_start(more, last);                                                                      \
        mode = va_arg(more, mode_t);                                                               \
        va_end(more);                                                                              \
    }

int open(const char *path, int flags, ...) {
    MODE_OF(flags, flags)
    return open_at(AT_FDCWD, path, flags, mode);
}
int open64(const char *path, int flags, ...) {
    MODE_OF(flags, flags)
    return open_at(AT_FDCWD, path, flags | O_LARGEFILE, mode);
}
int openat(int folder, const char *path, int flags, ...) {
    MODE_OF(flags, flags)
    return open_at(folder, path, flags, mode);
}
int openat64(int folder, const char *path, int flags, ...) {
    MODE_OF(flags, flags)
    return open_at(folder, path, flags | O_LARGEFILE, mode);
}
int __open_2(const char *path, int flags) { return open_at(AT_FDCWD, path, flags, 0); }
int __open64_2(const char *path, int flags) { return open_at(AT_FDCWD, path, flags, 0); }
int __openat_2(int folder, const char *path, int flags) { return open_at(folder, path, flags, 0); }
int __openat64_2(int folder, const char *path, int flags) { return open_at(folder, path, flags, 0); }
int creat(const char *path, mode_t mode) {
    return open_at(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}
int creat64(const char *path, mode_t mode) { return creat(path, mode); }

FILE *fopen(const char *path, const char *mode) {
    int changes = strpbrk(mode, "wa+") != NULL;
    if (stopped(changes ? CHANGE : READ, changes ? "create" : "read", AT_FDCWD, path, 0, NULL))
        return NULL;
    return get_fopen()(path, mode);
}
FILE *fopen64(const char *path, const char *mode) { return fopen(path, mode); }

DIR *opendir(const char *path) {
    if (stopped(READ, "list", AT_FDCWD, path, 0, NULL)) return NULL;
    return get_opendir()(path);
}

/* names */

int rename(const char *from, const char *to) {
    if (stopped(CHANGE, "rename", AT_FDCWD, from, AT_FDCWD, to)) return -1;
    return get_rename()(from, to);
}
int renameat(int a, const char *from, int b, const char *to) {
    if (stopped(CHANGE, "rename", a, from, b, to)) return -1;
    return get_renameat()(a, from, b, to);
}
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
    if (stopped(CHANGE, flags ? "exchange" : "rename", a, from, b, to)) return -1;
    return get_renameat2()(a, from, b, to, flags);
}
int unlink(const char *path) {
    if (stopped(CHANGE, "unlink", AT_FDCWD, path, 0, NULL)) return -1;
    return get_unlink()(path);
}
int unlinkat(int folder, const char *path, int flags) {
    const char *name = flags & AT_REMOVEDIR ? "rmdir" : "unlink";
    if (stopped(CHANGE, name, folder, path, 0, NULL)) return -1;
    return get_unlinkat()(folder, path, flags);
}
int remove(const char *path) {
    if (stopped(CHANGE, "remove", AT_FDCWD, path, 0, NULL)) return -1;
    return get_remove()(path);
}
int mkdir(const char *path, mode_t mode) {
    if (stopped(CHANGE, "mkdir", AT_FDCWD, path, 0, NULL)) return -1;
    return get_mkdir()(path, mode);
}
int mkdirat(int folder, const char *path, mode_t mode) {
    if (stopped(CHANGE, "mkdir", folder, path, 0, NULL)) return -1;
    return get_mkdirat()(folder, path, mode);
}
int rmdir(const char *path) {
    if (stopped(CHANGE, "rmdir", AT_FDCWD, path, 0, NULL)) return -1;
    return get_rmdir()(path);
}
int link(const char *from, const char *to) {
    if (stopped(CHANGE, "link", AT_FDCWD, from, AT_FDCWD, to)) return -1;
    return get_link()(from, to);
}
int linkat(int a, const char *from, int b, const char *to, int flags) {
    if (stopped(CHANGE, "link", a, from, b, to)) return -1;
    return get_linkat()(a, from, b, to, flags);
}
int symlink(const char *target, const char *path) {
    if (stopped(CHANGE, "symlink", AT_FDCWD, path, 0, NULL)) return -1;
    return get_symlink()(target, path);
}
int symlinkat(const char *target, int folder, const char *path) {
    if (stopped(CHANGE, "symlink", folder, path, 0, NULL)) return -1;
    return get_symlinkat()(target, folder, path);
}
int truncate(const char *path, off_t size) {
    if (stopped(CHANGE, "truncate", AT_FDCWD, path, 0, NULL)) return -1;
    return get_truncate()(path, size);
}
int truncate64(const char *path, off64_t size) { return truncate(path, size); }

/* contents */

int ftruncate(int file, off_t size) {
    if (stopped(CHANGE, "truncate", file, NULL, 0, NULL)) return -1;
    return get_ftruncate()(file, size);
}
int ftruncate64(int file, off64_t size) { return ftruncate(file, size); }
int fsync(int file) {
    if (stopped(CONTENT, "sync", file, NULL, 0, NULL)) return -1;
    return get_fsync()(file);
}
int fdatasync(int file) {
    if (stopped(CONTENT, "sync", file, NULL, 0, NULL)) return -1;
    return get_fdatasync()(file);
}

/* Like stopped(), but half of what is killed while it is written gets into the file. */
static int write_stopped(int file, const void *bytes, size_t size, off_t at) {
    if (!atomic_load(&armed) || inside || file == driver || file == record) return 0;
    inside = 1;
    int what = counted(CONTENT, "write", file, NULL, 0, NULL);
    inside = 0;
    if (what == 2) {
        ssize_t done = 0;
        if (bytes && size > 1)
            done = at < 0 ? get_write()(file, bytes, size / 2)
                          : get_pwrite()(file, bytes, size / 2, at);
        if (done >= -1) killed();
    }
    return what;
}
ssize_t write(int file, const void *bytes, size_t size) {
    if (write_stopped(file, bytes, size, -1)) return -1;
    return get_write()(file, bytes, size);
}
ssize_t pwrite(int file, const void *bytes, size_t size, off_t at) {
    if (write_stopped(file, bytes, size, at)) return -1;
    return get_pwrite()(file, bytes, size, at);
}
ssize_t pwrite64(int file, const void *bytes, size_t size, off64_t at) {
    return pwrite(file, bytes, size, at);
}
ssize_t writev(int file, const struct iovec *parts, int many) {
    const void *bytes = many ? parts[0].iov_base : NULL;
    if (write_stopped(file, bytes, many ? parts[0].iov_len : 0, -1)) return -1;
    return get_writev()(file, parts, many);
}
ssize_t sendfile(int to, int from, off_t *at, size_t size) {
    if (write_stopped(to, NULL, 0, -1)) return -1;
    return get_sendfile()(to, from, at, size);
}
ssize_t sendfile64(int to, int from, off64_t *at, size_t size) { return sendfile(to, from, at, size); }
ssize_t copy_file_range(int from, off64_t *a, int to, off64_t *b, size_t size, unsigned flags) {
    if (write_stopped(to, NULL, 0, -1)) return -1;
    return get_copy_file_range()(from, a, to, b, size, flags);
}

/* What is done without the C library's functions of those names. */
long syscall(long what, ...) {
    long a[6];
    va_list more;
    va_start(more, what);
    for (int i = 0; i < 6; i++) a[i] = va_arg(more, long);
    va_end(more);
#ifdef SYS_renameat2
    if (what == SYS_renameat2)
        return renameat2((int)a[0], (const char *)a[1], (int)a[2], (const char *)a[3], (unsigned)a[4]);
#endif
#ifdef SYS_rename
    if (what == SYS_rename) return rename((const char *)a[0], (const char *)a[1]);
#endif
#ifdef SYS_unlinkat
    if (what == SYS_unlinkat) return unlinkat((int)a[0], (const char *)a[1], (int)a[2]);
#endif
    return get_syscall()(what, a[0], a[1], a[2], a[3], a[4], a[5]);
}
