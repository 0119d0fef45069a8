// Attention forward: a block for 64 queries of a head walks the keys of their document up to the last query
// with a running maximum and sum (Dao et al. 2022; Milakov, Gimelshein 2018).
#include <cmath>

#include "attention_tile.cuh"

namespace llmft::cuda {
namespace {

// Over the 16 threads of a row.
__device__ float row_max(float x) {
#pragma unroll
  for (int step = kSide / 2; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, step));
  return x;
}
__device__ float row_sum(float x) {
#pragma unroll
  for (int step = kSide / 2; step > 0; step /= 2) x += __shfl_xor_sync(kAllLanes, x, step);
  return x;
}

template <class S, int D>
__global__ void __launch_bounds__(kAttentionThreads, kBlocks<D>)
    attention_kernel(AttentionSizes sizes, Heads<S> q, Heads<S> k, Heads<S> v, Heads<S> out,
                     float* __restrict__ lse, int64_t lse_ld) {
  extern __shared__ float4 shared[];
  auto* queries = reinterpret_cast<float*>(shared);
  float* keys = queries + kTileFloats<D>;
  float* values = keys + kTileFloats<D>;
  float* p = values + kTileFloats<D>;

  int head = static_cast<int>(blockIdx.x) % sizes.heads;
  int kv_head = head / (sizes.heads / sizes.kv_heads);
  TilePlace place = find_tile(sizes, blockIdx.x / sizes.heads);
  if (place.tile < 0) return;
  int ty = static_cast<int>(threadIdx.x) / kSide, tx = static_cast<int>(threadIdx.x) % kSide;
  int begin = place.begin(place.tile), rows = place.rows(place.tile);
  load_tile<D>(q, head, sizes.head_dim, begin, rows, queries);

  float top[kOwn], total[kOwn] = {}, sums[kOwn][Columns<D>::kCount] = {};
#pragma unroll
  for (int i = 0; i < kOwn; ++i) top[i] = -INFINITY;
  for (int tile = 0; tile <= place.tile; ++tile) {
    __syncthreads();
    load_tile<D>(k, kv_head, sizes.head_dim, place.begin(tile), place.rows(tile), keys);
    load_tile<D>(v, kv_head, sizes.head_dim, place.begin(tile), place.rows(tile), values);
    __syncthreads();

    float scores[kOwn][kOwn] = {};
    product_nt<D>(queries, keys, scores);
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      float largest = top[i];
#pragma unroll
      for (int j = 0; j < kOwn; ++j) {
        bool seen = tile < place.tile || tx + j * kSide <= ty + i * kSide;
        scores[i][j] = seen ? scores[i][j] * sizes.scale : -INFINITY;
        largest = fmaxf(largest, scores[i][j]);
      }
      // finite: the first tile has key 0, which every query sees
      largest = row_max(largest);
      float correction = expf(top[i] - largest);
      top[i] = largest;
      total[i] *= correction;
#pragma unroll
      for (int j = 0; j < kOwn; ++j) {
        scores[i][j] = expf(scores[i][j] - largest);
        total[i] += scores[i][j];
      }
#pragma unroll
      for (int c = 0; c < Columns<D>::kCount; ++c) sums[i][c] *= correction;
    }
    write_scores(scores, p);
    __syncwarp();
    product_nn<D>(p, values, sums);
  }

  float factors[kOwn];
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    float sum = row_sum(total[i]);
    factors[i] = 1.0f / sum;
    int row = ty + i * kSide;
    if (tx == 0 && row < rows) lse[int64_t{begin + row} * lse_ld + head] = top[i] + logf(sum);
  }
  write_rows<D>(sums, factors, out, head, sizes.head_dim, begin, rows);
}

}  // namespace

void attention(cudaStream_t stream, const AttentionSizes& sizes, const Matrix& q, const Matrix& k,
               const Matrix& v, const Matrix& out, const Matrix& lse) {
  if (sizes.tokens == 0) return;
  with_type(q.type, [&](auto type) {
    using S = typename decltype(type)::type;
    with_head_dim(sizes.head_dim, [&](auto d) {
      constexpr int D = d();
      launch_attention(attention_kernel<S, D>, stream, most_tiles(sizes) * sizes.heads,
                       3 * kTileFloats<D> + kScoreFloats, sizes, heads_of<S>(q, sizes.head_dim),
                       heads_of<S>(k, sizes.head_dim), heads_of<S>(v, sizes.head_dim),
                       heads_of<S>(out, sizes.head_dim), static_cast<float*>(lse.data), lse.ld);
    });
  });
}

}  // namespace llmft::cuda
