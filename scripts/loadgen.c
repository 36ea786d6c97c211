/* Load generator of scripts/bench_broker: the clients and the backends of one measurement in one process.
 *
 * Rules, and why:
 * - C and one thread, so that one core of load keeps one core of broker busy: a generator in Python would
 *   measure itself.
 * - Closed loop: every client keeps a fixed number of requests out and sends the next one when an answer comes.
 * - It waits in zmq_poll, then drains the ready sockets in turn. A spinning generator would always show 100 % CPU, and
 *   that it is the bottleneck could not be told.
 * - It checks what it measures: each answer must carry the id of an open request and the body that was sent;
 *   every ERROR and everything unexpected is counted, and whatever is still open at the end is reported lost.
 *
 * In the mode `car1` it speaks CAR/1 to a daemon; in the mode `proxy` the clients send the same frames through a
 * zmq.proxy and the workers behind it echo them. The result is one JSON object on standard output. */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "loadgen.h"

/* ---- limits ---- */
enum {
    MAX_PEERS = 256,        /* clients or backends */
    MAX_OUTSTANDING = 4096, /* requests out per client */
    MAX_FRAMES = 4,         /* identity, command, header, body: nothing here is longer */
    MAX_ERRORS = 1000,      /* more than that is no measurement: give up */
    ERRORS_SHOWN = 5,       /* printed in full; the rest is only counted */
    DRAIN_LIMIT = 64,       /* messages taken from one socket before the next one has its turn */
    ZERO_COPY_BYTES = 4096, /* from this size on the client's body is sent without a copy */
    HEADER_BYTES = 160,
    NAME_BYTES = 32,
    DRAIN_MS = 5000, /* how long the end waits for answers, and the start for REGISTERED */
};

typedef struct {
    const char *mode, *frontend, *backend, *send_mode;
    int clients, outstanding, backends, slots, pid, broker_core, own_core;
    size_t size;
    double seconds, warmup;
} options_t;

typedef struct { uint64_t id; int64_t sent_ns; int open; } slot_t;
typedef struct { void *socket; slot_t *slots; uint64_t generation; } client_t;
typedef struct { void *socket; int registered, gone; } backend_t;
typedef struct { double wall_s, own_s, broker_s, user_s, system_s, cores_s; } sample_t;

static options_t opt;
static client_t clients[MAX_PEERS];
static backend_t backends[MAX_PEERS];
static zmq_msg_t frames[MAX_FRAMES];
static zmq_pollitem_t items[2 * MAX_PEERS]; /* the backends, then the clients */
static unsigned char *body;
static uint64_t histogram[BUCKETS];
static uint64_t round_trips, deliveries, errors, unexpected;
static long heartbeat_ms = 1000;
static int is_proxy, sending, open_requests;

static void die(const char *what) {
    fprintf(stderr, "loadgen: %s: %s\n", what, zmq_strerror(zmq_errno()));
    exit(1);
}

/* ---- frames in, frames out ---- */
static int receive(void *socket) { /* how many frames; 0: nothing there */
    int count = 0;
    for (;;) {
        zmq_msg_t *frame = &frames[count < MAX_FRAMES ? count : MAX_FRAMES - 1];
        if (zmq_msg_recv(frame, socket, ZMQ_DONTWAIT) < 0) {
            if (zmq_errno() == EAGAIN && count == 0) return 0;
            die("receive");
        }
        count++;
        if (!zmq_msg_more(frame)) return count;
    }
}

static int is_command(zmq_msg_t *frame, const char *command) {
    size_t length = strlen(command);
    return zmq_msg_size(frame) == length && memcmp(zmq_msg_data(frame), command, length) == 0;
}

static void put_frame(void *socket, const void *data, size_t size, int more) {
    if (zmq_send(socket, data, size, ZMQ_DONTWAIT | (more ? ZMQ_SNDMORE : 0)) < 0) die("send");
}

static void pass_frame(void *socket, zmq_msg_t *frame, int more) { /* moves a received frame on, without a copy */
    if (zmq_msg_send(frame, socket, ZMQ_DONTWAIT | (more ? ZMQ_SNDMORE : 0)) < 0) die("send");
}

static void put_command(void *socket, const char *command, const unsigned char *header, size_t size, int more) {
    put_frame(socket, command, strlen(command), 1);
    put_frame(socket, header, size, more);
}

