// PTX text to records. Every statement is kept with its line; what is not understood stops the kernel that holds it.
#include <algorithm>
#include <cctype>
#include <cstdarg>
#include <cstring>

#include "memory.h"
#include "program.h"

namespace t5k::ptx {

void fail(const char *format, ...) {
    char text[512];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    throw Fault(text);
}

int bytes_of(Type type) {
    static const int bytes[] = {0, 1, 1, 2, 4, 8, 16, 1, 2, 4, 8, 1, 2, 4, 8, 2, 4, 2, 4, 4, 4, 8};
    return bytes[static_cast<int>(type)];
}
bool is_signed(Type t) { return t >= Type::s8 && t <= Type::s64; }
bool is_float(Type t) { return t >= Type::f16; }

namespace {

const char *const SPECIALS[] = {"%tid.x", "%tid.y", "%tid.z", "%ntid.x", "%ntid.y", "%ntid.z", "%ctaid.x", "%ctaid.y",
                                "%ctaid.z", "%nctaid.x", "%nctaid.y", "%nctaid.z", "%laneid", "%warpid", "%nwarpid",
                                "%lanemask_eq", "%lanemask_lt", "%lanemask_le", "%lanemask_gt", "%lanemask_ge", "%clock",
                                "%clock64", "%globaltimer", "%smid", "%nsmid", "%gridid", "%dynamic_smem_size",
                                "%total_smem_size"};

struct Scope {
    std::map<std::string, int> registers;
    std::map<std::string, Variable> variables;
};

class Reader {
   public:
    explicit Reader(const std::string &text) : text_(text) {}

    std::unique_ptr<Module> module() {
        module_ = std::make_unique<Module>();
        scopes_.emplace_back();
        for (skip(); !at_end(); skip()) top_level();
        return std::move(module_);
    }

   private:
    // ---- characters
    bool at_end() const { return at_ >= text_.size(); }
    char peek() const { return at_end() ? '\0' : text_[at_]; }
    char next() {
        if (at_end()) fail("line %d: the text ends in the middle of something", line_);
        if (text_[at_] == '\n') ++line_;
        return text_[at_++];
    }
    void skip() {
        while (!at_end()) {
            if (isspace(static_cast<unsigned char>(peek()))) {
                next();
            } else if (text_.compare(at_, 2, "//") == 0) {
                skip_line();
            } else if (text_.compare(at_, 2, "/*") == 0) {
                while (!at_end() && text_.compare(at_, 2, "*/") != 0) next();
                next(), next();
            } else {
                return;
            }
        }
    }
    void skip_line() {
        while (!at_end() && peek() != '\n') next();
    }
    static bool is_word(char c) { return isalnum(static_cast<unsigned char>(c)) || strchr("_$%.", c); }
    std::string word() {
        skip();
        std::string w;
        while (!at_end() && peek() && (is_word(peek()) || (peek() == ':' && text_.compare(at_, 2, "::") == 0) ||
                                       (peek() == ':' && !w.empty() && at_ > 0 && text_[at_ - 1] == ':')))
            w += next();
        return w;
    }
    bool take(char c) {
        skip();
        if (peek() != c) return false;
        next();
        return true;
    }
    void expect(char c) {
        if (!take(c)) fail("line %d: expected '%c', got '%c'", line_, c, peek());
    }
    std::string until(char end) {
        std::string s;
        while (!at_end() && peek() != end) s += next();
        next();
        return s;
    }
    s64 integer() {
        skip();
        std::string w;
        if (peek() == '-') w += next();
        w += word();
        if (!w.empty() && w.back() == 'U') w.pop_back();
        return static_cast<s64>(w[0] == '-' ? static_cast<u64>(std::stoll(w, nullptr, 0)) : std::stoull(w, nullptr, 0));
    }

    // ---- declarations
    static bool type_of(const std::string &name, Type *type) {
        static const char *const names[] = {"", "pred", "b8", "b16", "b32", "b64", "b128", "u8", "u16", "u32", "u64", "s8",
                                            "s16", "s32", "s64", "f16", "f16x2", "bf16", "bf16x2", "tf32", "f32", "f64"};
        for (int i = 1; i < 22; ++i)
            if (name == names[i]) return *type = static_cast<Type>(i), true;
        return false;
    }

