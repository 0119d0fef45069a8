#include "utf8.hpp"

#include <arrow/util/utf8.h>

namespace llmft {

bool valid_utf8(std::string_view text) {
  static const bool ready = [] {
    arrow::util::InitializeUTF8();
    return true;
  }();
  return ready && arrow::util::ValidateUTF8(reinterpret_cast<const uint8_t*>(text.data()),
                                            static_cast<int64_t>(text.size()));
}

}  // namespace llmft
