// Attention forward on tensor cores. A block owns some queries of one document and head and walks the keys up
// to its last query with a running maximum and sum (Dao et al. 2022); keys come two tiles at a time, one
// being copied while the other is used.
#include <cmath>

#include "attention_halves.cuh"

namespace llmft::cuda {
namespace mma {
namespace {

template <class S, int D, class Choice>
struct ForwardTiles {
  static constexpr int kQueries = kWarps * 16 * Choice::Ms;
  static constexpr int kQueryBytes = kQueries * Layout<S, D>::kRowBytes;
  static constexpr int kKeyBytes = Choice::N * Layout<S, D>::kRowBytes;
  static constexpr int kBytes = kQueryBytes + 4 * kKeyBytes;
};

template <class S, int D, class Choice>
__global__ void __launch_bounds__(kThreads, Choice::kBlocks)
    forward_kernel(AttentionSizes sizes, Heads<S> q, Heads<S> k, Heads<S> v, Heads<S> out,
                   float* __restrict__ lse, int64_t lse_ld, Halves halves) {
  if (not_asked<S, S>(halves)) return;
  using Tiles = ForwardTiles<S, D, Choice>;
  constexpr int Ms = Choice::Ms, N = Choice::N;
  extern __shared__ float4 shared[];
  uint32_t queries = shared_address(shared), keys = queries + Tiles::kQueryBytes,
           values = keys + 2 * Tiles::kKeyBytes;

  int head = static_cast<int>(blockIdx.x) % sizes.heads;
  int kv_head = head / (sizes.heads / sizes.kv_heads);
  Work place = find_work<Tiles::kQueries>(sizes, blockIdx.x / sizes.heads);
  if (place.weight == 0) return;
  int begin = (place.weight - 1) * Tiles::kQueries, rows = min(Tiles::kQueries, place.length - begin);
  int lane = static_cast<int>(threadIdx.x) % kWarp, g = lane / 4, t = lane % 4;
  int warp_first = static_cast<int>(threadIdx.x) / kWarp * 16 * Ms;
  int steps = (begin + rows + N - 1) / N;

  auto copy_keys = [&](int step) {
    int first = step * N, count = place.length - first;
    copy_tile<S, D, N>(keys + (step & 1) * Tiles::kKeyBytes, k, kv_head, place.first + first, count);
    copy_tile<S, D, N>(values + (step & 1) * Tiles::kKeyBytes, v, kv_head, place.first + first, count);
  };
  copy_tile<S, D, Tiles::kQueries>(queries, q, head, place.first + begin, rows);
  copy_keys(0);

  float factor = sizes.scale * kLog2e;
  float top[Ms][2], total[Ms][2], sums[Ms][D / 8][4] = {};
#pragma unroll
  for (int m = 0; m < Ms; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) top[m][half] = -INFINITY, total[m][half] = 0;

  for (int step = 0; step < steps; ++step) {
    copies_end();
    if (step == 0) round_tile<S, D, Tiles::kQueries>(queries);
    round_tile<S, D, N>(keys + (step & 1) * Tiles::kKeyBytes);
    round_tile<S, D, N>(values + (step & 1) * Tiles::kKeyBytes);
    __syncthreads();
    if (step + 1 < steps) copy_keys(step + 1);
    int first_key = step * N, first_query = begin + warp_first;
    if (first_key > first_query + 16 * Ms - 1) continue;

    float p[Ms][N / 8][4] = {};
    product_nt<S, D, Ms, N>(queries, warp_first, keys + (step & 1) * Tiles::kKeyBytes, p);
    if (first_key + N - 1 > first_query) {
#pragma unroll
      for (int m = 0; m < Ms; ++m)
#pragma unroll
        for (int n = 0; n < N / 8; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e)
            if (first_key + 8 * n + 2 * t + e % 2 > first_query + 16 * m + 8 * (e / 2) + g)
              p[m][n][e] = -INFINITY;
    }
#pragma unroll
    for (int m = 0; m < Ms; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float largest = top[m][half];
#pragma unroll
        for (int n = 0; n < N / 8; ++n)
          largest = fmaxf(largest, fmaxf(p[m][n][2 * half], p[m][n][2 * half + 1]));
        largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 1));
        // finite: the first step has key 0, which every query sees
        largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 2));
        float correction = exp2_fast((top[m][half] - largest) * factor), shift = largest * factor;
        top[m][half] = largest;
        float sum = 0;
#pragma unroll
        for (int n = 0; n < N / 8; ++n)
#pragma unroll
          for (int e = 2 * half; e < 2 * half + 2; ++e) {
            p[m][n][e] = exp2_fast(fmaf(p[m][n][e], factor, -shift));
            sum += p[m][n][e];
          }
        total[m][half] = fmaf(total[m][half], correction, sum);
        if (__any_sync(kAllLanes, correction != 1.0f)) {
#pragma unroll
          for (int n = 0; n < D / 8; ++n)
#pragma unroll
            for (int e = 2 * half; e < 2 * half + 2; ++e) sums[m][n][e] *= correction;
        }
      }
    product_nn<S, D, Ms, N, Values::probabilities>(p, values + (step & 1) * Tiles::kKeyBytes, sums);
  }

  float factors[Ms][2];