static void send_request(client_t *client, int index) {
    unsigned char header[HEADER_BYTES], *p = header;
    slot_t *slot = &client->slots[index];
    slot->id = client->generation++ * (uint64_t)opt.outstanding + (uint64_t)index;
    *p++ = 0x84;
    p = put_uint(put_str(p, "id"), slot->id);
    p = put_str(put_str(p, "capability"), "bench");
    p = put_str(put_str(p, "mode"), opt.send_mode);
    p = put_uint(put_str(p, "ttl_ms"), 30000);
    slot->open = 1;
    open_requests++;
    slot->sent_ns = now_ns(CLOCK_MONOTONIC);
    put_command(client->socket, "CAR1.SEND", header, (size_t)(p - header), 1);
    if (opt.size < ZERO_COPY_BYTES) {
        put_frame(client->socket, body, opt.size, 0);
        return;
    }
    zmq_msg_t frame;
    if (zmq_msg_init_data(&frame, body, opt.size, NULL, NULL) != 0) die("message");
    pass_frame(client->socket, &frame, 0);
}

static void report_error(const char *who, int count) {
    errors++;
    if (errors <= ERRORS_SHOWN) {
        fprintf(stderr, "loadgen: %s got %.*s", who, (int)zmq_msg_size(&frames[0]), (char *)zmq_msg_data(&frames[0]));
        if (count > 1) print_str(&frames[1], "code"), print_str(&frames[1], "detail");
        fprintf(stderr, "\n");
    }
    if (errors <= MAX_ERRORS) return;
    fprintf(stderr, "loadgen: more than %d errors: this measures nothing, giving up\n", MAX_ERRORS);
    exit(1);
}

static int is_our_body(zmq_msg_t *frame) { /* the size, and the bytes as far as checking them is cheap */
    const unsigned char *data = zmq_msg_data(frame);
    size_t edge = opt.size < 256 ? opt.size : 256;
    return zmq_msg_size(frame) == opt.size && memcmp(data, body, edge) == 0 &&
           memcmp(data + opt.size - edge, body + opt.size - edge, edge) == 0;
}

static void client_message(client_t *client, int count) {
    uint64_t id;
    int is_error = is_command(&frames[0], "CAR1.ERROR");
    if (count < 2 || !get_uint(&frames[1], "id", &id) || (!is_error && !is_command(&frames[0], "CAR1.REPLY"))) {
        unexpected++;
        report_error("a client", count);
        return;
    }
    int index = (int)(id % (uint64_t)opt.outstanding);
    slot_t *slot = &client->slots[index];
    if (!slot->open || slot->id != id) {
        unexpected++;
        report_error("a client (no such request open)", count);
        return;
    }
    slot->open = 0;
    open_requests--;
    if (is_error) {
        report_error("a client", count);
    } else if (count != 3 || !is_our_body(&frames[2])) {
        unexpected++;
        report_error("a client (not the body that was sent)", count);
    } else {
        histogram[bucket_of((uint64_t)(now_ns(CLOCK_MONOTONIC) - slot->sent_ns))]++;
        round_trips++;
    }
    if (sending) send_request(client, index);
}

static void proxy_message(backend_t *backend, int count) { /* identity, command, header, body */
    if (count != 4) {
        unexpected++;
        report_error("a worker", count);
        return;
    }
    deliveries++;
    pass_frame(backend->socket, &frames[0], 1);
    put_frame(backend->socket, "CAR1.REPLY", 10, 1);
    pass_frame(backend->socket, &frames[2], 1);
    pass_frame(backend->socket, &frames[3], 0);
}

static void backend_message(backend_t *backend, int count) {
    unsigned char header[HEADER_BYTES], *p = header;
    uint64_t value;
    if (count == 3 && is_command(&frames[0], "CAR1.DELIVER") && get_uint(&frames[1], "id", &value)) {
        deliveries++;
        *p++ = 0x81;
        p = put_uint(put_str(p, "id"), value);
        put_command(backend->socket, "CAR1.ACK", header, (size_t)(p - header), 1);
        pass_frame(backend->socket, &frames[2], 0);
    } else if (is_command(&frames[0], "CAR1.REGISTERED")) {
        backend->registered = 1;
        if (count > 1 && get_uint(&frames[1], "heartbeat_ms", &value)) heartbeat_ms = (long)value;
    } else if (is_command(&frames[0], "CAR1.BYE")) {
        backend->gone = 1;
    } else if (!is_command(&frames[0], "CAR1.HEARTBEAT") && !is_command(&frames[0], "CAR1.CANCEL")) {
        unexpected++; /* a CANCEL was answered already: the ACK left when the DELIVER came */
        report_error("a backend", count);
    }
}

