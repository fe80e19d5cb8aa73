// Blocks and their threads: who runs next, who waits for whom, and what is said when a rule is broken.
//
// Threads run one at a time, each until it must wait; nothing else keeps them together, so divergence needs no stack and a
// missing barrier shows. Order: 0 ascending, 1 descending, else random; under odd seeds above 1 the first warp that can run
// does so before all others, as far as barriers let it.
#include <algorithm>
#include <numeric>

#include "opcodes.h"

namespace t5k::ptx {

constexpr u64 MOST_STEPS = 2'000'000'000;  // of one block: a loop that does not end
u64 order_seed = 0, noise_seed = 0, launches_run = 0, steps_run = 0, step_limit = MOST_STEPS;

u64 Lane::special(u64 number) const {
    const sim::Launch &launch = *block->launch;
    const u32 l = lane(), count = static_cast<u32>(block->lanes.size());
    const u64 values[] = {tid[0], tid[1], tid[2], launch.block.x, launch.block.y, launch.block.z, block->id[0], block->id[1],
                          block->id[2], launch.grid.x, launch.grid.y, launch.grid.z, l, warp(), (count + 31) / 32,
                          u64{1} << l, (u64{1} << l) - 1, (u64{2} << l) - 1, 0xffffffffu & ~((u64{2} << l) - 1),
                          0xffffffffu & ~((u64{1} << l) - 1), steps_run & 0xffffffffu, steps_run, steps_run, 0, 1, 0,
                          launch.dynamic_bytes, block->code->static_shared_bytes + launch.dynamic_bytes};
    return values[number];
}

// Control flow.
void branch_step(Lane &lane, const Instruction &ins) { lane.pc = static_cast<u32>(ins.operands.at(0).bits); }
void branch_table_step(Lane &lane, const Instruction &ins) {
    const u64 index = lane.get(ins.operands.at(0)) & 0xffffffffu;
    if (index >= ins.targets.size()) fail("branch number %llu of %zu", static_cast<unsigned long long>(index), ins.targets.size());
    lane.pc = static_cast<u32>(ins.targets[index]);
}
void leave_step(Lane &lane, const Instruction &) {
    if (!lane.uncommitted.empty()) fail("leaves with asynchronous copies it never committed");
    for (const auto &group : lane.committed)
        if (!group.empty()) fail("leaves with asynchronous copies it never waited for");
    lane.state = State::exited;
}
void barrier_step(Lane &, const Instruction &) {}  // the runner's own

namespace {

u32 mask_of(const Lane &lane, const Instruction &ins) {
    const Step s = ins.step;
    if (s == active_mask_step || s == load_matrix_step || s == multiply_matrix_step) return 0xffffffffu;
    if (s == warp_barrier_step) return static_cast<u32>(lane.get(ins.operands.at(0)));
    return static_cast<u32>(lane.get(ins.operands.back()));
}

class Runner {
   public:
    Runner(const sim::Launch &launch, const Code &code) : launch_(launch), code_(code), random_(order_seed), noise_(noise_seed) {
        block_.code = &code;
        block_.launch = &launch;
        block_.launch_serial = static_cast<u32>(++launches_run);
        if (noise_seed) block_.noise = &noise_;
    }

    void grid() {
        check();
        std::vector<u32> blocks(launch_.grid.x * launch_.grid.y * launch_.grid.z);
        std::iota(blocks.begin(), blocks.end(), 0u);
        arrange(&blocks);
        for (u32 number : blocks) {
            prepare(number);
            all_lanes();
        }
    }

    std::string where() const {
        std::string text = " [" + code_.name;
        if (!lane_) return text + "]";
        const Lane &l = *lane_;
        const auto triple = [](const u32 *v) { return "(" + std::to_string(v[0]) + "," + std::to_string(v[1]) + "," + std::to_string(v[2]) + ")"; };
        text += ", block " + triple(block_.id) + ", thread " + triple(l.tid);
        if (ins_) text += ", PTX line " + std::to_string(ins_->line) + ": " + ins_->text;
        return text + "]";
    }