#pragma unroll
  for (int m = 0; m < Ms; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float sum = total[m][half];
      sum += __shfl_xor_sync(kAllLanes, sum, 1);
      sum += __shfl_xor_sync(kAllLanes, sum, 2);
      factors[m][half] = 1.0f / sum;
      int row = warp_first + 16 * m + 8 * half + g;
      if (t == 0 && row < rows)
        lse[int64_t{place.first + begin + row} * lse_ld + head] = top[m][half] * sizes.scale + logf(sum);
    }
  write_sums<S, D, Ms>(sums, factors, out, head, place.first + begin, warp_first, rows);
}

template <int D>
__global__ void __launch_bounds__(256) halves_kernel(AttentionSizes sizes, Heads<float> q, Heads<float> k,
                                                     Heads<float> v, HalfHeads to, uint32_t* largest) {
  qkv_as_halves<D>(sizes, q, k, v, to, largest);
}

}  // namespace
}  // namespace mma

bool tensor_attention_takes(int head_dim, const Matrix& x) {
  return (head_dim == 64 || head_dim == 128) && rows_on_16_bytes(x);
}

void tensor_attention(cudaStream_t stream, const AttentionSizes& sizes, const Matrix& q, const Matrix& k,
                      const Matrix& v, const Matrix& out, const Matrix& lse, ForwardProducts products,
                      void* halves_scratch) {
  if (sizes.tokens == 0) return;
  auto* lse_data = static_cast<float*>(lse.data);
  mma::Halves halves;
  with_type(q.type, [&](auto type) {
    using S = typename decltype(type)::type;
    mma::with_mma_head_dim(sizes.head_dim, [&](auto d) {
      constexpr int D = d();
      auto heads = [&](const Matrix& x) { return heads_of<S>(x, D); };
      if constexpr (D == 64)
        if (products == ForwardProducts::groups) {
          if constexpr (!std::is_same_v<S, float>) {
            mma::hopper_forward(stream, sizes, heads(q), heads(k), heads(v), heads(out), lse_data, lse.ld,
                                halves);
            return;
          } else {
            mma::HalvesScratch at(sizes, halves_scratch);
            halves.largest = at.largest;
            cudaMemsetAsync(at.largest, 0, 4 * sizeof(uint32_t), stream);
            mma::halves_kernel<D><<<static_cast<unsigned>(mma::halves_blocks<D>(sizes)), 256, 0, stream>>>(
                sizes, heads(q), heads(k), heads(v), at.to, at.largest);
            mma::hopper_forward(stream, sizes, at.to.q, at.to.k, at.to.v, heads(out), lse_data, lse.ld,
                                halves);
          }
        }
      auto launch = [&](auto choice) {
        using Choice = decltype(choice);
        using Tiles = mma::ForwardTiles<S, D, Choice>;
        mma::launch(mma::forward_kernel<S, D, Choice>, stream,
                    most_work<Tiles::kQueries>(sizes) * sizes.heads, Tiles::kBytes, sizes, heads(q), heads(k),
                    heads(v), heads(out), lse_data, lse.ld, halves);
      };
      if constexpr (D == 128) {
        launch(mma::TileChoice < 1, mma::kIsF32<S> ? 32 : 64, 2 > {});
      } else {
        launch(mma::TileChoice<2, 64, 2>{});
      }
    });
  });
}

}  // namespace llmft::cuda
