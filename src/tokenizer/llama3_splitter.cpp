// Llama 3's split rule on bitmaps. The rule, an ordered choice at each position:
//   1  (?i:'s|'t|'re|'ve|'m|'ll|'d)       contraction
//   2  [^\r\n\p{L}\p{N}]?\p{L}+           letters, with one character before them that is no newline or
//   number 3  \p{N}{1,3} 4   ?[^\s\p{L}\p{N}]+[\r\n]*          punctuation, with a blank before and newlines
//   after 5  \s*[\r\n]+ | \s+(?!\S) | \s+       white space: up to the last newline; else all but the last;
//   else one
// Every character lies in a maximal run of one class, and where pieces start inside and around a run depends
// only on its neighbours: so starts are computed 64 bytes at a time with shifts, the bit that crosses from
// one block into the next carried in `Carry`. What needs to look further (numbers in threes, blanks after a
// newline, contractions) is rare and done by loops that visit a byte a constant number of times.
//
// Easily got wrong: the blank before punctuation is U+0020 only, while any white space but a newline joins
// letters; a punctuation character joins the letters after it only when it starts its run and no blank stands
// before it.
#include <bit>
#include <cstring>

#include "llmft/tokenizer/char_masks.hpp"
#include "llmft/tokenizer/splitter.hpp"
#include "llmft/tokenizer/unicode.hpp"

namespace llmft {

const std::string_view kLlama3Pattern =
    R"re((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)re";

namespace {

// The masks' last bits of the block before.
struct Carry {
  uint64_t letter = 0, number = 0, blank = 0, white = 0, newline = 0, other = 0;
  uint64_t absorbed = 0;  // newlines that belong to the punctuation before them
  uint64_t space = 0;     // white space that is not absorbed
  uint64_t prefix = 0;    // punctuation that may join letters
};

uint64_t shifted(uint64_t mask, uint64_t carry) {
  return mask << 1 | carry;
}

class Llama3Splitter final : public Splitter {
 public:
  explicit Llama3Splitter(SimdTier tier) : tier_(tier), mark_runs_(mark_runs_portable) {
#if defined(__x86_64__)
    if (tier >= SimdTier::avx2) mark_runs_ = mark_runs_bmi;
#endif
  }

  void split(std::string_view text, SplitScratch& scratch) const override {
    make_char_masks(text, scratch.blocks, tier_);
    const size_t blocks = scratch.blocks.size() - 1;
    scratch.starts.assign(blocks + 1, 0);
    const Found found = mark_runs_(text, scratch.blocks, scratch.starts);
    if (found == Found::long_numbers) mark_long_numbers(text.size(), scratch.blocks, scratch.starts);
  }

  // After a letter that no letter follows, and after a number that no number follows. A piece ends there
  // whatever came before and whatever follows: letters and numbers are matched as far as they go, the rule
  // looks back at nothing, and it looks ahead only in white space. A character is told from its bytes alone,
  // so invalid ones elsewhere do not matter.
  size_t last_cut(std::string_view text, size_t from, size_t limit) const override {
    const UnicodeClasses& classes = UnicodeClasses::get();
    auto class_at = [&](size_t at) {
      const DecodedChar c = decode_char(text, at);
      return c.length == 0 ? CharClass::other : classes[c.code_point];
    };
    for (size_t at = limit - 1; at > from; --at) {
      size_t before = at - 1;
      while (before > 0 && at - before < 4 && (static_cast<unsigned char>(text[before]) & 0xC0) == 0x80)
        --before;
      const DecodedChar c = decode_char(text, before);
      if (c.length != at - before) continue;
      const CharClass kind = classes[c.code_point];
      if ((kind == CharClass::letter || kind == CharClass::number) && class_at(at) != kind) return at;
    }
    return 0;
  }

 private:
  enum class Found { nothing, long_numbers };

  // One source, compiled for the instructions that tiers have: what it calls out of line stays plain.
  static Found mark_runs_portable(std::string_view text, const std::vector<BlockMasks>& blocks,
                                  std::vector<uint64_t>& starts) {
    return mark_runs(text, blocks, starts);
  }
#if defined(__x86_64__)
  [[gnu::target("bmi,bmi2")]] static Found mark_runs_bmi(std::string_view text,
                                                         const std::vector<BlockMasks>& blocks,
                                                         std::vector<uint64_t>& starts) {
    return mark_runs(text, blocks, starts);
  }
#endif

