/* What loadgen.c stands on: the functions of libzmq that it calls, MessagePack as far as CAR/1's headers need it, a
 * histogram of latencies, and clocks. Included once, by loadgen.c.
 *
 * libzmq's own header is not needed: a machine that has pyzmq has the library, rarely the header. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* ---- libzmq, as far as it is used ---- */
typedef struct { _Alignas(void *) unsigned char opaque[64]; } zmq_msg_t;
typedef struct { void *socket; int fd; short events; short revents; } zmq_pollitem_t;
enum { ZMQ_DEALER = 5, ZMQ_LINGER = 17, ZMQ_POLLIN = 1, ZMQ_DONTWAIT = 1, ZMQ_SNDMORE = 2 };
void *zmq_ctx_new(void);
int zmq_ctx_term(void *context);
void *zmq_socket(void *context, int type);
int zmq_close(void *socket);
int zmq_setsockopt(void *socket, int option, const void *value, size_t size);
int zmq_connect(void *socket, const char *endpoint);
int zmq_send(void *socket, const void *data, size_t size, int flags);
int zmq_poll(zmq_pollitem_t *items, int count, long timeout_ms);
int zmq_msg_init(zmq_msg_t *msg);
int zmq_msg_init_data(zmq_msg_t *msg, void *data, size_t size, void (*release)(void *, void *), void *hint);
int zmq_msg_recv(zmq_msg_t *msg, void *socket, int flags);
int zmq_msg_send(zmq_msg_t *msg, void *socket, int flags);
int zmq_msg_more(const zmq_msg_t *msg);
void *zmq_msg_data(zmq_msg_t *msg);
size_t zmq_msg_size(const zmq_msg_t *msg);
int zmq_errno(void);
const char *zmq_strerror(int code);

/* ---- MessagePack: only what CAR/1's headers need ---- */
typedef struct { const unsigned char *at, *end; } reader_t;

static uint64_t big_endian(const unsigned char *p, int bytes) {
    uint64_t value = 0;
    for (int i = 0; i < bytes; i++) value = value << 8 | p[i];
    return value;
}

/* Reads a tag with its length or integer. `kind`: u(int) n(egative int) s(tr) a(rray) m(ap) o(ther, `value` bytes). */
static int read_tag(reader_t *r, char *kind, uint64_t *value) {
    static const signed char extra[32] = {0, -1, 0, 0, 1, 2, 4, 2, 3, 5, 4, 8, 1, 2, 4, 8,
                                          1, 2, 4, 8, 2, 3, 5, 9, 17, 1, 2, 4, 2, 4, 2, 4};
    if (r->at >= r->end) return 0;
    unsigned char tag = *r->at++;
    if (tag <= 0x7f) return *kind = 'u', *value = tag, 1;
    if (tag <= 0x8f) return *kind = 'm', *value = tag & 15, 1;
    if (tag <= 0x9f) return *kind = 'a', *value = tag & 15, 1;
    if (tag <= 0xbf) return *kind = 's', *value = tag & 31, 1;
    if (tag >= 0xe0) return *kind = 'n', *value = 0, 1;
    int bytes = extra[tag - 0xc0];
    if (bytes < 0 || r->end - r->at < bytes) return 0;
    if ((tag >= 0xca && tag <= 0xcb) || (tag >= 0xd4 && tag <= 0xd8)) return *kind = 'o', *value = bytes, 1;
    *value = big_endian(r->at, tag >= 0xc7 && tag <= 0xc9 ? bytes - 1 : bytes);
    r->at += bytes;
    if (tag >= 0xcc && tag <= 0xcf) *kind = 'u';
    else if (tag >= 0xd0 && tag <= 0xd3) *kind = 'n', *value = 0;
    else if (tag >= 0xd9 && tag <= 0xdb) *kind = 's';
    else if (tag == 0xdc || tag == 0xdd) *kind = 'a';
    else if (tag == 0xde || tag == 0xdf) *kind = 'm';
    else *kind = 'o';
    return 1;
}

static int skip_value(reader_t *r, int depth) {
    char kind;
    uint64_t value;
    if (depth > 64 || !read_tag(r, &kind, &value)) return 0;
    if (kind == 'u' || kind == 'n') return 1;
    if (kind == 's' || kind == 'o') {
        if ((uint64_t)(r->end - r->at) < value) return 0;
        r->at += value;
        return 1;
    }
    for (uint64_t left = kind == 'm' ? 2 * value : value; left > 0; left--)
        if (!skip_value(r, depth + 1)) return 0;
    return 1;
}

