// The 16-bit formats against their definition: every pattern, every tie.
#include <cmath>
#include <limits>
#include <vector>

#include <doctest/doctest.h>

#include "llmft/base/rng.hpp"
#include "llmft/tensor/dtype.hpp"

namespace {

using namespace llmft;

// IEEE 754: (-1)^s 2^(e - bias) 1.m, or 2^(1 - bias) 0.m where e = 0; all ones in e is infinity or NaN.
double value_of(uint32_t pattern, int exponent_bits, int mantissa_bits) {
  uint32_t mantissa = pattern & ((1u << mantissa_bits) - 1);
  uint32_t exponent = (pattern >> mantissa_bits) & ((1u << exponent_bits) - 1);
  double sign = pattern >> (exponent_bits + mantissa_bits) != 0 ? -1 : 1;
  int bias = (1 << (exponent_bits - 1)) - 1;
  if (exponent == (1u << exponent_bits) - 1)
    return mantissa != 0 ? std::numeric_limits<double>::quiet_NaN()
                         : sign * std::numeric_limits<double>::infinity();
  double fraction = std::ldexp(mantissa, -mantissa_bits) + (exponent != 0 ? 1 : 0);
  return sign * std::ldexp(fraction, std::max<int>(static_cast<int>(exponent), 1) - bias);
}
double definition(Bf16 x) {
  return value_of(x.bits, 8, 7);
}
double definition(F16 x) {
  return value_of(x.bits, 5, 10);
}

template <class S>
S pattern(uint32_t bits) {
  return S{static_cast<uint16_t>(bits)};
}
template <class S>
constexpr uint32_t infinity_bits = std::is_same_v<S, Bf16> ? 0x7f80 : 0x7c00;

uint32_t bits_of(float x) {
  return std::bit_cast<uint32_t>(x);
}

template <class S>
void check_every_pattern() {
  int64_t wrong_value = 0, wrong_back = 0, nan_lost = 0;
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    S x = pattern<S>(bits);
    double want = definition(x);
    float got = to_float(x);
    if (std::isnan(want)) {
      nan_lost += !std::isnan(got) || !std::isnan(to_float(from_float<S>(got)));
      continue;
    }
    wrong_value += static_cast<double>(got) != want || std::signbit(got) != std::signbit(want);
    wrong_back += from_float<S>(got).bits != bits;
  }
  CHECK(wrong_value == 0);
  CHECK(wrong_back == 0);
  CHECK(nan_lost == 0);
}

// Between neighbours a < b: a up to the middle, b from the middle on, and the middle itself to the even one.
// The last value's upper neighbour is infinity, at the place the next value would have.
template <class S>
void check_every_rounding() {
  int64_t wrong = 0;
  for (uint32_t bits = 0; bits < infinity_bits<S>; ++bits)
    for (uint32_t sign : {0u, 0x8000u}) {
      double low = definition(pattern<S>(bits));
      double high = bits + 1 == infinity_bits<S> ? 2 * low - definition(pattern<S>(bits - 1))
                                                 : definition(pattern<S>(bits + 1));
      auto middle = static_cast<float>((low + high) / 2);
      if (!std::isfinite(middle) || static_cast<double>(middle) != (low + high) / 2) continue;
      float below = std::nextafter(middle, 0.0f), above = std::nextafter(middle, 2 * middle);
      float factor = sign != 0 ? -1.0f : 1.0f;
      uint32_t even = bits % 2 == 0 ? bits : bits + 1;
      wrong += from_float<S>(factor * middle).bits != (sign | even);
      wrong += from_float<S>(factor * below).bits != (sign | bits);
      wrong += from_float<S>(factor * above).bits != (sign | (bits + 1));
    }
  CHECK(wrong == 0);
}

// Floats of every exponent, with mantissas random, all zeros, all ones and around the ties of both formats.
std::vector<float> many_floats() {
  CounterRng rng(7, 0);
  std::vector<float> result;
  for (uint32_t sign_exponent = 0; sign_exponent < 512; ++sign_exponent) {
    for (uint32_t mantissa : {0u, 1u, 0x7fffffu, 0x400000u, 0x1000u, 0xfffu, 0x1001u, 0x3000u, 0x8000u,
                              0x7fffu, 0x8001u, 0x18000u, 0x7ff000u, 0x7f8000u})
      result.push_back(std::bit_cast<float>(sign_exponent << 23 | mantissa));
    for (uint64_t i = 0; i < 200; ++i)
      result.push_back(
          std::bit_cast<float>(static_cast<uint32_t>(sign_exponent << 23 | (rng.bits(i) & 0x7fffff))));
  }
  return result;
}

