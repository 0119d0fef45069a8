// Attention forward: a block for 64 queries of a head walks the keys of their document up to the last query
// with a running maximum and sum (Dao et al. 2022; Milakov, Gimelshein 2018).
#include <cmath>

#include "attention_tile.cuh"

namespace llmft::cuda {
namespace {

template <int D>
using Tiles = PlainTiles<D, 64>;

// Over the threads of a row.
__device__ float row_max(float x) {
#pragma unroll
  for (int step = kLanesX / 2; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, step));
  return x;
}
__device__ float row_sum(float x) {
#pragma unroll
  for (int step = kLanesX / 2; step > 0; step /= 2) x += __shfl_xor_sync(kAllLanes, x, step);
  return x;
}

template <class S, int D>
__global__ void __launch_bounds__(kAttentionThreads, 2)
    attention_kernel(AttentionSizes sizes, Heads<S> q, Heads<S> k, Heads<S> v, Heads<S> out,
                     float* __restrict__ lse, int64_t lse_ld) {
  using T = Tiles<D>;
  extern __shared__ float4 shared[];
  auto* queries = reinterpret_cast<float*>(shared);
  float* keys = queries + T::kOwnedFloats;
  float* values = keys + T::kStepFloats;
  float* p = values + T::kStepFloats;

  int head = static_cast<int>(blockIdx.x) % sizes.heads;
  int kv_head = head / (sizes.heads / sizes.kv_heads);
  Work work = find_work<T::kRows>(sizes, blockIdx.x / sizes.heads);
  if (work.weight == 0) return;
  int begin = (work.weight - 1) * T::kRows, rows = min(T::kRows, work.length - begin);
  load_tile<D, T::kRows>(q, head, sizes.head_dim, work.first + begin, rows, queries);

  float top[T::kOwn], total[T::kOwn] = {}, sums[T::kOwn][T::kColumns] = {};
#pragma unroll
  for (int i = 0; i < T::kOwn; ++i) top[i] = -INFINITY;
  for (int key = 0; key < begin + rows; key += T::N) {
    __syncthreads();
    load_tile<D, T::N>(k, kv_head, sizes.head_dim, work.first + key, work.length - key, keys);
    load_tile<D, T::N>(v, kv_head, sizes.head_dim, work.first + key, work.length - key, values);
    __syncthreads();
    if (key >= begin + T::warp_row() + T::kWarpRows) continue;

    float scores[T::kOwn][T::kScores] = {};
    product_nt<T>(queries, keys, scores);
    bool whole = key + T::N - 1 <= begin + T::warp_row();
#pragma unroll
    for (int i = 0; i < T::kOwn; ++i) {
      int query = begin + T::first_row() + i * kLanesY;
      float largest = top[i];
#pragma unroll
      for (int j = 0; j < T::kScores; ++j) {
        bool seen = whole || key + T::x() + j * kLanesX <= query;
        scores[i][j] = seen ? scores[i][j] * sizes.scale : -INFINITY;
        largest = fmaxf(largest, scores[i][j]);
      }
      // finite: the first step has key 0, which every query sees
      largest = row_max(largest);
      float correction = expf(top[i] - largest);
      top[i] = largest;
      total[i] *= correction;
#pragma unroll
      for (int j = 0; j < T::kScores; ++j) {
        scores[i][j] = expf(scores[i][j] - largest);
        total[i] += scores[i][j];
      }
#pragma unroll
      for (int c = 0; c < T::kColumns; ++c) sums[i][c] *= correction;
    }
    write_scores<T>(scores, p);
    __syncwarp();
    product_nn<T>(p, values, sums);
  }

  float factors[T::kOwn];
#pragma unroll
  for (int i = 0; i < T::kOwn; ++i) {
    float sum = row_sum(total[i]);
    factors[i] = 1.0f / sum;
    int row = T::first_row() + i * kLanesY;
    if (T::x() == 0 && row < rows)
      lse[int64_t{work.first + begin + row} * lse_ld + head] = top[i] + logf(sum);
  }
  write_rows<T>(sums, factors, out, head, sizes.head_dim, work.first + begin, rows);
}

}  // namespace

void attention(cudaStream_t stream, const AttentionSizes& sizes, const Matrix& q, const Matrix& k,
               const Matrix& v, const Matrix& out, const Matrix& lse) {
  if (sizes.tokens == 0) return;
  with_type(q.type, [&](auto type) {
    using S = typename decltype(type)::type;
    with_head_dim(sizes.head_dim, [&](auto d) {
      constexpr int D = d();
      using T = Tiles<D>;
      launch_attention(attention_kernel<S, D>, stream, most_work<T::kRows>(sizes) * sizes.heads,
                       T::kOwnedFloats + 2 * T::kStepFloats + T::kScoreFloats, sizes,
                       heads_of<S>(q, sizes.head_dim), heads_of<S>(k, sizes.head_dim),
                       heads_of<S>(v, sizes.head_dim), heads_of<S>(out, sizes.head_dim),
                       static_cast<float*>(lse.data), lse.ld);
    });
  });
}

}  // namespace llmft::cuda
