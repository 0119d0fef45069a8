#include <set>

#include <doctest/doctest.h>

#include "llmft/base/text.hpp"
#include "llmft/tokenizer/unicode.hpp"
#include "support.hpp"

using namespace llmft;
using namespace llmft::test;

TEST_CASE("classes: the table gives what the ranges say, for every code point") {
  const UnicodeClasses& classes = UnicodeClasses::get();
  std::vector<CharClass> expected(0x110000, CharClass::other);
  size_t members = 0;
  for (auto [ranges, kind] :
       {std::pair{kLetterRanges, CharClass::letter}, std::pair{kNumberRanges, CharClass::number},
        std::pair{kSpaceRanges, CharClass::space}})
    for (const CodePointRange& range : ranges)
      for (uint32_t c = range.first; c <= range.last; ++c) {
        CHECK(expected[c] == CharClass::other);  // no code point has two classes
        expected[c] = kind;
        ++members;
      }
  CHECK(members > 130000);
  size_t wrong = 0;
  for (uint32_t c = 0; c < 0x110000; ++c) wrong += classes[c] != expected[c];
  CHECK(wrong == 0);  // also: fewer than 257 distinct blocks, else indices would have wrapped
}

TEST_CASE("classes: white space is 25 code points, and marks are no letters") {
  const UnicodeClasses& classes = UnicodeClasses::get();
  size_t spaces = 0;
  for (const CodePointRange& range : kSpaceRanges) spaces += range.last - range.first + 1;
  CHECK(spaces == 25);
  for (uint32_t c :
       {0x200Bu, 0x180Eu, 0xFEFFu, 0x1Cu, 0x1Fu, 0x301u, 0x93Fu, 0x5B0u, 0x2019u, 0xFFFDu, 0x10FFFFu})
    CHECK_MESSAGE(classes[c] == CharClass::other, c);
  for (uint32_t c : {0x663u, 0xB2u, 0x2167u, 0x1D7D9u}) CHECK_MESSAGE(classes[c] == CharClass::number, c);
  for (uint32_t c : {0x17Fu, 0x4E2Du, 0x1D49Cu, 0xAAu}) CHECK_MESSAGE(classes[c] == CharClass::letter, c);
  // newer than UnicodeData 15.0: a letter and a number of 16.0
  CHECK(classes[0x10D4A] == CharClass::letter);
  CHECK(classes[0x1CCF0] == CharClass::number);
}

TEST_CASE("UTF-8: every code point survives, and everything else is refused") {
  size_t wrong = 0;
  for (uint32_t c = 0; c < 0x110000; ++c) {
    std::string text;
    append_utf8(c, text);
    const DecodedChar decoded = decode_char(text, 0);
    const bool surrogate = c >= 0xD800 && c <= 0xDFFF;
    wrong += surrogate ? decoded.length != 0 : decoded.code_point != c || decoded.length != text.size();
    if (text.size() > 1) wrong += decode_char(text.substr(0, text.size() - 1), 0).length != 0;
  }
  CHECK(wrong == 0);

  Random random(1);
  for (int i = 0; i < 200000; ++i) {
    const std::string bytes = random_bytes(random, 6);
    size_t at = 0;
    while (at < bytes.size() && decode_char(bytes, at).length != 0) at += decode_char(bytes, at).length;
    if (at != valid_utf8_prefix(bytes)) ++wrong;
  }
  CHECK(wrong == 0);
}
