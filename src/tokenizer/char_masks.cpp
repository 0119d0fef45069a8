#include "llmft/tokenizer/char_masks.hpp"

#include <array>
#include <bit>
#include <cstring>

#include "llmft/tokenizer/unicode.hpp"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace llmft {
namespace {

// Classes of the 128 ASCII characters as bits: letter 1, number 2, blank 4, white 8, newline 16; 32 marks
// bytes from 0x80 up.
constexpr std::array<uint8_t, 256> kByteBits = [] {
  std::array<uint8_t, 256> bits{};
  for (int c = 'a'; c <= 'z'; ++c) bits[c] = bits[c - 32] = 1;
  for (int c = '0'; c <= '9'; ++c) bits[c] = 2;
  bits[' '] = 4;
  bits['\t'] = bits['\v'] = bits['\f'] = 8;
  bits['\n'] = bits['\r'] = 16;
  for (int c = 128; c < 256; ++c) bits[c] = 32;
  return bits;
}();

// Returns the mask of bytes from 0x80 up.
uint64_t ascii_portable(const char* text, BlockMasks& block) {
  uint64_t high = 0;
  for (int i = 0; i < 64; ++i) {
    const uint64_t bits = kByteBits[static_cast<unsigned char>(text[i])];
    block.letter |= (bits & 1) << i;
    block.number |= (bits >> 1 & 1) << i;
    block.blank |= (bits >> 2 & 1) << i;
    block.white |= (bits >> 3 & 1) << i;
    block.newline |= (bits >> 4 & 1) << i;
    high |= (bits >> 5 & 1) << i;
  }
  return high;
}

#if defined(__SSE2__)
uint64_t ascii_sse2(const char* text, BlockMasks& block) {
  auto mask = [](__m128i v) { return static_cast<uint64_t>(static_cast<uint32_t>(_mm_movemask_epi8(v))); };
  // first <= byte < first + count, unsigned
  auto in_range = [](__m128i v, char first, char count) {
    __m128i offset = _mm_sub_epi8(v, _mm_set1_epi8(first));
    return _mm_cmpeq_epi8(_mm_min_epu8(offset, _mm_set1_epi8(static_cast<char>(count - 1))), offset);
  };
  const __m128i blank = _mm_set1_epi8(' ');
  uint64_t control = 0;
  uint64_t high = 0;
  for (int i = 0; i < 64; i += 16) {
    __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(text + i));
    block.letter |= mask(in_range(_mm_or_si128(v, blank), 'a', 26)) << i;
    block.number |= mask(in_range(v, '0', 10)) << i;
    block.blank |= mask(_mm_cmpeq_epi8(v, blank)) << i;
    control |= mask(in_range(v, '\t', 5)) << i;
    high |= mask(v) << i;
  }
  if (control != 0) {
    uint64_t newlines = 0;
    for (int i = 0; i < 64; i += 16) {
      __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(text + i));
      __m128i newline =
          _mm_or_si128(_mm_cmpeq_epi8(v, _mm_set1_epi8('\n')), _mm_cmpeq_epi8(v, _mm_set1_epi8('\r')));
      newlines |= mask(newline) << i;
    }
    block.newline |= newlines;
    block.white |= control & ~newlines;
  }
  return high;
}
#endif

// Adds the characters that start at the set bits of `high` (bytes from 0x80 up of block k). done: end of the
// last character that was added, since one may reach into the next block.
void add_multibyte(std::string_view text, size_t k, uint64_t high, size_t& done,
                   std::vector<BlockMasks>& blocks) {
  const UnicodeClasses& classes = UnicodeClasses::get();
  for (; high != 0; high &= high - 1) {
    const size_t at = k * 64 + static_cast<size_t>(std::countr_zero(high));
    if (at < done) continue;
    const DecodedChar c = decode_char(text, at);
    if (c.length == 0) continue;  // an invalid byte: class other, a character of its own
    done = at + c.length;
    const CharClass kind = classes[c.code_point];
    for (size_t i = at; i < done; ++i) {
      BlockMasks& block = blocks[i >> 6];
      const uint64_t bit = uint64_t{1} << (i & 63);
      if (kind == CharClass::letter) block.letter |= bit;
      if (kind == CharClass::number) block.number |= bit;
      if (kind == CharClass::space) block.white |= bit;
      if (i != at) block.inside |= bit;
    }
  }
}

}  // namespace

MaskKernel best_mask_kernel() {
#if defined(__SSE2__)
  return MaskKernel::sse2;
#else
  return MaskKernel::portable;
#endif
}

void make_char_masks(std::string_view text, std::vector<BlockMasks>& blocks, MaskKernel kernel) {
  auto ascii = ascii_portable;
#if defined(__SSE2__)
  if (kernel == MaskKernel::sse2) ascii = ascii_sse2;
#else
  (void)kernel;
#endif
  const size_t count = (text.size() + 63) / 64;
  blocks.assign(count + 1, BlockMasks{});
  size_t done = 0;
  for (size_t k = 0; k < count; ++k) {
    const size_t left = text.size() - k * 64;
    uint64_t high;
    if (left >= 64) {
      high = ascii(text.data() + k * 64, blocks[k]);
    } else {
      char padded[64] = {};
      std::memcpy(padded, text.data() + k * 64, left);
      high = ascii(padded, blocks[k]);
    }
    if (high != 0) add_multibyte(text, k, high, done, blocks);
  }
}

}  // namespace llmft
