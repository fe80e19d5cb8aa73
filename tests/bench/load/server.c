/* A C-speed HTTP/1.1 server on 127.0.0.1 for judging load generators: epoll, one thread, keep-alive.

   server SERVICE_US LOG: prints its port; answers every request with a fixed body, SERVICE_US after its last byte came
   (0: at once). On SIGTERM it writes LOG: one line "receipt_ns write_ns" (CLOCK_MONOTONIC) per request, in order of the
   writes. `receipt_ns` is read before the request is looked at, `write_ns` before the answer is handed to the kernel. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { MAX_FD = 65536, BUFFER = 65536, MAX_LOG = 1 << 24 };

/* One body that every tool's client accepts: DJL's field, OpenAI's completion and chat fields, usage. */
static const char BODY[] =
    "{\"generated_text\":\"ok\",\"id\":\"c\",\"object\":\"text_completion\",\"created\":1,\"model\":\"m\",\"choices\":"
    "[{\"index\":0,\"text\":\"ok\",\"message\":{\"role\":\"assistant\",\"content\":\"ok\"},\"finish_reason\":\"stop\"}],"
    "\"usage\":{\"prompt_tokens\":2,\"completion_tokens\":1,\"total_tokens\":3}}";
static const char MODELS[] = "{\"object\":\"list\",\"data\":[{\"id\":\"m\",\"object\":\"model\"}]}";

typedef struct {
  char *data;
  size_t used;
  int is_open;
} Client;
typedef struct {
  int64_t receipt_ns, write_ns;
} Row;
typedef struct {
  int64_t due_ns, receipt_ns;
  int fd, is_get;
} Due;

static Client clients[MAX_FD];
static Row *rows;
static size_t logged;
static Due queue[MAX_FD];
static size_t head, tail;
static volatile sig_atomic_t is_ended;

static int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void end(int signal_number) {
  (void)signal_number;
  is_ended = 1;
}

static void drop(int fd) {
  clients[fd].is_open = 0;
  clients[fd].used = 0;
  close(fd);
}

static void answer(int fd, int is_get, int64_t receipt_ns) {
  char out[1024];
  const char *body = is_get ? MODELS : BODY;
  int length = snprintf(out, sizeof out,
                        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                        strlen(body), body);
  if (!is_get && logged < MAX_LOG) rows[logged++] = (Row){receipt_ns, now_ns()};
  if (write(fd, out, (size_t)length) != length) drop(fd);
}

/* Length of the first whole request in the buffer, 0 if it is not there yet. */
static size_t whole(const char *data, size_t used) {
  const char *gap = memmem(data, used, "\r\n\r\n", 4);
  if (!gap) return 0;
  size_t length = (size_t)(gap - data) + 4;
  for (const char *line = data; line && line < gap; line = memchr(line, '\n', (size_t)(gap - line))) {
    if (*line == '\n') line++;
    if (!strncasecmp(line, "content-length:", 15)) length += strtoul(line + 15, NULL, 10);
  }
  return length <= used ? length : 0;
}

static void serve(int fd, int64_t service_ns) {
  Client *client = &clients[fd];
  ssize_t got = read(fd, client->data + client->used, BUFFER - client->used);
  int64_t receipt_ns = now_ns();
  if (got <= 0) {
    if (got == 0 || (errno != EAGAIN && errno != EINTR)) drop(fd);
    return;
  }
  client->used += (size_t)got;
  size_t length;
  while (client->is_open && (length = whole(client->data, client->used))) {
    int is_get = client->data[0] == 'G';
    memmove(client->data, client->data + length, client->used - length);
    client->used -= length;
    if (!service_ns || is_get) {
      answer(fd, is_get, receipt_ns);
    } else {
      queue[tail++ % MAX_FD] = (Due){receipt_ns + service_ns, receipt_ns, fd, is_get};
    }
  }
}

static void arm(int timer, int64_t at_ns) {
  struct itimerspec spec = {.it_value = {at_ns / 1000000000, at_ns % 1000000000}};
  timerfd_settime(timer, TFD_TIMER_ABSTIME, &spec, NULL);
}

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  int64_t service_ns = strtoll(argv[1], NULL, 10) * 1000;
  rows = malloc(sizeof(Row) * MAX_LOG);
  struct sigaction on_end = {.sa_handler = end};
  sigaction(SIGTERM, &on_end, NULL);
  signal(SIGPIPE, SIG_IGN);

  int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof address;
  if (!rows || bind(listener, (void *)&address, size) || listen(listener, 4096)) return 3;
  getsockname(listener, (void *)&address, &size);
  printf("%d\n", ntohs(address.sin_port));
  fflush(stdout);

  int poll = epoll_create1(0), timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
  struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[256];
  epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
  event.data.fd = timer;
  epoll_ctl(poll, EPOLL_CTL_ADD, timer, &event);
  while (!is_ended) {
    int count = epoll_wait(poll, events, 256, -1);
    for (int i = 0; i < count; i++) {
      int fd = events[i].data.fd;
      if (fd == timer) {
        uint64_t fired;
        if (read(timer, &fired, sizeof fired) < 0) continue;
      } else if (fd == listener) {
        int new;
        while ((new = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
          if (new >= MAX_FD) { close(new); continue; }
          setsockopt(new, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
          if (!clients[new].data) clients[new].data = malloc(BUFFER);
          clients[new].used = 0;
          clients[new].is_open = 1;
          event.data.fd = new;
          epoll_ctl(poll, EPOLL_CTL_ADD, new, &event);
        }
      } else {
        serve(fd, service_ns);
      }
    }
    while (head != tail && queue[head % MAX_FD].due_ns <= now_ns()) {
      Due due = queue[head++ % MAX_FD];
      if (clients[due.fd].is_open) answer(due.fd, due.is_get, due.receipt_ns);
    }
    if (head != tail) arm(timer, queue[head % MAX_FD].due_ns);
  }
  FILE *log = fopen(argv[2], "w");
  if (!log) return 4;
  for (size_t i = 0; i < logged; i++) fprintf(log, "%lld %lld\n", (long long)rows[i].receipt_ns, (long long)rows[i].write_ns);
  return fclose(log) ? 4 : 0;
}
