// Attention backward on tensor cores, formulas as in attention_backward.cu. One kernel owns queries and makes
// dQ, one owns keys and makes dK and dV over the query heads of their group in ascending order: P is made
// twice, and nothing is added to from two sides, so every sum has one order and results repeat bit for bit.
#include <cmath>

#include "attention_halves.cuh"

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

// f32 as halves: Q, K and V, and rows of dO times 2^-exponent so that their largest entry is in [1/4, 1/2).
template <int D>
__global__ void __launch_bounds__(256)
    halves_kernel(AttentionSizes sizes, Heads<float> q, Heads<float> k, Heads<float> v, Heads<float> out,
                  Heads<float> dout, const float* __restrict__ lse, int64_t lse_ld, HalvesScratch to,
                  float* __restrict__ exact_delta) {
  constexpr int lanes = D / 8;
  auto [token, head, column, inside] = qkv_as_halves<D>(sizes, q, k, v, to.to, to.largest);
  bool query = inside && head < sizes.heads;
  float y[8] = {}, z[8] = {}, sum = 0;
  if (query) {
    load_floats<float, 8>(out.data + token * out.ld + head * D + column, y);
    load_floats<float, 8>(dout.data + token * dout.ld + head * D + column, z);
  }
  uint32_t top = largest_of(z);
#pragma unroll
  for (int i = 0; i < 8; ++i) sum = fmaf(y[i], z[i], sum);
#pragma unroll
  for (int step = lanes / 2; step > 0; step /= 2) {
    top = max(top, __shfl_xor_sync(kAllLanes, top, step));
    sum += __shfl_xor_sync(kAllLanes, sum, step);
  }
  if (!query) return;
  int exponent = max(static_cast<int>(top >> 23), 1);
  if (exponent > 240) atomicMax(to.largest + 3, 1u), exponent = 240;
  float down = __uint_as_float(static_cast<uint32_t>(252 - exponent) << 23);
#pragma unroll
  for (int i = 0; i < 8; ++i) z[i] *= down;
  store_floats<__half, 8>(to.dout.data + token * to.dout.ld + head * D + column, z);
  if (column == 0) {
    int64_t at = token * sizes.heads + head;
    auto e = static_cast<float>(exponent - 125);
    exact_delta[at] = sum;
    to.delta[at] = sum * down * kValueScale;
    to.exponents[at] = e;
    to.shift[at] = lse[token * lse_ld + head] * kLog2e - e;
  }
}

template <class S, int D, class Choice>
struct BackwardTiles {
  static constexpr int kOwned = kWarps * 16 * Choice::Ms;
  static constexpr int kOwnedBytes = kOwned * Layout<S, D>::kRowBytes;
  static constexpr int kStepBytes = Choice::N * Layout<S, D>::kRowBytes;
  static constexpr int kBytes = 2 * kOwnedBytes + 4 * kStepBytes;
  // of the pass over keys alone
  static constexpr int term_bytes() { return Choice::N * static_cast<int>(sizeof(float)); }
  static constexpr int key_bytes() { return kBytes + 4 * term_bytes(); }
};

template <class S, class T, int D, class Choice>
__global__ void __launch_bounds__(kThreads, Choice::kBlocks)
    dq_kernel(AttentionSizes sizes, Heads<S> q, Heads<S> k, Heads<S> v, Heads<S> dout, Heads<T> dq,
              const float* __restrict__ lse, int64_t lse_ld, const float* __restrict__ delta, Halves halves) {
  constexpr bool kScaled = !std::is_same_v<S, T>;
  if (not_asked<S, T>(halves)) return;
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

  float factor = sizes.scale * kLog2e * (kScaled ? 1 / (kScoreScale * kScoreScale) : 1.0f);
  float shift[Ms][2], deltas[Ms][2], sums[Ms][D / 8][4] = {};
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
      round_tile<S, D, Tiles::kOwned>(queries);
      round_tile<S, D, Tiles::kOwned>(douts);
    }
    round_tile<S, D, N>(keys + (step & 1) * Tiles::kStepBytes);
    round_tile<S, D, N>(values + (step & 1) * Tiles::kStepBytes);
    __syncthreads();
    if (step + 1 < steps) copy_keys(step + 1);
    int first_key = step * N, first_query = begin + warp_first;
    if (first_key > first_query + 16 * Ms - 1) continue;
    uint32_t step_keys = keys + (step & 1) * Tiles::kStepBytes;
    uint32_t step_values = values + (step & 1) * Tiles::kStepBytes;

    float p[Ms][N / 8][4] = {}, ds[Ms][N / 8][4] = {};
    product_nt<S, D, Ms, N>(queries, warp_first, step_keys, p);
    product_nt<S, D, Ms, N>(douts, warp_first, step_values, ds);
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
    product_nn<S, D, Ms, N, Values::any>(ds, step_keys, sums);
  }
  float factors[Ms][2];
