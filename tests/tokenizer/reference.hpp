// Llama 3's tokenization by its definition, slow and with nothing of the engine but the classes of
// characters: the rule's alternatives tried in order at each character, then merging on strings. Texts made
// by hand or by chance are held against it (test_fuzz.cpp, fuzz_tokenizer.cpp).
#pragma once

#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "llmft/base/text.hpp"
#include "llmft/tokenizer/tokenizer.hpp"
#include "llmft/tokenizer/unicode.hpp"

namespace llmft::test {

class Reference {
 public:
  using Ranks = std::unordered_map<std::string, TokenId>;
  explicit Reference(Ranks ranks) : ranks_(std::move(ranks)) {}

  std::vector<std::string> pieces(std::string_view text) const {
    const std::vector<Char> chars = read(text);
    std::vector<std::string> found;
    for (size_t i = 0; i < chars.size();) {
      const size_t end = i + match(chars, i);
      std::string piece;
      for (; i < end; ++i) piece += chars[i].bytes;
      found.push_back(std::move(piece));
    }
    return found;
  }

  std::vector<TokenId> encode(std::string_view text) const {
    std::vector<TokenId> ids;
    for (const std::string& piece : pieces(text)) {
      if (auto whole = ranks_.find(piece); whole != ranks_.end()) {
        ids.push_back(whole->second);
        continue;
      }
      for (const std::string& part : merged(piece)) ids.push_back(ranks_.at(part));
    }
    return ids;
  }

 private:
  struct Char {
    std::string bytes;
    uint32_t code_point;  // of a byte that is no UTF-8: no character's
    CharClass kind;
    bool newline() const { return bytes == "\n" || bytes == "\r"; }
    bool is(CharClass wanted) const { return kind == wanted; }
  };

  static std::vector<Char> read(std::string_view text) {
    std::vector<Char> chars;
    for (size_t at = 0; at < text.size();) {
      const DecodedChar c = decode_char(text, at);
      const size_t length = c.length == 0 ? 1 : c.length;
      chars.push_back({std::string(text.substr(at, length)), c.length == 0 ? 0xFFFFFFFF : c.code_point,
                       c.length == 0 ? CharClass::other : UnicodeClasses::get()[c.code_point]});
      at += length;
    }
    return chars;
  }

  // Length, in characters, of what the rule matches at i.
  static size_t match(const std::vector<Char>& chars, size_t i) {
    auto run = [&](size_t from, auto&& belongs) {
      size_t end = from;
      while (end < chars.size() && belongs(chars[end])) ++end;
      return end - from;
    };
    auto letter = [](const Char& c) { return c.is(CharClass::letter); };
    auto number = [](const Char& c) { return c.is(CharClass::number); };
    auto space = [](const Char& c) { return c.is(CharClass::space); };
    auto other = [](const Char& c) { return c.is(CharClass::other); };
    auto newline = [](const Char& c) { return c.newline(); };

    if (const size_t n = contraction(chars, i); n != 0) return n;
    if (!letter(chars[i]) && !number(chars[i]) && !newline(chars[i]))
      if (const size_t n = run(i + 1, letter); n != 0) return 1 + n;
    if (const size_t n = run(i, letter); n != 0) return n;
    if (const size_t n = run(i, number); n != 0) return std::min<size_t>(n, 3);
    const size_t blank = chars[i].bytes == " " ? 1 : 0;
    if (const size_t n = run(i + blank, other); n != 0) return blank + n + run(i + blank + n, newline);
    const size_t spaces = run(i, space);
    for (size_t n = spaces; n > 0; --n)
      if (newline(chars[i + n - 1])) return n;
    return i + spaces == chars.size() || spaces == 1 ? spaces : spaces - 1;
  }

  static size_t contraction(const std::vector<Char>& chars, size_t i) {
    if (chars[i].bytes != "'") return 0;
    auto lower = [&](size_t at) -> char {
      if (at >= chars.size()) return 0;
      if (chars[at].code_point == 0x17F) return 's';
      return chars[at].code_point < 0x80 ? static_cast<char>(chars[at].code_point | 0x20) : '\0';
    };
    const char first = lower(i + 1), second = lower(i + 2);
    if (chars.size() > i + 1 && !chars[i + 1].is(CharClass::letter)) return 0;
    if (first == 's' || first == 't' || first == 'm' || first == 'd') return 2;
    const bool second_is_letter = i + 2 < chars.size() && chars[i + 2].is(CharClass::letter);
    const bool pair =
        (first == 'r' && second == 'e') || (first == 'v' && second == 'e') || (first == 'l' && second == 'l');
    return pair && second_is_letter ? 3 : 0;
  }

  std::vector<std::string> merged(const std::string& piece) const {
    std::vector<std::string> parts;
    for (char c : piece) parts.emplace_back(1, c);
    while (true) {
      size_t best = parts.size();
      TokenId lowest = ~TokenId{0};
      for (size_t i = 0; i + 1 < parts.size(); ++i) {
        auto rank = ranks_.find(parts[i] + parts[i + 1]);
        if (rank != ranks_.end() && rank->second < lowest) lowest = rank->second, best = i;
      }
      if (best == parts.size()) return parts;
      parts[best] += parts[best + 1];
      parts.erase(parts.begin() + static_cast<ptrdiff_t>(best) + 1);
    }
  }

  Ranks ranks_;
};

}  // namespace llmft::test
