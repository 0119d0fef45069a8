// Attention forward by matrix products of a warp group, of 16-bit tensors and of f32 ones as scaled halves;
// formulas and order are those of attention_mma_forward.cu.
#include <cmath>

#include "attention_groups.cuh"

namespace llmft::cuda::mma {
namespace {

// S: what is multiplied; T: what comes out, f32 for scaled halves.
template <class S, class T>
__global__ void __launch_bounds__(kThreads, 4)
    forward_kernel(AttentionSizes sizes, Heads<S> q, Heads<S> k, Heads<S> v, Heads<T> out,
                   float* __restrict__ lse, int64_t lse_ld, Halves halves) {
  constexpr bool kScaled = kIsF32<T>;
  if (not_asked<S, T>(halves)) return;
  extern __shared__ float4 shared[];
  uint32_t queries = aligned_base(shared), steps_at = queries + kTileBytes;

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
  copy_keys(0);

  float scale = sizes.scale / (kScaled ? kScoreScale * kScoreScale : 1.0f), factor = scale * kLog2e;
  float top[2] = {-INFINITY, -INFINITY}, total[2] = {}, sums[1][8][4] = {};
  for (int step = 0; step < steps; ++step) {
    copies_for_products();
    __syncthreads();
    if (step + 1 < steps) copy_keys(step + 1);
    uint32_t keys = steps_at + (step & 1) * 2 * kTileBytes;
    float p[8][4] = {};
    products_begin();
    issue_nt<S>(p, queries, keys);
    products_commit();
    products_wait<0>();
    products_keep(p);
    // keys beyond the document are beyond its queries too
    if (step + 1 == steps) {
#pragma unroll
      for (int n = 0; n < 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e)
          if (8 * n + 2 * t + e % 2 > warp_first + 8 * (e / 2) + g) p[n][e] = -INFINITY;
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float largest = top[half];
#pragma unroll
      for (int n = 0; n < 8; ++n) largest = fmaxf(largest, fmaxf(p[n][2 * half], p[n][2 * half + 1]));
      largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 1));
      // finite: every query sees the first key of a tile that is not wholly behind it
      largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 2));
      float correction = exp2_fast((top[half] - largest) * factor), shift = largest * factor;
      top[half] = largest;
      float sum = 0;
#pragma unroll
      for (int n = 0; n < 8; ++n)
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; ++e) {
          p[n][e] = exp2_fast(fmaf(p[n][e], factor, -shift));
          sum += p[n][e];
        }
      total[half] = fmaf(total[half], correction, sum);
      if (__any_sync(kAllLanes, correction != 1.0f)) {
#pragma unroll
        for (int n = 0; n < 8; ++n)
#pragma unroll
          for (int e = 2 * half; e < 2 * half + 2; ++e) sums[0][n][e] *= correction;
      }
    }
    uint32_t a[4][4];
    as_operand<S>(p, a);
    products_begin();
    issue_nn<S>(sums[0], a, keys + kTileBytes);
    products_commit();
    products_wait<0>();
    products_keep(sums[0]);
  }
  float factors[1][2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float sum = total[half];
    sum += __shfl_xor_sync(kAllLanes, sum, 1);
    sum += __shfl_xor_sync(kAllLanes, sum, 2);
    factors[0][half] = 1.0f / (kScaled ? sum * kValueScale : sum);
    int row = warp_first + 8 * half + g;
    if (t == 0 && row < rows)
      lse[int64_t{place.first + begin + row} * lse_ld + head] = top[half] * scale + logf(sum);
  }
  write_sums<S, kDim, 1>(sums, factors, out, head, place.first + begin, warp_first, rows);
}

}  // namespace

template <class S, class T>
void hopper_forward(cudaStream_t stream, const AttentionSizes& sizes, const Heads<S>& q, const Heads<S>& k,
                    const Heads<S>& v, const Heads<T>& out, float* lse, int64_t lse_ld,
                    const Halves& halves) {
  launch(forward_kernel<S, T>, stream, most_work<kRows>(sizes) * sizes.heads, 1024 + 5 * kTileBytes, sizes, q,
         k, v, out, lse, lse_ld, halves);
}

template void hopper_forward(cudaStream_t, const AttentionSizes&, const Heads<__half>&, const Heads<__half>&,
                             const Heads<__half>&, const Heads<float>&, float*, int64_t, const Halves&);
template void hopper_forward(cudaStream_t, const AttentionSizes&, const Heads<__half>&, const Heads<__half>&,
                             const Heads<__half>&, const Heads<__half>&, float*, int64_t, const Halves&);
template void hopper_forward(cudaStream_t, const AttentionSizes&, const Heads<__nv_bfloat16>&,
                             const Heads<__nv_bfloat16>&, const Heads<__nv_bfloat16>&,
                             const Heads<__nv_bfloat16>&, float*, int64_t, const Halves&);

}  // namespace llmft::cuda::mma
