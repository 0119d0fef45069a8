// What attention's kernels on warp groups share. A block is one warp group that owns 64 rows. A tile is 64
// rows of 128 bytes, 16-byte chunk c of row r at c ^ (r & 7), beginning on 1024 bytes, as the products want
// it.
#pragma once

#include "../attention_halves.cuh"
#include "hopper.cuh"

namespace llmft::cuda::mma {

constexpr int kRows = 64, kDim = 64, kTileBytes = kRows * 128;

// The 32 sums of a thread, as operands of an instruction, and its text up to the factors.
#define LLMFT_SUMS(d)                                                                                      \
  "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]), "+f"(d[1][2]), \
      "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]), "+f"(d[3][0]),            \
      "+f"(d[3][1]), "+f"(d[3][2]), "+f"(d[3][3]), "+f"(d[4][0]), "+f"(d[4][1]), "+f"(d[4][2]),            \
      "+f"(d[4][3]), "+f"(d[5][0]), "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]), "+f"(d[6][0]),            \
      "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]), "+f"(d[7][0]), "+f"(d[7][1]), "+f"(d[7][2]),            \
      "+f"(d[7][3])
#define LLMFT_PRODUCT(types)                                       \
  "wgmma.mma_async.sync.aligned.m64n64k16.f32." types              \
  " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, " \
  "%14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "

__device__ inline void products_keep(float (&d)[8][4]) {
  asm volatile("" : LLMFT_SUMS(d)::"memory");
}
// d (+)= A B^T, inner dimension contiguous in both, all 64 of it
template <class S>
__device__ inline void issue_nt(float (&d)[8][4], uint32_t a, uint32_t b) {
  uint64_t a_at = cuda::operand(a), b_at = cuda::operand(b);
#define LLMFT_ISSUE(types)                                                                              \
  asm volatile(                                                                                         \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n" LLMFT_PRODUCT(types) "%32, %33, p, 1, 1, 0, 0;\n}\n" \
      : LLMFT_SUMS(d)                                                                                   \
      : "l"(further(a_at, 32 * c)), "l"(further(b_at, 32 * c)), "r"(c)                                  \
      : "memory")
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    if constexpr (std::is_same_v<S, __half>)
      LLMFT_ISSUE("f16.f16");
    else
      LLMFT_ISSUE("bf16.bf16");
  }
#undef LLMFT_ISSUE
}
// d += A B, A in registers (64 x 64), B 64 rows of 64 columns
template <class S>
__device__ inline void issue_nn(float (&d)[8][4], const uint32_t (&a)[4][4], uint32_t b) {
  uint64_t b_at = cuda::operand(b, 1024);
#define LLMFT_ISSUE(types)                                                                            \
  asm volatile(LLMFT_PRODUCT(types) "{%32, %33, %34, %35}, %36, 1, 1, 1, 1;\n"                        \
               : LLMFT_SUMS(d)                                                                        \
               : "r"(a[c][0]), "r"(a[c][1]), "r"(a[c][2]), "r"(a[c][3]), "l"(further(b_at, 2048 * c)) \
               : "memory")
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    if constexpr (std::is_same_v<S, __half>)
      LLMFT_ISSUE("f16.f16");
    else
      LLMFT_ISSUE("bf16.bf16");
  }
#undef LLMFT_ISSUE
}
template <class S>
__device__ inline void as_operand(const float (&p)[8][4], uint32_t (&a)[4][4]) {
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    a[c][0] = two_words<S>(p[2 * c][0], p[2 * c][1]);
    a[c][1] = two_words<S>(p[2 * c][2], p[2 * c][3]);
    a[c][2] = two_words<S>(p[2 * c + 1][0], p[2 * c + 1][1]);
    a[c][3] = two_words<S>(p[2 * c + 1][2], p[2 * c + 1][3]);
  }
}
// What this thread's copies wrote becomes visible to the products of all after a barrier.
__device__ inline void copies_for_products() {
  copies_end();
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
template <class S>
__device__ inline void copy_rows(uint32_t tile, const Heads<S>& x, int head, int begin, int rows) {
  int row = static_cast<int>(threadIdx.x) / 8, chunk = static_cast<int>(threadIdx.x) % 8;
  const S* first = x.data + int64_t{begin} * x.ld + int64_t{head} * kDim;
  const S* from = first + row * x.ld + chunk * 8;
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

}  // namespace llmft::cuda::mma
