#include <doctest/doctest.h>

#include "llmft/tokenizer/char_masks.hpp"
#include "llmft/tokenizer/splitter.hpp"
#include "llmft/tokenizer/unicode.hpp"
#include "support.hpp"

using namespace llmft;
using namespace llmft::test;
using Pieces = std::vector<std::string>;

TEST_CASE("Llama 3's rule: the traps, piece by piece") {
  auto rule = make_llama3_splitter();
  auto cut = [&](std::string_view text) { return pieces(*rule, text); };

  SUBCASE("white space: all but the last of a run, which joins what follows") {
    CHECK(cut("a  b") == Pieces{"a", " ", " b"});
    CHECK(cut("  b") == Pieces{" ", " b"});
    CHECK(cut("a   .") == Pieces{"a", "  ", " ."});
    CHECK(cut("a  1") == Pieces{"a", " ", " ", "1"});
    CHECK(cut("a  ") == Pieces{"a", "  "});
    CHECK(cut("\t a") == Pieces{"\t", " a"});
    CHECK(cut(" \ta") == Pieces{" ", "\ta"});
    CHECK(cut("\t.") == Pieces{"\t", "."});  // only a blank joins punctuation
    CHECK(cut("\u3000\u3000é") == Pieces{"\u3000", "\u3000é"});
    CHECK(cut("a\u0085.") == Pieces{"a", "\u0085", "."});
  }
  SUBCASE("newlines: a run ends after its last one; those after punctuation belong to it") {
    CHECK(cut("a \n \n  b") == Pieces{"a", " \n \n", " ", " b"});
    CHECK(cut("a\r\n\r\nb") == Pieces{"a", "\r\n\r\n", "b"});
    CHECK(cut("!\n\n \nb") == Pieces{"!\n\n", " \n", "b"});
    CHECK(cut("!\r\n  !") == Pieces{"!\r\n", " ", " !"});
    CHECK(cut("\n ") == Pieces{"\n", " "});
    CHECK(cut("\n  a") == Pieces{"\n", " ", " a"});
    CHECK(cut("1\n.") == Pieces{"1", "\n", "."});
  }
  SUBCASE(
      "punctuation: one character joins the letters after it if it starts its run and no blank stands "
      "before") {
    CHECK(cut(".b") == Pieces{".b"});
    CHECK(cut("..b") == Pieces{"..", "b"});
    CHECK(cut(" .b") == Pieces{" .", "b"});
    CHECK(cut("\t.b") == Pieces{"\t", ".b"});
    CHECK(cut("1.b") == Pieces{"1", ".b"});
    CHECK(cut("\U0001F600é") == Pieces{"\U0001F600é"});
    CHECK(cut("e\u0301e") == Pieces{"e", "\u0301e"});
  }
  SUBCASE("contractions: in any case, with U+017F, only where the apostrophe starts a piece") {
    CHECK(cut("it's") == Pieces{"it", "'s"});
    CHECK(cut("IT'\u017F") == Pieces{"IT", "'\u017F"});
    CHECK(cut("'\u017Fx") == Pieces{"'\u017F", "x"});
    CHECK(cut("we'Ll'vE") == Pieces{"we", "'Ll", "'vE"});
    CHECK(cut("'sx") == Pieces{"'s", "x"});
    CHECK(cut("'x") == Pieces{"'x"});
    CHECK(cut("'l") == Pieces{"'l"});
    CHECK(cut("''s") == Pieces{"''", "s"});
    CHECK(cut(" 's") == Pieces{" '", "s"});
    CHECK(cut("\t's") == Pieces{"\t", "'s"});
    CHECK(cut("1's") == Pieces{"1", "'s"});
    CHECK(cut("it\u2019s") == Pieces{"it", "\u2019s"});
    CHECK(cut("'\u212A") == Pieces{"'\u212A"});
  }
  SUBCASE("numbers: in threes, by characters, without a blank before") {
    CHECK(cut("1234567") == Pieces{"123", "456", "7"});
    CHECK(cut("a 12") == Pieces{"a", " ", "12"});
    CHECK(cut("٣٣٣٣") == Pieces{"٣٣٣", "٣"});
    CHECK(cut("1²Ⅷ\U0001D7D9") == Pieces{"1²Ⅷ", "\U0001D7D9"});
    CHECK(cut("12a345") == Pieces{"12", "a", "345"});
  }
  SUBCASE("no text") {
    CHECK(cut("").empty());
  }
}

TEST_CASE("Llama 3's rule: the same pieces as a regex engine's") {
  auto rule = make_llama3_splitter();
  auto regex = make_regex_splitter({std::string(kLlama3Pattern)}, "test");
  Random random(7);
  auto compare = [&](int count, size_t most, size_t run) {
    for (int i = 0; i < count; ++i) {
      const std::string text = random_text(random, most, run);
      REQUIRE_MESSAGE(pieces(*rule, text) == pieces(*regex, text), nlohmann::json(text).dump());
    }
  };
  compare(40000, 12, 1);
  compare(5000, 150, 1);
  compare(5000, 12, 3);
  compare(2000, 4, 70);  // runs that cross the 64-byte blocks
}