/* Walks the map in `msg` to `key`; leaves `r` at its value. */
static int find_key(zmq_msg_t *msg, const char *key, reader_t *r) {
    char kind;
    uint64_t pairs, length;
    r->at = zmq_msg_data(msg);
    r->end = r->at + zmq_msg_size(msg);
    if (!read_tag(r, &kind, &pairs) || kind != 'm') return 0;
    for (; pairs > 0; pairs--) {
        if (!read_tag(r, &kind, &length) || kind != 's' || (uint64_t)(r->end - r->at) < length) return 0;
        int found = length == strlen(key) && memcmp(r->at, key, length) == 0;
        r->at += length;
        if (found) return 1;
        if (!skip_value(r, 0)) return 0;
    }
    return 0;
}

static int get_uint(zmq_msg_t *msg, const char *key, uint64_t *value) {
    reader_t r;
    char kind;
    return find_key(msg, key, &r) && read_tag(&r, &kind, value) && kind == 'u';
}

static void print_str(zmq_msg_t *msg, const char *key) {
    reader_t r;
    char kind;
    uint64_t length;
    if (!find_key(msg, key, &r) || !read_tag(&r, &kind, &length) || kind != 's') return;
    if ((uint64_t)(r.end - r.at) >= length) fprintf(stderr, " %.*s", (int)length, (const char *)r.at);
}

static unsigned char *put_str(unsigned char *p, const char *text) { /* up to 31 bytes */
    size_t length = strlen(text);
    *p++ = (unsigned char)(0xa0 | length);
    return (unsigned char *)memcpy(p, text, length) + length;
}

static unsigned char *put_uint(unsigned char *p, uint64_t value) {
    *p++ = 0xcf;
    for (int shift = 56; shift >= 0; shift -= 8) *p++ = (unsigned char)(value >> shift);
    return p;
}

/* ---- histogram: 64 buckets per power of two, so that latencies are exact to 1.6 % ---- */
enum { SUB_BITS = 6, BUCKETS = (64 - SUB_BITS + 1) << SUB_BITS };

static int bucket_of(uint64_t ns) {
    if (ns < 1u << SUB_BITS) return (int)ns;
    int shift = 63 - __builtin_clzll(ns) - SUB_BITS;
    return ((shift + 1) << SUB_BITS) + (int)(ns >> shift) - (1 << SUB_BITS);
}

static double bucket_middle_ns(int bucket) {
    if (bucket < 1 << SUB_BITS) return bucket;
    int shift = (bucket >> SUB_BITS) - 1;
    double low = (double)((1 << SUB_BITS) + (bucket & ((1 << SUB_BITS) - 1)));
    return (low + 0.5) * (double)(1ull << shift);
}

static double percentile_us(const uint64_t *histogram, uint64_t count, double share) {
    double wanted = share * (double)count, seen = 0;
    for (int i = 0; i < BUCKETS; i++) {
        seen += (double)histogram[i];
        if (histogram[i] && seen >= wanted) return bucket_middle_ns(i) / 1e3;
    }
    return 0;
}

/* ---- clocks ---- */
static int64_t now_ns(clockid_t clock) {
    struct timespec t;
    if (clock_gettime(clock, &t) != 0) return 0;
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void read_times(int pid, double *user_s, double *system_s) { /* fields 14 and 15 of /proc/PID/stat, in ticks */
    char path[64], text[1024] = "";
    unsigned long user = 0, system = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *file = fopen(path, "r");
    if (!file) return;
    size_t length = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[length] = 0;
    char *after = strrchr(text, ')'); /* the process's name may hold blanks and brackets */
    if (after) sscanf(after + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system);
    *user_s = (double)user / (double)sysconf(_SC_CLK_TCK);
    *system_s = (double)system / (double)sysconf(_SC_CLK_TCK);
}

static double busy_s(int one, int other) { /* of two cores, whoever used them */
    char line[256];
    double ticks = 0;
    FILE *file = fopen("/proc/stat", "r");
    if (!file) return 0;
    while (fgets(line, sizeof line, file)) {
        int core;
        double user, nice, system, idle, wait, irq, soft, steal;
        int found = sscanf(line, "cpu%d %lf %lf %lf %lf %lf %lf %lf %lf", &core, &user, &nice, &system, &idle,
                           &wait, &irq, &soft, &steal);
        if (found == 9 && (core == one || core == other)) ticks += user + nice + system + irq + soft + steal;
    }
    fclose(file);
    return ticks / (double)sysconf(_SC_CLK_TCK);
}
