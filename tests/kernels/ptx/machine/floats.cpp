// Floating-point instructions, and those that serve integers and floats alike. Compiled with -frounding-math.
//
// add, sub, mul, div, fma, sqrt, rcp with a rounding mode are exact IEEE operations. The approximate ones are computed in
// double and rounded, or, when the launch asks for noise, moved at random inside the error that the PTX manual allows.
// f16 and bf16 arithmetic goes through double: a fused multiply-add could round twice, in less than one case of 2^20.
#include <cfenv>
#include <cmath>

#include "opcodes.h"

namespace t5k::ptx {

void integer_sum(Lane &lane, const Instruction &ins, u64 a, u64 b, bool subtracts);
u64 integer_product(Lane &lane, const Instruction &ins);
Type widened(const Instruction &ins);
void integer_divide(Lane &lane, const Instruction &ins, bool wants_remainder);
void integer_magnitude(Lane &lane, const Instruction &ins);
void integer_negate(Lane &lane, const Instruction &ins);
void integer_extreme(Lane &lane, const Instruction &ins, bool wants_largest);

namespace {

class Rounding {
   public:
    explicit Rounding(Round round) : is_set_(round == Round::rz || round == Round::rm || round == Round::rp) {
        if (is_set_) fesetround(round == Round::rz ? FE_TOWARDZERO : round == Round::rm ? FE_DOWNWARD : FE_UPWARD);
    }
    ~Rounding() {
        if (is_set_) fesetround(FE_TONEAREST);
    }

