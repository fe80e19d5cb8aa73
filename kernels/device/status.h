// What a native call returns: a code the C boundary passes on, and one sentence for a person.
#pragma once

#include <string>
#include <utility>

namespace t5k {

enum class Code { ok = 0, invalid = 1, no_memory = 2, internal = 3, busy = 4 };

struct [[nodiscard]] Status {
    Code code = Code::ok;
    std::string message;

    bool ok() const { return code == Code::ok; }
    static Status good() { return {}; }
    static Status invalid(std::string m) { return {Code::invalid, std::move(m)}; }
};

// Returns early from a function that itself returns Status.
#define T5K_TRY(expression)                        \
    do {                                           \
        ::t5k::Status status_ = (expression);      \
        if (!status_.ok()) return status_;         \
    } while (0)

}  // namespace t5k