#pragma unroll
  for (int m = 0; m < Ms; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      factors[m][half] = sizes.scale;
      int row = warp_first + 16 * m + 8 * half + g;
      if constexpr (kScaled)
        if (row < rows)
          factors[m][half] *=
              exp2_whole(halves.exponents[int64_t{place.first + begin + row} * sizes.heads + head]) /
              (kScoreScale * kValueScale);
    }
  write_sums<S, D, Ms>(sums, factors, dq, head, place.first + begin, warp_first, rows);
}

// Products are transposed: rows are keys, columns are queries. Queries beyond the document are zeros, as are
// their dO, lse and delta, and so is what they add.
template <class S, class T, int D, class Choice>
__global__ void __launch_bounds__(kThreads, Choice::kBlocks)
    dkv_kernel(AttentionSizes sizes, Heads<S> q, Heads<S> k, Heads<S> v, Heads<S> dout, Heads<T> dk,
               Heads<T> dv, const float* __restrict__ lse, int64_t lse_ld, const float* __restrict__ delta,
               Halves halves) {
  constexpr bool kScaled = !std::is_same_v<S, T>;
  if (not_asked<S, T>(halves)) return;
  using Tiles = BackwardTiles<S, D, Choice>;
  constexpr int Ms = Choice::Ms, N = Choice::N;
  extern __shared__ float4 shared[];
  uint32_t keys = shared_address(shared), values = keys + Tiles::kOwnedBytes,
           queries = values + Tiles::kOwnedBytes, douts = queries + 2 * Tiles::kStepBytes,
           lses = douts + 2 * Tiles::kStepBytes, deltas = lses + 2 * Tiles::term_bytes();

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
    uint32_t at = stage * Tiles::term_bytes() + row * static_cast<int>(sizeof(float));
    if (threadIdx.x < N)
      copy_4(lses + at, lse + token * lse_ld + head, inside);
    else if (threadIdx.x < 2 * N)
      copy_4(deltas + at, delta + token * sizes.heads + head, inside);
  };
  copy_tile<S, D, Tiles::kOwned>(keys, k, kv_head, place.first + begin, rows);
  copy_tile<S, D, Tiles::kOwned>(values, v, kv_head, place.first + begin, rows);
  copy_queries(0);

  float factor = sizes.scale * kLog2e * (kScaled ? 1 / (kScoreScale * kScoreScale) : 1.0f);
  // the largest exponent of the block's rows of dO: P has 2^(a row's - this one) with it
  float top = -1000;
  if constexpr (kScaled) {
    __shared__ float tops[kWarps];
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
  float dk_sums[Ms][D / 8][4] = {}, dv_sums[Ms][D / 8][4] = {};
  for (int step = 0; step < steps; ++step) {
    copies_end();
    if (step == 0) {
      round_tile<S, D, Tiles::kOwned>(keys);
      round_tile<S, D, Tiles::kOwned>(values);
    }
    round_tile<S, D, N>(queries + (step & 1) * Tiles::kStepBytes);
    round_tile<S, D, N>(douts + (step & 1) * Tiles::kStepBytes);
    __syncthreads();
    if (step + 1 < steps) copy_queries(step + 1);
    int first_query = begin + step % per_head * N, first_key = begin + warp_first;
    if (first_query + N - 1 < first_key) continue;
    uint32_t stage = step & 1, step_queries = queries + stage * Tiles::kStepBytes;
    uint32_t step_douts = douts + stage * Tiles::kStepBytes;
    uint32_t terms = stage * Tiles::term_bytes() + 2 * t * static_cast<int>(sizeof(float));
    bool whole = first_query >= first_key + 16 * Ms - 1;
    if constexpr (kScaled) whole = whole && first_query + N <= place.length;

    float p[Ms][N / 8][4] = {}, ds[Ms][N / 8][4] = {};
    product_nt<S, D, Ms, N>(keys, warp_first, step_queries, p);
#pragma unroll
    for (int n = 0; n < N / 8; ++n) {
      float2 pair = read_pair(lses + terms + 8 * n * static_cast<int>(sizeof(float)));
      // of halves it is ready but for the common exponent
      const float shift[2] = {kScaled ? pair.x + top : pair.x * kLog2e,
                              kScaled ? pair.y + top : pair.y * kLog2e};
#pragma unroll
      for (int m = 0; m < Ms; ++m)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          bool seen = whole || first_key + 16 * m + 8 * (e / 2) + g <= first_query + 8 * n + 2 * t + e % 2;
          if constexpr (kScaled) seen = seen && (whole || first_query + 8 * n + 2 * t + e % 2 < place.length);
          p[m][n][e] = seen ? exp2_fast(fmaf(p[m][n][e], factor, -shift[e % 2])) : 0.0f;
        }
    }
    product_nn<S, D, Ms, N, Values::probabilities>(p, step_douts, dv_sums);
    product_nt<S, D, Ms, N>(values, warp_first, step_douts, ds);
#pragma unroll
    for (int n = 0; n < N / 8; ++n) {
      float2 pair = read_pair(deltas + terms + 8 * n * static_cast<int>(sizeof(float)));
#pragma unroll
      for (int m = 0; m < Ms; ++m)
#pragma unroll
        for (int e = 0; e < 4; ++e) ds[m][n][e] = p[m][n][e] * (ds[m][n][e] - (e % 2 == 0 ? pair.x : pair.y));
    }
    product_nn<S, D, Ms, N, Values::any>(ds, step_queries, dk_sums);
  }
  float back = kScaled ? exp2_whole(top) : 1.0f, factors[Ms][2];
