// Linear layers for a few rows, where the time is that of reading W once. A warp computes one output column
// at a time and asks for the next one's weights before it uses those at hand, so that reads never pause; x
// lies in shared memory, normed there by every block for itself (4 KB from L2 cost less than a launch). With
// SwiGLU a warp takes a gate row and its up row one after the other.
#include "decode_kernels.hpp"
#include "vector.cuh"

namespace llmft::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kPacks = 8;  // 16-byte reads a lane has under way

struct Arguments {
  const void* x;
  int64_t x_ld;
  const void* norm;
  float eps;
  const void* tail;
  int64_t tail_ld;
  const void* w;
  int64_t w_ld;
  int k, e;
  int64_t n;  // output columns
  void* y;
  int64_t y_ld;
  const int32_t* gate;
  bool swiglu;
  bool add;
};

__device__ float block_sum(float value, float* shared) {
  value = warp_sum(value);
  __syncthreads();
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = value;
  __syncthreads();
  float total = 0;
  for (int w = 0; w < kWarps; ++w) total += shared[w];
  return total;
}

// in_shared [M][k + e] becomes the input as the product sees it.
template <class S, int N, int M>
__device__ void stage_input(const Arguments& a, S* in_shared) {
  __shared__ float sums[kWarps];
  int width = a.k + a.e;
  int own = static_cast<int>(threadIdx.x) * N;
  for (int m = 0; m < M; ++m) {
    const S* x = static_cast<const S*>(a.x) + m * a.x_ld;
    S* to = in_shared + m * width;
    if (a.norm == nullptr) {
      for (int c = own; c < a.k; c += kThreads * N) Pack<S, N>::load(x + c).store(to + c);
    } else {
      float squares = 0, values[N], weight[N];
      for (int c = own; c < a.k; c += kThreads * N) {
        load_floats<S, N>(x + c, values);
#pragma unroll
        for (int i = 0; i < N; ++i) squares += values[i] * values[i];
      }
      float r = 1.0f / sqrtf(block_sum(squares, sums) / static_cast<float>(a.k) + a.eps);
      for (int c = own; c < a.k; c += kThreads * N) {
        load_floats<S, N>(x + c, values);
        load_floats<S, N>(static_cast<const S*>(a.norm) + c, weight);
#pragma unroll
        for (int i = 0; i < N; ++i) values[i] = values[i] * r * weight[i];
        store_floats<S, N>(to + c, values);
      }
    }
    const S* tail = static_cast<const S*>(a.tail) + m * a.tail_ld;
    for (int c = own; c < a.e; c += kThreads * N) Pack<S, N>::load(tail + c).store(to + a.k + c);
  }
  __syncthreads();
}

template <class S, class Y, int N, int M>
__global__ void __launch_bounds__(kThreads) skinny_kernel(Arguments a) {
  extern __shared__ uint4 shared_quads[];
  S* in_shared = reinterpret_cast<S*>(shared_quads);
  int width = a.k + a.e;
  int lane = static_cast<int>(threadIdx.x) % kWarp;
  int64_t warp = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  int64_t warps = int64_t{gridDim.x} * kWarps;
  constexpr int kChunk = kPacks * kWarp * N;
  int chunks = (width + kChunk - 1) / kChunk;  // of a row
  int rows_each = a.swiglu ? 2 : 1;
  // this warp's output columns: warp, warp + warps, ...; its steps: their rows' chunks in order
  int64_t columns = warp < a.n ? (a.n - warp + warps - 1) / warps : 0;
  int64_t steps = columns * rows_each * chunks;

  auto load = [&](int64_t step, Pack<S, N>(&to)[kPacks]) {
    int64_t row_step = step / chunks;
    int64_t column = warp + row_step / rows_each * warps;
    int64_t row = column + row_step % rows_each * a.n;
    const S* w = static_cast<const S*>(a.w) + row * a.w_ld;
    int first = static_cast<int>(step % chunks) * kChunk + lane * N;
#pragma unroll
    for (int p = 0; p < kPacks; ++p)
      if (first + p * kWarp * N < width) to[p] = Pack<S, N>::load(w + first + p * kWarp * N);
  };

  Pack<S, N> next[kPacks];
  if (steps > 0) load(0, next);  // under way while the input is staged
  stage_input<S, N, M>(a, in_shared);

  float sum[M], gate_value[M];
#pragma unroll
  for (int m = 0; m < M; ++m) sum[m] = gate_value[m] = 0;
  for (int64_t step = 0; step < steps; ++step) {
    Pack<S, N> now[kPacks];
#pragma unroll
    for (int p = 0; p < kPacks; ++p) now[p] = next[p];
    if (step + 1 < steps) load(step + 1, next);
    int first = static_cast<int>(step % chunks) * kChunk + lane * N;
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      int c = first + p * kWarp * N;
      if (c >= width) continue;
      float w[N], in[N];
      now[p].unpack(w);
#pragma unroll
      for (int m = 0; m < M; ++m) {
        load_floats<S, N>(in_shared + m * width + c, in);
#pragma unroll
        for (int i = 0; i < N; ++i) sum[m] += w[i] * in[i];
      }
    }
    if ((step + 1) % chunks != 0) continue;
    int64_t row_step = step / chunks;
    bool gate_row = a.swiglu && row_step % 2 == 0;
    int64_t column = warp + row_step / rows_each * warps;
#pragma unroll
    for (int m = 0; m < M; ++m) {
      float value = warp_sum(sum[m]);
      sum[m] = 0;
      if (gate_row) {
        gate_value[m] = to_float(from_float<S>(value));
        continue;
      }
      if (lane != 0) continue;
      Y* y = static_cast<Y*>(a.y) + m * a.y_ld + column;
      if (a.swiglu) value = gate_value[m] / (1.0f + expf(-gate_value[m])) * to_float(from_float<S>(value));
      if (a.add) value += to_float(*y);
      if (a.gate != nullptr && a.gate[m] == 0) value = 0;
      *y = from_float<Y>(value);
    }
  }
}

