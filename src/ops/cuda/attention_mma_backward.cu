// Attention backward on tensor cores, formulas as in attention_backward.cu. One kernel owns queries and makes
// dQ, one owns keys and makes dK and dV over the query heads of their group in ascending order: P is made
// twice, and nothing is added to from two sides, so every sum has one order and results repeat bit for bit.
#include <cmath>

#include "attention_mma.cuh"

namespace llmft::cuda {
namespace mma {
namespace {

// delta[t, h] = sum of dO O over a head's columns; a lane for every 16 bytes.
template <class S, int D>
__global__ void __launch_bounds__(256)
    delta_kernel(AttentionSizes sizes, Heads<S> out, Heads<S> dout, float* __restrict__ delta) {
  constexpr int N = 16 / static_cast<int>(sizeof(S)), lanes = D / N;
  int64_t item = (int64_t{blockIdx.x} * 256 + threadIdx.x) / lanes;
  int column = static_cast<int>(threadIdx.x) % lanes * N;
  bool inside = item < sizes.tokens * sizes.heads;
  int64_t token = inside ? item / sizes.heads : 0, head = inside ? item % sizes.heads : 0;
  float x[N], y[N], sum = 0;
  load_floats<S, N>(out.data + token * out.ld + head * D + column, x);
  load_floats<S, N>(dout.data + token * dout.ld + head * D + column, y);
#pragma unroll
  for (int i = 0; i < N; ++i) sum = fmaf(x[i], y[i], sum);
#pragma unroll
  for (int step = lanes / 2; step > 0; step /= 2) sum += __shfl_xor_sync(kAllLanes, sum, step);
  if (inside && column == 0) delta[item] = sum;
}

template <class S, int D, class Choice>
struct BackwardTiles {
  static constexpr int kOwned = kWarps * 16 * Choice::Ms;
  static constexpr int kOwnedBytes = kOwned * Layout<S, D>::kRowBytes;
  static constexpr int kStepBytes = Choice::N * Layout<S, D>::kRowBytes;
  static constexpr int kTermBytes = Choice::N * static_cast<int>(sizeof(float));
  static constexpr int kBytes = 2 * kOwnedBytes + 4 * kStepBytes;
  static constexpr int kKeyBytes = kBytes + 4 * kTermBytes;
};

template <class S, int D, class Choice>
__global__ void __launch_bounds__(kThreads, Choice::kBlocks)
    dq_kernel(AttentionSizes sizes, Heads<S> q, Heads<S> k, Heads<S> v, Heads<S> dout, Heads<S> dq,
              const float* __restrict__ lse, int64_t lse_ld, const float* __restrict__ delta) {
  using Tiles = BackwardTiles<S, D, Choice>;
  constexpr int Ms = Choice::Ms, N = Choice::N;
  extern __shared__ float4 shared[];
  uint32_t queries = shared_address(shared), douts = queries + Tiles::kOwnedBytes,
           keys = douts + Tiles::kOwnedBytes, values = keys + 2 * Tiles::kStepBytes;

  int head = static_cast<int>(blockIdx.x) % sizes.heads;
  int kv_head = head / (sizes.heads / sizes.kv_heads);
  Work place = find_work<Tiles::kOwned>(sizes, blockIdx.x / sizes.heads);
  if (place.weight == 0) return;
  int begin = (place.weight - 1) * Tiles::kOwned, rows = min(Tiles::kOwned, place.length - begin);
  int lane = static_cast<int>(threadIdx.x) % kWarp, g = lane / 4, t = lane % 4;
  int warp_first = static_cast<int>(threadIdx.x) / kWarp * 16 * Ms;
  int steps = (begin + rows + N - 1) / N;

  auto copy_keys = [&](int step) {
    int first = step * N, count = place.length - first;
    copy_tile<S, D, N>(keys + (step & 1) * Tiles::kStepBytes, k, kv_head, place.first + first, count);
    copy_tile<S, D, N>(values + (step & 1) * Tiles::kStepBytes, v, kv_head, place.first + first, count);
  };
  copy_tile<S, D, Tiles::kOwned>(queries, q, head, place.first + begin, rows);
  copy_tile<S, D, Tiles::kOwned>(douts, dout, head, place.first + begin, rows);
  copy_keys(0);

  float factor = sizes.scale * kLog2e, shift[Ms][2], deltas[Ms][2], sums[Ms][D / 8][4] = {};
#pragma unroll
  for (int m = 0; m < Ms; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      int row = warp_first + 16 * m + 8 * half + g;
      int64_t token = place.first + begin + row;
      bool inside = row < rows;
      shift[m][half] = inside ? lse[token * lse_ld + head] * kLog2e : 0.0f;
      deltas[m][half] = inside ? delta[token * sizes.heads + head] : 0.0f;
    }

  for (int step = 0; step < steps; ++step) {
    copies_end();
    if (step == 0) {
      round_tile<S, D, Tiles::kOwned, Choice::kHow>(queries);
      round_tile<S, D, Tiles::kOwned, Choice::kHow>(douts);
    }
    round_tile<S, D, N, Choice::kHow>(keys + (step & 1) * Tiles::kStepBytes);
    round_tile<S, D, N, Choice::kHow>(values + (step & 1) * Tiles::kStepBytes);
    __syncthreads();
    if (step + 1 < steps) copy_keys(step + 1);
    int first_key = step * N, first_query = begin + warp_first;
    if (first_key > first_query + 16 * Ms - 1) continue;
    uint32_t step_keys = keys + (step & 1) * Tiles::kStepBytes;
    uint32_t step_values = values + (step & 1) * Tiles::kStepBytes;

    float p[Ms][N / 8][4] = {}, ds[Ms][N / 8][4] = {};
    product_nt<S, D, Ms, N, Choice::kHow>(queries, warp_first, step_keys, p);
    product_nt<S, D, Ms, N, Choice::kHow>(douts, warp_first, step_values, ds);
    bool whole = first_key + N - 1 <= first_query;
#pragma unroll
    for (int m = 0; m < Ms; ++m)
#pragma unroll
      for (int n = 0; n < N / 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          bool seen = whole || first_key + 8 * n + 2 * t + e % 2 <= first_query + 16 * m + 8 * (e / 2) + g;
          float value = seen ? exp2_fast(fmaf(p[m][n][e], factor, -shift[m][e / 2])) : 0.0f;
          ds[m][n][e] = value * (ds[m][n][e] - deltas[m][e / 2]);
        }
    product_nn<S, D, Ms, N, Choice::kHow, Values::any>(ds, step_keys, sums);
  }
  float factors[Ms][2];
#pragma unroll
  for (int m = 0; m < Ms; ++m) factors[m][0] = factors[m][1] = sizes.scale;
  write_sums<S, D, Ms>(sums, factors, dq, head, place.first + begin, warp_first, rows);
}

// Products are transposed: rows are keys, columns are queries. Queries beyond the document are zeros, as are
// their dO, lse and delta, and so is what they add.
template <class S, int D, class Choice>
__global__ void __launch_bounds__(kThreads, Choice::kBlocks)
    dkv_kernel(AttentionSizes sizes, Heads<S> q, Heads<S> k, Heads<S> v, Heads<S> dout, Heads<S> dk,
               Heads<S> dv, const float* __restrict__ lse, int64_t lse_ld, const float* __restrict__ delta) {
  using Tiles = BackwardTiles<S, D, Choice>;
  constexpr int Ms = Choice::Ms, N = Choice::N;
  extern __shared__ float4 shared[];
  uint32_t keys = shared_address(shared), values = keys + Tiles::kOwnedBytes,
           queries = values + Tiles::kOwnedBytes, douts = queries + 2 * Tiles::kStepBytes,
           lses = douts + 2 * Tiles::kStepBytes, deltas = lses + 2 * Tiles::kTermBytes;

  int kv_head = static_cast<int>(blockIdx.x) % sizes.kv_heads, group = sizes.heads / sizes.kv_heads;
  Work place = find_work<Tiles::kOwned>(sizes, blockIdx.x / sizes.kv_heads);
  if (place.weight == 0) return;
  int tiles = (place.length + Tiles::kOwned - 1) / Tiles::kOwned;
  int begin = (tiles - place.weight) * Tiles::kOwned, rows = min(Tiles::kOwned, place.length - begin);
  int lane = static_cast<int>(threadIdx.x) % kWarp, t = lane % 4, g = lane / 4;
  int warp_first = static_cast<int>(threadIdx.x) / kWarp * 16 * Ms;
  // tiles of N queries start with the document; begin is a multiple of N
  static_assert(Tiles::kOwned % N == 0);
  int per_head = (place.length - begin + N - 1) / N, steps = per_head * group;

  auto copy_queries = [&](int step) {
    int head = kv_head * group + step / per_head, first = begin + step % per_head * N;
    int count = place.length - first, stage = step & 1;
    copy_tile<S, D, N>(queries + stage * Tiles::kStepBytes, q, head, place.first + first, count);
    copy_tile<S, D, N>(douts + stage * Tiles::kStepBytes, dout, head, place.first + first, count);
    int row = static_cast<int>(threadIdx.x) % N;
    bool inside = row < count;
    int64_t token = place.first + first + (inside ? row : 0);
    uint32_t at = stage * Tiles::kTermBytes + row * static_cast<int>(sizeof(float));
    if (threadIdx.x < N)
      copy_4(lses + at, lse + token * lse_ld + head, inside);
    else if (threadIdx.x < 2 * N)
      copy_4(deltas + at, delta + token * sizes.heads + head, inside);
  };
  copy_tile<S, D, Tiles::kOwned>(keys, k, kv_head, place.first + begin, rows);
  copy_tile<S, D, Tiles::kOwned>(values, v, kv_head, place.first + begin, rows);
  copy_queries(0);

  float factor = sizes.scale * kLog2e;
  float dk_sums[Ms][D / 8][4] = {}, dv_sums[Ms][D / 8][4] = {};
  for (int step = 0; step < steps; ++step) {
    copies_end();
    if (step == 0) {
      round_tile<S, D, Tiles::kOwned, Choice::kHow>(keys);
      round_tile<S, D, Tiles::kOwned, Choice::kHow>(values);
    }
    round_tile<S, D, N, Choice::kHow>(queries + (step & 1) * Tiles::kStepBytes);
    round_tile<S, D, N, Choice::kHow>(douts + (step & 1) * Tiles::kStepBytes);
    __syncthreads();
    if (step + 1 < steps) copy_queries(step + 1);
    int first_query = begin + step % per_head * N, first_key = begin + warp_first;
    if (first_query + N - 1 < first_key) continue;
    uint32_t stage = step & 1, step_queries = queries + stage * Tiles::kStepBytes;
    uint32_t step_douts = douts + stage * Tiles::kStepBytes;
    uint32_t terms = stage * Tiles::kTermBytes + 2 * t * static_cast<int>(sizeof(float));
    bool whole = first_query >= first_key + 16 * Ms - 1;

    float p[Ms][N / 8][4] = {}, ds[Ms][N / 8][4] = {};
    product_nt<S, D, Ms, N, Choice::kHow>(keys, warp_first, step_queries, p);
#pragma unroll
    for (int n = 0; n < N / 8; ++n) {
      float2 pair = read_pair(lses + terms + 8 * n * static_cast<int>(sizeof(float)));
      const float shift[2] = {pair.x * kLog2e, pair.y * kLog2e};
#pragma unroll
      for (int m = 0; m < Ms; ++m)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          bool seen = whole || first_key + 16 * m + 8 * (e / 2) + g <= first_query + 8 * n + 2 * t + e % 2;
          p[m][n][e] = seen ? exp2_fast(fmaf(p[m][n][e], factor, -shift[e % 2])) : 0.0f;
        }
    }
    product_nn<S, D, Ms, N, Choice::kHow, Values::probabilities>(p, step_douts, dv_sums);
    product_nt<S, D, Ms, N, Choice::kHow>(values, warp_first, step_douts, ds);
#pragma unroll
    for (int n = 0; n < N / 8; ++n) {
      float2 pair = read_pair(deltas + terms + 8 * n * static_cast<int>(sizeof(float)));
#pragma unroll
      for (int m = 0; m < Ms; ++m)
#pragma unroll
        for (int e = 0; e < 4; ++e) ds[m][n][e] = p[m][n][e] * (ds[m][n][e] - (e % 2 == 0 ? pair.x : pair.y));
    }
    product_nn<S, D, Ms, N, Choice::kHow, Values::any>(ds, step_queries, dk_sums);
  }
  float factors[Ms][2];
#pragma unroll
  for (int m = 0; m < Ms; ++m) factors[m][0] = factors[m][1] = sizes.scale;
  write_sums<S, D, Ms>(dk_sums, factors, dk, kv_head, place.first + begin, warp_first, rows);
#pragma unroll
  for (int m = 0; m < Ms; ++m) factors[m][0] = factors[m][1] = 1.0f;
  write_sums<S, D, Ms>(dv_sums, factors, dv, kv_head, place.first + begin, warp_first, rows);
}

}  // namespace
}  // namespace mma