#pragma unroll
  for (int m = 0; m < Ms; ++m)
    factors[m][0] = factors[m][1] = kScaled ? sizes.scale / (kScoreScale * kValueScale) * back : sizes.scale;
  write_sums<S, D, Ms>(dk_sums, factors, dk, kv_head, place.first + begin, warp_first, rows);
#pragma unroll
  for (int m = 0; m < Ms; ++m) factors[m][0] = factors[m][1] = back;
  write_sums<S, D, Ms>(dv_sums, factors, dv, kv_head, place.first + begin, warp_first, rows);
}

// The whole backward in halves, unless the device finds them not to do; then it leaves the rest to kernels
// that are given what it returns.
template <int D>
Halves half_backward(cudaStream_t stream, const AttentionSizes& sizes, const Heads<float>& q,
                     const Heads<float>& k, const Heads<float>& v, const Heads<float>& out,
                     const Heads<float>& dout, const Heads<float>& dq, const Heads<float>& dk,
                     const Heads<float>& dv, const float* lse, int64_t lse_ld, float* exact_delta,
                     BackwardProducts products, void* scratch) {
  HalvesScratch halves_at(sizes, scratch);
  auto [hq, hk, hv] = halves_at.to;
  Heads<__half> hdout = halves_at.dout;
  const float *delta = halves_at.delta, *shift = halves_at.shift;
  cudaMemsetAsync(halves_at.largest, 0, 4 * sizeof(uint32_t), stream);
  halves_kernel<D><<<static_cast<unsigned>(halves_blocks<D>(sizes)), 256, 0, stream>>>(
      sizes, q, k, v, out, dout, lse, lse_ld, halves_at, exact_delta);
  Halves halves{halves_at.exponents, halves_at.largest};
  auto launch_keys = [&](auto choice) {
    using Choice = decltype(choice);
    using Tiles = BackwardTiles<__half, D, Choice>;
    launch(dkv_kernel<__half, float, D, Choice>, stream, most_work<Tiles::kOwned>(sizes) * sizes.kv_heads,
           Tiles::key_bytes(), sizes, hq, hk, hv, hdout, dk, dv, shift, int64_t{sizes.heads}, delta, halves);
  };
  auto launch_queries = [&](auto choice) {
    using Choice = decltype(choice);
    using Tiles = BackwardTiles<__half, D, Choice>;
    launch(dq_kernel<__half, float, D, Choice>, stream, most_work<Tiles::kOwned>(sizes) * sizes.heads,
           Tiles::kBytes, sizes, hq, hk, hv, hdout, dq, lse, lse_ld, delta, halves);
  };
  if constexpr (D == 128) {
    launch_keys(TileChoice<1, 32, 2>{});
    launch_queries(TileChoice<1, 32, 2>{});
  } else if (products == BackwardProducts::groups) {
    hopper_backward(stream, sizes, BackwardHeads<__half, float>{hq, hk, hv, hdout, dq, dk, dv}, lse, lse_ld,
                    shift, sizes.heads, delta, halves,
                    RotationTable{});  // the tf32 kernels in their place do not rotate
  } else {
    launch_keys(TileChoice<2, 32, 2>{});
    launch_queries(TileChoice<2, 32, 2>{});
  }
  return halves;
}

}  // namespace
}  // namespace mma

