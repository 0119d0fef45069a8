// What the attention kernels without tensor cores share: f32 products and sums, any head up to its tile's
// width, any strides. A warp is 4 x 8 lanes (y, x) and owns Rows / 4 rows of a block's tile, lane y of it
// every fourth: products of a warp's rows are written and read by that warp alone, so __syncwarp is enough
// between both. Tiles lie in shared memory as f32 rows of D + 4, products as rows of N + 8: with these
// paddings the lanes' 16-byte reads and 4-byte writes touch no bank twice.
#pragma once

#include "attention_work.cuh"

namespace llmft::cuda {

constexpr int kAttentionThreads = 128;
constexpr int kLanesX = 8;
constexpr int kLanesY = 4;

// D: columns of a head's tile. kOwn: rows a thread owns. N: rows of the other side a step.
template <int D, int Step>
struct PlainTiles {
  static constexpr int kOwn = D <= 64 ? 8 : 4;
  static constexpr int kWarpRows = kLanesY * kOwn;
  static constexpr int kRows = kAttentionThreads / kWarp * kWarpRows;
  static constexpr int N = Step;
  static constexpr int kStride = D + 4;
  static constexpr int kScoreStride = N + 8;
  static constexpr int kOwnedFloats = kRows * kStride;
  static constexpr int kStepFloats = N * kStride;
  static constexpr int kScoreFloats = kRows * kScoreStride;
  // of a product N wide a thread owns columns x + 8 j, of one D wide runs of 4 neighbours
  static constexpr int kScores = N / kLanesX;
  static constexpr int kRuns = D / (4 * kLanesX);
  static constexpr int kColumns = 4 * kRuns;