void tensor_attention_backward(cudaStream_t stream, const AttentionSizes& sizes, const Matrix& q,
                               const Matrix& k, const Matrix& v, const Matrix& out, const Matrix& lse,
                               const Matrix& dout, const Matrix& dq, const Matrix& dk, const Matrix& dv,
                               float* delta) {
  if (sizes.tokens == 0) return;
  with_type(q.type, [&](auto type) {
    using S = typename decltype(type)::type;
    const auto* lse_data = static_cast<const float*>(lse.data);
    mma::with_mma_head_dim(sizes.head_dim, [&](auto d) {
      constexpr int D = d();
      auto heads = [&](const Matrix& x) { return heads_of<S>(x, D); };
      constexpr int64_t per_block = 256 / (D * static_cast<int>(sizeof(S)) / 16);
      int64_t blocks = (sizes.tokens * sizes.heads + per_block - 1) / per_block;
      mma::delta_kernel<S, D>
          <<<static_cast<unsigned>(blocks), 256, 0, stream>>>(sizes, heads(out), heads(dout), delta);
      auto launch_keys = [&](auto choice) {
        using Choice = decltype(choice);
        using Tiles = mma::BackwardTiles<S, D, Choice>;
        mma::launch(mma::dkv_kernel<S, D, Choice>, stream, most_work<Tiles::kOwned>(sizes) * sizes.kv_heads,
                    Tiles::kKeyBytes, sizes, heads(q), heads(k), heads(v), heads(dout), heads(dk), heads(dv),
                    lse_data, lse.ld, delta);
      };
      auto launch_queries = [&](auto choice) {
        using Choice = decltype(choice);
        using Tiles = mma::BackwardTiles<S, D, Choice>;
        mma::launch(mma::dq_kernel<S, D, Choice>, stream, most_work<Tiles::kOwned>(sizes) * sizes.heads,
                    Tiles::kBytes, sizes, heads(q), heads(k), heads(v), heads(dout), heads(dq), lse_data,
                    lse.ld, delta);
      };
      if constexpr (D == 128) {
        constexpr int blocks_each = mma::kIsF32<S> ? 1 : 2;
        launch_keys(mma::TileChoice<1, 32, blocks_each>{});
        launch_queries(mma::TileChoice<1, 32, blocks_each>{});
      } else {
        int wanted = mma::tiles_wanted(2);
        if (wanted == 1)
          launch_keys(mma::TileChoice<2, 16, 2>{});
        else if (wanted == 2)
          launch_keys(mma::TileChoice<1, 64, 2>{});
        else if (wanted == 3)
          launch_keys(mma::TileChoice<1, 32, 3>{});
        else if (wanted == 4)
          launch_keys(mma::TileChoice<2, 32, 2, mma::Rounding::in_use>{});
        else
          launch_keys(mma::TileChoice<2, 32, 2>{});
        wanted = mma::tiles_wanted(1);
        if (wanted == 1)
          launch_queries(mma::TileChoice<2, 16, 2>{});
        else if (wanted == 2)
          launch_queries(mma::TileChoice<1, 64, 2>{});
        else if (wanted == 3)
          launch_queries(mma::TileChoice<1, 32, 3>{});
        else if (wanted == 4)
          launch_queries(mma::TileChoice<2, 32, 2, mma::Rounding::in_use>{});
        else
          launch_queries(mma::TileChoice<2, 32, 2>{});
      }
    });
  });
}

}  // namespace llmft::cuda