/* ---- the loop ---- */
static void wait_and_drain(long timeout_ms) {
    int peers = opt.backends + opt.clients;
    if (zmq_poll(items, peers, timeout_ms) < 0 && zmq_errno() != EINTR) die("poll");
    for (int i = 0; i < peers; i++) {
        int taken = items[i].revents ? 0 : DRAIN_LIMIT, count;
        for (; taken < DRAIN_LIMIT && (count = receive(items[i].socket)) > 0; taken++) {
            if (i >= opt.backends) client_message(&clients[i - opt.backends], count);
            else if (is_proxy) proxy_message(&backends[i], count);
            else backend_message(&backends[i], count);
        }
    }
}

static void send_heartbeats(int64_t now, int64_t *next) {
    if (is_proxy || now < *next) return;
    *next = now + heartbeat_ms * 500000; /* half of it, in ns */
    for (int b = 0; b < opt.backends; b++)
        if (backends[b].registered && !backends[b].gone)
            put_command(backends[b].socket, "CAR1.HEARTBEAT", (const unsigned char *)"\x80", 1, 0);
}

static int all_registered(void) {
    int count = 0;
    for (int b = 0; b < opt.backends; b++) count += backends[b].registered;
    return count == opt.backends;
}
static int all_gone(void) {
    int count = 0;
    for (int b = 0; b < opt.backends; b++) count += backends[b].gone;
    return count == opt.backends;
}
static int all_answered(void) { return open_requests == 0; }

/* Runs until `done` says so (NULL: never) or the time is up. */
static void run_for(double seconds, int (*done)(void)) {
    static int64_t next_heartbeat;
    int64_t now = now_ns(CLOCK_MONOTONIC), end = now + (int64_t)(seconds * 1e9);
    while (now < end && !(done && done())) {
        send_heartbeats(now, &next_heartbeat);
        wait_and_drain(5);
        now = now_ns(CLOCK_MONOTONIC);
    }
}

/* ---- measuring ---- */
static sample_t sample(void) {
    sample_t s = {0};
    clockid_t clock;
    if (opt.pid > 0 && clock_getcpuclockid(opt.pid, &clock) == 0) s.broker_s = (double)now_ns(clock) / 1e9;
    if (opt.pid > 0) read_times(opt.pid, &s.user_s, &s.system_s);
    s.cores_s = busy_s(opt.broker_core, opt.own_core);
    s.own_s = (double)now_ns(CLOCK_PROCESS_CPUTIME_ID) / 1e9;
    s.wall_s = (double)now_ns(CLOCK_MONOTONIC) / 1e9;
    return s;
}

static void report(sample_t a, sample_t b, uint64_t measured, uint64_t delivered, double p50_us, double p99_us) {
    double own_s = b.own_s - a.own_s, broker_s = b.broker_s - a.broker_s;
    double others_s = b.cores_s - a.cores_s - own_s - broker_s;
    printf("{\"round_trips\": %llu, \"deliveries\": %llu, \"wall_s\": %.6f, \"generator_cpu_s\": %.6f, "
           "\"others_cpu_s\": %.2f, \"broker_cpu_s\": %.6f, \"broker_user_s\": %.2f, \"broker_system_s\": %.2f, "
           "\"p50_us\": %.2f, \"p99_us\": %.2f, \"errors\": %llu, \"unexpected\": %llu, \"lost\": %d}\n",
           (unsigned long long)measured, (unsigned long long)delivered, b.wall_s - a.wall_s, own_s,
           others_s > 0 ? others_s : 0, broker_s, b.user_s - a.user_s, b.system_s - a.system_s, p50_us, p99_us,
           (unsigned long long)errors, (unsigned long long)unexpected, open_requests);
}

static void measure(void) {
    sending = 1;
    for (int c = 0; c < opt.clients; c++)
        for (int i = 0; i < opt.outstanding; i++) send_request(&clients[c], i);
    run_for(opt.warmup, NULL);
    memset(histogram, 0, sizeof histogram);
    round_trips = deliveries = 0;
    sample_t before = sample();
    run_for(opt.seconds, NULL);
    sample_t after = sample();
    uint64_t measured = round_trips, delivered = deliveries;
    double p50_us = percentile_us(histogram, measured, .5), p99_us = percentile_us(histogram, measured, .99);
    sending = 0;
    run_for(DRAIN_MS / 1e3, all_answered);
    report(before, after, measured, delivered, p50_us, p99_us);
}

/* ---- start and end ---- */
static void *connect_dealer(void *context, const char *endpoint) {
    int linger_ms = 1000;
    void *socket = zmq_socket(context, ZMQ_DEALER);
    if (!socket || zmq_setsockopt(socket, ZMQ_LINGER, &linger_ms, sizeof linger_ms) != 0) die("socket");
    if (zmq_connect(socket, endpoint) != 0) die(endpoint);
    return socket;
}

