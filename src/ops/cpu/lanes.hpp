// Sums in a fixed order that vector registers can follow: element i goes to lane i mod kLanes, then the lanes
// are added pairwise. A plain running sum would be one long chain, which the compiler must not reorder.
#pragma once

#include <cstdint>

namespace llmft {

constexpr int kLanes = 16;

// term(0) + .. + term(n - 1), in T.
template <class T, class Term>
T sum_terms(int64_t n, Term&& term) {
  T lane[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int l = 0; l < kLanes; ++l) lane[l] += term(i + l);
  for (int l = 0; i + l < n; ++l) lane[l] += term(i + l);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int l = 0; l < width; ++l) lane[l] += lane[l + width];
  return lane[0];
}

inline float dot(const float* x, const float* y, int64_t n) {
  return sum_terms<float>(n, [=](int64_t i) { return x[i] * y[i]; });
}

inline float largest(const float* x, int64_t n) {
  float lane[kLanes];
  for (float& value : lane) value = x[0];
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int l = 0; l < kLanes; ++l) lane[l] = lane[l] < x[i + l] ? x[i + l] : lane[l];
  for (int l = 0; i + l < n; ++l) lane[l] = lane[l] < x[i + l] ? x[i + l] : lane[l];
  float result = lane[0];
  for (float value : lane) result = result < value ? value : result;
  return result;
}

}  // namespace llmft