   private:
    void check() const {
        const u32 threads = launch_.block.x * launch_.block.y * launch_.block.z;
        if (!code_.unknown.empty())
            fail("%zu instructions this machine does not know; the first on %s", code_.unknown.size(), code_.unknown[0].c_str());
        if (threads == 0 || threads > code_.max_threads) fail("%u threads a block, the kernel's limit is %u", threads, code_.max_threads);
        if (!launch_.grid.x || !launch_.grid.y || !launch_.grid.z || launch_.grid.x > 0x7fffffffu || launch_.grid.y > 65535 || launch_.grid.z > 65535)
            fail("grid size %u x %u x %u", launch_.grid.x, launch_.grid.y, launch_.grid.z);
        if (code_.static_shared_bytes > (48u << 10)) fail("%zu bytes of static shared memory; 49152 are allowed", code_.static_shared_bytes);
    }

    void arrange(std::vector<u32> *numbers) {
        if (order_seed == 1) std::reverse(numbers->begin(), numbers->end());
        if (order_seed > 1) std::shuffle(numbers->begin(), numbers->end(), random_);
    }

    void prepare(u32 number) {
        block_.number = number;
        block_.id[0] = number % launch_.grid.x;
        block_.id[1] = number / launch_.grid.x % launch_.grid.y;
        block_.id[2] = number / launch_.grid.x / launch_.grid.y;
        block_.epoch = 1;
        const u32 threads = launch_.block.x * launch_.block.y * launch_.block.z;
        const auto registers = static_cast<size_t>(code_.registers) + 1;
        block_.registers.assign(threads * registers, ~u64{0});
        const size_t shared = code_.dynamic_at - SHARED_START + launch_.dynamic_bytes;
        block_.shared.assign(shared, 0xff);
        block_.written.assign(shared, 0);
        block_.shared_history.assign(shared / 4 + 2, {});
        for (const auto &[begin, end] : code_.shared_holes)
            for (u64 i = begin; i < end && i - SHARED_START < shared; ++i) block_.written[i - SHARED_START] = 3;
        block_.lanes.resize(threads);
        for (u32 i = 0; i < threads; ++i) {
            Lane &l = block_.lanes[i];
            l = Lane{};
            l.block = &block_;
            l.registers = &block_.registers[i * registers];
            l.index = i;
            l.tid[0] = i % launch_.block.x;
            l.tid[1] = i / launch_.block.x % launch_.block.y;
            l.tid[2] = i / launch_.block.x / launch_.block.y;
            l.clock[i % 32] = 1;
            l.local.assign(code_.local_bytes, 0xff);
        }
        std::fill(std::begin(arrived_), std::end(arrived_), 0u);
        steps_ = 0;
    }

    void all_lanes() {
        std::vector<u32> order(block_.lanes.size());
        std::iota(order.begin(), order.end(), 0u);
        arrange(&order);
        const bool is_eager = order_seed > 1 && order_seed % 2;
        if (is_eager) std::stable_sort(order.begin(), order.end(), [](u32 a, u32 b) { return a / 32 < b / 32; });
        for (bool has_run = true; has_run || wake();) {
            has_run = false;
            for (size_t i = 0; i < order.size(); ++i) {
                Lane &l = block_.lanes[order[i]];
                if (l.state != State::ready) continue;
                run(l);
                has_run = true;
                if (l.state == State::at_collective && gather(l) && is_eager) break;
            }
        }
    }

    void run(Lane &l) {
        lane_ = &l;
        const Instruction *const code = code_.instructions.data();
        const auto end = static_cast<u32>(code_.instructions.size());
        while (l.state == State::ready) {
            if (l.pc >= end) fail("runs past the end of the kernel");
            const Instruction &ins = code[l.pc];
            ins_ = &ins;
            ++l.pc;
            ++steps_run;
            if (++steps_ > step_limit) fail("the block did not end within %llu instructions", static_cast<unsigned long long>(step_limit));
            if (ins.guard >= 0 && static_cast<bool>(l.registers[ins.guard] & 1) == ins.guard_is_negated) continue;
            ins.was_run = true;
            if (ins.is_collective)
                wait(l, ins);
            else
                ins.step(l, ins);
        }
    }

    // The lane stays before the instruction; its pc moves on when the collective is done.
    void wait(Lane &l, const Instruction &ins) {
        --l.pc;
        if (ins.step != barrier_step) {
            l.state = State::at_collective;
            l.mask = mask_of(l, ins);
            if (!(l.mask >> l.lane() & 1)) fail("a thread runs a collective whose mask %08x leaves it out", l.mask);
            return;
        }
        const bool reduces = ins.type_count > 0;
        const size_t first = reduces ? 1 : 0, given = ins.operands.size() - first - (reduces ? 1 : 0);
        l.barrier = static_cast<u32>(l.get(ins.operands.at(first))) & 15;
        l.barrier_count = given > 1 ? static_cast<u32>(l.get(ins.operands.at(first + 1))) : 0;
        if (l.barrier_count % 32) fail("a barrier of %u threads: no multiple of 32", l.barrier_count);
        if (ins.mode == Mode::inc) {  // arrive
            ++arrived_[l.barrier];
            ++l.pc;
            return;
        }
        l.state = State::at_barrier;
    }

