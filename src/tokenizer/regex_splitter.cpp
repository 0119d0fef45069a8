// PCRE2 is given valid UTF-8 only, checked once for the whole text: letting each pcre2_match check would be
// quadratic in the text's length.
#define PCRE2_CODE_UNIT_WIDTH 8

#include <pcre2.h>

#include "llmft/base/error.hpp"
#include "llmft/base/text.hpp"
#include "llmft/tokenizer/splitter.hpp"
#include "llmft/tokenizer/unicode.hpp"

namespace llmft {
namespace {

using Code = std::unique_ptr<pcre2_code, decltype(&pcre2_code_free)>;

std::string pcre2_message(int code) {
  PCRE2_UCHAR text[256] = {};
  pcre2_get_error_message(code, text, sizeof text);
  return reinterpret_cast<const char*>(text);
}

class RegexSplitter final : public Splitter {
 public:
  RegexSplitter(const std::vector<std::string>& patterns, const std::string& where) {
    for (const std::string& pattern : patterns) {
      int error = 0;
      PCRE2_SIZE offset = 0;
      Code code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                              PCRE2_UTF | PCRE2_UCP, &error, &offset, nullptr),
                &pcre2_code_free);
      if (!code)
        user_error(
            "{}: the split pattern {} does not compile ({} at byte {}); this tokenizer is not supported",
            where, pattern, pcre2_message(error), offset);
      pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);  // without JIT matching is slower, no more
      codes_.push_back(std::move(code));
    }
  }

  void split(std::string_view text, SplitScratch& scratch) const override {
    scratch.starts.assign((text.size() + 63) / 64 + 1, 0);
    if (!scratch.regex)
      scratch.regex =
          std::shared_ptr<pcre2_match_data>(pcre2_match_data_create(1, nullptr), &pcre2_match_data_free);
    auto* match = static_cast<pcre2_match_data*>(scratch.regex.get());
    size_t at = 0;
    while (at < text.size()) {
      const size_t valid = valid_utf8_prefix(text.substr(at));
      cut(text, at, at + valid, 0, match, scratch.starts);
      at += valid;
      if (at < text.size()) set_bit(scratch.starts, at++);
    }
  }

 private:
  void cut(std::string_view text, size_t begin, size_t end, size_t level, pcre2_match_data* match,
           std::vector<uint64_t>& starts) const {
    if (begin == end) return;
    if (level == codes_.size()) {
      set_bit(starts, begin);
      return;
    }
    const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data() + begin);
    const size_t size = end - begin;
    size_t piece = 0;  // start of what no match has covered yet
    size_t from = 0;
    while (from < size) {
      int found = pcre2_match(codes_[level].get(), subject, size, from, PCRE2_NO_UTF_CHECK, match, nullptr);
      if (found == PCRE2_ERROR_JIT_STACKLIMIT)
        found = pcre2_match(codes_[level].get(), subject, size, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                            match, nullptr);
      if (found == PCRE2_ERROR_NOMATCH) break;
      if (found < 0)
        user_error("tokenizer: its split pattern fails on a text of {} bytes ({}); shorten the text",
                   text.size(), pcre2_message(found));
      const PCRE2_SIZE* range = pcre2_get_ovector_pointer(match);
      const size_t first = range[0];
      const size_t last = range[1];
      if (last <= first) {  // an empty match cuts nothing: go on after the next character
        from = first < size ? first + decode_char(text, begin + first).length : size;
        continue;
      }
      cut(text, begin + piece, begin + first, level + 1, match, starts);
      cut(text, begin + first, begin + last, level + 1, match, starts);
      piece = from = last;
    }
    cut(text, begin + piece, end, level + 1, match, starts);
  }

  std::vector<Code> codes_;
};

}  // namespace

std::unique_ptr<Splitter> make_regex_splitter(const std::vector<std::string>& patterns,
                                              const std::string& where) {
  return std::make_unique<RegexSplitter>(patterns, where);
}

}  // namespace llmft
