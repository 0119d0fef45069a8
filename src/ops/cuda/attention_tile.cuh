// What the attention kernels share. A block of 256 threads, seen as 16 x 16 (ty, tx), works on tiles of 64
// tokens of one document and one head, kept in shared memory as f32 rows of D + 4 floats: with that padding
// 8 lanes that read 16 bytes of 8 consecutive rows touch each bank once. A thread owns rows ty + 16 i of a
// product. In the 64 x 64 products it owns columns tx + 16 j, in those D wide some neighbouring columns.
// So a row of a 64 x 64 product is written and read by the 16 threads of one ty, half a warp: __syncwarp is
// enough between both. Tiles begin where the document does, therefore results do not depend on neighbours.
#pragma once

#include "attention_kernels.hpp"
#include "vector.cuh"

namespace llmft::cuda {

constexpr int kTile = 64;
constexpr int kSide = 16;  // threads along a row, and along a column
constexpr int kAttentionThreads = kSide * kSide;
constexpr int kOwn = kTile / kSide;  // rows that a thread owns
constexpr int kScoreStride = kTile + 4;
constexpr unsigned kAllLanes = 0xffffffffu;

template <int D>
constexpr int kStride = D + 4;
template <int D>
constexpr int kTileFloats = kTile* kStride<D>;
constexpr int kScoreFloats = kTile * kScoreStride;

// A matrix with heads side by side.
template <class S>
struct Heads {
  S* data;
  int64_t ld;
  bool vectors;  // every head of every row starts on 16 bytes and is some times 16 bytes long
};
template <class S>
Heads<S> heads_of(const Matrix& x, int head_dim) {
  return {static_cast<S*>(x.data), x.ld,
          rows_on_16_bytes(x) && head_dim % static_cast<int>(16 / sizeof(S)) == 0};
}

// A tile of tokens first + 64 tile .. of the document first .. first + length.
struct TilePlace {
  int first;
  int length;
  int tile;  // -1: there are fewer tiles than that

  __device__ int begin(int t) const { return first + t * kTile; }
  __device__ int rows(int t) const { return min(kTile, length - t * kTile); }
  __device__ int tiles() const { return (length + kTile - 1) / kTile; }
};

// The tile of that number, documents one after another; every warp finds it for itself.
__device__ inline TilePlace find_tile(const AttentionSizes& sizes, int64_t number) {
  int lane = static_cast<int>(threadIdx.x) % kWarp;
  int64_t before = 0;
  for (int64_t document = lane; document - lane < sizes.documents; document += kWarp) {
    int begin = 0, end = 0;
    if (document < sizes.documents) {
      begin = sizes.cu_seqlens[document];
      end = sizes.cu_seqlens[document + 1];
      if (begin < 0 || end < begin || end > sizes.tokens) __trap();
    }
    int tiles = (end - begin + kTile - 1) / kTile, through = tiles;
#pragma unroll
    for (int step = 1; step < kWarp; step *= 2) {
      int other = __shfl_up_sync(kAllLanes, through, step);
      if (lane >= step) through += other;
    }
    unsigned beyond = __ballot_sync(kAllLanes, before + through > number);
    if (beyond != 0) {
      int owner = __ffs(static_cast<int>(beyond)) - 1;
      auto tile = static_cast<int>(number - before) - (through - tiles);
      return {__shfl_sync(kAllLanes, begin, owner), __shfl_sync(kAllLanes, end - begin, owner),
              __shfl_sync(kAllLanes, tile, owner)};
    }
    before += __shfl_sync(kAllLanes, through, kWarp - 1);
  }
  return {0, 0, -1};
}
// At least as many as there are tiles.
inline int64_t most_tiles(const AttentionSizes& sizes) {
  return sizes.tokens / kTile + sizes.documents;
}

// Rows begin .. begin + rows of one head; zeros below them and right of head_dim.
template <int D, class S>
__device__ void load_tile(const Heads<S>& x, int head, int head_dim, int begin, int rows, float* tile) {
  const S* from = x.data + int64_t{begin} * x.ld + int64_t{head} * head_dim;
  if (x.vectors) {
    constexpr int N = 16 / static_cast<int>(sizeof(S)), per_row = D / N;
    static_assert(kTile * per_row % kAttentionThreads == 0);
#pragma unroll
    for (int step = 0; step < kTile * per_row / kAttentionThreads; ++step) {
      int item = static_cast<int>(threadIdx.x) + step * kAttentionThreads;
      int row = item / per_row, column = item % per_row * N;
      float values[N] = {};
      if (row < rows && column < head_dim) load_floats<S, N>(from + row * x.ld + column, values);
      float* to = tile + row * kStride<D> + column;
#pragma unroll
      for (int i = 0; i < N; i += 4)
        *reinterpret_cast<float4*>(to + i) =
            make_float4(values[i], values[i + 1], values[i + 2], values[i + 3]);
    }
  } else {
    for (int item = static_cast<int>(threadIdx.x); item < kTile * D; item += kAttentionThreads) {
      int row = item / D, column = item % D;
      bool inside = row < rows && column < head_dim;
      tile[row * kStride<D> + column] = inside ? to_float(from[row * x.ld + column]) : 0.0f;
    }
  }
}

// sums += A B^T: A, B tiles of D columns.
template <int D>
__device__ void product_nt(const float* a, const float* b, float (&sums)[kOwn][kOwn]) {
  int ty = static_cast<int>(threadIdx.x) / kSide, tx = static_cast<int>(threadIdx.x) % kSide;
  a += ty * kStride<D>;
  b += tx * kStride<D>;
#pragma unroll 4
  for (int d = 0; d < D; d += 4) {
    float4 x[kOwn], y[kOwn];
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      x[i] = *reinterpret_cast<const float4*>(a + i * kSide * kStride<D> + d);
      y[i] = *reinterpret_cast<const float4*>(b + i * kSide * kStride<D> + d);
    }
#pragma unroll
    for (int i = 0; i < kOwn; ++i)
#pragma unroll
      for (int j = 0; j < kOwn; ++j) {
        sums[i][j] = fmaf(x[i].x, y[j].x, sums[i][j]);
        sums[i][j] = fmaf(x[i].y, y[j].y, sums[i][j]);
        sums[i][j] = fmaf(x[i].z, y[j].z, sums[i][j]);
        sums[i][j] = fmaf(x[i].w, y[j].w, sums[i][j]);
      }
  }
}

