// Cutting text into pieces that are encoded one by one ("pretokens"). A splitter marks where pieces start;
// pieces cover the text without gaps. Splitters are const and thread-safe: all that changes lies in the
// caller's scratch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "llmft/tokenizer/simd.hpp"

namespace llmft {

// Bit i of a mask is byte i of a block of 64 bytes of text. Of a character longer than a byte, every byte
// carries its class, and all but the first carry `inside`.
struct BlockMasks {
  uint64_t letter = 0;
  uint64_t number = 0;
  uint64_t blank = 0;    // U+0020
  uint64_t white = 0;    // other \s, newlines excepted
  uint64_t newline = 0;  // \r and \n
  uint64_t inside = 0;
  uint64_t high = 0;   // bytes from 0x80 up
  uint64_t quote = 0;  // U+0027

  bool operator==(const BlockMasks&) const = default;
};

struct SplitScratch {
  std::vector<uint64_t> starts;  // bit i: a piece starts at byte i; (size + 63) / 64 words are valid
  std::vector<BlockMasks> blocks;
  std::shared_ptr<void> regex;  // match data of a RegexSplitter
};

class Splitter {
 public:
  virtual ~Splitter() = default;
  // Bytes that are not valid UTF-8 are taken as characters of their own, of class other.
  virtual void split(std::string_view text, SplitScratch& scratch) const = 0;
  // The last place after `from` and before `limit` (at most text's size) where text can be cut: the pieces of
  // both parts are those of the whole. 0: none is known.
  virtual size_t last_cut(std::string_view /*text*/, size_t /*from*/, size_t /*limit*/) const { return 0; }
};

// Llama 3's (and cl100k's) rule, without a regex engine.
extern const std::string_view kLlama3Pattern;
std::unique_ptr<Splitter> make_llama3_splitter(SimdTier tier = simd_tier());

// Any rule, by PCRE2: patterns[0] cuts the text, patterns[1] its pieces, and so on; matches and what lies
// between them are pieces (Hugging Face's "Isolated"). PCRE2's Unicode version is the library's. Throws
// UserError, naming `where`, for a pattern that does not compile.
std::unique_ptr<Splitter> make_regex_splitter(const std::vector<std::string>& patterns,
                                              const std::string& where);

inline void set_bit(std::vector<uint64_t>& bits, size_t i) {
  bits[i >> 6] |= uint64_t{1} << (i & 63);
}
inline bool get_bit(const std::vector<uint64_t>& bits, size_t i) {
  return bits[i >> 6] >> (i & 63) & 1;
}

}  // namespace llmft
