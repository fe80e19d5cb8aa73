// PTX text as records: what parse.cpp makes and run.cpp executes.
//
// A register is a slot of 64 bits per thread. A step reads its operands through the instruction's type, so a value is cut
// to size when it is read; signed results are written sign-extended, as ld.s8 into a 32-bit register wants it.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace t5k::ptx {

using u8 = uint8_t;
using u16 = uint16_t;
using u32 = uint32_t;
using u64 = uint64_t;
using s64 = int64_t;

// A rule of PTX or CUDA was broken, or the text uses what this machine does not know. run.cpp adds where.
struct Fault : std::runtime_error {
    using std::runtime_error::runtime_error;
};
[[noreturn]] void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

enum class Type : u8 {
    none, pred, b8, b16, b32, b64, b128, u8, u16, u32, u64, s8, s16, s32, s64, f16, f16x2, bf16, bf16x2, tf32, f32, f64
};
enum class Space : u8 { generic, global, shared, local, param, constant };
enum class Round : u8 { none, rn, rz, rm, rp, rna, rni, rzi, rmi, rpi };
enum class Compare : u8 { none, eq, ne, lt, le, gt, ge, lo, ls, hi, hs, equ, neu, ltu, leu, gtu, geu, num, nan };
enum class Part : u8 { none, lo, hi, wide };
enum class Mode : u8 {
    none, up, down, bfly, idx, all, any, uni, ballot, add, min, max, inc, dec, cas, exch, and_, or_, xor_, l, r, clamp, wrap, popc
};

int bytes_of(Type type);
bool is_signed(Type type);
bool is_float(Type type);

struct Operand {
    enum Kind : u8 { none, reg, immediate, special, address, group, label } kind = none;
    bool is_negated = false;  // !%p
    int slot = -1;            // of reg; of an address' base register, -1 when the base is a symbol (then in `bits`)
    u64 bits = 0;             // immediate; offset of an address; number of a special register; target of a label
    std::vector<Operand> members;  // of {a, b}
};

struct Lane;
struct Block;
struct Instruction;
using Step = void (*)(Lane &, const Instruction &);

struct Instruction {
    Step step = nullptr;       // null: unknown; executing its kernel is refused before the first instruction
    bool is_collective = false;  // the lane waits; `step` runs when its warp has arrived
    bool is_strong = false;    // volatile, relaxed, acquire, release: ordered by itself, never a race
    bool ftz = false, sat = false, approx = false, trans = false, to = false, carry_out = false, relu = false;
    bool satfinite = false;
    mutable bool was_run = false;
    Type types[4] = {Type::none, Type::none, Type::none, Type::none};
    int type_count = 0;
    Space space = Space::generic;
    Round round = Round::none;
    Compare compare = Compare::none;
    Part part = Part::none;
    Mode mode = Mode::none, logic = Mode::none;
    int vector = 1, count = 0;  // .v4; .x4 of ldmatrix
    int m = 0, n = 0, k = 0;    // shape of an mma
    int guard = -1;             // predicate slot
    bool guard_is_negated = false;
    Operand second;             // q of p|q
    std::vector<Operand> operands;
    std::vector<int> targets;   // of brx.idx
    int line = 0;
    std::string text;
    Type type() const { return types[0]; }
};

struct Variable {
    Space space = Space::global;
    size_t bytes = 0, align = 1;
    u64 address = 0;  // in its space; of a global: where it lives
};

struct Code {
    std::string name;
    std::vector<Instruction> instructions;
    std::vector<std::string> unknown;  // "line 12: `foo.b32 %r1, %r2`: ..."
    std::vector<std::pair<u64, u64>> shared_holes;  // [begin, end): between variables, nobody's
    size_t param_bytes = 0, static_shared_bytes = 0, dynamic_at = 0, local_bytes = 0;
    unsigned max_threads = 1024;
    int registers = 0;
};

constexpr u64 SHARED_START = 0x400;  // address of the first shared variable; lower addresses belong to nobody
constexpr size_t RED_ZONE = 16;      // between shared variables

struct Module {
    std::string text;
    std::map<std::string, std::unique_ptr<Code>> kernels;
    std::vector<void *> globals;  // allocations of memory.h
};

// Throws Fault with the line when the text cannot be read at all; unknown instructions are listed per kernel.
std::unique_ptr<Module> parse(const std::string &text);
// Fills step, types and modifiers from "fma.rn.f32"; false, with a reason, when a part of it is unknown.
bool decode(const std::string &opcode, Instruction *to, std::string *reason);

}  // namespace t5k::ptx
