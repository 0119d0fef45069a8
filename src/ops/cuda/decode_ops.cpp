// Checks shapes, launches what decode_kernels.hpp declares, records and replays steps.
#include "llmft/ops/decode_ops.hpp"

#include <algorithm>
#include <cstddef>
#include <map>
#include <vector>

#include "decode_kernels.hpp"
#include "llmft/device/cuda_device.hpp"
#include "llmft/ops/backend.hpp"
#include "matrix.hpp"

namespace llmft {
namespace {

static_assert(sizeof(SampleRow) == sizeof(cuda::DrawRow));
static_assert(offsetof(SampleRow, random_high) == offsetof(cuda::DrawRow, random_high));

// The first time work runs as it is: libraries choose algorithms and buffers reach their size, neither of
// which can be recorded. The second time it is recorded.
class CudaRecords final : public StepRecords {
 public:
  explicit CudaRecords(CudaDevice& device) : device_(device) {}
  ~CudaRecords() override {
    for (auto& [key, record] : records_)
      if (record != nullptr) cudaGraphExecDestroy(record);
  }

  void run(uint64_t key, const std::function<void()>& work) override {
    auto [found, first] = records_.try_emplace(key, nullptr);
    if (first) return work();
    if (found->second == nullptr) found->second = record(work);
    cuda_check(cudaGraphLaunch(found->second, device_.stream()));
  }

 private:
  cudaGraphExec_t record(const std::function<void()>& work) {
    cudaGraph_t graph = nullptr;
    cuda_check(cudaStreamBeginCapture(device_.stream(), cudaStreamCaptureModeThreadLocal));
    try {
      work();
    } catch (...) {
      cudaStreamEndCapture(device_.stream(), &graph);
      if (graph != nullptr) cudaGraphDestroy(graph);
      throw;
    }
    cuda_check(cudaStreamEndCapture(device_.stream(), &graph));
    cudaGraphExec_t executable = nullptr;
    cudaError_t status = cudaGraphInstantiate(&executable, graph, 0);
    cudaGraphDestroy(graph);
    cuda_check(status);
    return executable;
  }

  CudaDevice& device_;
  std::map<uint64_t, cudaGraphExec_t> records_;
};

class CudaDecodeOps final : public DecodeOps {
 public:
  explicit CudaDecodeOps(CudaDevice& device) : device_(device) {}

  Device& device() override { return device_; }
  bool asynchronous() const override { return true; }
  bool takes_rows(int64_t rows, DType type) const override {
    return rows <= cuda::kMostSkinnyRows && size_of(type) == 2;
  }

  void rope_append(const AttentionShape& shape, const CacheRows& rows, const Tensor& table, const Tensor& qkv,
                   const KvCache& cache) override {
    check(qkv.cols == (shape.heads + 2 * shape.kv_heads) * shape.head_dim && rows.slots.size == qkv.rows &&
              rows.positions.size == qkv.rows && cache.k.dtype == qkv.dtype && table.cols == shape.head_dim &&
              table.contiguous() && table.dtype == DType::f32 && table.rows >= cache.context,
          "rope_append: shapes differ");
    cuda::rope_append(device_.stream(), rows_of(rows), matrix_of(table), matrix_of(qkv),
                      cache_of(shape, cache));
    cuda_check(cudaGetLastError());
  }

  void attend(const AttentionShape& shape, const CacheRows& rows, int64_t longest, const Tensor& q,
              const KvCache& cache, const Tensor& out) override {
    check(q.cols == shape.heads * shape.head_dim && out.cols == q.cols && out.rows == q.rows &&
              rows.slots.size == q.rows && q.dtype == cache.k.dtype && out.dtype == q.dtype &&
              shape.heads % shape.kv_heads == 0,
          "attend: shapes differ");
    cuda::DecodeCache c = cache_of(shape, cache);
    check(aligned(q) && aligned(cache.k) && aligned(cache.v), "attend: rows do not start on 16 bytes");
    int splits = cuda::attend_splits(c, q.rows, longest, device_.multiprocessors());
    reserve(scratch_, cuda::attend_scratch_floats(c, q.rows, splits) * sizeof(float));
    reserve(counters_, cuda::attend_counters(c, q.rows) * sizeof(uint32_t));
    cuda::attend(device_.stream(), rows_of(rows), c, matrix_of(q), matrix_of(out), longest, splits,
                 static_cast<float*>(scratch_.back().data()),
                 static_cast<uint32_t*>(counters_.back().data()));
    cuda_check(cudaGetLastError());
  }

  void copy_slot(const AttentionShape& shape, const KvCache& cache, int64_t from, int64_t to,
                 int64_t count) override {
    if (count == 0) return;
    for (const Tensor& x : {cache.k, cache.v}) {
      size_t row = static_cast<size_t>(x.ld) * size_of(x.dtype),
             pitch = row * static_cast<size_t>(cache.context);
      auto slot = [&](int64_t s) { return x.row_range(s * shape.kv_heads * cache.context, 1).data; };
      cuda_check(cudaMemcpy2DAsync(slot(to), pitch, slot(from), pitch, row * static_cast<size_t>(count),
                                   static_cast<size_t>(shape.kv_heads), cudaMemcpyDeviceToDevice,
                                   device_.stream()));
    }
  }

