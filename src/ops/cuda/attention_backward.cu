// Attention backward. With P = exp(scale Q K^T - lse) and delta = rowsum(dO O): dV = P^T dO,
// dS = P (dO V^T - delta), dQ = scale dS K, dK = scale dS^T Q (Dao et al. 2022, appendix B). One kernel owns
// queries, one owns keys: P is made twice, and nothing is added to from two sides, so sums have one order.
#include "attention_tile.cuh"

namespace llmft::cuda {
namespace {

// delta[t, h], a warp each.
template <class S>
__global__ void delta_kernel(AttentionSizes sizes, Heads<S> out, Heads<S> dout, float* __restrict__ delta) {
  int64_t item = (int64_t{blockIdx.x} * kAttentionThreads + threadIdx.x) / kWarp;
  if (item >= sizes.tokens * sizes.heads) return;
  int64_t token = item / sizes.heads, head = item % sizes.heads;
  const S* x = out.data + token * out.ld + head * sizes.head_dim;
  const S* y = dout.data + token * dout.ld + head * sizes.head_dim;
  int lane = static_cast<int>(threadIdx.x) % kWarp;
  float sum = 0;
  for (int c = lane; c < sizes.head_dim; c += kWarp) sum = fmaf(to_float(x[c]), to_float(y[c]), sum);
  sum = warp_sum(sum);
  if (lane == 0) delta[item] = sum;
}

template <int D>
using Tiles = PlainTiles<D, 32>;

template <class S, int D>
__global__ void __launch_bounds__(kAttentionThreads, D == 128 ? 1 : 2)
    dq_kernel(AttentionSizes sizes, Heads<S> q, Heads<S> k, Heads<S> v, Heads<S> dout, Heads<S> dq,
              const float* __restrict__ lse, int64_t lse_ld, const float* __restrict__ delta) {
  using T = Tiles<D>;
  extern __shared__ float4 shared[];
  auto* queries = reinterpret_cast<float*>(shared);
  float* douts = queries + T::kOwnedFloats;
  float* keys = douts + T::kOwnedFloats;
  float* values = keys + T::kStepFloats;
  float* ds = values + T::kStepFloats;

  int head = static_cast<int>(blockIdx.x) % sizes.heads;
  int kv_head = head / (sizes.heads / sizes.kv_heads);
  Work work = find_work<T::kRows>(sizes, blockIdx.x / sizes.heads);
  if (work.weight == 0) return;
  int begin = (work.weight - 1) * T::kRows, rows = min(T::kRows, work.length - begin);
  load_tile<D, T::kRows>(q, head, sizes.head_dim, work.first + begin, rows, queries);
  load_tile<D, T::kRows>(dout, head, sizes.head_dim, work.first + begin, rows, douts);
  float lses[T::kOwn], deltas[T::kOwn], sums[T::kOwn][T::kColumns] = {};
#pragma unroll
  for (int i = 0; i < T::kOwn; ++i) {
    int row = T::first_row() + i * kLanesY;
    int64_t token = work.first + begin + row;
    lses[i] = row < rows ? lse[token * lse_ld + head] : 0.0f;
    deltas[i] = row < rows ? delta[token * sizes.heads + head] : 0.0f;
  }

  for (int key = 0; key < begin + rows; key += T::N) {
    __syncthreads();
    load_tile<D, T::N>(k, kv_head, sizes.head_dim, work.first + key, work.length - key, keys);
    load_tile<D, T::N>(v, kv_head, sizes.head_dim, work.first + key, work.length - key, values);
    __syncthreads();
    if (key >= begin + T::warp_row() + T::kWarpRows) continue;

    float scores[T::kOwn][T::kScores] = {}, dp[T::kOwn][T::kScores] = {};
    product_nt<T>(queries, keys, scores);
    product_nt<T>(douts, values, dp);
    bool whole = key + T::N - 1 <= begin + T::warp_row();
#pragma unroll
    for (int i = 0; i < T::kOwn; ++i)
#pragma unroll
      for (int j = 0; j < T::kScores; ++j) {
        bool seen = whole || key + T::x() + j * kLanesX <= begin + T::first_row() + i * kLanesY;
        float p = seen ? expf(scores[i][j] * sizes.scale - lses[i]) : 0.0f;
        scores[i][j] = p * (dp[i][j] - deltas[i]);
      }
    write_scores<T>(scores, ds);
    __syncwarp();
    product_nn<T>(ds, keys, sums);
  }
  float factors[T::kOwn];
#pragma unroll
  for (int i = 0; i < T::kOwn; ++i) factors[i] = sizes.scale;
  write_rows<T>(sums, factors, dq, head, sizes.head_dim, work.first + begin, rows);
}

// A block for some keys of a kv head: the query heads of its group in ascending order, each with the queries
// from the first of these keys on. Products are transposed: rows are keys, columns are queries. Queries
// beyond the document are zeros, as are their dO, lse and delta, and so is what they add.
template <class S, int D>
__global__ void __launch_bounds__(kAttentionThreads, D == 128 ? 1 : 2)
    dkv_kernel(AttentionSizes sizes, Heads<S> q, Heads<S> k, Heads<S> v, Heads<S> dout, Heads<S> dk,
               Heads<S> dv, const float* __restrict__ lse, int64_t lse_ld, const float* __restrict__ delta) {
  using T = Tiles<D>;
  extern __shared__ float4 shared[];
  auto* keys = reinterpret_cast<float*>(shared);
  float* values = keys + T::kOwnedFloats;
  float* queries = values + T::kOwnedFloats;
  float* douts = queries + T::kStepFloats;
  float* product = douts + T::kStepFloats;  // P, then dS

  int kv_head = static_cast<int>(blockIdx.x) % sizes.kv_heads, group = sizes.heads / sizes.kv_heads;
  Work work = find_work<T::kRows>(sizes, blockIdx.x / sizes.kv_heads);
  if (work.weight == 0) return;
  int begin = ((work.length + T::kRows - 1) / T::kRows - work.weight) * T::kRows;
  int rows = min(T::kRows, work.length - begin);
  load_tile<D, T::kRows>(k, kv_head, sizes.head_dim, work.first + begin, rows, keys);
  load_tile<D, T::kRows>(v, kv_head, sizes.head_dim, work.first + begin, rows, values);

  float dk_sums[T::kOwn][T::kColumns] = {}, dv_sums[T::kOwn][T::kColumns] = {};
  for (int head = kv_head * group; head < (kv_head + 1) * group; ++head)
    for (int query = begin; query < work.length; query += T::N) {
      __syncthreads();
      load_tile<D, T::N>(q, head, sizes.head_dim, work.first + query, work.length - query, queries);
      load_tile<D, T::N>(dout, head, sizes.head_dim, work.first + query, work.length - query, douts);
      __syncthreads();
      if (query + T::N - 1 < begin + T::warp_row()) continue;

      float scores[T::kOwn][T::kScores] = {}, dp[T::kOwn][T::kScores] = {};
      product_nt<T>(keys, queries, scores);
#pragma unroll
      for (int j = 0; j < T::kScores; ++j) {
        int column = query + T::x() + j * kLanesX;
        float term = column < work.length ? lse[int64_t{work.first + column} * lse_ld + head] : 0.0f;
#pragma unroll
        for (int i = 0; i < T::kOwn; ++i) {
          bool seen = begin + T::first_row() + i * kLanesY <= column;
          scores[i][j] = seen ? expf(scores[i][j] * sizes.scale - term) : 0.0f;
        }
      }
      write_scores<T>(scores, product);
      __syncwarp();
      product_nn<T>(product, douts, dv_sums);
      product_nt<T>(values, douts, dp);
#pragma unroll
      for (int j = 0; j < T::kScores; ++j) {
        int column = query + T::x() + j * kLanesX;
        float term = column < work.length ? delta[int64_t{work.first + column} * sizes.heads + head] : 0.0f;
#pragma unroll
        for (int i = 0; i < T::kOwn; ++i) dp[i][j] = scores[i][j] * (dp[i][j] - term);
      }
      __syncwarp();
      write_scores<T>(dp, product);
      __syncwarp();
      product_nn<T>(product, queries, dk_sums);
    }
  float factors[T::kOwn];
#pragma unroll
  for (int i = 0; i < T::kOwn; ++i) factors[i] = sizes.scale;
  write_rows<T>(dk_sums, factors, dk, kv_head, sizes.head_dim, work.first + begin, rows);
#pragma unroll
  for (int i = 0; i < T::kOwn; ++i) factors[i] = 1.0f;
  write_rows<T>(dv_sums, factors, dv, kv_head, sizes.head_dim, work.first + begin, rows);
}

}  // namespace

void attention_backward(cudaStream_t stream, const AttentionSizes& sizes, const Matrix& q, const Matrix& k,
                        const Matrix& v, const Matrix& out, const Matrix& lse, const Matrix& dout,
                        const Matrix& dq, const Matrix& dk, const Matrix& dv, float* delta) {
  if (sizes.tokens == 0) return;
  with_type(q.type, [&](auto type) {
    using S = typename decltype(type)::type;
    auto heads = [&](const Matrix& x) { return heads_of<S>(x, sizes.head_dim); };
    const auto* lse_data = static_cast<const float*>(lse.data);
    constexpr int per_block = kAttentionThreads / kWarp;
    int64_t blocks = (sizes.tokens * sizes.heads + per_block - 1) / per_block;
    delta_kernel<S><<<static_cast<unsigned>(blocks), kAttentionThreads, 0, stream>>>(sizes, heads(out),
                                                                                     heads(dout), delta);
    with_head_dim(sizes.head_dim, [&](auto d) {
      constexpr int D = d();
      using T = Tiles<D>;
      constexpr int floats = 2 * T::kOwnedFloats + 2 * T::kStepFloats + T::kScoreFloats;
      launch_attention(dkv_kernel<S, D>, stream, most_work<T::kRows>(sizes) * sizes.kv_heads, floats, sizes,
                       heads(q), heads(k), heads(v), heads(dout), heads(dk), heads(dv), lse_data, lse.ld,
                       delta);
      launch_attention(dq_kernel<S, D>, stream, most_work<T::kRows>(sizes) * sizes.heads, floats, sizes,
                       heads(q), heads(k), heads(v), heads(dout), heads(dq), lse_data, lse.ld, delta);
    });
  });
}

}  // namespace llmft::cuda
