#include "sim/streams.h"

#include <algorithm>
#include <random>

namespace t5k::sim {
namespace {

std::vector<Stream *> streams;
unsigned long long turns = 0, schedule = 0;
std::mt19937_64 dice;
std::set<Capture *> captures;

bool is_blocked(const Item &item) { return item.event && item.event->done < item.turn; }

// One node whose predecessors are done; true when the graph is through.
bool advance(GraphRun &run) {
    std::vector<size_t> ready;
    const auto &nodes = run.graph->nodes;
    for (size_t i = 0; i < nodes.size(); ++i) {
        if (run.is_done[i]) continue;
        const bool is_ready = std::all_of(nodes[i].after.begin(), nodes[i].after.end(),
                                          [&](int before) { return run.is_done[static_cast<size_t>(before)]; });
        if (!is_ready) continue;
        ready.push_back(i);
        if (schedule == 0) break;
    }
    if (ready.empty()) return true;
    // Odd seeds: always the last that may go, so that one branch runs ahead; even ones: any.
    const size_t chosen = schedule == 0 ? ready[0] : schedule % 2 ? ready.back() : ready[dice() % ready.size()];
    if (nodes[chosen].work) nodes[chosen].work();
    run.is_done[chosen] = true;
    return --run.left == 0;
}

void run_head(Stream &s) {
    Item &head = s.queue.front();
    if (head.run) {
        if (head.run->left == 0 || advance(*head.run)) s.queue.pop_front();
        return;
    }
    const Work work = std::move(head.work);
    s.queue.pop_front();
    if (work) work();
}

using Done = std::function<bool()>;

Refusal run_alone(Stream &s, const Done &is_done) {
    while (!is_done() && !s.queue.empty()) {
        const Item &head = s.queue.front();
        if (!is_blocked(head)) {
            run_head(s);
            continue;
        }
        const std::shared_ptr<EventState> event = head.event;
        const unsigned long long turn = head.turn;
        if (!event->stream || event->stream == &s) return Refusal::locked;
        const Refusal refusal = run_alone(*event->stream, [&] { return event->done >= turn; });
        if (refusal != Refusal::none) return refusal;
        if (event->done < turn) return Refusal::locked;
    }
    return Refusal::none;
}

Refusal run_all(const Done &is_done) {
    while (!is_done()) {
        std::vector<Stream *> ready;
        for (Stream *s : streams)
            if (!s->queue.empty() && !is_blocked(s->queue.front())) ready.push_back(s);
        if (ready.empty()) return Refusal::locked;
        // Odd seeds: the same stream for as long as it can, a random one then; even ones: any at each turn.
        static Stream *favourite = nullptr;
        const bool keeps = schedule % 2 && std::find(ready.begin(), ready.end(), favourite) != ready.end();
        if (!keeps) favourite = ready[dice() % ready.size()];
        run_head(*favourite);
    }
    return Refusal::none;
}

void leave(Capture &capture) {
    for (Stream *s : capture.streams) {
        s->capture = nullptr;
        s->last.clear();
    }
    captures.erase(&capture);
}

int add_node(Stream &s, Work work) {
    Capture &c = *s.capture;
    c.graph.nodes.push_back({std::move(work), s.last});
    const int index = static_cast<int>(c.graph.nodes.size()) - 1;
    s.last = {index};
    return index;
}

}  // namespace

Stream *create_stream(int device) {
    streams.push_back(new Stream);
    streams.back()->device = device;
    return streams.back();
}

Refusal destroy_stream(Stream *stream) {
    const Refusal refusal = finish(*stream);
    if (const std::shared_ptr<Capture> capture = stream->capture) leave(*capture);
    streams.erase(std::find(streams.begin(), streams.end(), stream));
    delete stream;
    return refusal;
}

void submit(Stream &stream, Work work) {
    if (stream.capture)
        add_node(stream, std::move(work));
    else
        stream.queue.push_back({std::move(work), nullptr, 0, nullptr});
}

void submit_graph(Stream &stream, std::shared_ptr<const Graph> graph) {
    auto run = std::make_shared<GraphRun>();
    run->left = graph->nodes.size();
    run->is_done.assign(graph->nodes.size(), false);
    run->graph = std::move(graph);
    stream.queue.push_back({nullptr, nullptr, 0, std::move(run)});
}

Refusal record(const std::shared_ptr<EventState> &event, Stream &stream) {
    event->capture = stream.capture;
    event->after = stream.last;
    event->stream = &stream;
    if (stream.capture) return Refusal::none;
    const unsigned long long turn = event->recorded = ++turns;
    submit(stream, [event, turn] {
        event->done = std::max(event->done, turn);
        event->happened = std::chrono::steady_clock::now();
    });
    return Refusal::none;
}

Refusal wait(Stream &stream, const std::shared_ptr<EventState> &event) {
    if (event->capture) {
        if (!captures.count(event->capture.get())) return Refusal::captured_event;
        if (stream.capture && stream.capture != event->capture) return Refusal::merge;
        if (!stream.capture) {
            stream.capture = event->capture;
            stream.capture->streams.insert(&stream);
            stream.last.clear();
        }
        stream.last.insert(event->after.begin(), event->after.end());
        return Refusal::none;
    }
    if (stream.capture) return Refusal::isolation;
    if (event->recorded) stream.queue.push_back({nullptr, event, event->recorded, nullptr});
    return Refusal::none;
}

Refusal finish(Stream &stream) {
    if (stream.capture) return Refusal::unsupported;
    const auto is_done = [&] { return stream.queue.empty(); };
    return schedule ? run_all(is_done) : run_alone(stream, is_done);
}

Refusal finish(const std::shared_ptr<EventState> &event) {
    if (event->capture) return Refusal::captured_event;
    const auto is_done = [&] { return event->done >= event->recorded; };
    if (is_done()) return Refusal::none;
    return schedule ? run_all(is_done) : run_alone(*event->stream, is_done);
}

Refusal finish_device(int device) {
    if (is_capturing()) return Refusal::unsupported;
    Refusal worst = Refusal::none;
    for (Stream *s : streams) {
        if (device >= 0 && s->device != device) continue;
        const Refusal refusal = finish(*s);
        if (refusal != Refusal::none) worst = refusal;
    }
    return worst;
}

Refusal begin_capture(Stream &stream) {
    if (stream.capture) return Refusal::unsupported;
    stream.capture = std::make_shared<Capture>();
    stream.capture->origin = &stream;
    stream.capture->streams.insert(&stream);
    stream.last.clear();
    captures.insert(stream.capture.get());
    return Refusal::none;
}

// Everything captured must lie before the end of the stream where it began.
Refusal end_capture(Stream &stream, std::shared_ptr<const Graph> *graph) {
    const std::shared_ptr<Capture> capture = stream.capture;
    if (!capture || capture->origin != &stream) return Refusal::unmatched;
    std::set<int> joined, open = stream.last;
    while (!open.empty()) {
        const int node = *open.begin();
        open.erase(open.begin());
        if (!joined.insert(node).second) continue;
        const std::set<int> &after = capture->graph.nodes[static_cast<size_t>(node)].after;
        open.insert(after.begin(), after.end());
    }
    leave(*capture);
    if (joined.size() != capture->graph.nodes.size()) return Refusal::unjoined;
    *graph = std::make_shared<const Graph>(std::move(capture->graph));
    return Refusal::none;
}

bool is_capturing() { return !captures.empty(); }

void set_schedule(unsigned long long seed) {
    schedule = seed;
    dice.seed(seed);
}

size_t live_streams() { return streams.size(); }

}  // namespace t5k::sim