    // Runs the collective that `l` waits in if its whole mask has come.
    bool gather(Lane &l) {
        const Instruction &ins = code_.instructions[l.pc];
        if (ins.step == active_mask_step) return false;
        Lane *const first = &block_.lanes[block_.first_lane(l.warp())];
        for (u32 i = 0; i < 32; ++i) {
            if (!(l.mask >> i & 1)) continue;
            if (block_.first_lane(l.warp()) + i >= block_.lanes.size() || first[i].state == State::exited)
                fail("a collective's mask %08x names lane %u, which has exited or never was", l.mask, i);
            if (first[i].state != State::at_collective || first[i].pc != l.pc) return false;
            if (first[i].mask != l.mask) fail("lanes of one collective pass different masks, %08x and %08x", l.mask, first[i].mask);
        }
        perform(l.warp(), l.mask, ins);
        return true;
    }

    void perform(u32 warp, u32 mask, const Instruction &ins) {
        Lane *const first = &block_.lanes[block_.first_lane(warp)];
        const auto each = [&](auto f) {
            for (u32 i = 0; i < 32; ++i)
                if (mask >> i & 1) lane_ = &first[i], f(first[i]);
        };
        ins_ = &ins;
        block_.is_deferring = true;
        each([&](Lane &l) { ins.step(l, ins); });
        block_.is_deferring = false;
        for (const auto &[slot, value] : block_.deferred) *slot = value;
        block_.deferred.clear();
        const bool orders = ins.step == warp_barrier_step;
        each([&](Lane &l) {
            if (orders) ++l.clock[l.lane()];
            ++l.pc;
            l.state = State::ready;
        });
    }

    // Nobody can run. Lets a barrier or an activemask happen, or says why nothing ever will. False: all have left.
    bool wake() {
        u32 live = 0, waiting[16] = {}, needed[16] = {};
        Lane *at_barrier = nullptr, *at_collective = nullptr;
        for (Lane &l : block_.lanes) {
            live += l.state != State::exited;
            if (l.state == State::at_collective) at_collective = &l;
            if (l.state != State::at_barrier) continue;
            at_barrier = &l;
            ++waiting[l.barrier];
            needed[l.barrier] = l.barrier_count;
        }
        if (!live) return false;
        for (Lane &l : block_.lanes)
            if (l.state == State::at_collective && code_.instructions[l.pc].step == active_mask_step) return meet(l), true;
        for (u32 b = 0; b < 16; ++b) {
            if (!waiting[b]) continue;
            if (needed[b] ? waiting[b] + arrived_[b] >= needed[b] : waiting[b] == live) return release(b), true;
        }
        stuck(at_barrier, at_collective);
    }

    // activemask: the lanes of the warp that stand at the same instruction.
    void meet(Lane &l) {
        u32 mask = 0;
        Lane *const first = &block_.lanes[block_.first_lane(l.warp())];
        for (u32 i = 0; i < 32 && block_.first_lane(l.warp()) + i < block_.lanes.size(); ++i)
            if (first[i].state == State::at_collective && first[i].pc == l.pc) mask |= 1u << i;
        for (u32 i = 0; i < 32; ++i)
            if (mask >> i & 1) first[i].mask = mask;
        perform(l.warp(), mask, code_.instructions[l.pc]);
    }

    void release(u32 number) {
        const Lane *first = nullptr;
        u32 count = 0, set = 0;
        for (const Lane &l : block_.lanes) {
            if (l.state != State::at_barrier || l.barrier != number) continue;
            if (first && first->pc != l.pc)
                diverged(*first, l);
            first = &l;
            const Instruction &ins = code_.instructions[l.pc];
            if (ins.type_count) ++count, set += l.get(ins.operands.back()) & 1;
        }
        for (Lane &l : block_.lanes) {
            if (l.state != State::at_barrier || l.barrier != number) continue;
            const Instruction &ins = code_.instructions[l.pc];
            if (ins.type_count) l.set(ins.operands.at(0), ins.mode == Mode::popc ? set : ins.logic == Mode::and_ ? set == count : set > 0);
            ++l.pc;
            l.state = State::ready;
        }
        arrived_[number] = 0;
        ++block_.epoch;
    }