    void top_level() {
        const int line = line_;
        const std::string w = word();
        if (w == ".version" || w == ".target" || w == ".address_size" || w == ".file" || w == ".loc") return skip_line();
        if (w == ".visible" || w == ".extern" || w == ".weak" || w == ".common") return;
        if (w == ".pragma") return void(until(';'));
        if (w == ".section") return until('{'), void(until('}'));
        if (w == ".entry") return function();
        if (w == ".global" || w == ".const") return variable(w == ".global" ? Space::global : Space::constant);
        if (w == ".shared") return variable(Space::shared);
        fail("line %d: unknown directive `%s`", line, w.c_str());
    }

    // After ".shared": .align 4 .b8 name[128]; or with an initialiser (globals only).
    void variable(Space space) {
        Variable v{space, 0, 1, 0};
        std::string name;
        Type type = Type::none;
        while (name.empty()) {
            const std::string w = word();
            if (w == ".align") {
                v.align = static_cast<size_t>(integer());
            } else if (w.size() > 1 && w[0] == '.') {
                if (!type_of(w.substr(1), &type)) fail("line %d: a variable of unknown kind `%s`", line_, w.c_str());
            } else if (!w.empty()) {
                name = w;
            } else {
                fail("line %d: a variable without a name", line_);
            }
        }
        v.align = std::max<size_t>(v.align, static_cast<size_t>(bytes_of(type)));
        size_t elements = 1;
        bool is_open = false;
        while (take('[')) {
            if (take(']')) {
                is_open = true;
                continue;
            }
            elements *= static_cast<size_t>(integer());
            expect(']');
        }
        v.bytes = is_open ? 0 : elements * static_cast<size_t>(bytes_of(type));
        place(&v, is_open);
        if (take('=')) initialise(v, type);
        expect(';');
        scopes_.back().variables[name] = v;
    }

    void place(Variable *v, bool is_open) {
        if (v->space == Space::shared && is_open) {
            v->address = DYNAMIC;
        } else if (v->space == Space::shared) {
            if (!code_) fail("line %d: static shared memory outside a kernel is not supported", line_);
            code_->static_shared_bytes += v->bytes;
            const u64 begin = shared_top_, at = (begin + RED_ZONE + v->align - 1) / v->align * v->align;
            v->address = begin == SHARED_START ? begin : at;
            if (v->address != begin) code_->shared_holes.emplace_back(begin, v->address);
            shared_top_ = v->address + v->bytes;
        } else if (v->space == Space::local) {
            code_->local_bytes = (code_->local_bytes + v->align - 1) / v->align * v->align;
            v->address = code_->local_bytes;
            code_->local_bytes += v->bytes;
        } else {
            void *memory = sim::allocate_memory(v->bytes);
            allocation_of(reinterpret_cast<u64>(memory), 1)->is_module_s = true;
            memset(memory, 0, v->bytes);
            module_->globals.push_back(memory);
            v->address = reinterpret_cast<u64>(memory);
        }
    }

    void initialise(const Variable &v, Type type) {
        const bool is_list = take('{');
        auto *to = reinterpret_cast<unsigned char *>(v.address);
        for (size_t at = 0;; at += static_cast<size_t>(bytes_of(type))) {
            if (at + static_cast<size_t>(bytes_of(type)) > v.bytes) fail("line %d: more values than the variable holds", line_);
            const Operand value = operand();
            if (value.kind != Operand::immediate) fail("line %d: an initialiser that is not a number", line_);
            memcpy(to + at, &value.bits, static_cast<size_t>(bytes_of(type)));
            if (!is_list || !take(',')) break;
        }
        if (is_list) expect('}');
    }

    // ---- kernels
    void function() {
        code_owner_ = std::make_unique<Code>();
        code_ = code_owner_.get();
        code_->name = word();
        shared_top_ = SHARED_START;
        labels_.clear();
        scopes_.emplace_back();
        if (take('(') && !take(')')) {
            do parameter();
            while (take(','));
            expect(')');
        }
        for (skip(); peek() != '{'; skip()) {
            const std::string w = word();
            if (w != ".maxntid" && w != ".reqntid" && w != ".minnctapersm" && w != ".maxnreg")
                fail("line %d: unknown directive `%s`", line_, w.c_str());
            s64 product = integer();
            while (take(',')) product *= integer();
            if (w == ".maxntid" || w == ".reqntid") code_->max_threads = static_cast<unsigned>(product);
        }
        expect('{');
        body();
        scopes_.pop_back();
        finish();
    }

