#include "llmft/tokenizer/char_masks.hpp"

#include <array>
#include <bit>
#include <cstring>

#include "llmft/tokenizer/unicode.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace llmft {
namespace {

// Classes of the 128 ASCII characters as bits: letter 1, number 2, blank 4, white 8, newline 16; 32 marks
// bytes from 0x80 up, 64 the apostrophe.
constexpr std::array<uint8_t, 256> kByteBits = [] {
  std::array<uint8_t, 256> bits{};
  for (int c = 'a'; c <= 'z'; ++c) bits[c] = bits[c - 32] = 1;
  for (int c = '0'; c <= '9'; ++c) bits[c] = 2;
  bits[' '] = 4;
  bits['\t'] = bits['\v'] = bits['\f'] = 8;
  bits['\n'] = bits['\r'] = 16;
  for (int c = 128; c < 256; ++c) bits[c] = 32;
  bits['\''] = 64;
  return bits;
}();

// Each fills `count` blocks of 64 bytes as far as ASCII goes: bytes from 0x80 up are in no class.
void ascii_portable(const char* text, size_t count, BlockMasks* blocks) {
  for (size_t k = 0; k < count; ++k, text += 64) {
    BlockMasks m;
    for (int i = 0; i < 64; ++i) {
      const uint64_t bits = kByteBits[static_cast<unsigned char>(text[i])];
      m.letter |= (bits & 1) << i;
      m.number |= (bits >> 1 & 1) << i;
      m.blank |= (bits >> 2 & 1) << i;
      m.white |= (bits >> 3 & 1) << i;
      m.newline |= (bits >> 4 & 1) << i;
      m.high |= (bits >> 5 & 1) << i;
      m.quote |= (bits >> 6 & 1) << i;
    }
    blocks[k] = m;
  }
}

#if defined(__x86_64__)
void ascii_sse2(const char* text, size_t count, BlockMasks* blocks) {
  auto mask = [](__m128i v) { return static_cast<uint64_t>(static_cast<uint32_t>(_mm_movemask_epi8(v))); };
  // first <= byte < first + count, unsigned
  auto in_range = [](__m128i v, char first, char width) {
    __m128i offset = _mm_sub_epi8(v, _mm_set1_epi8(first));
    return _mm_cmpeq_epi8(_mm_min_epu8(offset, _mm_set1_epi8(static_cast<char>(width - 1))), offset);
  };
  const __m128i blank = _mm_set1_epi8(' ');
  for (size_t k = 0; k < count; ++k, text += 64) {
    BlockMasks m;
    uint64_t control = 0;
    for (int i = 0; i < 64; i += 16) {
      __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(text + i));
      m.letter |= mask(in_range(_mm_or_si128(v, blank), 'a', 26)) << i;
      m.number |= mask(in_range(v, '0', 10)) << i;
      m.blank |= mask(_mm_cmpeq_epi8(v, blank)) << i;
      m.quote |= mask(_mm_cmpeq_epi8(v, _mm_set1_epi8('\''))) << i;
      control |= mask(in_range(v, '\t', 5)) << i;
      m.high |= mask(v) << i;
    }
    if (control != 0) {
      for (int i = 0; i < 64; i += 16) {
        __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(text + i));
        __m128i newline =
            _mm_or_si128(_mm_cmpeq_epi8(v, _mm_set1_epi8('\n')), _mm_cmpeq_epi8(v, _mm_set1_epi8('\r')));
        m.newline |= mask(newline) << i;
      }
      m.white = control & ~m.newline;
    }
    blocks[k] = m;
  }
}

// Lambdas do not inherit a target: these are plain functions.
#define LLMFT_AVX2 [[gnu::target("avx2,bmi,bmi2")]]
#define LLMFT_AVX512 [[gnu::target("avx512f,avx512bw,avx512dq,avx512vl,bmi,bmi2")]]

LLMFT_AVX2 inline uint64_t mask_avx2(__m256i a, __m256i b) {
  return static_cast<uint32_t>(_mm256_movemask_epi8(a)) |
         static_cast<uint64_t>(static_cast<uint32_t>(_mm256_movemask_epi8(b))) << 32;
}

LLMFT_AVX2 inline __m256i in_range_avx2(__m256i v, char first, char width) {
  const __m256i offset = _mm256_sub_epi8(v, _mm256_set1_epi8(first));
  return _mm256_cmpeq_epi8(_mm256_min_epu8(offset, _mm256_set1_epi8(static_cast<char>(width - 1))), offset);
}

