// Sums in f64 whose order depends on sizes alone: a block sums a piece of a chunk, then the pieces of a chunk
// are added in order.
#include "vector.cuh"

namespace llmft::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kPiece = 65536;  // elements of one block

// Thread 0 gets the block's sum.
__device__ double block_sum(double value) {
  __shared__ double warp_totals[kThreads / kWarp];
  value = warp_sum(value);
  if (threadIdx.x % kWarp == 0) warp_totals[threadIdx.x / kWarp] = value;
  __syncthreads();
  for (int warp = 1; threadIdx.x == 0 && warp < kThreads / kWarp; ++warp) value += warp_totals[warp];
  return value;
}

template <Term kTerm, int N>
__global__ void __launch_bounds__(kThreads)
    sum_pieces(const float* __restrict__ x, int64_t size, int64_t chunk, double* __restrict__ partial) {
  int64_t chunk_begin = int64_t{blockIdx.x} * chunk, chunk_end = min(chunk_begin + chunk, size);
  int64_t begin = chunk_begin + int64_t{blockIdx.y} * kPiece, end = min(begin + kPiece, chunk_end);
  double total = 0;
  auto add = [&](float value) {
    auto wide = static_cast<double>(value);
    total += kTerm == Term::square ? wide * wide : wide;
  };
  int64_t whole = begin + (end - begin) / N * N;
#pragma unroll 4
  for (int64_t i = begin + static_cast<int64_t>(threadIdx.x) * N; i < whole; i += kThreads * N) {
    float values[N];
    load_floats<float, N>(x + i, values);
#pragma unroll
    for (int k = 0; k < N; ++k) add(values[k]);
  }
  if (whole + threadIdx.x < end) add(x[whole + threadIdx.x]);

  total = block_sum(total);
  if (threadIdx.x == 0) partial[int64_t{blockIdx.x} * gridDim.y + blockIdx.y] = total;
}

__global__ void add_pieces(const double* __restrict__ partial, int64_t pieces, int64_t count,
                           double* __restrict__ out) {
  int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= count) return;
  double total = 0;
  for (int64_t piece = 0; piece < pieces; ++piece) total += partial[i * pieces + piece];
  out[i] = total;
}

// One block.
__global__ void __launch_bounds__(kThreads)
    advance_kernel(UpdateRule rule, const double* __restrict__ sum_squares, int64_t count,
                   double* __restrict__ state) {
  double total = 0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) total += sum_squares[i];
  total = block_sum(total);
  if (threadIdx.x == 0) advance(*reinterpret_cast<UpdateState*>(state), rule, total);
}

int64_t pieces_of(int64_t chunk) {
  return (chunk + kPiece - 1) / kPiece;
}

template <Term kTerm>
void launch(cudaStream_t stream, const float* x, int64_t size, int64_t chunk, int64_t count,
            double* partial) {
  dim3 blocks(static_cast<unsigned>(count), static_cast<unsigned>(pieces_of(chunk)));
  if (on_16_bytes(x) && chunk % 4 == 0)
    sum_pieces<kTerm, 4><<<blocks, kThreads, 0, stream>>>(x, size, chunk, partial);
  else
    sum_pieces<kTerm, 1><<<blocks, kThreads, 0, stream>>>(x, size, chunk, partial);
}

}  // namespace

size_t chunk_sums_scratch(int64_t count, int64_t chunk) {
  return static_cast<size_t>(count * pieces_of(chunk)) * sizeof(double);
}

void chunk_sums(cudaStream_t stream, const float* x, int64_t size, int64_t chunk, int64_t count, Term term,
                double* out, void* scratch) {
  if (count == 0) return;
  auto* partial = static_cast<double*>(scratch);
  if (term == Term::square)
    launch<Term::square>(stream, x, size, chunk, count, partial);
  else
    launch<Term::value>(stream, x, size, chunk, count, partial);
  constexpr int threads = 128;
  auto blocks = static_cast<unsigned>((count + threads - 1) / threads);
  add_pieces<<<blocks, threads, 0, stream>>>(partial, pieces_of(chunk), count, out);
}

void advance_update(cudaStream_t stream, const UpdateRule& rule, const double* sum_squares, int64_t count,
                    double* state) {
  advance_kernel<<<1, kThreads, 0, stream>>>(rule, sum_squares, count, state);
}

}  // namespace llmft::cuda
