// The compiled code must run on any x86-64, so the f16 conversions exist twice: with the F16C instructions,
// taken at run time where the CPU has them, and in integer arithmetic. Both round to nearest even and agree
// bit for bit.
#include "llmft/tensor/dtype.hpp"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace llmft {
namespace {

float f16_to_float(uint16_t half) {
  uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  uint32_t exponent = (half >> 10) & 0x1fu;
  uint32_t mantissa = half & 0x3ffu;
  if (exponent == 0x1f) {
    uint32_t quiet = mantissa != 0 ? 0x00400000u : 0;
    return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13) | quiet);
  }
  if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
  // subnormal: mantissa * 2^-24 is exact in float
  float value = static_cast<float>(mantissa) * 0x1.0p-24f;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(value) | sign);
}

uint16_t float_to_f16(float x) {
  uint32_t bits = std::bit_cast<uint32_t>(x);
  auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x1ffu));
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // rounds to 65536 or more
  if (magnitude < 0x38800000u) {                                               // below 2^-14: subnormal
    // adding 0.5 puts the value's 2^-24 units into the last mantissa bits, rounded by the addition itself
    float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000u));
  }
  uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

#if defined(__x86_64__)
__attribute__((target("avx,f16c"))) void to_f16_f16c(const float* from, F16* to, size_t n) {
  size_t i = 0;
  for (; i + 8 <= n; i += 8)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i),
                     _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT));
  for (; i < n; ++i) to[i].bits = float_to_f16(from[i]);
}
__attribute__((target("avx,f16c"))) void from_f16_f16c(const F16* from, float* to, size_t n) {
  size_t i = 0;
  for (; i + 8 <= n; i += 8)
    _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i))));
  for (; i < n; ++i) to[i] = f16_to_float(from[i].bits);
}
// Every CPU with AVX2 has F16C, which clang cannot ask for by name.
const bool g_has_f16c = __builtin_cpu_supports("avx2") != 0;
#endif

}  // namespace

const char* name_of(DType type) {
  switch (type) {
    case DType::f32:
      return "fp32";
    case DType::bf16:
      return "bf16";
    case DType::f16:
      return "fp16";
    case DType::i32:
      return "int32";
    case DType::f64:
      return "fp64";
  }
  return "?";
}

float to_float(F16 x) {
  return f16_to_float(x.bits);
}

template <>
F16 from_float<F16>(float x) {
  return {float_to_f16(x)};
}

void convert(std::span<const float> from, std::span<float> to) {
  check(from.size() == to.size(), "convert: sizes differ");
  std::memcpy(to.data(), from.data(), from.size_bytes());
}
void convert(std::span<const float> from, std::span<Bf16> to) {
  check(from.size() == to.size(), "convert: sizes differ");
  for (size_t i = 0; i < from.size(); ++i) to[i] = from_float<Bf16>(from[i]);
}
void convert(std::span<const Bf16> from, std::span<float> to) {
  check(from.size() == to.size(), "convert: sizes differ");
  for (size_t i = 0; i < from.size(); ++i) to[i] = to_float(from[i]);
}
void convert(std::span<const float> from, std::span<F16> to) {
  check(from.size() == to.size(), "convert: sizes differ");
#if defined(__x86_64__)
  if (g_has_f16c) return to_f16_f16c(from.data(), to.data(), from.size());
#endif
  for (size_t i = 0; i < from.size(); ++i) to[i] = from_float<F16>(from[i]);
}
void convert(std::span<const F16> from, std::span<float> to) {
  check(from.size() == to.size(), "convert: sizes differ");
#if defined(__x86_64__)
  if (g_has_f16c) return from_f16_f16c(from.data(), to.data(), from.size());
#endif
  for (size_t i = 0; i < from.size(); ++i) to[i] = to_float(from[i]);
}

}  // namespace llmft
