#include "llmft/base/error.hpp"

#include <string_view>

namespace llmft {

void internal_error(const std::string& message, std::source_location where) {
  std::string_view file = where.file_name();
  if (auto at = file.rfind("/src/"); at != std::string_view::npos) file.remove_prefix(at + 1);
  throw InternalError(fmt::format(
      "internal error at {}:{}: {}; this is a bug in llmft, please report it with the command line", file,
      where.line(), message));
}

}  // namespace llmft
