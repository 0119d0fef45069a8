// Attention backward by matrix products of a warp group, of 16-bit tensors and of f32 ones as scaled halves.
// A block owns queries for dQ and keys for dK and dV; formulas, order and scales are those of
// attention_mma_backward.cu.
#include "attention_groups.cuh"

namespace llmft::cuda::mma {
namespace {

// The rows' rotary embedding taken back: columns i and i + 32 of a head are with the same thread.
__device__ inline void rotate_back(float (&x)[8][4], const RotationTable& table, int first_token,
                                   int warp_first, int rows) {
  if (table.values == nullptr) return;
  int lane = static_cast<int>(threadIdx.x) % kWarp, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    int token = first_token + min(warp_first + 8 * half + g, rows - 1);
    const float* cos_row = table.values + checked(table.positions[token], table.rows) * table.ld + 2 * t;
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      float2 cos = *reinterpret_cast<const float2*>(cos_row + 8 * n);
      float2 sin = *reinterpret_cast<const float2*>(cos_row + kDim / 2 + 8 * n);
#pragma unroll
      for (int odd = 0; odd < 2; ++odd) {
        float c = odd == 0 ? cos.x : cos.y, s = odd == 0 ? sin.x : sin.y;
        float low = x[n][2 * half + odd], high = x[n + 4][2 * half + odd];
        x[n][2 * half + odd] = low * c + high * s;
        x[n + 4][2 * half + odd] = high * c - low * s;
      }
    }
  }
}
// S: what is multiplied; T: what comes out, f32 for scaled halves.
template <class S, class T>
__global__ void __launch_bounds__(kThreads, 4)
    dq_kernel(AttentionSizes sizes, Heads<S> q, Heads<S> k, Heads<S> v, Heads<S> dout, Heads<T> dq,
              const float* __restrict__ lse, int64_t lse_ld, const float* __restrict__ delta, Halves halves,
              RotationTable rotation) {
  constexpr bool kScaled = kIsF32<T>;
  if (not_asked<S, T>(halves)) return;
  extern __shared__ float4 shared[];
  uint32_t queries = aligned_base(shared), douts = queries + kTileBytes, steps_at = douts + kTileBytes;

  int head = static_cast<int>(blockIdx.x) % sizes.heads;
  int kv_head = head / (sizes.heads / sizes.kv_heads);
  Work place = find_work<kRows>(sizes, blockIdx.x / sizes.heads);
  if (place.weight == 0) return;
  int begin = (place.weight - 1) * kRows, rows = min(kRows, place.length - begin), steps = place.weight;
  int lane = static_cast<int>(threadIdx.x) % kWarp, g = lane / 4, t = lane % 4;
  int warp_first = static_cast<int>(threadIdx.x) / kWarp * 16;

  auto copy_keys = [&](int step) {
    int first = step * kRows, count = place.length - first;
    uint32_t keys = steps_at + (step & 1) * 2 * kTileBytes;
    copy_rows(keys, k, kv_head, place.first + first, count);
    copy_rows(keys + kTileBytes, v, kv_head, place.first + first, count);
  };
  copy_rows(queries, q, head, place.first + begin, rows);
  copy_rows(douts, dout, head, place.first + begin, rows);
  copy_keys(0);

  float factor = sizes.scale * kLog2e / (kScaled ? kScoreScale * kScoreScale : 1.0f);
  float shift[2], deltas[2], sums[1][8][4] = {};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    int row = warp_first + 8 * half + g;
    int64_t token = place.first + begin + row;
    bool inside = row < rows;
    shift[half] = inside ? lse[token * lse_ld + head] * kLog2e : 0.0f;
    deltas[half] = inside ? delta[token * sizes.heads + head] : 0.0f;
  }
  for (int step = 0; step < steps; ++step) {
    copies_for_products();
    __syncthreads();
    if (step + 1 < steps) copy_keys(step + 1);
    uint32_t keys = steps_at + (step & 1) * 2 * kTileBytes;
    float p[8][4] = {}, ds[8][4] = {};
    products_begin();
    issue_nt<S>(p, queries, keys);
    products_commit();
    issue_nt<S>(ds, douts, keys + kTileBytes);
    products_commit();
    products_wait<1>();
    products_keep(p);
    if (step + 1 < steps) {
#pragma unroll
      for (int n = 0; n < 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) p[n][e] = exp2_fast(fmaf(p[n][e], factor, -shift[e / 2]));
    } else {
#pragma unroll
      for (int n = 0; n < 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          bool seen = 8 * n + 2 * t + e % 2 <= warp_first + 8 * (e / 2) + g;
          p[n][e] = seen ? exp2_fast(fmaf(p[n][e], factor, -shift[e / 2])) : 0.0f;
        }
    }
    products_wait<0>();
    products_keep(ds);
#pragma unroll
    for (int n = 0; n < 8; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) ds[n][e] = p[n][e] * (ds[n][e] - deltas[e / 2]);
    uint32_t a[4][4];
    as_operand<S>(ds, a);
    products_begin();
    issue_nn<S>(sums[0], a, keys);
    products_commit();
    products_wait<0>();
    products_keep(sums[0]);
  }
  float factors[1][2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    int row = min(warp_first + 8 * half + g, rows - 1);
    factors[0][half] = sizes.scale;
    if constexpr (kScaled)
      factors[0][half] *=
          exp2_whole(halves.exponents[int64_t{place.first + begin + row} * sizes.heads + head]) /
          (kScoreScale * kValueScale);
  }
  rotate_back(sums[0], rotation, place.first + begin, warp_first, rows);
  write_sums<S, kDim, 1>(sums, factors, dq, head, place.first + begin, warp_first, rows);
}