  [[gnu::always_inline]] static inline Found mark_runs(std::string_view text,
                                                       const std::vector<BlockMasks>& blocks,
                                                       std::vector<uint64_t>& starts) {
    Carry carry;
    Found found = Found::nothing;
    const size_t size = text.size();
    const size_t count = blocks.size() - 1;
    for (size_t k = 0; k < count; ++k) {
      const BlockMasks& m = blocks[k];
      const bool last = k + 1 == count;
      const uint64_t valid = last && (size & 63) != 0 ? (uint64_t{1} << (size & 63)) - 1 : ~uint64_t{0};
      const uint64_t other = ~(m.letter | m.number | m.blank | m.white | m.newline) & valid;
      const uint64_t after_blank = shifted(m.blank, carry.blank);
      const uint64_t after_other = shifted(other, carry.other);

      uint64_t prefix = other & ~m.inside & ~after_other & ~after_blank;
      if (m.inside != 0) {  // spread over the up to three further bytes of the character
        prefix |= shifted(prefix, carry.prefix) & m.inside;
        prefix |= prefix << 1 & m.inside;
        prefix |= prefix << 1 & m.inside;
      }
      const uint64_t joins_letters = shifted(m.letter, carry.letter) | after_blank |
                                     shifted(m.white, carry.white) | shifted(prefix, carry.prefix);
      uint64_t start = m.letter & ~joins_letters;
      start |= other & ~(after_other | after_blank);
      start |= m.number & ~shifted(m.number, carry.number);

      // Adding a run's first bit carries through the run: what changed is the run.
      uint64_t absorbed = 0;
      if (m.newline != 0) absorbed = m.newline & ~(m.newline + (m.newline & (after_other | carry.absorbed)));
      const uint64_t space = (m.blank | m.white | m.newline) & ~absorbed;
      start |= space & ~shifted(space, carry.space);

      const uint64_t after_newline = (m.blank | m.white) & ~m.inside & shifted(m.newline, carry.newline);
      for (uint64_t rest = after_newline; rest != 0; rest &= rest - 1) {
        const size_t at = k * 64 + static_cast<size_t>(std::countr_zero(rest));
        if (!newline_ahead(at, size, blocks)) start |= rest & -rest;
      }

      // The last white space of a run, not a newline, before something else: its last byte, so step back to
      // the first.
      const BlockMasks& next = blocks[k + 1];
      const uint64_t next_space = (next.blank | next.white | next.newline) & 1;
      uint64_t before_other = ~(space >> 1 | next_space << 63);
      if (last) before_other &= valid >> 1;
      uint64_t end = space & ~m.newline & before_other;
      if ((end & m.inside) != 0) {
        for (uint64_t rest = end & m.inside; rest != 0; rest &= rest - 1) {
          size_t at = k * 64 + static_cast<size_t>(std::countr_zero(rest));
          while ((blocks[at >> 6].inside >> (at & 63) & 1) != 0) --at;
          set_bit(starts, at);
        }
        end &= ~m.inside;
      }
      start |= end;
      starts[k] |= start & ~m.inside;
      if ((m.quote & start) != 0) mark_contractions(text, k, m.quote & start, starts);
      if (m.number != 0 && has_long_number(m.number, next.number)) found = Found::long_numbers;

      carry = {m.letter >> 63, m.number >> 63, m.blank >> 63, m.white >> 63, m.newline >> 63,
               other >> 63,    absorbed >> 63, space >> 63,   prefix >> 63};
    }
    return found;
  }

  // Four bytes of numbers in a row, the first of them in the block of `number`.
  static bool has_long_number(uint64_t number, uint64_t next) {
    return (number & (number >> 1 | next << 63) & (number >> 2 | next << 62) & (number >> 3 | next << 61)) !=
           0;
  }

  // Does the run of white space that holds byte `at` have a newline after it? Called once a newline, and
  // looks no further than the next one.
  static bool newline_ahead(size_t at, size_t size, const std::vector<BlockMasks>& blocks) {
    for (size_t k = at >> 6; k * 64 < size; ++k) {
      const BlockMasks& m = blocks[k];
      uint64_t stop = ~(m.blank | m.white);
      if (k == at >> 6) stop &= ~uint64_t{0} << (at & 63);
      if (stop != 0) return (m.newline & stop & -stop) != 0;
    }
    return false;
  }

  // Starts every three characters of a run of numbers; runs of up to three bytes have none.
  static void mark_long_numbers(size_t size, const std::vector<BlockMasks>& blocks,
                                std::vector<uint64_t>& starts) {
    size_t done = 0;
    for (size_t k = 0; k + 1 < blocks.size(); ++k) {
      const uint64_t number = blocks[k].number;
      if (!has_long_number(number, blocks[k + 1].number)) continue;
      for (uint64_t rest = number & starts[k]; rest != 0; rest &= rest - 1) {
        const size_t first = k * 64 + static_cast<size_t>(std::countr_zero(rest));
        if (first < done) continue;
        int in_piece = 0;
        size_t i = first;
        for (; i < size && (blocks[i >> 6].number >> (i & 63) & 1) != 0; ++i) {
          if ((blocks[i >> 6].inside >> (i & 63) & 1) != 0) continue;
          if (in_piece == 3) set_bit(starts, i), in_piece = 0;
          ++in_piece;
        }
        done = i;
      }
    }
  }

  // quotes: the apostrophes of block k that start a piece.
  static void mark_contractions(std::string_view text, size_t k, uint64_t quotes,
                                std::vector<uint64_t>& starts) {
    for (; quotes != 0; quotes &= quotes - 1) {
      const size_t at = k * 64 + static_cast<size_t>(std::countr_zero(quotes));
      const size_t length = contraction_length(text.substr(at + 1));
      if (length != 0 && at + 1 + length < text.size()) set_bit(starts, at + 1 + length);
    }
  }

  // Length of s, t, re, ve, m, ll, d at the start of text, case folded as Unicode does: U+017F is an s.
  static size_t contraction_length(std::string_view text) {
    if (text.empty()) return 0;
    const char first = static_cast<char>(text[0] | 0x20);
    const char second = static_cast<char>(text.size() > 1 ? text[1] | 0x20 : 0);
    switch (first) {
      case 's':
      case 't':
      case 'm':
      case 'd':
        return 1;
      case 'l':
        return second == 'l' ? 2 : 0;
      case 'r':
      case 'v':
        return second == 'e' ? 2 : 0;
      default:
        return text.starts_with("\u017F") ? 2 : 0;
    }
  }

  SimdTier tier_;
  Found (*mark_runs_)(std::string_view, const std::vector<BlockMasks>&, std::vector<uint64_t>&);
};

}  // namespace

std::unique_ptr<Splitter> make_llama3_splitter(SimdTier tier) {
  return std::make_unique<Llama3Splitter>(tier);
}

}  // namespace llmft
