// Which instructions exist, and which modifiers and types each may carry. Anything else is unknown, by name.
#include <cstring>
#include <sstream>

#include "opcodes.h"

namespace t5k::ptx {
namespace {

struct Opcode {
    const char *name;
    Step step;
    const char *types;      // allowed
    const char *modifiers;  // groups of modify(), or words without effect
    bool is_collective = false;
};

const char *const INTEGERS = "s16 u16 s32 u32 s64 u64";
const char *const FLOATS = "f32 f64 f16 f16x2 bf16 bf16x2";
const char *const NUMBERS = "s16 u16 s32 u32 s64 u64 f32 f64 f16 f16x2 bf16 bf16x2";
const char *const BITS = "pred b16 b32 b64";
const char *const ALL = "pred b8 b16 b32 b64 b128 u8 u16 u32 u64 s8 s16 s32 s64 f16 f16x2 bf16 bf16x2 f32 f64 tf32";
const char *const MEMORY = "b8 b16 b32 b64 b128 u8 u16 u32 u64 s8 s16 s32 s64 f16 f16x2 bf16 bf16x2 f32 f64";

const Opcode OPCODES[] = {
    {"add", add_step, NUMBERS, "round ftz sat cc"},
    {"addc", add_step, "s32 u32 s64 u64", "cc carry"},
    {"sub", sub_step, NUMBERS, "round ftz sat cc"},
    {"subc", sub_step, "s32 u32 s64 u64", "cc carry"},
    {"mul", mul_step, NUMBERS, "part round ftz sat"},
    {"mul24", mul_step, "s32 u32", "part"},
    {"mad", mad_step, NUMBERS, "part round ftz sat cc"},
    {"mad24", mad_step, "s32 u32", "part"},
    {"madc", mad_step, "s32 u32 s64 u64", "part cc carry"},
    {"fma", fma_step, FLOATS, "round ftz sat relu"},
    {"div", divide_step, "s16 u16 s32 u32 s64 u64 f32 f64", "round ftz approx"},
    {"rem", remainder_step, INTEGERS, ""},
    {"abs", absolute_value_step, NUMBERS, "ftz"},
    {"neg", negate_step, NUMBERS, "ftz"},
    {"min", minimum_step, NUMBERS, "ftz NaN relu"},
    {"max", maximum_step, NUMBERS, "ftz NaN relu"},
    {"and", bit_and_step, BITS, ""},
    {"or", bit_or_step, BITS, ""},
    {"xor", bit_xor_step, BITS, ""},
    {"not", bit_not_step, BITS, ""},
    {"cnot", logical_not_step, "b16 b32 b64", ""},
    {"shl", shift_left_step, "b16 b32 b64", ""},
    {"shr", shift_right_step, "b16 b32 b64 u16 u32 u64 s16 s32 s64", ""},
    {"shf", funnel_shift_step, "b32", "shift"},
    {"bfe", field_extract_step, "u32 u64 s32 s64", ""},
    {"bfi", field_insert_step, "b32 b64", ""},
    {"brev", reverse_bits_step, "b32 b64", ""},
    {"clz", leading_zeros_step, "b32 b64", ""},
    {"popc", count_ones_step, "b32 b64", ""},
    {"bfind", find_leading_step, "u32 u64 s32 s64", "shiftamt"},
    {"prmt", permute_bytes_step, "b32", ""},
    {"lop3", lookup3_step, "b32", ""},
    {"dp4a", dot4_step, "u32 s32", ""},
    {"dp2a", dot2_step, "u32 s32", "part"},
    {"sad", sum_of_differences_step, INTEGERS, ""},
    {"rcp", reciprocal_step, "f32 f64", "round ftz approx"},
    {"sqrt", square_root_step, "f32 f64", "round ftz approx"},
    {"rsqrt", reciprocal_root_step, "f32 f64", "ftz approx"},
    {"sin", sine_step, "f32", "ftz approx"},
    {"cos", cosine_step, "f32", "ftz approx"},
    {"lg2", log2__step, "f32", "ftz approx"},
    {"ex2", exp2__step, "f32 f16 f16x2 bf16 bf16x2", "ftz approx"},
    {"tanh", tanh__step, "f32 f16 f16x2 bf16 bf16x2", "approx"},
    {"copysign", copy_sign_step, "f32 f64", ""},
    {"testp", test_property_step, "f32 f64", "property"},
    {"setp", set_predicate_step, "b16 b32 b64 s16 u16 s32 u32 s64 u64 f32 f64 f16 bf16", "compare logic ftz"},
    {"set", set_value_step, "b16 b32 b64 s16 u16 s32 u32 s64 u64 f32 f64", "compare logic ftz"},
    {"selp", select_step, "b16 b32 b64 s16 u16 s32 u32 s64 u64 f32 f64 f16 bf16", ""},
    {"slct", select_by_sign_step, "b16 b32 b64 s16 u16 s32 u32 s64 u64 f32 f64", "ftz"},
    {"mov", move_step, ALL, ""},
    {"cvt", convert_step, "u8 u16 u32 u64 s8 s16 s32 s64 f16 f16x2 bf16 bf16x2 f32 f64 tf32", "round ftz sat relu satfinite"},
    {"cvta", to_address_step, "u32 u64", "space to"},
    {"isspacep", is_space_step, "", "space"},
    {"ld", load_step, MEMORY, "space vector strong cache"},
    {"ldu", load_step, MEMORY, "space vector cache"},
    {"st", store_step, MEMORY, "space vector strong cache"},
    {"prefetch", nothing_step, "", "space cache L1 L2"},
    {"prefetchu", nothing_step, "", "L1"},
    {"membar", nothing_step, "", "cta gl sys"},
    {"fence", nothing_step, "", "sc acq_rel cta gpu sys"},
    {"nanosleep", nothing_step, "u32", ""},
    {"bra", branch_step, "", "uni"},
    {"brx", branch_table_step, "", "idx"},
    {"ret", leave_step, "", "uni"},
    {"exit", leave_step, "", ""},
    {"trap", trap_step, "", ""},
    {"bar", barrier_step, "u32 pred", "sync red arrive warp logic popc cta", true},
    {"barrier", barrier_step, "u32 pred", "sync red arrive logic popc cta aligned", true},
    {"shfl", shuffle_step, "b32", "sync exchange", true},
    {"vote", vote_step, "pred b32", "sync ballot", true},
    {"match", match_step, "b32 b64", "sync ballot", true},
    {"redux", reduce_step, "u32 s32 b32", "sync atom", true},
    {"activemask", active_mask_step, "b32", "", true},
    {"atom", atomic_step, "b16 b32 b64 u32 u64 s32 s64 f32 f64 f16 f16x2 bf16 bf16x2", "space strong cache atom noftz"},
    {"red", atomic_step, "b32 b64 u32 u64 s32 s64 f32 f64 f16 f16x2 bf16 bf16x2", "space strong cache atom noftz"},
    {"cp", copy_async_step, "", "cp"},
    {"ldmatrix", load_matrix_step, "b16", "sync aligned m8n8 count trans space", true},
    {"mma", multiply_matrix_step, "f16 bf16 tf32 f32 s8 u8 s32", "sync aligned shape row col satfinite", true},
};

template <class Field, size_t N>
bool pick(const std::string &word, const char *const (&names)[N], Field *field) {
    for (size_t i = 0; i < N; ++i)
        if (word == names[i]) return *field = static_cast<Field>(i), true;
    return false;
}

bool flag(const std::string &word, const char *name, bool *field) { return word == name && (*field = true); }

const char *const SPACES[] = {"?", "global", "shared", "local", "param", "const"};
const char *const ROUNDS[] = {"?", "rn", "rz", "rm", "rp", "rna", "rni", "rzi", "rmi", "rpi"};
const char *const COMPARES[] = {"?", "eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"};
const char *const PARTS[] = {"?", "lo", "hi", "wide"};
const char *const MODES[] = {"?", "up", "down", "bfly", "idx", "all", "any", "uni", "ballot", "add", "min", "max", "inc", "dec",
                             "cas", "exch", "and", "or", "xor", "l", "r", "clamp", "wrap", "popc"};
const char *const TYPES[] = {"?", "pred", "b8", "b16", "b32", "b64", "b128", "u8", "u16", "u32", "u64", "s8", "s16", "s32",
                             "s64", "f16", "f16x2", "bf16", "bf16x2", "tf32", "f32", "f64"};

bool is_one_of(const std::string &word, const char *list) {
    std::istringstream words(list);
    for (std::string each; words >> each;)
        if (each == word) return true;
    return false;
}

bool take_mode(const std::string &word, const char *allowed, Mode *field) {
    return is_one_of(word, allowed) && pick(word, MODES, field);
}

// One word of an opcode under one group. True when the group knows it.
bool modify(Instruction *i, const std::string &group, const std::string &w) {
    if (group == "round") return pick(w, ROUNDS, &i->round);
    if (group == "ftz") return flag(w, "ftz", &i->ftz);
    if (group == "sat") return flag(w, "sat", &i->sat);
    if (group == "satfinite") return flag(w, "satfinite", &i->satfinite);
    if (group == "relu") return flag(w, "relu", &i->relu);
    if (group == "approx") return flag(w, "approx", &i->approx) || flag(w, "full", &i->approx);
    if (group == "cc") return flag(w, "cc", &i->carry_out);
    if (group == "part") return pick(w, PARTS, &i->part);
    if (group == "compare") return pick(w, COMPARES, &i->compare);
    if (group == "logic") return take_mode(w, "and or xor", &i->logic);
    if (group == "shift") return take_mode(w, "l r", &i->mode) || take_mode(w, "clamp wrap", &i->logic);
    if (group == "exchange") return take_mode(w, "up down bfly idx", &i->mode);
    if (group == "ballot") return take_mode(w, "all any uni ballot", &i->mode);
    if (group == "atom") return take_mode(w, "add min max inc dec cas exch and or xor", &i->mode);
    if (group == "popc") return take_mode(w, "popc", &i->mode);
    if (group == "to") return flag(w, "to", &i->to);
    if (group == "trans") return flag(w, "trans", &i->trans);
    if (group == "space") {
        const std::string base = w.substr(0, w.find("::"));  // shared::cta
        return pick(base, SPACES, &i->space) && (base == w || w == "shared::cta" || w == "param::entry");
    }
    if (group == "vector") {
        if (w != "v2" && w != "v4" && w != "v8") return false;
        return i->vector = w[1] - '0', true;
    }
    if (group == "count") {
        if (w != "x1" && w != "x2" && w != "x4") return false;
        return i->count = w[1] - '0', true;
    }
    if (group == "strong") {
        if (is_one_of(w, "volatile relaxed acquire release acq_rel")) return i->is_strong = true;
        return is_one_of(w, "weak cta gpu sys");
    }
    if (group == "cache") return is_one_of(w, "ca cg cs cv lu wb wt nc") || w.rfind("L1::", 0) == 0 || (w.rfind("L2::", 0) == 0 && w != "L2::cache_hint");
    if (group == "shape") return sscanf(w.c_str(), "m%dn%dk%d", &i->m, &i->n, &i->k) == 3;
    if (group == "property") return is_one_of(w, "finite infinite number notanumber normal subnormal") && (i->text = w, true);
    if (group == "warp" && w == "warp") return i->step = warp_barrier_step, true;
    if (group == "arrive" && w == "arrive") return i->mode = Mode::inc, true;
    if (group == "shiftamt") return flag(w, "shiftamt", &i->approx);
    return group == w;
}

// cp.async.cg.shared.global[.L2::128B], cp.async.commit_group, cp.async.wait_group, cp.async.wait_all
bool decode_copy(const std::vector<std::string> &words, Instruction *to) {
    if (words.size() < 3 || words[1] != "async") return false;
    if (words[2] == "commit_group") to->step = commit_group_step;
    if (words[2] == "wait_group" || words[2] == "wait_all") to->step = wait_group_step;
    if (words[2] == "commit_group" || words[2] == "wait_group" || words[2] == "wait_all") return words.size() == 3;
    if (words.size() < 5 || (words[2] != "ca" && words[2] != "cg") || words[4] != "global") return false;
    for (size_t i = 5; i < words.size(); ++i)
        if (words[i].rfind("L2::", 0) != 0 || words[i] == "L2::cache_hint") return false;
    return words[3] == "shared" || words[3] == "shared::cta";
}

}  // namespace

bool decode(const std::string &opcode, Instruction *to, std::string *reason) {
    std::vector<std::string> words;
    std::istringstream stream(opcode);
    for (std::string w; std::getline(stream, w, '.');) words.push_back(w);
    const Opcode *found = nullptr;
    for (const Opcode &each : OPCODES)
        if (words[0] == each.name) found = &each;
    *reason = "unknown instruction `" + words[0] + "`";
    if (!found) return false;
    to->step = found->step;
    to->is_collective = found->is_collective;
    if (words[0] == "cp") {
        *reason = "a form of cp that is not known";
        return decode_copy(words, to);
    }
    std::istringstream list(found->modifiers);
    std::vector<std::string> groups;
    for (std::string g; list >> g;) groups.push_back(g);
    for (size_t i = 1; i < words.size(); ++i) {
        const std::string &w = words[i];
        Type type;
        bool is_known = false;
        if (is_one_of(w, found->types) && to->type_count < 4 && pick(w, TYPES, &type)) {
            to->types[to->type_count++] = type;
            is_known = true;
        }
        for (size_t g = 0; g < groups.size() && !is_known; ++g) is_known = modify(to, groups[g], w);
        *reason = "`" + words[0] + "` with unknown part `." + w + "`";
        if (!is_known) return false;
    }
    if (is_one_of("carry", found->modifiers)) to->trans = true;  // reads the carry as well
    return true;
}

}  // namespace t5k::ptx