// shift: lse, or for scaled halves what the exponents leave of it times log2 e.
template <class S, class T>
__global__ void __launch_bounds__(kThreads, 3)
    dkv_kernel(AttentionSizes sizes, Heads<S> q, Heads<S> k, Heads<S> v, Heads<S> dout, Heads<T> dk,
               Heads<T> dv, const float* __restrict__ shift, int64_t shift_ld,
               const float* __restrict__ delta, Halves halves, RotationTable rotation) {
  constexpr bool kScaled = kIsF32<T>;
  if (not_asked<S, T>(halves)) return;
  extern __shared__ float4 shared[];
  __shared__ float tops[kWarps];
  uint32_t keys = aligned_base(shared), values = keys + kTileBytes, steps_at = values + kTileBytes,
           terms_at = steps_at + 4 * kTileBytes;

  int kv_head = static_cast<int>(blockIdx.x) % sizes.kv_heads, group = sizes.heads / sizes.kv_heads;
  Work place = find_work<kRows>(sizes, blockIdx.x / sizes.kv_heads);
  if (place.weight == 0) return;
  int begin = ((place.length + kRows - 1) / kRows - place.weight) * kRows;
  int rows = min(kRows, place.length - begin);
  int lane = static_cast<int>(threadIdx.x) % kWarp, g = lane / 4, t = lane % 4;
  int warp_first = static_cast<int>(threadIdx.x) / kWarp * 16;
  int per_head = place.weight, steps = per_head * group;

  auto copy_queries = [&](int step) {
    int head = kv_head * group + step / per_head, first = begin + step % per_head * kRows;
    int count = place.length - first;
    uint32_t tile = steps_at + (step & 1) * 2 * kTileBytes;
    copy_rows(tile, q, head, place.first + first, count);
    copy_rows(tile + kTileBytes, dout, head, place.first + first, count);
    int row = static_cast<int>(threadIdx.x) % kRows;
    bool inside = row < count;
    int64_t token = place.first + first + (inside ? row : 0);
    const float* term =
        threadIdx.x < kRows ? shift + token * shift_ld + head : delta + token * sizes.heads + head;
    copy_4(terms_at + (step & 1) * 512 + threadIdx.x * 4, term, inside);
  };
  copy_rows(keys, k, kv_head, place.first + begin, rows);
  copy_rows(values, v, kv_head, place.first + begin, rows);
  copy_queries(0);

  // the largest exponent of the block's rows of dO: P has 2^(a row's - this one) with it
  float top = kScaled ? -1000.0f : 0.0f;
  if constexpr (kScaled) {
    for (int i = static_cast<int>(threadIdx.x); i < (place.length - begin) * group; i += kThreads)
      top = fmaxf(top, halves.exponents[int64_t{place.first + begin + i / group} * sizes.heads +
                                        kv_head * group + i % group]);
#pragma unroll
    for (int step = kWarp / 2; step > 0; step /= 2) top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, step));
    if (lane == 0) tops[threadIdx.x / kWarp] = top;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kWarps; ++i) top = fmaxf(top, tops[i]);
  }

  float factor = sizes.scale * kLog2e / (kScaled ? kScoreScale * kScoreScale : 1.0f);
  float dk_sums[1][8][4] = {}, dv_sums[1][8][4] = {};
  for (int step = 0; step < steps; ++step) {
    copies_for_products();
    __syncthreads();
    if (step + 1 < steps) copy_queries(step + 1);
    uint32_t step_queries = steps_at + (step & 1) * 2 * kTileBytes, step_douts = step_queries + kTileBytes;
    uint32_t terms = terms_at + (step & 1) * 512 + 8 * t;
    int first_query = begin + step % per_head * kRows;
    float p[8][4] = {}, ds[8][4] = {};
    products_begin();
    issue_nt<S>(p, keys, step_queries);
    products_commit();
    issue_nt<S>(ds, values, step_douts);
    products_commit();
    products_wait<1>();
    products_keep(p);
    bool whole = first_query != begin && first_query + kRows <= place.length;
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      float2 pair = read_pair(terms + 32 * n);
      pair.x = kScaled ? pair.x + top : pair.x * kLog2e;
      pair.y = kScaled ? pair.y + top : pair.y * kLog2e;
#pragma unroll
      for (int e = 0; e < 4; ++e) p[n][e] = exp2_fast(fmaf(p[n][e], factor, e % 2 == 0 ? -pair.x : -pair.y));
    }
    if (!whole) {
      int key = begin + warp_first + g;
#pragma unroll
      for (int n = 0; n < 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          int query = first_query + 8 * n + 2 * t + e % 2;
          if (query < key + 8 * (e / 2) || query >= place.length) p[n][e] = 0;
        }
    }
    uint32_t a[4][4], b[4][4];
    as_operand<S>(p, a);
    products_begin();
    issue_nn<S>(dv_sums[0], a, step_douts);
    products_commit();
    products_wait<1>();
    products_keep(ds);
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      float2 pair = read_pair(terms + 256 + 32 * n);
#pragma unroll
      for (int e = 0; e < 4; ++e) ds[n][e] = p[n][e] * (ds[n][e] - (e % 2 == 0 ? pair.x : pair.y));
    }
    as_operand<S>(ds, b);
    products_begin();
    issue_nn<S>(dk_sums[0], b, step_queries);
    products_commit();
    products_wait<0>();
    products_keep(dv_sums[0]);
    products_keep(dk_sums[0]);
  }
  float back = kScaled ? exp2_whole(top) : 1.0f, factors[1][2];
  factors[0][0] = factors[0][1] = sizes.scale / (kScaled ? kScoreScale * kValueScale : 1.0f) * back;
  rotate_back(dk_sums[0], rotation, place.first + begin, warp_first, rows);
  write_sums<S, kDim, 1>(dk_sums, factors, dk, kv_head, place.first + begin, warp_first, rows);
  factors[0][0] = factors[0][1] = back;
  write_sums<S, kDim, 1>(dv_sums, factors, dv, kv_head, place.first + begin, warp_first, rows);
}

}  // namespace