bool tensor_attention_backward(cudaStream_t stream, const AttentionSizes& sizes, const Matrix& q,
                               const Matrix& k, const Matrix& v, const Matrix& out, const Matrix& lse,
                               const Matrix& dout, const Matrix& dq, const Matrix& dk, const Matrix& dv,
                               float* delta, BackwardProducts products, void* halves_scratch,
                               const RotationTable& rotation) {
  mma::Halves halves;
  bool rotated = false;
  if (sizes.tokens == 0) return rotated;
  with_type(q.type, [&](auto type) {
    using S = typename decltype(type)::type;
    const auto* lse_data = static_cast<const float*>(lse.data);
    mma::with_mma_head_dim(sizes.head_dim, [&](auto d) {
      constexpr int D = d();
      auto heads = [&](const Matrix& x) { return heads_of<S>(x, D); };
      if constexpr (std::is_same_v<S, float>)
        if (products != BackwardProducts::warps)
          halves = mma::half_backward<D>(stream, sizes, heads(q), heads(k), heads(v), heads(out), heads(dout),
                                         heads(dq), heads(dk), heads(dv), lse_data, lse.ld, delta, products,
                                         halves_scratch);
      if (halves.largest == nullptr) {
        constexpr int64_t per_block = 256 / (D * static_cast<int>(sizeof(S)) / 16);
        int64_t blocks = (sizes.tokens * sizes.heads + per_block - 1) / per_block;
        mma::delta_kernel<S, D>
            <<<static_cast<unsigned>(blocks), 256, 0, stream>>>(sizes, heads(out), heads(dout), delta);
      }
      if constexpr (!std::is_same_v<S, float> && D == 64)
        if (products == BackwardProducts::groups) {
          mma::hopper_backward(stream, sizes,
                               mma::BackwardHeads<S, S>{heads(q), heads(k), heads(v), heads(dout), heads(dq),
                                                        heads(dk), heads(dv)},
                               lse_data, lse.ld, lse_data, lse.ld, delta, halves, rotation);
          rotated = rotation.values != nullptr;
          return;
        }
      auto launch_keys = [&](auto choice) {
        using Choice = decltype(choice);
        using Tiles = mma::BackwardTiles<S, D, Choice>;
        mma::launch(mma::dkv_kernel<S, S, D, Choice>, stream,
                    most_work<Tiles::kOwned>(sizes) * sizes.kv_heads, Tiles::key_bytes(), sizes, heads(q),
                    heads(k), heads(v), heads(dout), heads(dk), heads(dv), lse_data, lse.ld, delta, halves);
      };
      auto launch_queries = [&](auto choice) {
        using Choice = decltype(choice);
        using Tiles = mma::BackwardTiles<S, D, Choice>;
        mma::launch(mma::dq_kernel<S, S, D, Choice>, stream, most_work<Tiles::kOwned>(sizes) * sizes.heads,
                    Tiles::kBytes, sizes, heads(q), heads(k), heads(v), heads(dout), heads(dq), lse_data,
                    lse.ld, delta, halves);
      };
      if constexpr (D == 128) {
        constexpr int blocks_each = mma::kIsF32<S> ? 1 : 2;
        launch_keys(mma::TileChoice<1, 32, blocks_each>{});
        launch_queries(mma::TileChoice<1, 32, blocks_each>{});
      } else {
        launch_keys(mma::TileChoice<2, 32, 2>{});
        launch_queries(mma::TileChoice<2, 32, 2>{});
      }
    });
  });
  return rotated;
}

}  // namespace llmft::cuda
