// Element types and the host's float formats. bf16 and f16 values are stored as their 16 bits; conversions
// round to nearest, ties to even, as the hardware does; NaN stays NaN, f16 overflow becomes infinity.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

#include "llmft/base/error.hpp"

namespace llmft {

// f64 is for sums that end up on the host and for the optimizer's counters, not for model data.
enum class DType : uint8_t { f32, bf16, f16, i32, f64 };

constexpr size_t size_of(DType type) {
  return type == DType::f64 ? 8 : type == DType::f32 || type == DType::i32 ? 4 : 2;
}
const char* name_of(DType type);

struct Bf16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};

inline float to_float(float x) {
  return x;
}
inline float to_float(Bf16 x) {
  return std::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16);
}
float to_float(F16 x);

template <class T>
T from_float(float x);
template <>
inline float from_float<float>(float x) {
  return x;
}
template <>
inline Bf16 from_float<Bf16>(float x) {
  uint32_t bits = std::bit_cast<uint32_t>(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((bits >> 16) | 0x40u)};
  return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}
template <>
F16 from_float<F16>(float x);

// x rounded to tf32: 10 bits of mantissa, nearest, ties away from zero, as cvt.rna.tf32.f32 does.
inline float round_to_tf32(float x) {
  uint32_t bits = std::bit_cast<uint32_t>(x);
  if ((bits & 0x7f800000u) == 0x7f800000u) return x;
  return std::bit_cast<float>((bits + 0x1000u) & ~0x1fffu);
}

// Many at once (vector instructions where the CPU has them). Sizes must be equal.
void convert(std::span<const float> from, std::span<float> to);
void convert(std::span<const float> from, std::span<Bf16> to);
void convert(std::span<const float> from, std::span<F16> to);
void convert(std::span<const Bf16> from, std::span<float> to);
void convert(std::span<const F16> from, std::span<float> to);

template <class T>
struct dtype_of;
template <>
struct dtype_of<float> {
  static constexpr DType value = DType::f32;
};
template <>
struct dtype_of<Bf16> {
  static constexpr DType value = DType::bf16;
};
template <>
struct dtype_of<F16> {
  static constexpr DType value = DType::f16;
};
template <>
struct dtype_of<int32_t> {
  static constexpr DType value = DType::i32;
};
template <>
struct dtype_of<double> {
  static constexpr DType value = DType::f64;
};

// Calls f(T{}) with the C++ type of a float dtype: how a backend's file resolves a dtype once.
template <class F>
decltype(auto) visit_dtype(DType type, F&& f) {
  switch (type) {
    case DType::f32:
      return f(float{});
    case DType::bf16:
      return f(Bf16{});
    case DType::f16:
      return f(F16{});
    case DType::i32:
    case DType::f64:
      break;
  }
  internal_error("an op on f32, bf16 and f16 was given another type");
}

}  // namespace llmft
