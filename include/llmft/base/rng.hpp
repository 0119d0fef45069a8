// Counter-based random numbers: a value is a pure function of (seed, stream, index), so any rank, thread or
// resumed run can draw any of them in any order. Mixer: splitmix64's finaliser (Steele, Lea, Flood 2014),
// applied to each word.
#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>

namespace llmft {

__extension__ using uint128 = unsigned __int128;

constexpr uint64_t mix64(uint64_t x) {
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

class CounterRng {
 public:
  constexpr CounterRng(uint64_t seed, uint64_t stream)
      : key_(mix64(mix64(seed) ^ (stream * 0xd1342543de82ef95ULL + 1))) {}

  constexpr uint64_t bits(uint64_t index) const { return mix64(key_ ^ mix64(index)); }
  // [0, 1), 53 bits.
  constexpr double uniform(uint64_t index) const {
    return static_cast<double>(bits(index) >> 11) * 0x1.0p-53;
  }
  // [0, bound), bound > 0. Multiply-shift; the bias is below bound / 2^64.
  constexpr uint64_t below(uint64_t index, uint64_t bound) const {
    return static_cast<uint64_t>((static_cast<uint128>(bits(index)) * bound) >> 64);
  }
  // Standard normal (Box-Muller on two draws of the same index).
  double normal(uint64_t index) const {
    double u = 1.0 - uniform(2 * index);
    double v = uniform(2 * index + 1);
    return std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * v);
  }

 private:
  uint64_t key_;
};

}  // namespace llmft
