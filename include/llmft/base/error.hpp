// Two kinds of error only. UserError: input, config or machine is at fault; its text says what is wrong,
// where, why, and what to do, and the process ends with exit code 2. InternalError: a bug of ours; exit
// code 70. Both are caught once, at the top of a rank (cli/run_guard).
#pragma once

#include <stdexcept>
#include <string>

#include <fmt/format.h>

namespace llmft {

class UserError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class InternalError : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

// Text shape: "<where>: <what is wrong> (<why>); <what to do>".
template <class... Args>
[[noreturn]] void user_error(fmt::format_string<Args...> format, Args&&... args) {
  throw UserError(fmt::format(format, std::forward<Args>(args)...));
}

// The builtins are what std::source_location is made of; clang-tidy 14 does not know the latter.
[[noreturn]] void internal_error(const std::string& message, const char* file = __builtin_FILE(),
                                 int line = __builtin_LINE());

// An invariant of ours; never used to validate input.
inline void check(bool condition, const char* message, const char* file = __builtin_FILE(),
                  int line = __builtin_LINE()) {
  if (!condition) internal_error(message, file, line);
}

}  // namespace llmft
