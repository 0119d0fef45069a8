// Bodies are written once and inlined into a function per tier; only where a tier has an instruction of its
// own for the job (compressing positions, masked loads) is there a second one.
//
// Branches are what these loops cannot afford: words' lengths and which of two entries holds them are
// unpredictable, so both are selected by arithmetic.
#include "llmft/tokenizer/word_kernels.hpp"

#include <array>
#include <bit>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace llmft {
namespace {

#define LLMFT_INLINE [[gnu::always_inline]] inline
#define LLMFT_AVX2 [[gnu::target("avx2,bmi,bmi2")]]
#define LLMFT_AVX512 [[gnu::target("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi2,bmi,bmi2")]]

LLMFT_INLINE void list_positions(const uint64_t* starts, size_t blocks, WordBatch& batch) {
  uint32_t* out = batch.position;
  for (size_t k = 0; k < blocks; ++k) {
    uint64_t bits = starts[k];
    const auto base = static_cast<uint32_t>(k * 64);
    const auto count = static_cast<size_t>(std::popcount(bits));
    // Sixteen at a time, needed or not: how many are needed is what a branch could not predict.
    for (size_t done = 0; done < count; done += 16)
      for (size_t i = done; i < done + 16; ++i) {
        out[i] = base + static_cast<uint32_t>(std::countr_zero(bits));
        bits &= bits - 1;
      }
    out += count;
  }
  batch.count = static_cast<size_t>(out - batch.position);
}

LLMFT_INLINE void add_long(WordBatch& batch, size_t i, size_t size) {
  batch.long_pieces[batch.long_count] = static_cast<uint32_t>(i);
  batch.long_count += size > WordTable::kMaxShort ? 1 : 0;
}

// Pieces near the end of the text, where 16 bytes may not be read.
LLMFT_INLINE void last_keys(const char* text, size_t readable, const WordTable& table, WordBatch& batch,
                            size_t first) {
  for (size_t i = first; i < batch.count; ++i) {
    const size_t at = batch.position[i];
    const size_t size = batch.position[i + 1] - at;
    batch.key[i] =
        size <= WordTable::kMaxShort ? WordTable::short_key(text + at, size, readable - at) : WordKey{};
    batch.hash[i] = batch.key[i].hash();
    table.prefetch(batch.hash[i]);
    add_long(batch, i, size);
  }
}

void list_portable(const uint64_t* starts, size_t blocks, WordBatch& batch) {
  list_positions(starts, blocks, batch);
}

void keys_portable(const char* text, size_t readable, const WordTable& table, WordBatch& batch) {
  batch.long_count = 0;
  last_keys(text, readable, table, batch, 0);
}

size_t look_up_portable(const WordTable& table, WordBatch& batch, size_t first, size_t& filled) {
  for (size_t i = first; i < batch.count; ++i) {
    const WordTable::Entry* entry = table.home(batch.hash[i]);
    const bool in_first = entry[0].key == batch.key[i];
    const bool in_second = entry[1].key == batch.key[i];
    entry += in_first ? 0 : 1;
    const uint32_t found = in_first || in_second ? entry->ids[0] >> 24 : 0;
    if (found == 0) return i;
    std::memcpy(batch.ids + filled, entry->ids, sizeof entry->ids);
    batch.ids[filled] &= WordTable::kIdMask;
    filled += found;
  }
  return batch.count;
}

#if defined(__x86_64__)

struct KeyMasks {
  alignas(16) std::array<std::array<uint8_t, 16>, 17> bytes{};   // row n: the first n bytes; 16: none
  alignas(16) std::array<std::array<uint8_t, 16>, 17> length{};  // row n: n in the last byte; 16: zero
};
constexpr KeyMasks kMasks = [] {
  KeyMasks masks;
  for (size_t n = 0; n < 16; ++n) {
    for (size_t i = 0; i < n; ++i) masks.bytes[n][i] = 0xFF;
    masks.length[n][15] = static_cast<uint8_t>(n);
  }
  return masks;
}();

LLMFT_INLINE void find_keys(const char* text, size_t readable, const WordTable& table, WordBatch& batch) {
  batch.long_count = 0;
  size_t i = 0;
  for (; i < batch.count && batch.position[i] + size_t{16} <= readable; ++i) {
    const size_t at = batch.position[i];
    const size_t size = batch.position[i + 1] - at;
    const size_t row = size < 16 ? size : 16;
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(text + at));
    const __m128i mask = _mm_load_si128(reinterpret_cast<const __m128i*>(kMasks.bytes[row].data()));
    const __m128i length = _mm_load_si128(reinterpret_cast<const __m128i*>(kMasks.length[row].data()));
    const __m128i key = _mm_or_si128(_mm_and_si128(bytes, mask), length);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(&batch.key[i]), key);
    const WordKey words{static_cast<uint64_t>(_mm_cvtsi128_si64(key)),
                        static_cast<uint64_t>(_mm_cvtsi128_si64(_mm_unpackhi_epi64(key, key)))};
    batch.hash[i] = words.hash();
    table.prefetch(batch.hash[i]);
    add_long(batch, i, size);
  }
  last_keys(text, readable, table, batch, i);
}