static void register_backends(void) {
    for (int b = 0; b < opt.backends; b++) {
        unsigned char header[HEADER_BYTES], *p = header;
        char name[NAME_BYTES];
        snprintf(name, sizeof name, "bench-%d", b);
        *p++ = 0x83;
        p = put_str(put_str(p, "name"), name);
        p = put_str(p, "capabilities");
        *p++ = 0x91;
        p = put_str(p, "bench");
        p = put_uint(put_str(p, "slots"), (uint64_t)opt.slots);
        put_command(backends[b].socket, "CAR1.REGISTER", header, (size_t)(p - header), 0);
    }
    run_for(DRAIN_MS / 1e3, all_registered);
    if (all_registered()) return;
    fprintf(stderr, "loadgen: not every backend was registered within %d ms\n", DRAIN_MS);
    exit(1);
}

static void unregister_backends(void) {
    for (int b = 0; b < opt.backends; b++)
        put_command(backends[b].socket, "CAR1.UNREGISTER", (const unsigned char *)"\x80", 1, 0);
    run_for(DRAIN_MS / 1e3, all_gone);
}

static const char *argument(int argc, char **argv, const char *name, const char *otherwise) {
    for (int i = 1; i + 1 < argc; i += 2)
        if (strcmp(argv[i], name) == 0) return argv[i + 1];
    if (otherwise) return otherwise;
    fprintf(stderr, "loadgen: %s is missing\n", name);
    exit(2);
}

static int count_argument(int argc, char **argv, const char *name, const char *otherwise, int most) {
    int value = atoi(argument(argc, argv, name, otherwise));
    if (value >= 1 && value <= most) return value;
    fprintf(stderr, "loadgen: %s is 1 to %d\n", name, most);
    exit(2);
}

static void read_options(int argc, char **argv) {
    opt.mode = argument(argc, argv, "--mode", NULL);
    opt.frontend = argument(argc, argv, "--frontend", NULL);
    opt.backend = argument(argc, argv, "--backend", NULL);
    opt.send_mode = argument(argc, argv, "--send-mode", "single");
    opt.clients = count_argument(argc, argv, "--clients", "8", MAX_PEERS);
    opt.outstanding = count_argument(argc, argv, "--outstanding", "32", MAX_OUTSTANDING);
    opt.backends = count_argument(argc, argv, "--backends", "4", MAX_PEERS);
    opt.slots = count_argument(argc, argv, "--slots", "128", 1 << 20);
    opt.size = (size_t)count_argument(argc, argv, "--size", "100", 1 << 30);
    opt.pid = atoi(argument(argc, argv, "--pid", "0"));
    opt.broker_core = atoi(argument(argc, argv, "--broker-core", "-1"));
    opt.own_core = atoi(argument(argc, argv, "--own-core", "-1"));
    opt.seconds = atof(argument(argc, argv, "--seconds", "2"));
    opt.warmup = atof(argument(argc, argv, "--warmup", "0.5"));
    is_proxy = strcmp(opt.mode, "proxy") == 0;
    if ((!is_proxy && strcmp(opt.mode, "car1") != 0) || strlen(opt.send_mode) > 15) {
        fprintf(stderr, "loadgen: --mode is car1 or proxy, --send-mode a mode of SEND\n");
        exit(2);
    }
}

int main(int argc, char **argv) {
    struct sched_param no_priority = {0};
    read_options(argc, argv);
    sched_setscheduler(0, SCHED_BATCH, &no_priority); /* else libzmq's thread interrupts this one at every send */
    body = malloc(opt.size);
    for (size_t i = 0; i < opt.size; i++) body[i] = (unsigned char)(i * 31 + 7);
    for (int i = 0; i < MAX_FRAMES; i++) zmq_msg_init(&frames[i]);
    void *context = zmq_ctx_new();
    for (int b = 0; b < opt.backends; b++) 
        items[b] = (zmq_pollitem_t){backends[b].socket = connect_dealer(context, opt.backend), 0, ZMQ_POLLIN, 0};
    for (int c = 0; c < opt.clients; c++) {
        clients[c].socket = connect_dealer(context, opt.frontend);
        items[opt.backends + c] = (zmq_pollitem_t){clients[c].socket, 0, ZMQ_POLLIN, 0};
        clients[c].slots = calloc((size_t)opt.outstanding, sizeof(slot_t));
    }
    if (!is_proxy) register_backends();
    else run_for(0.2, NULL); /* the proxy's DEALER must see all workers before it shares out the load */
    measure();
    if (!is_proxy) unregister_backends();
    for (int b = 0; b < opt.backends; b++) zmq_close(backends[b].socket);
    for (int c = 0; c < opt.clients; c++) zmq_close(clients[c].socket);
    zmq_ctx_term(context);
    return 0;
}
