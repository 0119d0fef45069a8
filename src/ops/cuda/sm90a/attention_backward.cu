// Attention backward by matrix products of a warp group, from f32 tensors as scaled halves. A block is one
// warp group that owns 64 rows, of queries for dQ and of keys for dK and dV; formulas, order and scales are
// those of attention_mma_backward.cu. A tile is 64 rows of 128 bytes, 16-byte chunk c of row r at c ^ (r &
// 7), beginning on 1024 bytes, as the products want it.
#include "../attention_halves.cuh"
#include "hopper.cuh"

namespace llmft::cuda::mma {
namespace {

constexpr int kRows = 64, kDim = 64, kTileBytes = kRows * 128;

__device__ inline void products_keep(float (&d)[8][4]) {
  asm volatile(""
               : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]),
                 "+f"(d[1][2]), "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]),
                 "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]), "+f"(d[3][3]), "+f"(d[4][0]), "+f"(d[4][1]),
                 "+f"(d[4][2]), "+f"(d[4][3]), "+f"(d[5][0]), "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]),
                 "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]), "+f"(d[7][0]), "+f"(d[7][1]),
                 "+f"(d[7][2]), "+f"(d[7][3])::"memory");
}
// d (+)= A B^T, inner dimension contiguous in both, all 64 of it
__device__ inline void issue_nt(float (&d)[8][4], uint32_t a, uint32_t b) {
  uint64_t a_at = cuda::operand(a), b_at = cuda::operand(b);
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    asm volatile(
        "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, "
        "%11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, "
        "%31}, %32, %33, p, 1, 1, 0, 0;\n}\n"
        : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]),
          "+f"(d[1][2]), "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]),
          "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]), "+f"(d[3][3]), "+f"(d[4][0]), "+f"(d[4][1]),
          "+f"(d[4][2]), "+f"(d[4][3]), "+f"(d[5][0]), "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]),
          "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]), "+f"(d[7][0]), "+f"(d[7][1]),
          "+f"(d[7][2]), "+f"(d[7][3])
        : "l"(further(a_at, 32 * c)), "l"(further(b_at, 32 * c)), "r"(c)
        : "memory");
  }
}
// d += A B, A in registers (64 x 64), B 64 rows of 64 columns
__device__ inline void issue_nn(float (&d)[8][4], const uint32_t (&a)[4][4], uint32_t b) {
  uint64_t b_at = cuda::operand(b, 1024);
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, "
        "%11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, "
        "%31}, {%32, %33, %34, %35}, %36, 1, 1, 1, 1;\n"
        : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]),
          "+f"(d[1][2]), "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]),
          "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]), "+f"(d[3][3]), "+f"(d[4][0]), "+f"(d[4][1]),
          "+f"(d[4][2]), "+f"(d[4][3]), "+f"(d[5][0]), "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]),
          "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]), "+f"(d[7][0]), "+f"(d[7][1]),
          "+f"(d[7][2]), "+f"(d[7][3])
        : "r"(a[c][0]), "r"(a[c][1]), "r"(a[c][2]), "r"(a[c][3]), "l"(further(b_at, 2048 * c))
        : "memory");
  }
}
__device__ inline void as_operand(const float (&p)[8][4], uint32_t (&a)[4][4]) {
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    a[c][0] = two_words<__half>(p[2 * c][0], p[2 * c][1]);
    a[c][1] = two_words<__half>(p[2 * c][2], p[2 * c][3]);
    a[c][2] = two_words<__half>(p[2 * c + 1][0], p[2 * c + 1][1]);
    a[c][3] = two_words<__half>(p[2 * c + 1][2], p[2 * c + 1][3]);
  }
}
// What this thread's copies wrote becomes visible to the products of all after a barrier.
__device__ inline void copies_for_products() {
  copies_end();
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ inline void copy_rows(uint32_t tile, const Heads<__half>& x, int head, int begin, int rows) {
  int row = static_cast<int>(threadIdx.x) / 8, chunk = static_cast<int>(threadIdx.x) % 8;
  const __half* first = x.data + int64_t{begin} * x.ld + int64_t{head} * kDim;
  const __half* from = first + row * x.ld + chunk * 8;
  uint32_t to = tile + row * 128 + ((chunk ^ (row & 7)) << 4);
#pragma unroll
  for (int i = 0; i < kRows / 16; ++i, from += 16 * x.ld, to += 2048) {
    bool inside = row + 16 * i < rows;
    copy_16(to, inside ? from : first, inside);
  }
}
__device__ inline uint32_t aligned_base(const void* shared) {
  return (shared_address(shared) + 1023) & ~1023u;
}

template <int kBlocks>
__global__ void __launch_bounds__(kThreads, kBlocks)
    dq_kernel(AttentionSizes sizes, Heads<__half> q, Heads<__half> k, Heads<__half> v, Heads<__half> dout,
              Heads<float> dq, const float* __restrict__ lse, int64_t lse_ld, const float* __restrict__ delta,
              Halves halves) {
  if (not_asked<__half, float>(halves)) return;
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

  float factor = sizes.scale * kLog2e / (kScoreScale * kScoreScale), shift[2], deltas[2], sums[1][8][4] = {};
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
    issue_nt(p, queries, keys);
    products_commit();
    issue_nt(ds, douts, keys + kTileBytes);
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
    as_operand(ds, a);
    products_begin();
    issue_nn(sums[0], a, keys);
    products_commit();
    products_wait<0>();
    products_keep(sums[0]);
  }
  float factors[1][2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    int row = min(warp_first + 8 * half + g, rows - 1);
    float up = exp2_whole(halves.exponents[int64_t{place.first + begin + row} * sizes.heads + head]);
    factors[0][half] = sizes.scale / (kScoreScale * kValueScale) * up;
  }
  write_sums<__half, kDim, 1>(sums, factors, dq, head, place.first + begin, warp_first, rows);
}