LLMFT_INLINE size_t look_up_keys(const WordTable& table, WordBatch& batch, size_t first, size_t& filled) {
  const __m128i id_mask = _mm_set1_epi32(static_cast<int>(WordTable::kIdMask));
  TokenId* out = batch.ids + filled;
  size_t i = first;
  for (; i < batch.count; ++i) {
    const WordTable::Entry* entry = table.home(batch.hash[i]);
    const __m128i key = _mm_loadu_si128(reinterpret_cast<const __m128i*>(&batch.key[i]));
    const __m128i same0 =
        _mm_cmpeq_epi8(key, _mm_load_si128(reinterpret_cast<const __m128i*>(&entry[0].key)));
    const __m128i same1 =
        _mm_cmpeq_epi8(key, _mm_load_si128(reinterpret_cast<const __m128i*>(&entry[1].key)));
    const uint32_t miss0 = static_cast<uint32_t>(_mm_movemask_epi8(same0)) ^ 0xFFFF;
    const uint32_t miss1 = static_cast<uint32_t>(_mm_movemask_epi8(same1)) ^ 0xFFFF;
    entry += miss0 != 0;
    const uint32_t count = entry->ids[0] >> 24;
    if ((miss0 != 0 && miss1 != 0) || count == 0) [[unlikely]]
      break;
    const __m128i ids = _mm_load_si128(reinterpret_cast<const __m128i*>(entry->ids));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm_and_si128(ids, id_mask));
    out += count;
  }
  filled = static_cast<size_t>(out - batch.ids);
  return i;
}

void keys_sse2(const char* text, size_t readable, const WordTable& table, WordBatch& batch) {
  find_keys(text, readable, table, batch);
}
size_t look_up_sse2(const WordTable& table, WordBatch& batch, size_t first, size_t& filled) {
  return look_up_keys(table, batch, first, filled);
}

LLMFT_AVX2 void list_avx2(const uint64_t* starts, size_t blocks, WordBatch& batch) {
  list_positions(starts, blocks, batch);
}
LLMFT_AVX2 void keys_avx2(const char* text, size_t readable, const WordTable& table, WordBatch& batch) {
  find_keys(text, readable, table, batch);
}
LLMFT_AVX2 size_t look_up_avx2(const WordTable& table, WordBatch& batch, size_t first, size_t& filled) {
  return look_up_keys(table, batch, first, filled);
}

LLMFT_AVX512 void list_avx512(const uint64_t* starts, size_t blocks, WordBatch& batch) {
  alignas(64) static constexpr std::array<uint8_t, 64> kIota = [] {
    std::array<uint8_t, 64> values{};
    for (size_t i = 0; i < 64; ++i) values[i] = static_cast<uint8_t>(i);
    return values;
  }();
  const __m512i iota = _mm512_load_si512(kIota.data());
  uint32_t* out = batch.position;
  for (size_t k = 0; k < blocks; ++k) {
    const uint64_t bits = starts[k];
    const auto count = static_cast<size_t>(__builtin_popcountll(bits));
    const __m512i base = _mm512_set1_epi32(static_cast<int>(k * 64));
    alignas(64) uint8_t at[64];
    _mm512_store_si512(at, _mm512_maskz_compress_epi8(bits, iota));
    // Sixteen at a time; maskz, since GCC 12 warns of the plain form's undefined source.
    size_t done = 0;
    do {
      const __m128i some = _mm_load_si128(reinterpret_cast<const __m128i*>(at + done));
      _mm512_storeu_si512(out + done, _mm512_add_epi32(base, _mm512_maskz_cvtepu8_epi32(0xFFFF, some)));
      done += 16;
    } while (done < count);
    out += count;
  }
  batch.count = static_cast<size_t>(out - batch.position);
}

LLMFT_AVX512 void keys_avx512(const char* text, size_t readable, const WordTable& table, WordBatch& batch) {
  (void)readable;  // masked loads touch no byte beyond the piece
  batch.long_count = 0;
  for (size_t i = 0; i < batch.count; ++i) {
    const uint32_t at = batch.position[i];
    const uint32_t size = batch.position[i + 1] - at;
    const uint32_t short_size = size < 16 ? size : 0;
    const auto mask = static_cast<__mmask16>(_bzhi_u32(0xFFFF, short_size));
    const __m128i bytes = _mm_maskz_loadu_epi8(mask, text + at);
    const auto low = static_cast<uint64_t>(_mm_cvtsi128_si64(bytes));
    const uint64_t high =
        static_cast<uint64_t>(_mm_extract_epi64(bytes, 1)) | static_cast<uint64_t>(short_size) << 56;
    batch.key[i] = {low, high};
    batch.hash[i] = WordKey{low, high}.hash();
    table.prefetch(batch.hash[i]);
    add_long(batch, i, size);
  }
}
LLMFT_AVX512 size_t look_up_avx512(const WordTable& table, WordBatch& batch, size_t first, size_t& filled) {
  return look_up_keys(table, batch, first, filled);
}
#endif

}  // namespace

const WordKernels& word_kernels(SimdTier tier) {
#if defined(__x86_64__)
  static constexpr WordKernels kSse2{list_portable, keys_sse2, look_up_sse2};
  static constexpr WordKernels kAvx2{list_avx2, keys_avx2, look_up_avx2};
  static constexpr WordKernels kAvx512{list_avx512, keys_avx512, look_up_avx512};
  if (tier == SimdTier::avx512) return kAvx512;
  if (tier == SimdTier::avx2) return kAvx2;
  if (tier == SimdTier::sse2) return kSse2;
#endif
  (void)tier;
  static constexpr WordKernels kPortable{list_portable, keys_portable, look_up_portable};
  return kPortable;
}

}  // namespace llmft