template <class S, class Y, int N, int M>
void launch(cudaStream_t stream, const Arguments& a, int multiprocessors) {
  size_t bytes = static_cast<size_t>(M) * static_cast<size_t>(a.k + a.e) * sizeof(S);
  constexpr size_t kUnasked = 47 * 1024;  // of 48 KB, static shared memory has some
  if (bytes > kUnasked)
    cudaFuncSetAttribute(skinny_kernel<S, Y, N, M>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                         static_cast<int>(bytes));
  int64_t needed = (a.n + kWarps - 1) / kWarps;
  int resident = 0;  // more blocks than run at once would be a second wave, mostly empty
  cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, skinny_kernel<S, Y, N, M>, kThreads, bytes);
  int64_t most = int64_t{multiprocessors} * (resident > 0 ? resident : 1);
  auto blocks = static_cast<unsigned>(needed < most ? needed : most);
  skinny_kernel<S, Y, N, M><<<blocks, kThreads, bytes, stream>>>(a);
}

}  // namespace

void skinny(cudaStream_t stream, const Skinny& s, int multiprocessors) {
  if (s.x.rows == 0 || s.y.cols == 0) return;
  int e = s.tail.data == nullptr ? 0 : static_cast<int>(s.tail.cols);
  with_type(s.x.type, [&](auto type) {
    using S = typename decltype(type)::type;
    constexpr int kElements = static_cast<int>(16 / sizeof(S));
    bool vectors = rows_on_16_bytes(s.w) && rows_on_16_bytes(s.x) && on_16_bytes(s.norm) &&
                   (e == 0 || rows_on_16_bytes(s.tail)) && s.x.cols % kElements == 0 && e % kElements == 0;
    with_width<S>(vectors, [&](auto n) {
      auto run = [&](auto y_type) {
        using Y = typename decltype(y_type)::type;
        int64_t y_size = static_cast<int64_t>(sizeof(Y)), x_size = static_cast<int64_t>(sizeof(S));
        auto part = [&](auto m, int64_t first) {
          Arguments a{static_cast<const char*>(s.x.data) + first * s.x.ld * x_size,
                      s.x.ld,
                      s.norm,
                      s.eps,
                      e == 0 ? nullptr : static_cast<const char*>(s.tail.data) + first * s.tail.ld * x_size,
                      s.tail.ld,
                      s.w.data,
                      s.w.ld,
                      static_cast<int>(s.x.cols),
                      e,
                      s.y.cols,
                      static_cast<char*>(s.y.data) + first * s.y.ld * y_size,
                      s.y.ld,
                      s.gate == nullptr ? nullptr : s.gate + first,
                      s.swiglu,
                      s.add};
          launch<S, Y, n(), m()>(stream, a, multiprocessors);
        };
        switch (s.x.rows) {
          case 1:
            return part(std::integral_constant<int, 1>{}, 0);
          case 2:
            return part(std::integral_constant<int, 2>{}, 0);
          case 3:
            return part(std::integral_constant<int, 3>{}, 0);
          default:
            return part(std::integral_constant<int, kMostSkinnyRows>{}, 0);
        }
      };
      if (s.y.type == Scalar::f32)
        run(TypeTag<float>{});
      else
        run(TypeTag<S>{});
    });
  });
}

}  // namespace llmft::cuda
