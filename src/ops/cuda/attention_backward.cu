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

// lse and delta of a thread's rows or columns; a token outside the document gets zeros, and there dO and Q
// are zero, and so is its dS.
struct RowTerms {
  float lse[kOwn];
  float delta[kOwn];

  __device__ RowTerms(const AttentionSizes& sizes, const float* lse_of, int64_t lse_ld, const float* delta_of,
                      int head, int begin, int rows, int first) {
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      int row = first + i * kSide;
      bool inside = row < rows;
      int64_t token = begin + row;
      lse[i] = inside ? lse_of[token * lse_ld + head] : 0.0f;
      delta[i] = inside ? delta_of[token * sizes.heads + head] : 0.0f;
    }
  }
};

template <class S, int D>
__global__ void __launch_bounds__(kAttentionThreads, kBlocks<D>)
    dq_kernel(AttentionSizes sizes, Heads<S> q, Heads<S> k, Heads<S> v, Heads<S> dout, Heads<S> dq,
              const float* __restrict__ lse, int64_t lse_ld, const float* __restrict__ delta) {
  extern __shared__ float4 shared[];
  auto* queries = reinterpret_cast<float*>(shared);
  float* douts = queries + kTileFloats<D>;
  float* keys = douts + kTileFloats<D>;
  float* values = keys + kTileFloats<D>;
  float* ds = values + kTileFloats<D>;

  int head = static_cast<int>(blockIdx.x) % sizes.heads;
  int kv_head = head / (sizes.heads / sizes.kv_heads);
  TilePlace place = find_tile(sizes, blockIdx.x / sizes.heads);
  if (place.tile < 0) return;
  int ty = static_cast<int>(threadIdx.x) / kSide, tx = static_cast<int>(threadIdx.x) % kSide;
  int begin = place.begin(place.tile), rows = place.rows(place.tile);
  load_tile<D>(q, head, sizes.head_dim, begin, rows, queries);
  load_tile<D>(dout, head, sizes.head_dim, begin, rows, douts);
  RowTerms terms(sizes, lse, lse_ld, delta, head, begin, rows, ty);

  float sums[kOwn][Columns<D>::kCount] = {};
  for (int tile = 0; tile <= place.tile; ++tile) {
    __syncthreads();
    load_tile<D>(k, kv_head, sizes.head_dim, place.begin(tile), place.rows(tile), keys);
    load_tile<D>(v, kv_head, sizes.head_dim, place.begin(tile), place.rows(tile), values);
    __syncthreads();

    float scores[kOwn][kOwn] = {}, dp[kOwn][kOwn] = {};
    product_nt<D>(queries, keys, scores);
    product_nt<D>(douts, values, dp);
#pragma unroll
    for (int i = 0; i < kOwn; ++i)
#pragma unroll
      for (int j = 0; j < kOwn; ++j) {
        bool seen = tile < place.tile || tx + j * kSide <= ty + i * kSide;
        float p = seen ? expf(scores[i][j] * sizes.scale - terms.lse[i]) : 0.0f;
        scores[i][j] = p * (dp[i][j] - terms.delta[i]);
      }
    write_scores(scores, ds);
    __syncwarp();
    product_nn<D>(ds, keys, sums);
  }
  float factors[kOwn];
#pragma unroll
  for (int i = 0; i < kOwn; ++i) factors[i] = sizes.scale;
  write_rows<D>(sums, factors, dq, head, sizes.head_dim, begin, rows);
}

// A block for 64 keys of a kv head: the query heads of its group in ascending order, each with the queries
// from the first of these keys on. Products are transposed: rows are keys, columns are queries.
template <class S, int D>
__global__ void __launch_bounds__(kAttentionThreads, kBlocks<D>)
    dkv_kernel(AttentionSizes sizes, Heads<S> q, Heads<S> k, Heads<S> v, Heads<S> dout, Heads<S> dk,
               Heads<S> dv, const float* __restrict__ lse, int64_t lse_ld, const float* __restrict__ delta) {
  extern __shared__ float4 shared[];
  auto* keys = reinterpret_cast<float*>(shared);
  float* values = keys + kTileFloats<D>;
  float* queries = values + kTileFloats<D>;
  float* douts = queries + kTileFloats<D>;
  float* p = douts + kTileFloats<D>;
  float* ds = p + kScoreFloats;

  int kv_head = static_cast<int>(blockIdx.x) % sizes.kv_heads, group = sizes.heads / sizes.kv_heads;
  TilePlace place = find_tile(sizes, blockIdx.x / sizes.kv_heads);
  if (place.tile < 0) return;
  int ty = static_cast<int>(threadIdx.x) / kSide, tx = static_cast<int>(threadIdx.x) % kSide;
  int begin = place.begin(place.tile), rows = place.rows(place.tile);
  load_tile<D>(k, kv_head, sizes.head_dim, begin, rows, keys);
  load_tile<D>(v, kv_head, sizes.head_dim, begin, rows, values);

  float dk_sums[kOwn][Columns<D>::kCount] = {}, dv_sums[kOwn][Columns<D>::kCount] = {};
  for (int head = kv_head * group; head < (kv_head + 1) * group; ++head)
    for (int tile = place.tile; tile < place.tiles(); ++tile) {
      RowTerms terms(sizes, lse, lse_ld, delta, head, place.begin(tile), place.rows(tile), tx);
      __syncthreads();
      load_tile<D>(q, head, sizes.head_dim, place.begin(tile), place.rows(tile), queries);
      load_tile<D>(dout, head, sizes.head_dim, place.begin(tile), place.rows(tile), douts);
      __syncthreads();

      float scores[kOwn][kOwn] = {}, dp[kOwn][kOwn] = {};
      product_nt<D>(keys, queries, scores);
      product_nt<D>(values, douts, dp);
#pragma unroll
      for (int i = 0; i < kOwn; ++i)
#pragma unroll
        for (int j = 0; j < kOwn; ++j) {
          bool seen = tile > place.tile || ty + i * kSide <= tx + j * kSide;
          scores[i][j] = seen ? expf(scores[i][j] * sizes.scale - terms.lse[j]) : 0.0f;
          dp[i][j] = scores[i][j] * (dp[i][j] - terms.delta[j]);
        }
      write_scores(scores, p);
      write_scores(dp, ds);
      __syncwarp();
      product_nn<D>(p, douts, dv_sums);
      product_nn<D>(ds, queries, dk_sums);
    }
  float factors[kOwn];
#pragma unroll
  for (int i = 0; i < kOwn; ++i) factors[i] = sizes.scale;
  write_rows<D>(dk_sums, factors, dk, kv_head, sizes.head_dim, begin, rows);
#pragma unroll
  for (int i = 0; i < kOwn; ++i) factors[i] = 1.0f;
  write_rows<D>(dv_sums, factors, dv, kv_head, sizes.head_dim, begin, rows);
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
      launch_attention(dkv_kernel<S, D>, stream, most_tiles(sizes) * sizes.kv_heads,
                       4 * kTileFloats<D> + 2 * kScoreFloats, sizes, heads(q), heads(k), heads(v),
                       heads(dout), heads(dk), heads(dv), lse_data, lse.ld, delta);
      launch_attention(dq_kernel<S, D>, stream, most_tiles(sizes) * sizes.heads,
                       4 * kTileFloats<D> + kScoreFloats, sizes, heads(q), heads(k), heads(v), heads(dout),
                       heads(dq), lse_data, lse.ld, delta);
    });
  });
}

}  // namespace llmft::cuda
