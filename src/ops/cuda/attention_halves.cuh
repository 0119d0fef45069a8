// f32 tensors of attention as scaled halves, which have tf32's 10 bits of mantissa and whose
// products are twice as fast. All factors are powers of two, so a half is off by 2^-12 of a value's size on
// average and 2^-11 at most, as tf32 is, where it is normal; below it is off by at most 2^-25 of its unit:
//   Q, K (times 8, taken where the largest is in [2^-12, 8000]): 2^-28, at most 2^-16 of the largest;
//   V (times 32, largest in [2^-7, 15]): 2^-30, at most 2^-23 of the largest;
//   dO (its row's largest to [1/4, 1/2)): 2^-23 of the row's largest;
//   P of O: 2^-25 of a probability 1; P of dV, relative to the block's largest row of dO: 2^-25 of a
//   probability 1; dS in a row's units, |dS| <= P 2 |dO'| |V'| <= 2 * D / 2 * 32 * 15 < 65504 for D up to
//   128.
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

// Where halves of Q, K and V lie: heads side by side, nothing between.
struct HalfHeads {
  Heads<__half> q, k, v;
};
// A lane's 8 columns of a head: of Q's heads first, then of K's, then of V's.
struct HalvesItem {
  int64_t token = 0;
  int head = 0;  // of all those
  int column = 0;
  bool inside = false;
};
template <int D>
int64_t halves_blocks(const AttentionSizes& sizes) {
  constexpr int64_t per_block = 256 / (D / 8);
  return (sizes.tokens * (sizes.heads + 2 * sizes.kv_heads) + per_block - 1) / per_block;
}
// The bits of the largest of 8 sizes.
__device__ inline uint32_t largest_of(const float (&x)[8]) {
  uint32_t bits = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) bits = max(bits, __float_as_uint(x[i]) & 0x7fffffffu);
  return bits;
}
// In halves_blocks of 256 threads: Q and K times kScoreScale, V times kValueScale, and the largest of each.
template <int D>
__device__ HalvesItem qkv_as_halves(const AttentionSizes& sizes, const Heads<float>& q, const Heads<float>& k,
                                    const Heads<float>& v, const HalfHeads& to, uint32_t* largest) {
  constexpr int lanes = D / 8;
  int64_t number = (int64_t{blockIdx.x} * 256 + threadIdx.x) / lanes;
  int per_token = sizes.heads + 2 * sizes.kv_heads;
  HalvesItem item;
  item.column = static_cast<int>(threadIdx.x) % lanes * 8;
  item.inside = number < sizes.tokens * per_token;
  item.token = item.inside ? number / per_token : 0;
  item.head = item.inside ? static_cast<int>(number % per_token) : 0;
  int which = item.head < sizes.heads ? 0 : item.head < sizes.heads + sizes.kv_heads ? 1 : 2;
  const float* from = which == 0 ? q.data : which == 1 ? k.data : v.data;
  __half* half = which == 0 ? to.q.data : which == 1 ? to.k.data : to.v.data;
  int64_t from_ld = which == 0 ? q.ld : which == 1 ? k.ld : v.ld;
  int64_t half_ld = which == 0 ? to.q.ld : which == 1 ? to.k.ld : to.v.ld;
  int own = which == 0 ? item.head : item.head - sizes.heads - (which - 1) * sizes.kv_heads;
  float x[8];
  load_floats<float, 8>(from + item.token * from_ld + own * D + item.column, x);
  uint32_t bits = largest_of(x);
  float by = which == 2 ? kValueScale : kScoreScale;
#pragma unroll
  for (int i = 0; i < 8; ++i) x[i] *= by;
  if (item.inside) store_floats<__half, 8>(half + item.token * half_ld + own * D + item.column, x);
#pragma unroll
  for (int i = 0; i < 3; ++i) {
    uint32_t of_warp = __reduce_max_sync(kAllLanes, which == i ? bits : 0u);
    if (threadIdx.x % kWarp == 0 && of_warp > __ldcg(largest + i)) atomicMax(largest + i, of_warp);
  }
  return item;
}
// What lies where in the scratch (cuda_sizes::attention_halves): 64 bytes, halves of Q, K, V, dO, then three
// f32 a token and head.
struct HalvesScratch {
  uint32_t* largest;
  HalfHeads to;
  Heads<__half> dout;
  float *delta, *shift, *exponents;

  HalvesScratch(const AttentionSizes& s, void* scratch) : largest(static_cast<uint32_t*>(scratch)) {
    int64_t q_ld = int64_t{s.heads} * s.head_dim, kv_ld = int64_t{s.kv_heads} * s.head_dim;
    auto* at = reinterpret_cast<__half*>(static_cast<char*>(scratch) + 64);
    auto take = [&](int64_t ld) {
      Heads<__half> heads{at, ld, true};
      at += s.tokens * ld;
      return heads;
    };
    to.q = take(q_ld);
    to.k = take(kv_ld);
    to.v = take(kv_ld);
    dout = take(q_ld);
    delta = reinterpret_cast<float*>(at);
    shift = delta + s.tokens * s.heads;
    exponents = shift + s.tokens * s.heads;
  }
};

// Heads of 64. S 16 bits and T the same; or scaled halves, T f32.
template <class S, class T>
void hopper_forward(cudaStream_t stream, const AttentionSizes& sizes, const Heads<S>& q, const Heads<S>& k,
                    const Heads<S>& v, const Heads<T>& out, float* lse, int64_t lse_ld, const Halves& halves);

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