  void gate_rows(const Tensor& tail, Indices wanted) override {
    check(wanted.size == tail.rows, "gate_rows: shapes differ");
    cuda::gate_rows(device_.stream(), matrix_of(tail), wanted.data);
    cuda_check(cudaGetLastError());
  }

  void norm_linear(const Tensor& x, const Tensor& norm, float eps, const LinearWeight& w, Indices adapted,
                   const Tensor& y) override {
    check(y.rows == x.rows && y.cols == w.n(), "norm_linear: shapes differ");
    product(x, norm, eps, w, adapted, {.y = matrix_of(y)});
  }

  void norm_swiglu(const Tensor& x, const Tensor& norm, float eps, const LinearWeight& w, Indices adapted,
                   const Tensor& h) override {
    check(h.rows == x.rows && 2 * h.cols == w.n() && h.dtype == x.dtype, "norm_swiglu: shapes differ");
    product(x, norm, eps, w, adapted, {.y = matrix_of(h), .swiglu = true});
  }

  void linear_add(const Tensor& x, const LinearWeight& w, Indices adapted, const Tensor& y) override {
    check(y.rows == x.rows && y.cols == w.n() && y.dtype == x.dtype, "linear_add: shapes differ");
    product(x, {}, 0, w, adapted, {.y = matrix_of(y), .add = true});
  }

  void sample(const Tensor& logits, const SampleRow* rows, const Tensor& seen, int32_t* tokens) override {
    check(logits.dtype == DType::f32 && seen.cols == seen_words(logits.cols) && seen.contiguous(),
          "sample: shapes differ");
    cuda::sample(device_.stream(), matrix_of(logits), reinterpret_cast<const cuda::DrawRow*>(rows),
                 static_cast<uint32_t*>(seen.data), seen.cols, tokens);
    cuda_check(cudaGetLastError());
  }

  std::unique_ptr<StepRecords> make_records() override { return std::make_unique<CudaRecords>(device_); }

 private:
  // Records hold addresses: a buffer that has become too small stays, beside its successor.
  void reserve(std::vector<Buffer>& buffers, size_t bytes) {
    if (!buffers.empty() && buffers.back().bytes() >= bytes && buffers.back().bytes() > 0) return;
    buffers.emplace_back(device_, std::max<size_t>(2 * bytes, 4096), MemoryPart::workspace);
    device_.zero(buffers.back().data(), buffers.back().bytes());
  }

  static bool aligned(const Tensor& x) {
    return reinterpret_cast<uintptr_t>(x.data) % 16 == 0 &&
           (x.rows <= 1 || static_cast<size_t>(x.ld) * size_of(x.dtype) % 16 == 0);
  }
  static cuda::DecodeRows rows_of(const CacheRows& rows) {
    return {rows.slots.data, rows.positions.data, rows.slots.size};
  }
  static cuda::DecodeCache cache_of(const AttentionShape& shape, const KvCache& cache) {
    cuda::Scalar type = scalar_of(cache.k.dtype);
    if (shape.head_dim > cuda::kMostDecodeHeadDim || shape.head_dim % cuda::head_dim_unit(type) != 0)
      user_error(
          "--device cuda: generation takes attention heads of up to {} columns in multiples of {}, and this "
          "model's "
          "have {}; use --device cpu",
          cuda::kMostDecodeHeadDim, cuda::head_dim_unit(type), shape.head_dim);
    return {cache.k.data,
            cache.v.data,
            type,
            cache.context,
            static_cast<int>(shape.heads),
            static_cast<int>(shape.kv_heads),
            static_cast<int>(shape.head_dim)};
  }

  // s has what the caller wants beside the product itself.
  void product(const Tensor& x, const Tensor& norm, float eps, const LinearWeight& w, Indices adapted,
               cuda::Skinny s) {
    check(x.cols == w.k() && x.rows <= cuda::kMostSkinnyRows && w.w_ext.dtype == x.dtype &&
              (adapted.size == 0 || adapted.size == x.rows),
          "linear: shapes differ");
    s.x = matrix_of(x);
    s.norm = norm.data;
    s.eps = eps;
    bool extended = w.extension != 0 && adapted.size != 0;
    s.w = matrix_of(w.w_ext.row_range(0, w.n()).col_range(0, w.k() + (extended ? w.extension : 0)));
    if (extended) {
      reserve(tail_, static_cast<size_t>(cuda::kMostSkinnyRows * w.extension) * size_of(x.dtype));
      Tensor tail = tail_.back().view(x.dtype, x.rows, w.extension);
      cuda::Skinny down = s;
      down.w = matrix_of(w.w_ext.row_range(w.n(), w.extension).col_range(0, w.k()));
      down.y = matrix_of(tail);
      down.swiglu = down.add = false;
      down.gate = adapted.data;
      cuda::skinny(device_.stream(), down, device_.multiprocessors());
      s.tail = matrix_of(tail);
    }
    cuda::skinny(device_.stream(), s, device_.multiprocessors());
    cuda_check(cudaGetLastError());
  }

  CudaDevice& device_;
  std::vector<Buffer> scratch_, counters_, tail_;
};

}  // namespace

std::unique_ptr<DecodeOps> make_cuda_decode_ops(Device& device) {
  auto* cuda = dynamic_cast<CudaDevice*>(&device);
  check(cuda != nullptr, "CUDA ops on another device");
  return std::make_unique<CudaDecodeOps>(*cuda);
}

}  // namespace llmft