template <int kBlocks>
__global__ void __launch_bounds__(kThreads, kBlocks)
    dkv_kernel(AttentionSizes sizes, Heads<__half> q, Heads<__half> k, Heads<__half> v, Heads<__half> dout,
               Heads<float> dk, Heads<float> dv, const float* __restrict__ shift,
               const float* __restrict__ delta, Halves halves) {
  if (not_asked<__half, float>(halves)) return;
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
    int64_t at = (place.first + first + (inside ? row : 0)) * int64_t{sizes.heads} + head;
    copy_4(terms_at + (step & 1) * 512 + threadIdx.x * 4, (threadIdx.x < kRows ? shift : delta) + at, inside);
  };
  copy_rows(keys, k, kv_head, place.first + begin, rows);
  copy_rows(values, v, kv_head, place.first + begin, rows);
  copy_queries(0);

  // the largest exponent of the block's rows of dO: P has 2^(a row's - this one) with it
  float top = -1000;
  for (int i = static_cast<int>(threadIdx.x); i < (place.length - begin) * group; i += kThreads)
    top = fmaxf(top, halves.exponents[int64_t{place.first + begin + i / group} * sizes.heads +
                                      kv_head * group + i % group]);
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, step));
  if (lane == 0) tops[threadIdx.x / kWarp] = top;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kWarps; ++i) top = fmaxf(top, tops[i]);

  float factor = sizes.scale * kLog2e / (kScoreScale * kScoreScale);
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
    issue_nt(p, keys, step_queries);
    products_commit();
    issue_nt(ds, values, step_douts);
    products_commit();
    products_wait<1>();
    products_keep(p);
    bool whole = first_query != begin && first_query + kRows <= place.length;
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      float2 pair = read_pair(terms + 32 * n);
      pair.x += top, pair.y += top;
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
    as_operand(p, a);
    products_begin();
    issue_nn(dv_sums[0], a, step_douts);
    products_commit();
    products_wait<1>();
    products_keep(ds);
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      float2 pair = read_pair(terms + 256 + 32 * n);
#pragma unroll
      for (int e = 0; e < 4; ++e) ds[n][e] = p[n][e] * (ds[n][e] - (e % 2 == 0 ? pair.x : pair.y));
    }
    as_operand(ds, b);
    products_begin();
    issue_nn(dk_sums[0], b, step_queries);
    products_commit();
    products_wait<0>();
    products_keep(dv_sums[0]);
    products_keep(dk_sums[0]);
  }
  float back = exp2_whole(top), factors[1][2];
  factors[0][0] = factors[0][1] = sizes.scale / (kScoreScale * kValueScale) * back;
  write_sums<__half, kDim, 1>(dk_sums, factors, dk, kv_head, place.first + begin, warp_first, rows);
  factors[0][0] = factors[0][1] = back;
  write_sums<__half, kDim, 1>(dv_sums, factors, dv, kv_head, place.first + begin, warp_first, rows);
}

}  // namespace

void hopper_backward(cudaStream_t stream, const AttentionSizes& sizes, const Heads<__half>& q,
                     const Heads<__half>& k, const Heads<__half>& v, const Heads<__half>& dout,
                     const Heads<float>& dq, const Heads<float>& dk, const Heads<float>& dv, const float* lse,
                     int64_t lse_ld, const float* shift, const float* delta, const Halves& halves,
                     int keys_choice, int queries_choice) {
  constexpr int bytes = 1024 + 6 * kTileBytes;
  int64_t tiles = most_work<kRows>(sizes);
  auto* keys_kernel = keys_choice == 1 ? dkv_kernel<2> : dkv_kernel<3>;
  launch(keys_kernel, stream, tiles * sizes.kv_heads, bytes + 1024, sizes, q, k, v, dout, dk, dv, shift,
         delta, halves);
  auto* queries_kernel = queries_choice == 1 ? dq_kernel<4> : dq_kernel<3>;
  launch(queries_kernel, stream, tiles * sizes.heads, bytes, sizes, q, k, v, dout, dq, lse, lse_ld, delta,
         halves);
}

}  // namespace llmft::cuda::mma