template <class S>
void check_vector_path() {
  std::vector<S> every;
  for (uint32_t bits = 0; bits < 65536; ++bits) every.push_back(pattern<S>(bits));
  std::vector<float> floats(every.size());
  convert(std::span<const S>(every), std::span<float>(floats));
  int64_t wrong = 0;
  for (size_t i = 0; i < every.size(); ++i) wrong += bits_of(floats[i]) != bits_of(to_float(every[i]));
  CHECK(wrong == 0);

  std::vector<float> from = many_floats();
  std::vector<S> to(from.size());
  convert(std::span<const float>(from), std::span<S>(to));
  for (size_t i = 0; i < from.size(); ++i) wrong += to[i].bits != from_float<S>(from[i]).bits;
  CHECK(wrong == 0);

  // every length around a vector's, at every offset, and nothing beyond the end
  for (size_t offset = 0; offset < 8; ++offset)
    for (size_t count = 0; count < 20; ++count) {
      std::vector<S> part(64, pattern<S>(0x1234));
      convert(std::span<const float>(from).subspan(1000 + offset, count),
              std::span<S>(part).subspan(offset, count));
      for (size_t i = 0; i < part.size(); ++i) {
        bool inside = i >= offset && i < offset + count;
        wrong += part[i].bits != (inside ? from_float<S>(from[1000 + i]).bits : 0x1234);
      }
    }
  CHECK(wrong == 0);
  CHECK_THROWS_AS(convert(std::span<const float>(from), std::span<S>(to).first(3)), InternalError);
}

}  // namespace

TEST_CASE("every bf16 and fp16 pattern converts to its value and back") {
  check_every_pattern<Bf16>();
  check_every_pattern<F16>();
}

TEST_CASE("rounding to bf16 and fp16 is to the nearest, ties to even, at every tie") {
  check_every_rounding<Bf16>();
  check_every_rounding<F16>();
}

TEST_CASE("the ends of the ranges") {
  float infinity = std::numeric_limits<float>::infinity();
  CHECK(to_float(from_float<F16>(65504.0f)) == 65504.0f);
  CHECK(to_float(from_float<F16>(65519.996f)) == 65504.0f);
  CHECK(to_float(from_float<F16>(65520.0f)) == infinity);
  CHECK(to_float(from_float<F16>(-1e30f)) == -infinity);
  CHECK(to_float(from_float<F16>(infinity)) == infinity);
  CHECK(to_float(from_float<F16>(0x1p-24f)) == 0x1p-24f);
  CHECK(from_float<F16>(0x1p-25f).bits == 0);  // a tie between 0 and the least value: to even
  CHECK(from_float<F16>(-0x1p-26f).bits == 0x8000);
  CHECK(from_float<F16>(0x1.8p-25f).bits == 1);
  CHECK(to_float(from_float<Bf16>(std::numeric_limits<float>::max())) == infinity);
  CHECK(to_float(from_float<Bf16>(infinity)) == infinity);
  CHECK(from_float<Bf16>(-0.0f).bits == 0x8000);
  // a NaN whose payload lies in the bits cut off must not become infinity
  for (uint32_t bits : {0x7f800001u, 0xff800001u, 0x7fffffffu, 0x7fbfffffu}) {
    auto nan = std::bit_cast<float>(bits);
    CHECK(std::isnan(to_float(from_float<Bf16>(nan))));
    CHECK(std::isnan(to_float(from_float<F16>(nan))));
  }
}

TEST_CASE("converting many equals converting one by one") {
  check_vector_path<Bf16>();
  check_vector_path<F16>();
  std::vector<float> from = {1, 2, 3}, to(3);
  convert(std::span<const float>(from), std::span<float>(to));
  CHECK(from == to);
}

TEST_CASE("tf32 keeps 10 bits of mantissa, ties away from zero") {
  CHECK(round_to_tf32(1.0f) == 1.0f);
  CHECK(round_to_tf32(1.0f + 0x1p-10f) == 1.0f + 0x1p-10f);
  CHECK(round_to_tf32(1.0f + 0x1p-11f) == 1.0f + 0x1p-10f);
  CHECK(round_to_tf32(-1.0f - 0x1p-11f) == -1.0f - 0x1p-10f);
  CHECK(round_to_tf32(1.0f + 0x1.ffep-12f) == 1.0f);
  CHECK(round_to_tf32(std::nextafter(2.0f, 0.0f)) == 2.0f);
  CHECK(std::isinf(round_to_tf32(std::numeric_limits<float>::max())));
  CHECK(std::isinf(round_to_tf32(-std::numeric_limits<float>::infinity())));
  CHECK(std::isnan(round_to_tf32(std::bit_cast<float>(0x7f800001u))));
  for (float x : many_floats())
    if (std::isfinite(x) && std::isnormal(x) && std::isfinite(round_to_tf32(x))) {
      REQUIRE((bits_of(round_to_tf32(x)) & 0x1fffu) == 0);
      REQUIRE(std::abs(round_to_tf32(x) - x) <= std::ldexp(1.0f, std::ilogb(x) - 11));
    }
}

TEST_CASE("dtypes know their size, name and C++ type") {
  CHECK(size_of(DType::f32) == sizeof(float));
  CHECK(size_of(DType::bf16) == sizeof(Bf16));
  CHECK(size_of(DType::f16) == sizeof(F16));
  CHECK(size_of(DType::i32) == sizeof(int32_t));
  for (DType type : {DType::f32, DType::bf16, DType::f16})
    CHECK(visit_dtype(type, []<class S>(S) { return dtype_of<S>::value; }) == type);
  CHECK_THROWS_AS(visit_dtype(DType::i32, [](auto) {}), InternalError);
  CHECK(std::string(name_of(DType::bf16)) == "bf16");
}