template <class S, class T>
void hopper_backward(cudaStream_t stream, const AttentionSizes& sizes, const BackwardHeads<S, T>& x,
                     const float* lse, int64_t lse_ld, const float* shift, int64_t shift_ld,
                     const float* delta, const Halves& halves, const RotationTable& rotation) {
  constexpr int bytes = 1024 + 6 * kTileBytes;
  int64_t tiles = most_work<kRows>(sizes);
  launch(dkv_kernel<S, T>, stream, tiles * sizes.kv_heads, bytes + 1024, sizes, x.q, x.k, x.v, x.dout, x.dk,
         x.dv, shift, shift_ld, delta, halves, rotation);
  launch(dq_kernel<S, T>, stream, tiles * sizes.heads, bytes, sizes, x.q, x.k, x.v, x.dout, x.dq, lse, lse_ld,
         delta, halves, rotation);
}

template void hopper_backward(cudaStream_t, const AttentionSizes&, const BackwardHeads<__half, float>&,
                              const float*, int64_t, const float*, int64_t, const float*, const Halves&,
                              const RotationTable&);
template void hopper_backward(cudaStream_t, const AttentionSizes&, const BackwardHeads<__half, __half>&,
                              const float*, int64_t, const float*, int64_t, const float*, const Halves&,
                              const RotationTable&);
template void hopper_backward(cudaStream_t, const AttentionSizes&,
                              const BackwardHeads<__nv_bfloat16, __nv_bfloat16>&, const float*, int64_t,
                              const float*, int64_t, const float*, const Halves&, const RotationTable&);

}  // namespace llmft::cuda::mma
