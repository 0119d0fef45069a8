// A cluster of blocks owns a row and keeps it in its shared memory between the sum over the row and the
// gradient: the row is read once and written once. What does not fit is read again. The target's logit is
// read before the cluster's barrier, the gradient is written after it.
#include <cfloat>

#include <cooperative_groups.h>

#include "vector.cuh"

namespace llmft::cuda {
namespace {

namespace cg = cooperative_groups;

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kBatch = 4;         // vectors of a thread in flight
constexpr int kMaxCluster = 8;    // blocks; more is not portable
constexpr int kAimBytes = 32768;  // of a row held by a block: six blocks share a multiprocessor
constexpr int kMostBytes = 98304;

// Of some logits: the largest, and the sum of exp(logit - top).
struct LogSum {
  float top;
  float total;
};

__device__ LogSum merge(const LogSum& a, const LogSum& b) {
  float top = fmaxf(a.top, b.top);
  return {top, a.total * expf(a.top - top) + b.total * expf(b.top - top)};
}

template <class S, int N>
__device__ LogSum include(const LogSum& sum, const float (&values)[N]) {
  float top = sum.top;
#pragma unroll
  for (int i = 0; i < N; ++i) top = fmaxf(top, values[i]);
  float total = sum.total * exp_for<S>(sum.top - top);
#pragma unroll
  for (int i = 0; i < N; ++i) total += exp_for<S>(values[i] - top);
  return {top, total};
}

// The cluster's sum; every thread gets it. parts are shared memory.
__device__ LogSum sum_over_cluster(LogSum sum, const cg::cluster_group& cluster, LogSum* warp_parts,
                                   LogSum* block_part, LogSum* row_sum) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) {
    LogSum other = {__shfl_xor_sync(0xffffffffu, sum.top, step),
                    __shfl_xor_sync(0xffffffffu, sum.total, step)};
    sum = merge(sum, other);
  }
  if (threadIdx.x % kWarp == 0) warp_parts[threadIdx.x / kWarp] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int warp = 1; warp < kWarps; ++warp) sum = merge(sum, warp_parts[warp]);
    *block_part = sum;
  }
  cluster.sync();
  if (threadIdx.x == 0) {
    sum = *cluster.map_shared_rank(block_part, 0);
    for (unsigned rank = 1; rank < cluster.num_blocks(); ++rank)
      sum = merge(sum, *cluster.map_shared_rank(block_part, rank));
    *row_sum = sum;
  }
  __syncthreads();
  return *row_sum;
}

// A block has `slice` classes of a row; the first `held` of them (a multiple of N) stay in shared memory.
template <class S, int N>
__global__ void __launch_bounds__(kThreads)
    cross_entropy_kernel(S* __restrict__ logits, int64_t ld, const int32_t* __restrict__ targets, float scale,
                         const double* __restrict__ loss_scale, float* __restrict__ loss, int classes,
                         int slice, int held, bool want_gradient) {
  extern __shared__ uint4 shared_row[];
  __shared__ LogSum warp_parts[kWarps], block_part, row_sum;
  S* row_part = reinterpret_cast<S*>(shared_row);
  cg::cluster_group cluster = cg::this_cluster();
  int64_t row = blockIdx.x / cluster.num_blocks();
  int first = static_cast<int>(cluster.block_rank()) * slice;
  int count = min(slice, classes - first);  // may be negative: no classes
  S* x = logits + row * ld + first;
  auto target = static_cast<int>(checked(targets[row], classes));
  float target_logit = 0;
  if (threadIdx.x == 0) target_logit = to_float(logits[row * ld + target]);

  LogSum sum = {-FLT_MAX, 0};
  constexpr int step = kThreads * N;
  for (int base = static_cast<int>(threadIdx.x) * N; base < count; base += kBatch * step) {
    Pack<S, N> packs[kBatch];
#pragma unroll
    for (int b = 0; b < kBatch; ++b)
      if (base + b * step < count) packs[b] = Pack<S, N>::load(x + base + b * step);
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      int i = base + b * step;
      if (i >= count) continue;
      float values[N];
      packs[b].unpack(values);
      if (i < held) packs[b].store(row_part + i);
      sum = include<S, N>(sum, values);
    }
  }
  sum = sum_over_cluster(sum, cluster, warp_parts, &block_part, &row_sum);
  auto others_may_go = cluster.barrier_arrive();  // this block has read the others' parts
  if (cluster.block_rank() == 0 && threadIdx.x == 0) loss[row] = logf(sum.total) + (sum.top - target_logit);

  if (want_gradient) {
    if (loss_scale != nullptr) scale *= static_cast<float>(*loss_scale);
    float share = 1.0f / sum.total, factor = scale * share;
    int hit = target - first;
    for (int i = static_cast<int>(threadIdx.x) * N; i < count; i += step) {
      float values[N];
      load_floats<S, N>(i < held ? row_part + i : x + i, values);
#pragma unroll
      for (int k = 0; k < N; ++k) values[k] = exp_for<S>(values[k] - sum.top);
      bool has_target = hit >= i && hit < i + N;
#pragma unroll
      for (int k = 0; k < N; ++k)
        values[k] = has_target && hit == i + k ? scale * (values[k] * share - 1.0f) : factor * values[k];
      store_floats<S, N>(x + i, values);
    }
  }
  cluster.barrier_wait(std::move(others_may_go));
}

template <class S, int N>
void launch(cudaStream_t stream, const Matrix& logits, const int32_t* targets, float scale,
            const double* loss_scale, float* loss, bool want_gradient) {
  int classes = static_cast<int>(logits.cols), size = sizeof(S);
  auto slice_of = [&](int blocks) { return ((classes + blocks - 1) / blocks + N - 1) / N * N; };
  int blocks = 1;
  while (blocks < kMaxCluster && slice_of(blocks) * size > kAimBytes) blocks *= 2;
  int slice = slice_of(blocks);
  int held = !want_gradient ? 0 : slice * size <= kMostBytes ? slice : kMostBytes / (N * size) * N;
  auto bytes = static_cast<size_t>(held * size + 15) / 16 * 16;

  auto kernel = cross_entropy_kernel<S, N>;
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kMostBytes);
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(logits.rows * blocks));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = bytes;
  config.stream = stream;
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = static_cast<unsigned>(blocks);
  cluster.val.clusterDim.y = 1;
  cluster.val.clusterDim.z = 1;
  config.attrs = &cluster;
  config.numAttrs = 1;
  cudaLaunchKernelEx(&config, kernel, static_cast<S*>(logits.data), logits.ld, targets, scale, loss_scale,
                     loss, classes, slice, held, want_gradient);
}

}  // namespace

void cross_entropy(cudaStream_t stream, const Matrix& logits, const int32_t* targets, float scale,
                   const double* loss_scale, float* loss, bool want_gradient) {
  if (logits.rows == 0) return;
  with_type(logits.type, [&](auto type) {
    using S = typename decltype(type)::type;
    bool vectors = rows_on_16_bytes(logits) && logits.cols % static_cast<int64_t>(16 / sizeof(S)) == 0;
    with_width<S>(vectors, [&](auto n) {
      launch<S, n()>(stream, logits, targets, scale, loss_scale, loss, want_gradient);
    });
  });
}

}  // namespace llmft::cuda