// Columns a thread owns of a product D wide: kGroups times kRun neighbours.
template <int D>
struct Columns {
  static constexpr int kRun = D < 64 ? 2 : 4;
  static constexpr int kGroups = D / (kSide * kRun);
  static constexpr int kCount = kRun * kGroups;
  static_assert(kCount * kSide == D);

  // The first column of group g.
  __device__ static int first(int g) { return (g * kSide + static_cast<int>(threadIdx.x) % kSide) * kRun; }
};

template <int N>
__device__ void read_run(const float* from, float* to) {
  if constexpr (N == 4) {
    float4 x = *reinterpret_cast<const float4*>(from);
    to[0] = x.x, to[1] = x.y, to[2] = x.z, to[3] = x.w;
  } else {
    float2 x = *reinterpret_cast<const float2*>(from);
    to[0] = x.x, to[1] = x.y;
  }
}

// sums += P B: P a 64 x 64 product in shared memory, B a tile of D columns.
template <int D>
__device__ void product_nn(const float* p, const float* b, float (&sums)[kOwn][Columns<D>::kCount]) {
  using C = Columns<D>;
  p += static_cast<int>(threadIdx.x) / kSide * kScoreStride;
#pragma unroll 2
  for (int k = 0; k < kTile; k += 4) {
    float x[kOwn][4];
#pragma unroll
    for (int i = 0; i < kOwn; ++i) read_run<4>(p + i * kSide * kScoreStride + k, x[i]);
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      float y[C::kCount];
#pragma unroll
      for (int g = 0; g < C::kGroups; ++g)
        read_run<C::kRun>(b + (k + step) * kStride<D> + C::first(g), y + g * C::kRun);
#pragma unroll
      for (int i = 0; i < kOwn; ++i)
#pragma unroll
        for (int c = 0; c < C::kCount; ++c) sums[i][c] = fmaf(x[i][step], y[c], sums[i][c]);
    }
  }
}

// Writes a thread's part of a 64 x 64 product.
__device__ inline void write_scores(const float (&values)[kOwn][kOwn], float* p) {
  p += static_cast<int>(threadIdx.x) / kSide * kScoreStride + static_cast<int>(threadIdx.x) % kSide;
#pragma unroll
  for (int i = 0; i < kOwn; ++i)
#pragma unroll
    for (int j = 0; j < kOwn; ++j) p[i * kSide * kScoreStride + j * kSide] = values[i][j];
}

// Writes a thread's part of a product D wide, row i times factors[i], to rows begin .. begin + rows of a
// head.
template <int D, class S>
__device__ void write_rows(const float (&sums)[kOwn][Columns<D>::kCount], const float (&factors)[kOwn],
                           const Heads<S>& x, int head, int head_dim, int begin, int rows) {
  using C = Columns<D>;
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    int row = static_cast<int>(threadIdx.x) / kSide + i * kSide;
    if (row >= rows) continue;
    S* to = x.data + int64_t{begin + row} * x.ld + int64_t{head} * head_dim;
#pragma unroll
    for (int g = 0; g < C::kGroups; ++g)
#pragma unroll
      for (int c = 0; c < C::kRun; ++c) {
        int column = C::first(g) + c;
        if (column < head_dim) to[column] = from_float<S>(sums[i][g * C::kRun + c] * factors[i]);
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

// Blocks that share a multiprocessor: as many as shared memory has room for.
template <int D>
constexpr int kBlocks = D <= 64 ? 2 : 1;

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
