// What the tensor-core attention kernels share. A warp multiplies by mma.sync: m16n8k16 for 16-bit elements,
// m16n8k8 for f32 rounded to tf32, always f32 sums. In both a lane is (g, t) = (lane / 4, lane % 4), the A
// and B fragments are words (one f32 or two 16-bit elements), and a sum's four elements are (row g, columns
// 2t, 2t + 1) and (row g + 8, the same columns).
// The order of the terms of a product's sum is free as long as A and B agree: so an accumulator tile of 8
// columns (f32) or two of them (16-bit) are, in place, the A fragment of a product whose sum runs over B's
// rows
// ("nn"). Where the sum runs along both operands' rows ("nt"), ldmatrix makes fragments of 16-byte chunks, of
// f32 too.
// Tiles lie in shared memory as rows of D elements without gaps; 16-byte chunk c of row r is at c ^
// swizzle(r), which keeps all accesses here free of bank conflicts.
#pragma once

#include <cstdlib>
#include <cstring>

#include "attention_work.cuh"

namespace llmft::cuda::mma {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
constexpr float kLog2e = 1.4426950408889634f;

template <class S>
constexpr bool kIsF32 = std::is_same_v<S, float>;

__device__ inline int swizzle(int row) {
  return (row & 7) ^ ((row & 1) << 2);
}

template <class S, int D>
struct Layout {
  static constexpr int kRowBytes = D * static_cast<int>(sizeof(S));
  static constexpr int kChunks = kRowBytes / 16;
  static_assert(kChunks >= 8);

  __device__ static int at(int row, int chunk) { return row * kRowBytes + ((chunk ^ swizzle(row)) << 4); }
  // at(row + 8 i, chunk ^ c) for a place at(row, chunk) and constants i, c: a lane's few places and immediate
  // offsets serve all its accesses.
  __device__ static int moved(int place, int i, int c) {
    return (place ^ ((c & 7) << 4)) + i * 8 * kRowBytes + (c >> 3) * 128;
  }
};

__device__ inline uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// Copies 16 or 4 bytes, or writes as many zeros where keep is false.
__device__ inline void copy_16(uint32_t to, const void* from, bool keep) {
  int bytes = keep ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
__device__ inline void copy_4(uint32_t to, const void* from, bool keep) {
  int bytes = keep ? 4 : 0;
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;\n" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
__device__ inline void copies_end() {
  asm volatile("cp.async.wait_all;\n" ::: "memory");
}

// A thread's 16-byte chunks of a tile: one in every kRows rows.
template <class S, int D, int Rows>
struct OwnChunks {
  using L = Layout<S, D>;
  static constexpr int kRows = kThreads / L::kChunks;
  static constexpr int kCount = Rows / kRows;
  static_assert(kThreads % L::kChunks == 0 && kRows % 4 == 0 && Rows % kRows == 0);
  int row = static_cast<int>(threadIdx.x) / L::kChunks;
  int chunk = static_cast<int>(threadIdx.x) % L::kChunks;
  int place = L::at(row, chunk);

  __device__ uint32_t at(uint32_t tile, int i) const {
    return tile + static_cast<uint32_t>((place ^ ((i * kRows & 4) << 4)) + i * kRows * L::kRowBytes);
  }
};

// Starts the copy of rows begin .. begin + rows of a head; zeros below them.
template <class S, int D, int Rows>
__device__ void copy_tile(uint32_t tile, const Heads<S>& x, int head, int begin, int rows) {
  using Own = OwnChunks<S, D, Rows>;
  Own own;
  const S* first = x.data + int64_t{begin} * x.ld + int64_t{head} * D;
  const S* from = first + own.row * x.ld + own.chunk * (16 / static_cast<int>(sizeof(S)));
  int64_t step = x.ld * Own::kRows;
  if (rows >= Rows) {
#pragma unroll
    for (int i = 0; i < Own::kCount; ++i, from += step) copy_16(own.at(tile, i), from, true);
  } else {
#pragma unroll
    for (int i = 0; i < Own::kCount; ++i, from += step) {
      bool inside = own.row + i * Own::kRows < rows;
      copy_16(own.at(tile, i), inside ? from : first, inside);
    }
  }
}

__device__ inline uint4 read_16(uint32_t at) {
  uint4 x;
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
               : "r"(at)
               : "memory");
  return x;
}
__device__ inline void write_16(uint32_t at, uint4 x) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};\n" ::"r"(at), "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w)
               : "memory");
}
// Four 8 x 8 matrices of words' halves: lane 8 i + r gives the place of row r of the i-th; its word t goes to
// lane (r, t) as the i-th.
__device__ inline void read_fragments(uint32_t at, uint32_t (&x)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(at)
               : "memory");
}
// The same, but halves (2t, g) and (2t + 1, g) of a matrix go to lane (g, t).
__device__ inline void read_transposed(uint32_t at, uint32_t (&x)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(at)
               : "memory");
}
__device__ inline float2 read_pair(uint32_t at) {
  float2 x;
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];\n" : "=f"(x.x), "=f"(x.y) : "r"(at) : "memory");
  return x;
}

