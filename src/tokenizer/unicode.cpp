#include "llmft/tokenizer/unicode.hpp"

#include <map>

namespace llmft {

UnicodeClasses::UnicodeClasses() {
  std::vector<CharClass> all(0x110000, CharClass::other);
  auto fill = [&](std::span<const CodePointRange> ranges, CharClass value) {
    for (const CodePointRange& range : ranges)
      for (uint32_t c = range.first; c <= range.last; ++c) all[c] = value;
  };
  fill(kLetterRanges, CharClass::letter);
  fill(kNumberRanges, CharClass::number);
  fill(kSpaceRanges, CharClass::space);

  // Fewer than 256 distinct blocks, which a test holds: an index fits a byte.
  std::map<std::vector<CharClass>, uint8_t> known;
  for (size_t at = 0; at < all.size(); at += 256) {
    std::vector<CharClass> block(all.begin() + static_cast<ptrdiff_t>(at),
                                 all.begin() + static_cast<ptrdiff_t>(at + 256));
    auto [entry, is_new] = known.try_emplace(block, static_cast<uint8_t>(known.size()));
    if (is_new) classes_.insert(classes_.end(), block.begin(), block.end());
    block_.push_back(entry->second);
  }
}

const UnicodeClasses& UnicodeClasses::get() {
  static const UnicodeClasses classes;
  return classes;
}

void append_utf8(uint32_t c, std::string& out) {
  auto put = [&](uint32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | c >> 6), put(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    put(0xE0 | c >> 12), put(0x80 | (c >> 6 & 0x3F)), put(0x80 | (c & 0x3F));
  } else {
    put(0xF0 | c >> 18), put(0x80 | (c >> 12 & 0x3F)), put(0x80 | (c >> 6 & 0x3F)), put(0x80 | (c & 0x3F));
  }
}

}  // namespace llmft
