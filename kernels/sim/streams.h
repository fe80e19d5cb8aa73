// Streams, events, captures and graphs of the simulator: what waits for what, and in which order things happen.
//
// Nothing runs until something waits for it. With schedule seed 0 a stream then runs alone, and others only as far as its
// event waits ask for; any other seed runs all streams in a drawn order between their event waits. So a missing wait shows:
// the data came too late under one seed, or were overwritten too early under another.
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

namespace t5k::sim {

using Work = std::function<void()>;

struct Stream;

struct Graph {
    struct Node {
        Work work;
        std::set<int> after;  // nodes that come before it
    };
    std::vector<Node> nodes;
};

// One capture under way: it began on `origin`, and event waits brought other streams into it.
struct Capture {
    Graph graph;
    Stream *origin = nullptr;
    std::set<Stream *> streams;
};

struct EventState {
    unsigned long long recorded = 0, done = 0;  // turns
    std::chrono::steady_clock::time_point happened;
    Stream *stream = nullptr;                   // where it was last recorded
    std::shared_ptr<Capture> capture;           // or the capture that it belongs to, after these nodes
    std::set<int> after;
};

struct GraphRun {
    std::shared_ptr<const Graph> graph;
    std::vector<bool> is_done;
    size_t left = 0;
};

struct Item {
    Work work;
    std::shared_ptr<EventState> event;  // waits until done >= turn
    unsigned long long turn = 0;
    std::shared_ptr<GraphRun> run;
};

struct Stream {
    int device = 0;
    std::deque<Item> queue;
    std::shared_ptr<Capture> capture;
    std::set<int> last;  // while capturing: what its next node comes after
};

enum class Refusal { none, unsupported, merge, unmatched, unjoined, isolation, captured_event, locked };

Stream *create_stream(int device);
Refusal destroy_stream(Stream *stream);
void submit(Stream &stream, Work work);
void submit_graph(Stream &stream, std::shared_ptr<const Graph> graph);
Refusal record(const std::shared_ptr<EventState> &event, Stream &stream);
Refusal wait(Stream &stream, const std::shared_ptr<EventState> &event);

// Runs until the stream is empty, the event has happened, or all streams of a device (-1: of all) are empty.
Refusal finish(Stream &stream);
Refusal finish(const std::shared_ptr<EventState> &event);
Refusal finish_device(int device);

Refusal begin_capture(Stream &stream);
Refusal end_capture(Stream &stream, std::shared_ptr<const Graph> *graph);
bool is_capturing();  // any stream

void set_schedule(unsigned long long seed);
size_t live_streams();

}  // namespace t5k::sim