// To tf32, nearest, ties away from zero.
__device__ inline uint32_t tf32(uint32_t bits) {
  uint32_t rounded;
  asm("cvt.rna.tf32.f32 %0, %1;\n" : "=r"(rounded) : "f"(__uint_as_float(bits)));
  return rounded;
}
// The same for values that are not NaN, in one addition: mma ignores the bits below.
__device__ inline uint32_t tf32_of_number(float x) {
  return __float_as_uint(x) + 0x1000u;
}
// A thread's own chunks of a tile, which it has copied, as the products take them: f32 become tf32.
template <class S, int D, int Rows>
__device__ void round_tile(uint32_t tile) {
  if constexpr (kIsF32<S>) {
    OwnChunks<S, D, Rows> own;
#pragma unroll
    for (int i = 0; i < own.kCount; ++i) {
      uint4 x = read_16(own.at(tile, i));
      write_16(own.at(tile, i), {tf32(x.x), tf32(x.y), tf32(x.z), tf32(x.w)});
    }
  }
}

template <class S>
__device__ void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  if constexpr (kIsF32<S>)
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};\n"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  else if constexpr (std::is_same_v<S, __half>)
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};\n"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  else
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};\n"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// sums[m][n] += A B^T, A: 16 Ms rows from `first` on, B: N rows; both tiles of D columns.
template <class S, int D, int Ms, int N>
__device__ void product_nt(uint32_t a, int first, uint32_t b, float (&sums)[Ms][N / 8][4]) {
  using L = Layout<S, D>;
  int lane = static_cast<int>(threadIdx.x) % kWarp;
  int a_place = L::at(lane & 15, lane / 16), b_place = L::at(lane & 7, lane / 8);
  a += static_cast<uint32_t>(first * L::kRowBytes);
#pragma unroll
  for (int chunk = 0; chunk < L::kChunks; chunk += 4) {
    uint32_t x[Ms][2][4];
#pragma unroll
    for (int m = 0; m < Ms; ++m) {
      read_fragments(a + L::moved(a_place, 2 * m, chunk), x[m][0]);
      read_fragments(a + L::moved(a_place, 2 * m, chunk + 2), x[m][1]);
    }
#pragma unroll
    for (int n = 0; n < N / 8; n += 2) {
      uint32_t y[2][4];
      read_fragments(b + L::moved(b_place, n, chunk), y[0]);
      read_fragments(b + L::moved(b_place, n + 1, chunk), y[1]);
      // an mma waits for the one before on the same sums: others lie between
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
          for (int m = 0; m < Ms; ++m)
            multiply<S>(sums[m][n + i], x[m][half], y[i][2 * half], y[i][2 * half + 1]);
    }
  }
}

template <class S>
__device__ uint32_t two_words(float low, float high) {
  const float both[2] = {low, high};
  return pack_word<S>(both);
}

