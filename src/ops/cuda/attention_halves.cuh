// f32 tensors of attention backward as scaled halves, which have tf32's 10 bits of mantissa and whose
// products are twice as fast. All factors are powers of two, so a half is off by 2^-12 of a value's size on
// average and 2^-11 at most, as tf32 is, where it is normal; below it is off by at most 2^-25 of its unit:
//   Q, K (times 8, taken where the largest is in [2^-12, 8000]): 2^-28, at most 2^-16 of the largest;
//   V (times 32, largest in [2^-7, 15]): 2^-30, at most 2^-23 of the largest;
//   dO (its row's largest to [1/4, 1/2)): 2^-23 of the row's largest;
//   P of dV, relative to the block's largest row of dO: 2^-25 of a probability 1;
//   dS in a row's units, |dS| <= P 2 |dO'| |V'| <= 2 * D / 2 * 32 * 15 < 65504 for D up to 128.
// Other inputs go to the tf32 kernels: which ones run is chosen on the device, from the largest of the call.
// That choice alone depends on a document's neighbours.
#pragma once

#include "attention_mma.cuh"

namespace llmft::cuda::mma {

constexpr float kScoreScale = 8, kValueScale = 32;
constexpr float kMostScore = 8000, kMostValue = 15, kLeastScore = 0x1p-12f, kLeastValue = 0x1p-7f;
struct Halves {
  const float* exponents = nullptr;   // of dO's rows [tokens, heads], whole numbers
  const uint32_t* largest = nullptr;  // bits of the largest |Q|, |K|, |V| and a mark of dO beyond halves
};
// Of the f32 and the half kernels one runs: a choice made on the device. NaN are more than any limit.
template <class S, class T>
__device__ bool not_asked(const Halves& halves) {
  if constexpr (!kIsF32<T>) return false;
  if (halves.largest == nullptr) return false;
  auto fits = [&](int i, float least, float most) {
    uint32_t bits = halves.largest[i];
    return bits >= __float_as_uint(least) && bits <= __float_as_uint(most);
  };
  bool halves_fit = fits(0, kLeastScore, kMostScore) && fits(1, kLeastScore, kMostScore) &&
                    fits(2, kLeastValue, kMostValue) && halves.largest[3] == 0;
  return halves_fit == kIsF32<S>;
}
// 2^x for a whole x in the range of normal floats
__device__ inline float exp2_whole(float x) {
  return __uint_as_float(static_cast<uint32_t>(static_cast<int>(x) + 127) << 23);
}

template <class S, class T>
struct BackwardHeads {
  Heads<S> q, k, v, dout;
  Heads<T> dq, dk, dv;
};
// The two kernels by matrix products of warp groups, heads of 64: S 16 bits and T the same, shift lse; or
// scaled halves, T f32. dQ and dK are rotated back, where rotation has a table.
template <class S, class T>
void hopper_backward(cudaStream_t stream, const AttentionSizes& sizes, const BackwardHeads<S, T>& x,
                     const float* lse, int64_t lse_ld, const float* shift, int64_t shift_ld,
                     const float* delta, const Halves& halves, const RotationTable& rotation);

}  // namespace llmft::cuda::mma
