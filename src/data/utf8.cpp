#include "utf8.hpp"

#include <array>
#include <cstdint>
#include <cstring>

#include <arrow/util/utf8.h>

namespace llmft {
namespace {

// Length of the ASCII at the beginning, in blocks of 256 bytes.
size_t ascii_blocks(std::string_view text) {
  using Bytes [[gnu::vector_size(16)]] = unsigned char;
  size_t at = 0;
  for (; at + 256 <= text.size(); at += 256) {
    Bytes any{};
    for (size_t i = at; i < at + 256; i += sizeof(Bytes)) {
      Bytes some;
      std::memcpy(&some, text.data() + i, sizeof some);
      any |= some;
    }
    std::array<uint64_t, 2> halves;
    std::memcpy(halves.data(), &any, sizeof any);
    if (((halves[0] | halves[1]) & 0x8080808080808080) != 0) break;
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
