// How kernels read and write rows of S: N elements at a time, 16 bytes in one access where N > 1, which the
// launchers choose only where every row starts on 16 bytes; floats in between, rounded once on writing.
#pragma once

#include <cstdint>
#include <type_traits>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels.hpp"

namespace llmft::cuda {

constexpr int kWarp = 32;

__device__ inline float to_float(float x) {
  return x;
}
__device__ inline float to_float(__half x) {
  return __half2float(x);
}
__device__ inline float to_float(__nv_bfloat16 x) {
  return __bfloat162float(x);
}

template <class S>
__device__ S from_float(float x) {
  if constexpr (std::is_same_v<S, float>) return x;
  if constexpr (std::is_same_v<S, __half>) return __float2half_rn(x);
  if constexpr (std::is_same_v<S, __nv_bfloat16>) return __float2bfloat16_rn(x);
}

// The elements in one 32-bit word.
template <class S>
__device__ void unpack_word(uint32_t word, float* out) {
  if constexpr (std::is_same_v<S, float>) {
    out[0] = __uint_as_float(word);
  } else if constexpr (std::is_same_v<S, __nv_bfloat16>) {
    out[0] = __uint_as_float(word << 16);
    out[1] = __uint_as_float(word & 0xffff0000u);
  } else {
    float2 both = __half22float2(*reinterpret_cast<const __half2*>(&word));
    out[0] = both.x;
    out[1] = both.y;
  }
}
template <class S>
__device__ uint32_t pack_word(const float* in) {
  if constexpr (std::is_same_v<S, float>) {
    return __float_as_uint(in[0]);
  } else if constexpr (std::is_same_v<S, __nv_bfloat16>) {
    __nv_bfloat162 both = __floats2bfloat162_rn(in[0], in[1]);
    return *reinterpret_cast<const uint32_t*>(&both);
  } else {
    __half2 both = __floats2half2_rn(in[0], in[1]);
    return *reinterpret_cast<const uint32_t*>(&both);
  }
}

// N elements as they lie in memory: N * sizeof(S) is a multiple of 16, or N is 1.
template <class S, int N>
struct Pack {
  static constexpr int kQuads = static_cast<int>(N * sizeof(S) / 16);
  static constexpr int kPerWord = static_cast<int>(4 / sizeof(S));
  static_assert(kQuads * 16 == N * static_cast<int>(sizeof(S)));
  uint4 quads[kQuads];

  __device__ static Pack load(const S* from) {
    Pack pack;
#pragma unroll
    for (int q = 0; q < kQuads; ++q) pack.quads[q] = reinterpret_cast<const uint4*>(from)[q];
    return pack;
  }
  __device__ void store(S* to) const {
#pragma unroll
    for (int q = 0; q < kQuads; ++q) reinterpret_cast<uint4*>(to)[q] = quads[q];
  }
  __device__ void unpack(float (&out)[N]) const {
#pragma unroll
    for (int q = 0; q < kQuads; ++q) {
      unpack_word<S>(quads[q].x, out + (4 * q + 0) * kPerWord);
      unpack_word<S>(quads[q].y, out + (4 * q + 1) * kPerWord);
      unpack_word<S>(quads[q].z, out + (4 * q + 2) * kPerWord);
      unpack_word<S>(quads[q].w, out + (4 * q + 3) * kPerWord);
    }
  }
  __device__ static Pack of(const float (&in)[N]) {
    Pack pack;
#pragma unroll
    for (int q = 0; q < kQuads; ++q) {
      pack.quads[q].x = pack_word<S>(in + (4 * q + 0) * kPerWord);
      pack.quads[q].y = pack_word<S>(in + (4 * q + 1) * kPerWord);
      pack.quads[q].z = pack_word<S>(in + (4 * q + 2) * kPerWord);
      pack.quads[q].w = pack_word<S>(in + (4 * q + 3) * kPerWord);
    }
    return pack;
  }
};

template <class S>
struct Pack<S, 1> {
  S value;

  __device__ static Pack load(const S* from) { return {*from}; }
  __device__ void store(S* to) const { *to = value; }
  __device__ void unpack(float (&out)[1]) const { out[0] = to_float(value); }
  __device__ static Pack of(const float (&in)[1]) { return {from_float<S>(in[0])}; }
};

template <class S, int N>
__device__ void load_floats(const S* from, float (&out)[N]) {
  Pack<S, N>::load(from).unpack(out);
}
template <class S, int N>
__device__ void store_floats(S* to, const float (&in)[N]) {
  Pack<S, N>::of(in).store(to);
}

// Every lane gets the sum; the order of additions is fixed.
template <class T>
__device__ T warp_sum(T value) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  return value;
}

// exp in the accuracy its result is rounded to: the fast form is off by some 2^-21 relatively.
template <class S>
__device__ float exp_for(float x) {
  if constexpr (std::is_same_v<S, float>)
    return expf(x);
  else
    return __expf(x);
}

__device__ inline int64_t checked(int32_t index, int64_t below) {
  if (index < 0 || index >= below) __trap();
  return index;
}

// Host side: types and widths as template arguments.

template <class S>
struct TypeTag {
  using type = S;
};
template <class F>
void with_type(Scalar type, F&& f) {
  switch (type) {
    case Scalar::f32:
      return f(TypeTag<float>{});
    case Scalar::bf16:
      return f(TypeTag<__nv_bfloat16>{});
    case Scalar::f16:
      return f(TypeTag<__half>{});
  }
}

// Calls f with the number of elements that 16 bytes hold, or with 1.
template <class S, class F>
void with_width(bool whole_vectors, F&& f) {
  if (whole_vectors)
    f(std::integral_constant<int, static_cast<int>(16 / sizeof(S))>{});
  else
    f(std::integral_constant<int, 1>{});
}

inline bool on_16_bytes(const void* data) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0;
}
// Every row of x starts on 16 bytes. (A single row's ld does not matter.)
inline bool rows_on_16_bytes(const Matrix& x) {
  int64_t size = x.type == Scalar::f32 ? 4 : 2;
  return on_16_bytes(x.data) && (x.rows <= 1 || x.ld * size % 16 == 0);
}

// A block for some columns of one row: rows along x, tiles of columns along y.
struct RowGrid {
  dim3 blocks;
  int threads;
};
inline RowGrid row_grid(int64_t rows, int64_t items_per_row) {
  constexpr int64_t most = 256;
  int64_t threads = (items_per_row + kWarp - 1) / kWarp * kWarp;
  threads = threads < most ? threads : most;
  int64_t tiles = (items_per_row + threads - 1) / threads;
  if (tiles > 32768) tiles = 32768;
  return {dim3(static_cast<unsigned>(rows), static_cast<unsigned>(tiles)), static_cast<int>(threads)};
}
// The items of a row that a thread of a RowGrid takes.
__device__ inline int64_t first_item() {
  return int64_t{blockIdx.y} * blockDim.x + threadIdx.x;
}
__device__ inline int64_t item_step() {
  return int64_t{gridDim.y} * blockDim.x;
}

}  // namespace llmft::cuda
