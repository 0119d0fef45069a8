// Unicode as the split rules see it: a class per code point, and UTF-8 decoding that never reads past its
// input. The tables are read out of tiktoken (tools/make_unicode_tables.py): another Unicode version gives
// other ids.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace llmft {

enum class CharClass : uint8_t {
  other,   // none of the below: punctuation, symbols, marks, unassigned
  letter,  // \p{L}
  number,  // \p{N}
  space,   // \s
};

struct CodePointRange {
  uint32_t first;
  uint32_t last;  // included
};

extern const std::span<const CodePointRange> kLetterRanges;
extern const std::span<const CodePointRange> kNumberRanges;
extern const std::span<const CodePointRange> kSpaceRanges;

// Two-stage table over blocks of 256 code points: about 60 KB, so that it stays in the cache.
class UnicodeClasses {
 public:
  // Built at the first call.
  static const UnicodeClasses& get();
  // code_point < 0x110000.
  CharClass operator[](uint32_t code_point) const {
    return classes_[size_t{block_[code_point >> 8]} << 8 | (code_point & 255)];
  }

 private:
  UnicodeClasses();
  std::vector<uint8_t> block_;
  std::vector<CharClass> classes_;
};

struct DecodedChar {
  uint32_t code_point;
  uint32_t length;  // in bytes; 0: no valid character starts here
};

// The character that starts at text[at], at < text.size(). Overlong forms, surrogates, code points past
// U+10FFFF and cut tails are invalid.
inline DecodedChar decode_char(std::string_view text, size_t at) {
  auto byte = [&](size_t i) { return static_cast<uint32_t>(static_cast<unsigned char>(text[at + i])); };
  auto continues = [&](size_t i) { return (byte(i) & 0xC0) == 0x80; };
  const uint32_t lead = byte(0);
  const size_t left = text.size() - at;
  if (lead < 0x80) return {lead, 1};
  if (lead >= 0xC2 && lead <= 0xDF) {
    if (left < 2 || !continues(1)) return {0, 0};
    return {(lead & 0x1F) << 6 | (byte(1) & 0x3F), 2};
  }
  if (lead >= 0xE0 && lead <= 0xEF) {
    if (left < 3 || !continues(1) || !continues(2)) return {0, 0};
    const uint32_t c = (lead & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F);
    if (c < 0x800 || (c >= 0xD800 && c <= 0xDFFF)) return {0, 0};
    return {c, 3};
  }
  if (lead >= 0xF0 && lead <= 0xF4) {
    if (left < 4 || !continues(1) || !continues(2) || !continues(3)) return {0, 0};
    const uint32_t c =
        (lead & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F);
    if (c < 0x10000 || c > 0x10FFFF) return {0, 0};
    return {c, 4};
  }
  return {0, 0};
}

// Appends code_point (< 0x110000) as UTF-8.
void append_utf8(uint32_t code_point, std::string& out);

}  // namespace llmft