TEST_CASE("Llama 3's rule: every length around the blocks, for one run after another") {
  auto rule = make_llama3_splitter();
  auto regex = make_regex_splitter({std::string(kLlama3Pattern)}, "test");
  for (const std::string& tail : kAlphabet)
    for (const std::string& head :
         {std::string("a"), std::string(" "), std::string("7"), std::string("."), std::string("\n"),
          std::string("中"), std::string("\u3000"), std::string("٣")})
      for (size_t n = 58; n < 68; ++n) {
        std::string text;
        while (text.size() < n) text += head;
        text += tail;
        for (const char* last : {"", "s", " ", "\n", "1", "!"})
          REQUIRE_MESSAGE(pieces(*rule, text + last) == pieces(*regex, text + last),
                          nlohmann::json(text + last).dump());
      }
}

TEST_CASE("class masks: each tier gives the same, and each byte has one class") {
  Random random(3);
  for (int i = 0; i < 3000; ++i) {
    const std::string text = i % 2 == 0 ? random_text(random, 60, 3) : random_bytes(random, 200);
    std::vector<BlockMasks> portable, other;
    make_char_masks(text, portable, SimdTier::portable);
    REQUIRE(portable.size() == (text.size() + 63) / 64 + 1);
    for (SimdTier tier : available_simd_tiers()) {
      make_char_masks(text, other, tier);
      REQUIRE_MESSAGE(other == portable, name_of(tier));
    }
    for (const BlockMasks& p : portable) {
      uint64_t seen = 0;
      for (uint64_t mask : {p.letter, p.number, p.blank, p.white, p.newline}) {
        REQUIRE((seen & mask) == 0);
        seen |= mask;
      }
    }
    REQUIRE(portable.back() == BlockMasks{});
  }
}

TEST_CASE("Llama 3's rule: each tier gives the same pieces") {
  Random random(9);
  for (int i = 0; i < 5000; ++i) {
    const std::string text = i % 4 == 0 ? random_bytes(random, 300) : random_text(random, 200, 1 + i % 5);
    SplitScratch portable, other;
    make_llama3_splitter(SimdTier::portable)->split(text, portable);
    for (SimdTier tier : available_simd_tiers()) {
      make_llama3_splitter(tier)->split(text, other);
      REQUIRE_MESSAGE(other.starts == portable.starts, name_of(tier));
    }
  }
}

TEST_CASE("bytes that are no UTF-8 are punctuation, and pieces never cut a character") {
  auto rule = make_llama3_splitter();
  auto regex = make_regex_splitter({std::string(kLlama3Pattern)}, "test");
  CHECK(pieces(*rule,
               "a\xFF"
               "b") == Pieces{"a",
                              "\xFF"
                              "b"});
  CHECK(pieces(*rule, "a \xE4\xB8") == Pieces{"a", " \xE4\xB8"});
  CHECK(pieces(*rule, "\xF4\x90\x80\x80 b") == Pieces{"\xF4\x90\x80\x80", " b"});
  Random random(5);
  for (int i = 0; i < 20000; ++i) {
    const std::string bytes =
        i % 2 == 0 ? random_bytes(random, 150) : random_text(random, 10) + random_bytes(random, 9);
    for (const Splitter* splitter : {rule.get(), regex.get()}) {
      SplitScratch scratch;
      splitter->split(bytes, scratch);
      if (!bytes.empty()) REQUIRE(get_bit(scratch.starts, 0));
      for (size_t at = 0; at < bytes.size();) {
        const DecodedChar c = decode_char(bytes, at);
        for (size_t k = 1; k < c.length; ++k) REQUIRE_FALSE(get_bit(scratch.starts, at + k));
        at += std::max<size_t>(1, c.length);
      }
    }
  }
}

TEST_CASE("other rules, by regex: gaps are pieces, patterns apply one after another") {
  auto gpt2 = make_regex_splitter(
      {R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)"}, "t");
  CHECK(pieces(*gpt2, "It's 1234  é!\n") == Pieces{"It", "'s", " 1234", " ", " é", "!", "\n"});
  auto digits = make_regex_splitter({R"(\p{N})", R"( ?\p{L}+)"}, "t");
  CHECK(pieces(*digits, "ab cd12..ef") == Pieces{"ab", " cd", "1", "2", "..", "ef"});
  auto empty_matches = make_regex_splitter({"x*"}, "t");
  CHECK(pieces(*empty_matches, "éaxxb") == Pieces{"éa", "xx", "b"});
  CHECK(contains(message_of([] { make_regex_splitter({"(a"}, "some.json"); }), "some.json"));
}

TEST_CASE("other rules: a word of a megabyte") {
  auto regex = make_regex_splitter({std::string(kLlama3Pattern)}, "test");
  for (const char* unit : {"a", "é", " ", "\n", "!", "\xFF"}) {
    std::string text;
    while (text.size() < (size_t{1} << 20)) text += unit;
    CHECK(pieces(*regex, text + "x").size() >= 1);
  }
}