// What P may hold: a probability that is NaN shows elsewhere, in its row's total or in dS.
enum class Values { any, probabilities };
// sums[m][..] += P B, P: 16 Ms x N as a product left it, B: N rows of D columns. Columns of sums: see
// write_sums.
template <class S, int D, int Ms, int N, Values kValues>
__device__ void product_nn(const float (&p)[Ms][N / 8][4], uint32_t b, float (&sums)[Ms][D / 8][4]) {
  using L = Layout<S, D>;
  int lane = static_cast<int>(threadIdx.x) % kWarp;
  if constexpr (kIsF32<S>) {
    int g = lane / 4, t = lane % 4;
    auto word = [](float x) { return kValues == Values::any ? tf32(__float_as_uint(x)) : tf32_of_number(x); };
    int even = L::at(2 * t, g), odd = L::at(2 * t + 1, g);
    // terms t and t + 4 of the mma are rows 2t and 2t + 1 of B; column n of its tile j is column 4n + j of 32
#pragma unroll
    for (int k = 0; k < N / 8; ++k) {
      uint32_t a[Ms][4];
#pragma unroll
      for (int m = 0; m < Ms; ++m) {
        a[m][0] = word(p[m][k][0]);
        a[m][1] = word(p[m][k][2]);
        a[m][2] = word(p[m][k][1]);
        a[m][3] = word(p[m][k][3]);
      }
#pragma unroll
      for (int c = 0; c < D / 32; ++c) {
        uint4 x = read_16(b + L::moved(even, k, 8 * c));
        uint4 y = read_16(b + L::moved(odd, k, 8 * c));
#pragma unroll
        for (int m = 0; m < Ms; ++m) {
          multiply<S>(sums[m][4 * c + 0], a[m], x.x, y.x);
          multiply<S>(sums[m][4 * c + 1], a[m], x.y, y.y);
          multiply<S>(sums[m][4 * c + 2], a[m], x.z, y.z);
          multiply<S>(sums[m][4 * c + 3], a[m], x.w, y.w);
        }
      }
    }
  } else {
    int place = L::at(lane & 15, lane / 16);
#pragma unroll
    for (int k = 0; k < N / 16; ++k) {
      uint32_t a[Ms][4];
#pragma unroll
      for (int m = 0; m < Ms; ++m) {
        a[m][0] = two_words<S>(p[m][2 * k][0], p[m][2 * k][1]);
        a[m][1] = two_words<S>(p[m][2 * k][2], p[m][2 * k][3]);
        a[m][2] = two_words<S>(p[m][2 * k + 1][0], p[m][2 * k + 1][1]);
        a[m][3] = two_words<S>(p[m][2 * k + 1][2], p[m][2 * k + 1][3]);
      }
#pragma unroll
      for (int c = 0; c < D / 8; c += 2) {
        uint32_t x[4];
        read_transposed(b + L::moved(place, 2 * k, c), x);
#pragma unroll
        for (int m = 0; m < Ms; ++m) {
          multiply<S>(sums[m][c], a[m], x[0], x[1]);
          multiply<S>(sums[m][c + 1], a[m], x[2], x[3]);
        }
      }
    }
  }
}

// Rows first .. of a warp's product_nn sums, times the rows' factors (rows g and g + 8 of every 16), to a
// head's rows begin + first ..; rows from `rows` on are left out.
template <class S, int D, int Ms, class T = S>
__device__ void write_sums(const float (&sums)[Ms][D / 8][4], const float (&factors)[Ms][2],
                           const Heads<T>& x, int head, int begin, int first, int rows) {
  int lane = static_cast<int>(threadIdx.x) % kWarp, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int m = 0; m < Ms; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      int row = first + 16 * m + 8 * half + g;
      if (row >= rows) continue;
      float f = factors[m][half];
      T* to = x.data + int64_t{begin + row} * x.ld + int64_t{head} * D;
      if constexpr (kIsF32<S>) {
#pragma unroll
        for (int c = 0; c < D / 32; ++c)
#pragma unroll
          for (int odd = 0; odd < 2; ++odd) {
            int e = 2 * half + odd;
            *reinterpret_cast<float4*>(to + 32 * c + 8 * t + 4 * odd) =
                make_float4(sums[m][4 * c][e] * f, sums[m][4 * c + 1][e] * f, sums[m][4 * c + 2][e] * f,
                            sums[m][4 * c + 3][e] * f);
          }
      } else {
#pragma unroll
        for (int c = 0; c < D / 8; ++c)
          if constexpr (kIsF32<T>)
            *reinterpret_cast<float2*>(to + 8 * c + 2 * t) =
                make_float2(sums[m][c][2 * half] * f, sums[m][c][2 * half + 1] * f);
          else
            *reinterpret_cast<uint32_t*>(to + 8 * c + 2 * t) =
                two_words<S>(sums[m][c][2 * half] * f, sums[m][c][2 * half + 1] * f);
      }
    }
}

__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}

template <class Kernel, class... Arguments>
void launch(Kernel kernel, cudaStream_t stream, int64_t blocks, int bytes, const Arguments&... arguments) {
  // a failure shows at the launch
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  kernel<<<static_cast<unsigned>(blocks), kThreads, static_cast<size_t>(bytes), stream>>>(arguments...);
}

// What to choose a block's tiles from. Ms: tiles of 16 rows that a warp owns. N: rows of the other side a
// step. Blocks: that share a multiprocessor.
template <int kMs, int kN, int kBlocksEach>
struct TileChoice {
  static constexpr int Ms = kMs;
  static constexpr int N = kN;
  static constexpr int kBlocks = kBlocksEach;
};

template <class F>
void with_mma_head_dim(int head_dim, F&& f) {
  if (head_dim == 64)
    f(std::integral_constant<int, 64>{});
  else
    f(std::integral_constant<int, 128>{});
}

}  // namespace llmft::cuda::mma