   private:
    bool is_set_;
};

float flushed(const Instruction &ins, float v) { return ins.ftz && std::fpclassify(v) == FP_SUBNORMAL ? copysignf(0.0f, v) : v; }
double flushed(const Instruction &, double v) { return v; }

template <class T>
T finished(const Instruction &ins, T v) {
    v = flushed(ins, v);
    if (ins.sat) v = v > 0 ? (v < 1 ? v : T{1}) : T{0};  // NaN becomes 0
    if (ins.relu && !(v > 0) && v == v) v = T{0};
    return v;
}

bool is_pair(Type t) { return t == Type::f16x2 || t == Type::bf16x2; }
Type half_of(Type t) { return t == Type::f16x2 ? Type::f16 : t == Type::bf16x2 ? Type::bf16 : t; }

// `f` over n sources, as float for f32, double for f64 and for the 16-bit formats, which are rounded afterwards.
template <class F>
void over(Lane &lane, const Instruction &ins, int n, F f) {
    u64 in[3] = {0, 0, 0};
    for (int i = 0; i < n; ++i) in[i] = lane.get(ins.operands.at(static_cast<size_t>(i) + 1));
    const Type type = ins.type();
    if (type == Type::f32) {
        volatile float v[3];
        for (int i = 0; i < n; ++i) v[i] = flushed(ins, from_bits<float>(in[i]));
        float y;
        {
            const Rounding rounding(ins.round);
            volatile float r = f(float{v[0]}, float{v[1]}, float{v[2]});
            y = r;
        }
        return lane.set(ins.operands.at(0), to_bits(finished(ins, y)));
    }
    if (type == Type::f64) {
        volatile double v[3];
        for (int i = 0; i < n; ++i) v[i] = from_bits<double>(in[i]);
        double y;
        {
            const Rounding rounding(ins.round);
            volatile double r = f(double{v[0]}, double{v[1]}, double{v[2]});
            y = r;
        }
        return lane.set(ins.operands.at(0), to_bits(finished(ins, y)));
    }
    const Type half = half_of(type);
    u64 out = 0;
    for (int part = 0; part < (is_pair(type) ? 2 : 1); ++part) {
        double v[3] = {0, 0, 0};
        for (int i = 0; i < n; ++i) v[i] = static_cast<double>(decode_float(half, in[i] >> (16 * part) & 0xffff));
        out |= encode_float(half, finished(ins, f(v[0], v[1], v[2])), Round::rn) << (16 * part);
    }
    lane.set(ins.operands.at(0), out);
}

u64 source(Lane &lane, const Instruction &ins, size_t n) { return extend(ins.type(), lane.get(ins.operands.at(n))); }

template <class T>
T least(T a, T b) {
    if (a == b) return std::signbit(a) ? a : b;
    return a != a ? b : b != b ? a : a < b ? a : b;
}

// An approximate f32 instruction with the manual's error.
template <class F>
void approximately(Lane &lane, const Instruction &ins, double relative, double absolute, F exact) {
    over(lane, ins, 1, [&](auto a, auto, auto) { return static_cast<decltype(a)>(approximate(lane, exact(double{a}), relative, absolute)); });
}

}  // namespace

void add_step(Lane &lane, const Instruction &ins) {
    if (is_float(ins.type())) return over(lane, ins, 2, [](auto a, auto b, auto) { return a + b; });
    integer_sum(lane, ins, source(lane, ins, 1), source(lane, ins, 2), false);
}
void sub_step(Lane &lane, const Instruction &ins) {
    if (is_float(ins.type())) return over(lane, ins, 2, [](auto a, auto b, auto) { return a - b; });
    integer_sum(lane, ins, source(lane, ins, 1), source(lane, ins, 2), true);
}
void mul_step(Lane &lane, const Instruction &ins) {
    if (is_float(ins.type())) return over(lane, ins, 2, [](auto a, auto b, auto) { return a * b; });
    lane.set(ins.operands.at(0), extend(widened(ins), integer_product(lane, ins)));
}
void mad_step(Lane &lane, const Instruction &ins) {
    if (is_float(ins.type())) return fma_step(lane, ins);
    const u64 product = integer_product(lane, ins), c = lane.get(ins.operands.at(3));
    if (ins.part == Part::wide) return lane.set(ins.operands.at(0), extend(widened(ins), product + c));
    integer_sum(lane, ins, product, c, false);
}
void fma_step(Lane &lane, const Instruction &ins) {
    over(lane, ins, 3, [](auto a, auto b, auto c) { return std::fma(a, b, c); });
}
void divide_step(Lane &lane, const Instruction &ins) {
    if (!is_float(ins.type())) return integer_divide(lane, ins, false);
    if (!ins.approx) return over(lane, ins, 2, [](auto a, auto b, auto) { return a / b; });
    over(lane, ins, 2, [&](auto a, auto b, auto) { return static_cast<decltype(a)>(approximate(lane, double{a} / double{b}, 0x1p-22)); });
}
void absolute_value_step(Lane &lane, const Instruction &ins) {
    if (!is_float(ins.type())) return integer_magnitude(lane, ins);
    over(lane, ins, 1, [](auto a, auto, auto) { return std::fabs(a); });
}
void negate_step(Lane &lane, const Instruction &ins) {
    if (!is_float(ins.type())) return integer_negate(lane, ins);
    over(lane, ins, 1, [](auto a, auto, auto) { return -a; });
}
void minimum_step(Lane &lane, const Instruction &ins) {
    if (!is_float(ins.type())) return integer_extreme(lane, ins, false);
    over(lane, ins, 2, [](auto a, auto b, auto) { return least(a, b); });
}
void maximum_step(Lane &lane, const Instruction &ins) {
    if (!is_float(ins.type())) return integer_extreme(lane, ins, true);
    over(lane, ins, 2, [](auto a, auto b, auto) { return -least(-a, -b); });
}
void reciprocal_step(Lane &lane, const Instruction &ins) {
    if (ins.approx) return approximately(lane, ins, 0x1p-23, 0, [](double a) { return 1.0 / a; });
    over(lane, ins, 1, [](auto a, auto, auto) { return decltype(a){1} / a; });
}
void square_root_step(Lane &lane, const Instruction &ins) {
    if (ins.approx) return approximately(lane, ins, 0x1p-23, 0, [](double a) { return std::sqrt(a); });
    over(lane, ins, 1, [](auto a, auto, auto) { return std::sqrt(a); });
}
void reciprocal_root_step(Lane &lane, const Instruction &ins) {
    approximately(lane, ins, 0x1.6p-23, 0, [](double a) { return 1.0 / std::sqrt(a); });
}
void sine_step(Lane &lane, const Instruction &ins) {
    approximately(lane, ins, 0, 0x1.2p-21, [](double a) { return std::sin(a); });
}
void cosine_step(Lane &lane, const Instruction &ins) {
    approximately(lane, ins, 0, 0x1.2p-21, [](double a) { return std::cos(a); });
}
void log2__step(Lane &lane, const Instruction &ins) {
    approximately(lane, ins, 0x1p-22, 0x1p-22, [](double a) { return std::log2(a); });
}
void exp2__step(Lane &lane, const Instruction &ins) {
    approximately(lane, ins, 0x1p-22, 0, [](double a) { return std::exp2(a); });
}
void tanh__step(Lane &lane, const Instruction &ins) {
    approximately(lane, ins, 0x1p-11, 0, [](double a) { return std::tanh(a); });
}
// The result has a's sign and b's magnitude.
void copy_sign_step(Lane &lane, const Instruction &ins) {
    over(lane, ins, 2, [](auto a, auto b, auto) { return std::copysign(b, a); });
}
void test_property_step(Lane &lane, const Instruction &ins) {
    const double v = static_cast<double>(decode_float(ins.type(), lane.get(ins.operands.at(1))));
    const std::string &all = ins.text;
    const int kind = ins.type() == Type::f32 ? std::fpclassify(static_cast<float>(v)) : std::fpclassify(v);
    const auto asks = [&](const char *word) { return all.find(std::string("testp.") + word) != std::string::npos; };
    bool holds = false;
    if (asks("finite")) holds = std::isfinite(v);
    if (asks("infinite")) holds = kind == FP_INFINITE;
    if (asks("number")) holds = kind != FP_NAN;
    if (asks("notanumber")) holds = kind == FP_NAN;
    if (asks("normal")) holds = kind == FP_NORMAL;
    if (asks("subnormal")) holds = kind == FP_SUBNORMAL;
    lane.set(ins.operands.at(0), holds);
}

namespace {

template <class T>
bool compared(Compare how, T a, T b) {
    const bool is_unordered = a != a || b != b;
    switch (how) {
        case Compare::eq: return a == b;
        case Compare::ne: return a != b && !is_unordered;
        case Compare::lt: case Compare::lo: return a < b;
        case Compare::le: case Compare::ls: return a <= b;
        case Compare::gt: case Compare::hi: return a > b;
        case Compare::ge: case Compare::hs: return a >= b;
        case Compare::equ: return is_unordered || a == b;
        case Compare::neu: return is_unordered || a != b;
        case Compare::ltu: return is_unordered || a < b;
        case Compare::leu: return is_unordered || a <= b;
        case Compare::gtu: return is_unordered || a > b;
        case Compare::geu: return is_unordered || a >= b;
        case Compare::num: return !is_unordered;
        case Compare::nan: return is_unordered;
        default: fail("a comparison without an operator");
    }
}

bool compared(Lane &lane, const Instruction &ins, Type type) {
    const u64 a = lane.get(ins.operands.at(1)), b = lane.get(ins.operands.at(2));
    bool holds;
    if (type == Type::f32)
        holds = compared(ins.compare, flushed(ins, from_bits<float>(a)), flushed(ins, from_bits<float>(b)));
    else if (is_float(type))
        holds = compared(ins.compare, decode_float(type, a), decode_float(type, b));
    else if (is_signed(type))
        holds = compared(ins.compare, static_cast<s64>(extend(type, a)), static_cast<s64>(extend(type, b)));
    else
        holds = compared(ins.compare, extend(type, a), extend(type, b));
    return holds;
}

bool combined(Lane &lane, const Instruction &ins, bool holds) {
    if (ins.logic == Mode::none) return holds;
    const bool c = lane.get(ins.operands.at(3)) & 1;
    return ins.logic == Mode::and_ ? holds && c : ins.logic == Mode::or_ ? holds || c : holds != c;
}

}  // namespace

void set_predicate_step(Lane &lane, const Instruction &ins) {
    const bool holds = compared(lane, ins, ins.type()), first = combined(lane, ins, holds), second = combined(lane, ins, !holds);
    lane.set(ins.operands.at(0), first);
    lane.set(ins.second, second);
}
// set.op.dtype.stype: all ones, or 1.0
void set_value_step(Lane &lane, const Instruction &ins) {
    const bool holds = combined(lane, ins, compared(lane, ins, ins.types[1]));
    const u64 yes = is_float(ins.type()) ? encode_float(ins.type(), 1.0L, Round::rn) : extend(ins.type(), ~u64{0});
    lane.set(ins.operands.at(0), holds ? yes : 0);
}
void select_step(Lane &lane, const Instruction &ins) {
    const u64 both[] = {source(lane, ins, 2), source(lane, ins, 1)};
    lane.set(ins.operands.at(0), both[lane.get(ins.operands.at(3)) & 1]);
}
// slct.dtype.ctype: a when c >= 0, else b
void select_by_sign_step(Lane &lane, const Instruction &ins) {
    const u64 c = lane.get(ins.operands.at(3));
    const bool takes_a = ins.types[1] == Type::f32 ? from_bits<float>(c) >= 0 : static_cast<s64>(extend(Type::s32, c)) >= 0;
    lane.set(ins.operands.at(0), source(lane, ins, takes_a ? 1 : 2));
}

namespace {

u64 float_to_integer(const Instruction &ins, Type to, long double v) {
    const Round round = ins.round == Round::none ? Round::rzi : ins.round;
    if (std::isnan(v)) return bytes_of(to) == 8 ? u64{1} << 63 : 0;
    const long double whole = round == Round::rni || round == Round::rn   ? nearbyintl(v)
                              : round == Round::rmi || round == Round::rm ? floorl(v)
                              : round == Round::rpi || round == Round::rp ? ceill(v)
                                                                          : truncl(v);
    const int bits = 8 * bytes_of(to) - is_signed(to);
    const long double top = ldexpl(1.0L, bits) - 1.0L, bottom = is_signed(to) ? -ldexpl(1.0L, bits) : 0.0L;
    const long double kept = whole < bottom ? bottom : whole > top ? top : whole;
    return is_signed(to) ? static_cast<u64>(static_cast<s64>(kept)) : static_cast<u64>(kept);
}

u64 integer_to_integer(const Instruction &ins, Type to, Type from, u64 bits) {
    const u64 v = extend(from, bits);
    if (!ins.sat) return extend(to, v);
    const __int128 wide = is_signed(from) ? __int128{static_cast<s64>(v)} : __int128{v};
    const int n = 8 * bytes_of(to) - is_signed(to);
    const __int128 top = (__int128{1} << n) - 1, bottom = is_signed(to) ? -(__int128{1} << n) : 0;
    return static_cast<u64>(static_cast<s64>(wide < bottom ? bottom : wide > top ? top : wide));
}

u64 converted(const Instruction &ins, Type to, Type from, u64 bits) {
    if (!is_float(from) && !is_float(to)) return integer_to_integer(ins, to, from, bits);
    long double v = is_float(from)    ? decode_float(from, bits)
                    : is_signed(from) ? static_cast<long double>(static_cast<s64>(extend(from, bits)))
                                      : static_cast<long double>(extend(from, bits));
    if (is_float(from) && ins.ftz && from == Type::f32) v = flushed(ins, static_cast<float>(v));
    if (!is_float(to)) return extend(to, float_to_integer(ins, to, v));
    switch (ins.round) {
        case Round::rni: v = nearbyintl(v); break;
        case Round::rzi: v = truncl(v); break;
        case Round::rmi: v = floorl(v); break;
        case Round::rpi: v = ceill(v); break;
        default: break;
    }
    if (ins.sat) v = v > 0 ? (v < 1 ? v : 1.0L) : 0.0L;
    if (ins.relu && !(v > 0) && v == v) v = 0.0L;
    if (ins.sat && std::isnan(v)) v = 0.0L;
    u64 out = encode_float(to, v, ins.round == Round::none ? Round::rn : ins.round, ins.satfinite);
    if (to == Type::f32 && ins.ftz) out = to_bits(flushed(ins, from_bits<float>(out)));
    return out;
}

}  // namespace

void convert_step(Lane &lane, const Instruction &ins) {
    const Type to = ins.types[0], from = ins.types[1];
    const u64 a = lane.get(ins.operands.at(1));
    if (!is_pair(to)) return lane.set(ins.operands.at(0), converted(ins, to, from, a));
    // cvt.rn.f16x2.f32 d, a, b: a is the upper half
    const u64 b = lane.get(ins.operands.at(2));
    lane.set(ins.operands.at(0), converted(ins, half_of(to), from, a) << 16 | converted(ins, half_of(to), from, b));
}

}  // namespace t5k::ptx
