/* A server with a programmed law, and a probe of the machine's own lateness. Linux only; one thread, no dependency.

   law_server serve LAW LOG SKIP   LAW: a first line "stall_from_ns stall_to_ns workers tokens each_ns chunk", then one
                                   line "delay_ns status" per request, in order of arrival (the last one repeats).
   Prints its port, answers every POST, and on SIGTERM writes LOG: "receipt_ns first_write_ns last_write_ns" per request.
   A request waits for a free worker (workers 0: there is always one), takes its delay, and is answered; what would be
   answered between stall_from and stall_to (after request number SKIP arrived) is answered at stall_to. With tokens > 0
   the answer is a stream: `chunk` tokens at once, `each_ns` times chunk apart, the first after the delay.

   law_server probe LOG            Sleeps a millisecond again and again; on SIGTERM writes how late each wake-up was (ns). */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

typedef int64_t ns_t;
enum { MAX_REQUESTS = 1 << 20, MAX_FDS = 1 << 16, BUFFER = 1 << 16 };

static volatile sig_atomic_t ended;
static void on_term(int signal_number) { (void)signal_number; ended = 1; }

static ns_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (ns_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* What is to be written: a min-heap by time, then by request. */
typedef struct { ns_t at; int fd, request, token; } due_t;
static due_t heap[MAX_REQUESTS];
static int due_count;

static int is_before(due_t a, due_t b) { return a.at < b.at || (a.at == b.at && a.request < b.request); }

static void push(due_t due) {
  int i = due_count++;
  for (; i && is_before(due, heap[(i - 1) / 2]); i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];
  heap[i] = due;
}

static due_t pop(void) {
  due_t top = heap[0], last = heap[--due_count];
  int i = 0;
  for (int child; (child = 2 * i + 1) < due_count; i = child) {
    if (child + 1 < due_count && is_before(heap[child + 1], heap[child])) child++;
    if (!is_before(heap[child], last)) break;
    heap[i] = heap[child];
  }
  heap[i] = last;
  return top;
}

static ns_t stall_from, stall_to, each, *delays, free_at[1024];
static int workers, tokens, chunk, *statuses, laws, skip, requests;
static ns_t log_rows[MAX_REQUESTS][3];
static char buffers[MAX_FDS][4096];
static int filled[MAX_FDS];

static void read_law(const char *path) {
  FILE *file = fopen(path, "r");
  long long a, b, c;
  int status;
  if (!file || fscanf(file, "%lld %lld %d %d %lld %d", &a, &b, &workers, &tokens, &c, &chunk) != 6) exit(2);
  stall_from = a, stall_to = b, each = c;
  delays = malloc(sizeof(ns_t) * MAX_REQUESTS), statuses = malloc(sizeof(int) * MAX_REQUESTS);
  while (laws < MAX_REQUESTS && fscanf(file, "%lld %d", &a, &status) == 2) delays[laws] = a, statuses[laws++] = status;
  if (!laws) exit(2);
  fclose(file);
}

static void accept_request(int fd) {
  ns_t receipt = now_ns();
  int number = requests++, law = number < laws ? number : laws - 1;
  ns_t begin = receipt, done;
  if (number >= MAX_REQUESTS) exit(3);
  log_rows[number][0] = receipt;
  if (workers) {
    int first = 0;
    for (int w = 1; w < workers; w++) if (free_at[w] < free_at[first]) first = w;
    begin = receipt > free_at[first] ? receipt : free_at[first];
    free_at[first] = begin + delays[law];
  }
  done = begin + delays[law];
  if (number >= skip) {
    ns_t from = log_rows[skip][0] + stall_from, to = log_rows[skip][0] + stall_to;
    if (done > from && done < to) done = to;
  }
  push((due_t){done, fd, number, 0});
}

static void answer(due_t due) {
  static char text[BUFFER];
  int law = due.request < laws ? due.request : laws - 1, length;
  ns_t at = now_ns();
  log_rows[due.request][2] = at;
  if (due.token == 0) log_rows[due.request][1] = at;
  if (!tokens) {
    const char *body = statuses[law] == 200 ? "{\"generated_text\": \"echo\"}" : "{\"message\": \"programmed\"}";
    length = snprintf(text, BUFFER, "HTTP/1.1 %d X\r\nContent-Length: %zu\r\nx-dyno-tokens: 3\r\n\r\n%s", statuses[law],
                      strlen(body), body);
  } else {
    char data[8192];
    int filled_bytes = 0, is_last;
    for (int t = due.token; t < due.token + chunk && t < tokens; t++)
      filled_bytes += snprintf(data + filled_bytes, sizeof data - filled_bytes,
                               "{\"token\": {\"id\": %d, \"text\": \"a\"}}\n", t);
    is_last = due.token + chunk >= tokens;
    if (is_last) filled_bytes += snprintf(data + filled_bytes, sizeof data - filled_bytes, "{\"generated_text\": \"a\"}\n");
    length = snprintf(text, BUFFER, "%s%x\r\n%s\r\n%s",
                      due.token ? "" : "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", filled_bytes, data,
                      is_last ? "0\r\n\r\n" : "");
    if (!is_last) push((due_t){due.at + each * chunk, due.fd, due.request, due.token + chunk});
  }
  if (write(due.fd, text, length) != length) perror("write");
}

static void take_in(int fd, int poll) {
  char *data = buffers[fd];
  ssize_t got = read(fd, data + filled[fd], sizeof buffers[fd] - 1 - filled[fd]);
  if (got <= 0) {
    epoll_ctl(poll, EPOLL_CTL_DEL, fd, NULL);
    close(fd);
    filled[fd] = 0;
    return;
  }
  data[filled[fd] += (int)got] = 0;
  char *end = strstr(data, "\r\n\r\n"), *length = end ? strcasestr(data, "content-length:") : NULL;
  if (!length || filled[fd] < end + 4 - data + atoi(length + 15)) return;
  filled[fd] = 0; /* one request at a time on a connection */
  accept_request(fd);
}

static int serve(const char *law, const char *log_path) {
  read_law(law);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof address;
  int listener = socket(AF_INET, SOCK_STREAM, 0), poll = epoll_create1(0);
  int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK), one = 1;
  if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 4096)) exit(2);
  getsockname(listener, (struct sockaddr *)&address, &size);
  struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[64];
  epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
  event.data.fd = timer;
  epoll_ctl(poll, EPOLL_CTL_ADD, timer, &event);
  printf("%d\n", ntohs(address.sin_port));
  fflush(stdout);
  while (!ended) {
    while (due_count && heap[0].at <= now_ns()) answer(pop());
    struct itimerspec when = {0};
    if (due_count) when.it_value = (struct timespec){heap[0].at / 1000000000, heap[0].at % 1000000000};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL);
    int n = epoll_wait(poll, events, 64, 200);
    for (int i = 0; i < n; i++) {
      int fd = events[i].data.fd;
      if (fd == timer) {
        uint64_t expired;
        if (read(timer, &expired, sizeof expired) < 0) continue;
      } else if (fd == listener) {
        int client = accept(listener, NULL, NULL);
        if (client < 0 || client >= MAX_FDS) continue;
        setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        event.data.fd = client;
        epoll_ctl(poll, EPOLL_CTL_ADD, client, &event);
      } else take_in(fd, poll);
    }
  }
  FILE *file = fopen(log_path, "w");
  for (int i = 0; i < requests; i++)
    fprintf(file, "%lld %lld %lld\n", (long long)log_rows[i][0], (long long)log_rows[i][1], (long long)log_rows[i][2]);
  return fclose(file);
}

static int probe(const char *log_path) {
  static ns_t late[MAX_REQUESTS];
  int count = 0;
  ns_t at = now_ns();
  while (!ended && count < MAX_REQUESTS) {
    at += 1000000;
    struct timespec until = {at / 1000000000, at % 1000000000};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
    ns_t now = now_ns();
    late[count++] = now - at;
    if (now > at) at = now; /* what was missed is missed: no burst of catching up */
  }
  FILE *file = fopen(log_path, "w");
  for (int i = 0; i < count; i++) fprintf(file, "%lld\n", (long long)late[i]);
  return fclose(file);
}

int main(int count, char **arguments) {
  signal(SIGPIPE, SIG_IGN);
  struct sigaction action = {.sa_handler = on_term}; /* no SA_RESTART: the wait must end */
  sigaction(SIGTERM, &action, NULL);
  prctl(PR_SET_TIMERSLACK, 1UL);
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (count == 5 && !strcmp(arguments[1], "serve")) return skip = atoi(arguments[4]), serve(arguments[2], arguments[3]);
  if (count == 3 && !strcmp(arguments[1], "probe")) return probe(arguments[2]);
  return 2;
}
