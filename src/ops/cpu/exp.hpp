// exp in float without a branch or a call, so that loops over it become vector code: exp(x) = 2^n exp(r),
// with n = round(x / ln 2) and |r| <= ln(2) / 2, as in Cephes' expf (Moshier), whose polynomial this is.
// Within 2 units in the last place for |x| <= 87.3 and the value at that end beyond, which is 1e-38 or 1e38:
// as good as 0 and infinity to a softmax or a sigmoid, and never a slow subnormal. NaN stays NaN.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace llmft {

inline float exp_f32(float x) {
  constexpr float kEnd = 87.3f;
  constexpr float kLog2E = 1.44269504088896341f;
  constexpr float kLn2High = 0.693359375f;  // few bits, so that its product with n is exact
  constexpr float kLn2Low = -2.12194440e-4f;
  constexpr float kRounder = 0x1.8p23f;  // adding it leaves round(x) in the low mantissa bits
  float size = std::fabs(x);
  float inside = std::copysign(size > kEnd ? kEnd : size, x);
  float shifted = inside * kLog2E + kRounder;
  float n = shifted - kRounder;
  float r = (inside - n * kLn2High) - n * kLn2Low;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  float power = std::bit_cast<float>((std::bit_cast<uint32_t>(shifted) + 127u) << 23);
  return p * power;
}

}  // namespace llmft