    [[noreturn]] void diverged(const Lane &a, const Lane &b) {
        lane_ = nullptr;
        fail("barrier divergence: thread %u waits on PTX line %d, thread %u on line %d", a.index, code_.instructions[a.pc].line, b.index,
             code_.instructions[b.pc].line);
    }

    [[noreturn]] void stuck(const Lane *at_barrier, Lane *at_collective) {
        if (at_collective) {
            lane_ = at_collective;
            ins_ = &code_.instructions[at_collective->pc];
            gather(*at_collective);  // may know of a lane that has left, or of two masks
        }
        lane_ = nullptr;
        std::map<int, int> lines;
        int exited = 0;
        for (const Lane &l : block_.lanes) {
            if (l.state == State::exited)
                ++exited;
            else
                ++lines[code_.instructions[l.pc].line];
        }
        std::string census = at_barrier && !at_collective ? "barrier divergence:" : "deadlock:";
        for (const auto &[line, count] : lines) census += " " + std::to_string(count) + " threads wait on PTX line " + std::to_string(line) + ";";
        fail("%s %d have left", census.c_str(), exited);
    }

    const sim::Launch &launch_;
    const Code &code_;
    Block block_;
    std::mt19937_64 random_, noise_;
    Lane *lane_ = nullptr;
    const Instruction *ins_ = nullptr;
    u32 arrived_[16] = {};
    u64 steps_ = 0;
};

std::unique_ptr<Module> module;
std::vector<std::unique_ptr<sim::Kernel>> kernels;
std::string reply;

}  // namespace
}  // namespace t5k::ptx

namespace t5k::sim {

using namespace t5k::ptx;

Kernel::Kernel(const char *name_, Body body_, size_t job_bytes_, unsigned max_threads_)
    : name(name_), body(body_), job_bytes(job_bytes_), max_threads(max_threads_), next(nullptr) {}

std::string run(const Launch &launch) {
    Runner runner(launch, *module->kernels.at(launch.kernel->name));
    try {
        runner.grid();
    } catch (const Fault &fault) {
        return fault.what() + runner.where();
    } catch (const std::exception &error) {
        return std::string("the interpreter itself failed: ") + error.what() + runner.where();
    }
    return {};
}

void set_order(unsigned long long seed) { order_seed = seed; }
const Kernel *find_kernel(const char *name) {
    for (const auto &each : kernels)
        if (each->name == std::string(name)) return each.get();
    return nullptr;
}
const Kernel *first_kernel() { return kernels.empty() ? nullptr : kernels[0].get(); }

}  // namespace t5k::sim

// The machine's own controls, beside those of the driver.
#define API extern "C" __attribute__((visibility("default")))
using namespace t5k::ptx;

// Makes this text the module that cuModuleLoadData gives. "" or why it cannot be read.
API const char *ptx_load(const char *text) {
    try {
        kernels.clear();
        module = parse(text);
    } catch (const std::exception &error) {
        return reply = error.what(), reply.c_str();
    }
    t5k::sim::Kernel *last = nullptr;
    for (const auto &[name, code] : module->kernels) {
        kernels.push_back(std::make_unique<t5k::sim::Kernel>(code->name.c_str(), nullptr, code->param_bytes, code->max_threads));
        if (last) last->next = kernels.back().get();
        last = kernels.back().get();
    }
    return "";
}
// Lines that no kernel may hold: instructions this machine does not know.
API const char *ptx_unknown() {
    reply.clear();
    for (const auto &[name, code] : module->kernels)
        for (const std::string &line : code->unknown) reply += name + " " + line + "\n";
    return reply.c_str();
}
// Lines of a kernel that no launch has executed yet, one per row.
API const char *ptx_missed(const char *kernel) {
    reply.clear();
    for (const Instruction &ins : module->kernels.at(kernel)->instructions)
        if (!ins.was_run) reply += std::to_string(ins.line) + ": " + ins.text + "\n";
    return reply.c_str();
}
API size_t ptx_length(const char *kernel) { return module->kernels.at(kernel)->instructions.size(); }
API unsigned long long ptx_steps() { return steps_run; }
// Approximate instructions are off by as much as the manual allows, at random from this seed; 0: correctly rounded.
API void ptx_set_noise(unsigned long long seed) { noise_seed = seed; }
API void ptx_set_limit(unsigned long long steps) { step_limit = steps ? steps : MOST_STEPS; }