LLMFT_AVX2 void ascii_avx2(const char* text, size_t count, BlockMasks* blocks) {
  const __m256i blank = _mm256_set1_epi8(' ');
  const __m256i quote = _mm256_set1_epi8('\'');
  const __m256i line_feed = _mm256_set1_epi8('\n');
  const __m256i carriage_return = _mm256_set1_epi8('\r');
  for (size_t k = 0; k < count; ++k, text += 64) {
    const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(text));
    const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(text + 32));
    BlockMasks m;
    m.letter = mask_avx2(in_range_avx2(_mm256_or_si256(a, blank), 'a', 26),
                         in_range_avx2(_mm256_or_si256(b, blank), 'a', 26));
    m.number = mask_avx2(in_range_avx2(a, '0', 10), in_range_avx2(b, '0', 10));
    m.blank = mask_avx2(_mm256_cmpeq_epi8(a, blank), _mm256_cmpeq_epi8(b, blank));
    m.quote = mask_avx2(_mm256_cmpeq_epi8(a, quote), _mm256_cmpeq_epi8(b, quote));
    m.high = mask_avx2(a, b);
    const uint64_t control = mask_avx2(in_range_avx2(a, '\t', 5), in_range_avx2(b, '\t', 5));
    if (control != 0) {
      m.newline =
          mask_avx2(_mm256_or_si256(_mm256_cmpeq_epi8(a, line_feed), _mm256_cmpeq_epi8(a, carriage_return)),
                    _mm256_or_si256(_mm256_cmpeq_epi8(b, line_feed), _mm256_cmpeq_epi8(b, carriage_return)));
      m.white = control & ~m.newline;
    }
    blocks[k] = m;
  }
}

LLMFT_AVX512 inline uint64_t in_range_avx512(__m512i v, char first, char width) {
  return _mm512_cmplt_epu8_mask(_mm512_sub_epi8(v, _mm512_set1_epi8(first)), _mm512_set1_epi8(width));
}

LLMFT_AVX512 void ascii_avx512(const char* text, size_t count, BlockMasks* blocks) {
  const __m512i blank = _mm512_set1_epi8(' ');
  for (size_t k = 0; k < count; ++k, text += 64) {
    const __m512i v = _mm512_loadu_si512(text);
    BlockMasks m;
    m.letter = in_range_avx512(_mm512_or_si512(v, blank), 'a', 26);
    m.number = in_range_avx512(v, '0', 10);
    m.blank = _mm512_cmpeq_epi8_mask(v, blank);
    m.quote = _mm512_cmpeq_epi8_mask(v, _mm512_set1_epi8('\''));
    m.high = _mm512_movepi8_mask(v);
    const uint64_t control = in_range_avx512(v, '\t', 5);
    m.newline =
        _mm512_cmpeq_epi8_mask(v, _mm512_set1_epi8('\n')) | _mm512_cmpeq_epi8_mask(v, _mm512_set1_epi8('\r'));
    m.white = control & ~m.newline;
    blocks[k] = m;
  }
}
#endif

using AsciiMasks = void (*)(const char*, size_t, BlockMasks*);

AsciiMasks ascii_masks(SimdTier tier) {
#if defined(__x86_64__)
  if (tier == SimdTier::avx512) return ascii_avx512;
  if (tier == SimdTier::avx2) return ascii_avx2;
  if (tier == SimdTier::sse2) return ascii_sse2;
#endif
  (void)tier;
  return ascii_portable;
}

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

void make_char_masks(std::string_view text, std::vector<BlockMasks>& blocks, SimdTier tier) {
  const AsciiMasks ascii = ascii_masks(tier);
  const size_t whole = text.size() / 64;
  const size_t count = (text.size() + 63) / 64;
  blocks.resize(count + 1);
  ascii(text.data(), whole, blocks.data());
  if (whole < count) {
    char padded[64] = {};
    std::memcpy(padded, text.data() + whole * 64, text.size() - whole * 64);
    ascii(padded, 1, &blocks[whole]);
  }
  blocks[count] = {};
  size_t done = 0;
  for (size_t k = 0; k < count; ++k)
    if (blocks[k].high != 0) add_multibyte(text, k, blocks[k].high, done, blocks);
}

}  // namespace llmft