  // The first of a thread's rows; the others are 4, 8, .. below it.
  __device__ static int first_row() {
    return static_cast<int>(threadIdx.x) / kWarp * kWarpRows +
           static_cast<int>(threadIdx.x) % kWarp / kLanesX;
  }
  __device__ static int warp_row() { return static_cast<int>(threadIdx.x) / kWarp * kWarpRows; }
  __device__ static int x() { return static_cast<int>(threadIdx.x) % kLanesX; }
};

// Rows begin .. begin + rows of one head; zeros below them and right of head_dim.
template <int D, int Rows, class S>
__device__ void load_tile(const Heads<S>& x, int head, int head_dim, int begin, int rows, float* tile) {
  constexpr int stride = D + 4;
  const S* from = x.data + int64_t{begin} * x.ld + int64_t{head} * head_dim;
  if (x.vectors) {
    constexpr int N = 16 / static_cast<int>(sizeof(S)), per_row = D / N;
    static_assert(Rows * per_row % kAttentionThreads == 0);
#pragma unroll 4
    for (int step = 0; step < Rows * per_row / kAttentionThreads; ++step) {
      int item = static_cast<int>(threadIdx.x) + step * kAttentionThreads;
      int row = item / per_row, column = item % per_row * N;
      float values[N] = {};
      if (row < rows && column < head_dim) load_floats<S, N>(from + row * x.ld + column, values);
      float* to = tile + row * stride + column;
#pragma unroll
      for (int i = 0; i < N; i += 4)
        *reinterpret_cast<float4*>(to + i) =
            make_float4(values[i], values[i + 1], values[i + 2], values[i + 3]);
    }
  } else {
    for (int item = static_cast<int>(threadIdx.x); item < Rows * D; item += kAttentionThreads) {
      int row = item / D, column = item % D;
      bool inside = row < rows && column < head_dim;
      tile[row * stride + column] = inside ? to_float(from[row * x.ld + column]) : 0.0f;
    }
  }
}

__device__ inline float4 read_four(const float* from) {
  return *reinterpret_cast<const float4*>(from);
}

// sums += A B^T: A the block's tile, B a step's.
template <class T>
__device__ void product_nt(const float* a, const float* b, float (&sums)[T::kOwn][T::kScores]) {
  a += T::first_row() * T::kStride;
  b += T::x() * T::kStride;
#pragma unroll 1
  for (int d = 0; d < T::kStride - 4; d += 4) {
    float4 x[T::kOwn];
#pragma unroll
    for (int i = 0; i < T::kOwn; ++i) x[i] = read_four(a + i * kLanesY * T::kStride + d);
#pragma unroll
    for (int j = 0; j < T::kScores; ++j) {
      float4 y = read_four(b + j * kLanesX * T::kStride + d);
#pragma unroll
      for (int i = 0; i < T::kOwn; ++i) {
        sums[i][j] = fmaf(x[i].x, y.x, sums[i][j]);
        sums[i][j] = fmaf(x[i].y, y.y, sums[i][j]);
        sums[i][j] = fmaf(x[i].z, y.z, sums[i][j]);
        sums[i][j] = fmaf(x[i].w, y.w, sums[i][j]);
      }
    }
  }
}

// sums += P B: P a product in shared memory, B a step's tile.
template <class T>
__device__ void product_nn(const float* p, const float* b, float (&sums)[T::kOwn][T::kColumns]) {
  p += T::first_row() * T::kScoreStride;
  b += 4 * T::x();
#pragma unroll 1
  for (int k = 0; k < T::N; k += 4) {
    float4 x[T::kOwn];
#pragma unroll
    for (int i = 0; i < T::kOwn; ++i) x[i] = read_four(p + i * kLanesY * T::kScoreStride + k);
#pragma unroll
    for (int step = 0; step < 4; ++step)
#pragma unroll
      for (int run = 0; run < T::kRuns; ++run) {
        float4 y = read_four(b + (k + step) * T::kStride + run * 4 * kLanesX);
#pragma unroll
        for (int i = 0; i < T::kOwn; ++i) {
          float factor = step == 0 ? x[i].x : step == 1 ? x[i].y : step == 2 ? x[i].z : x[i].w;
          float* to = sums[i] + 4 * run;
          to[0] = fmaf(factor, y.x, to[0]);
          to[1] = fmaf(factor, y.y, to[1]);
          to[2] = fmaf(factor, y.z, to[2]);
          to[3] = fmaf(factor, y.w, to[3]);
        }
      }
  }
}

// A thread's part of a product N wide.
template <class T>
__device__ void write_scores(const float (&values)[T::kOwn][T::kScores], float* p) {
  p += T::first_row() * T::kScoreStride + T::x();
#pragma unroll
  for (int i = 0; i < T::kOwn; ++i)
#pragma unroll
    for (int j = 0; j < T::kScores; ++j) p[i * kLanesY * T::kScoreStride + j * kLanesX] = values[i][j];
}

// A thread's part of a product D wide, row i times factors[i], to rows begin .. begin + rows of a head.
template <class T, class S>
__device__ void write_rows(const float (&sums)[T::kOwn][T::kColumns], const float (&factors)[T::kOwn],
                           const Heads<S>& x, int head, int head_dim, int begin, int rows) {
#pragma unroll
  for (int i = 0; i < T::kOwn; ++i) {
    int row = T::first_row() + i * kLanesY;
    if (row >= rows) continue;
    S* to = x.data + int64_t{begin + row} * x.ld + int64_t{head} * head_dim;
#pragma unroll
    for (int c = 0; c < T::kColumns; ++c) {
      int column = (c / 4 * kLanesX + T::x()) * 4 + c % 4;
      if (column < head_dim) to[column] = from_float<S>(sums[i][c] * factors[i]);
    }
  }
}

template <class F>
void with_head_dim(int head_dim, F&& f) {
  if (head_dim <= 32)
    f(std::integral_constant<int, 32>{});
  else if (head_dim <= 64)
    f(std::integral_constant<int, 64>{});
  else
    f(std::integral_constant<int, 128>{});
}

template <class Kernel, class... Arguments>
void launch_attention(Kernel kernel, cudaStream_t stream, int64_t blocks, int floats,
                      const Arguments&... arguments) {
  auto bytes = static_cast<int>(floats * sizeof(float));
  // a failure shows at the launch
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  kernel<<<static_cast<unsigned>(blocks), kAttentionThreads, static_cast<size_t>(bytes), stream>>>(
      arguments...);
}

}  // namespace llmft::cuda