    void parameter() {
        Variable v{Space::param, 0, 1, 0};
        std::string w;
        Type type = Type::none;
        while (w = word(), w[0] == '.') {
            if (w == ".align")
                v.align = static_cast<size_t>(integer());
            else if (w != ".param" && w != ".ptr" && w != ".global" && !type_of(w.substr(1), &type))
                fail("line %d: a parameter of unknown kind `%s`", line_, w.c_str());
        }
        v.align = std::max<size_t>(v.align, static_cast<size_t>(bytes_of(type)));
        v.bytes = static_cast<size_t>(bytes_of(type));
        if (take('[')) v.bytes *= static_cast<size_t>(integer()), expect(']');
        v.address = (code_->param_bytes + v.align - 1) / v.align * v.align;
        code_->param_bytes = v.address + v.bytes;
        scopes_.back().variables[w] = v;
    }

    void body() {
        for (int depth = 1; depth > 0; skip()) {
            skip();
            if (take('}')) {
                if (--depth > 0) scopes_.pop_back();
            } else if (take('{')) {
                ++depth;
                scopes_.emplace_back();
            } else {
                statement();
            }
        }
    }

    void statement() {
        const int line = line_;
        const size_t begin = at_;
        Instruction ins;
        if (take('@')) {
            ins.guard_is_negated = take('!');
            ins.guard = slot_of(word());
        }
        const std::string w = word();
        if (w.empty()) fail("line %d: expected an instruction, got '%c'", line, peek());
        if (take(':')) return label(w);
        if (w == ".reg") return registers();
        if (w == ".shared") return variable(Space::shared);
        if (w == ".local") return variable(Space::local);
        if (w == ".pragma") return void(until(';'));
        if (w == ".loc" || w == ".file") return skip_line();
        if (w[0] == '.') fail("line %d: unknown directive `%s`", line, w.c_str());
        ins.line = line;
        std::string reason;
        const bool is_known = decode(w, &ins, &reason);
        if (is_known) {
            operands(&ins);
        } else {
            until(';');
        }
        ins.text = text_.substr(begin, at_ - begin);
        if (!is_known) {
            ins.step = nullptr;
            code_->unknown.push_back("line " + std::to_string(line) + ": `" + ins.text + "`: " + reason);
        }
        code_->instructions.push_back(std::move(ins));
    }

    void label(const std::string &name) {
        labels_[name] = static_cast<int>(code_->instructions.size());
        skip();
        if (text_.compare(at_, 14, ".branchtargets") != 0) return;
        word();
        std::vector<std::string> names;
        do names.push_back(word());
        while (take(','));
        expect(';');
        tables_[name] = names;
    }

    void registers() {
        const std::string type = word();
        do {
            std::string name = word();
            int count = -1;
            if (take('<')) count = static_cast<int>(integer()), expect('>');
            for (int i = 0; i < std::max(count, 1); ++i)
                scopes_.back().registers[count < 0 ? name : name + std::to_string(i)] = code_->registers++;
        } while (take(','));
        expect(';');
    }

    // ---- operands
    int slot_of(const std::string &name) {
        for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope)
            if (auto it = scope->registers.find(name); it != scope->registers.end()) return it->second;
        fail("line %d: register `%s` was never declared", line_, name.c_str());
    }
    const Variable *find_variable(const std::string &name) const {
        for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope)
            if (auto it = scope->variables.find(name); it != scope->variables.end()) return &it->second;
        return nullptr;
    }

    Operand operand() {
        skip();
        Operand o;
        if (take('{')) {
            o.kind = Operand::group;
            do o.members.push_back(operand());
            while (take(','));
            expect('}');
        } else if (take('[')) {
            o = address();
            expect(']');
        } else if (take('!')) {
            o = operand();
            o.is_negated = true;
        } else if (peek() == '-' || isdigit(static_cast<unsigned char>(peek()))) {
            o.kind = Operand::immediate;
            o.bits = number();
        } else {
            o = named(word());
        }
        return o;
    }

