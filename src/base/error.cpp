#include "llmft/base/error.hpp"

#include <string_view>

namespace llmft {

void internal_error(const std::string& message, const char* file, int line) {
  std::string_view name = file;
  if (auto at = name.rfind("/src/"); at != std::string_view::npos) name.remove_prefix(at + 1);
  throw InternalError(fmt::format(
      "internal error at {}:{}: {}; this is a bug in llmft, please report it with the command line", name,
      line, message));
}

}  // namespace llmft