    u64 number() {
        const bool is_negative = take('-');
        const std::string w = word();
        if (w.size() > 2 && w[0] == '0' && strchr("fFdD", w[1])) return std::stoull(w.substr(2), nullptr, 16);
        const u64 value = std::stoull(w, nullptr, 0);
        return is_negative ? 0 - value : value;
    }

    Operand named(const std::string &w) {
        Operand o;
        if (w == "_") return o;
        for (size_t i = 0; i < sizeof SPECIALS / sizeof *SPECIALS; ++i)
            if (w == SPECIALS[i]) return o.kind = Operand::special, o.bits = i, o;
        if (w == "WARP_SZ") return o.kind = Operand::immediate, o.bits = 32, o;
        if (const Variable *v = find_variable(w)) return o.kind = Operand::immediate, o.bits = v->address, o;
        if (w[0] == '%') {
            o.kind = Operand::reg;
            o.slot = slot_of(w);
            return o;
        }
        for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope)
            if (scope->registers.count(w)) return o.kind = Operand::reg, o.slot = slot_of(w), o;
        o.kind = Operand::label;
        o.bits = names_.size();
        names_.push_back(w);
        return o;
    }

    // Inside [ ]: a register, symbol or number, and offsets.
    Operand address() {
        Operand o = operand();
        if (o.kind == Operand::reg)
            o.bits = 0;
        else if (o.kind == Operand::immediate)
            o.slot = -1;
        else
            fail("line %d: an address that is neither register, variable nor number", line_);
        o.kind = Operand::address;
        while (take('+')) o.bits += static_cast<u64>(integer());
        return o;
    }

    void operands(Instruction *ins) {
        if (take(';')) return;
        do {
            ins->operands.push_back(operand());
            if (take('|')) ins->second = operand();
        } while (take(','));
        expect(';');
    }

    // Labels become instruction numbers once all are known.
    void finish() {
        for (Instruction &ins : code_->instructions)
            for (Operand &o : ins.operands)
                if (o.kind == Operand::label) resolve(&ins, &o);
        code_->dynamic_at = (shared_top_ + RED_ZONE + 15) / 16 * 16;
        if (shared_top_ == SHARED_START) code_->dynamic_at = SHARED_START;
        if (code_->dynamic_at != shared_top_) code_->shared_holes.emplace_back(shared_top_, code_->dynamic_at);
        for (Instruction &ins : code_->instructions)
            for (Operand &o : ins.operands) relocate(&o);
        module_->kernels[code_->name] = std::move(code_owner_);
        code_ = nullptr;
    }
    void resolve(Instruction *ins, Operand *o) {
        const std::string &name = names_[o->bits];
        if (auto table = tables_.find(name); table != tables_.end()) {
            for (const std::string &each : table->second) ins->targets.push_back(labels_.at(each));
            return;
        }
        const auto it = labels_.find(name);
        if (it == labels_.end()) fail("line %d: `%s` is neither a label nor a name declared before", ins->line, name.c_str());
        o->bits = static_cast<u64>(it->second);
    }
    // Dynamic shared memory lies behind the kernel's own, wherever that ends.
    void relocate(Operand *o) {
        if ((o->kind == Operand::immediate || o->kind == Operand::address) && o->bits >= DYNAMIC && o->bits < DYNAMIC + (1u << 20))
            o->bits += code_->dynamic_at - DYNAMIC;
        for (Operand &member : o->members) relocate(&member);
    }

    static constexpr u64 DYNAMIC = 0x5a5a000000000000;
    const std::string &text_;
    size_t at_ = 0;
    int line_ = 1;
    std::unique_ptr<Module> module_;
    std::unique_ptr<Code> code_owner_;
    Code *code_ = nullptr;
    u64 shared_top_ = SHARED_START;
    std::vector<Scope> scopes_;
    std::map<std::string, int> labels_;
    std::map<std::string, std::vector<std::string>> tables_;
    std::vector<std::string> names_;  // of labels met as operands
};

}  // namespace

std::unique_ptr<Module> parse(const std::string &text) { return Reader(text).module(); }

}  // namespace t5k::ptx
