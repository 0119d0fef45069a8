// The only file that includes cuDNN's C++ front end, which takes a minute to compile. The front end looks its
// symbols up at run time, so that the program starts on machines without a driver.
#include "attention_cudnn.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <string>
#include <unordered_map>

#include <cudnn.h>
#include <dlfcn.h>

#define NV_CUDNN_FRONTEND_USE_DYNAMIC_LOADING
#define CUDNN_FRONTEND_SKIP_JSON_LIB
#include <cudnn_frontend.h>

#include "../cuda_sizes.hpp"
#include "attention_kernels.hpp"
#include "llmft/base/log.hpp"
#include "matrix.hpp"

namespace cudnn_frontend {
// The program itself, which is linked with cuDNN.
void* cudnn_dlhandle = dlopen(nullptr, RTLD_NOW);
}  // namespace cudnn_frontend

namespace llmft {
namespace {

namespace fe = cudnn_frontend;
using fe::graph::Graph;
using fe::graph::Tensor_attributes;
using Attributes = std::shared_ptr<Tensor_attributes>;

constexpr int64_t kHeadDim = 64;
constexpr size_t kOldest = 91800;  // none older was tried on packed documents

// Names of a graph's tensors.
enum Id : int64_t { kQ = 1, kK, kV, kOut, kLse, kLengths, kLengthsAgain, kOffsets };

// Which offsets belong to which tensor: entries of DocumentTables::strides.
enum Offset { kOffQ, kOffK, kOffV, kOffOut, kOffLse, kOffCount };
static_assert(kOffCount <= cuda::DocumentTables::kMost);

bool on_16_bytes(const Tensor& x) {
  return reinterpret_cast<uintptr_t>(x.data) % 16 == 0 && x.ld % 8 == 0;
}

void reserve(Buffer& buffer, CudaDevice& device, size_t bytes) {
  if (buffer.bytes() >= bytes) return;
  buffer = Buffer();
  buffer = Buffer(device, bytes, MemoryPart::workspace);
}

}  // namespace

class CudnnAttention::Library {
 public:
  explicit Library(cudaStream_t stream) {
    std::string runtime = fmt::format("libcudart.so.{}", CUDART_VERSION / 1000);
    setenv("CUDNN_FRONTEND_CUDART_LIB_NAME", runtime.c_str(), 0);
    check_status(cudnnCreate(&handle_));
    check_status(cudnnSetStream(handle_, stream));
  }
  ~Library() { cudnnDestroy(handle_); }
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;

  cudnnHandle_t handle() const { return handle_; }

 private:
  static void check_status(cudnnStatus_t status) {
    if (status == CUDNN_STATUS_SUCCESS) return;
    if (status == CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED) cuda_check(cudaErrorMemoryAllocation);
    user_error(
        "--device cuda: cuDNN {} cannot start here ({}); install one cuDNN 9.18 or newer for CUDA {}, whole "
        "and "
        "alone in LD_LIBRARY_PATH, or set LLMFT_CUDA_LIBS for a bundle",
        cudnnGetVersion(), cudnnGetErrorString(status), CUDART_VERSION / 1000);
  }
  cudnnHandle_t handle_ = nullptr;
};

struct CudnnAttention::Plan {
  int64_t slots;
  int64_t tokens;  // the most it takes
  std::array<int64_t, kOffCount> strides;
  std::shared_ptr<Graph> graph;
  size_t workspace = 0;
};

namespace {

// Makes a graph's tensors: [slots, heads, tokens, columns], documents at offsets.
class GraphMaker {
 public:
  GraphMaker(const AttentionShape& shape, DType type, int64_t slots, int64_t tokens,
             const std::array<int64_t, kOffCount>& strides)
      : shape_(shape), slots_(slots), tokens_(tokens), strides_(strides) {
    graph_->set_io_data_type(type == DType::bf16 ? fe::DataType_t::BFLOAT16 : fe::DataType_t::HALF)
        .set_intermediate_data_type(fe::DataType_t::FLOAT)
        .set_compute_data_type(fe::DataType_t::FLOAT);
    lengths_ = list("lengths", kLengths, slots_, fe::DataType_t::INT32);
    lengths_again_ = list("lengths_again", kLengthsAgain, slots_, fe::DataType_t::INT32);
  }

  std::shared_ptr<Graph> forward() {
    auto options = fe::graph::SDPA_attributes().set_name("attention").set_generate_stats(true);
    mask(options);
    auto [out, lse] = graph_->sdpa(input(kQ, kOffQ, shape_.heads), input(kK, kOffK, shape_.kv_heads),
                                   input(kV, kOffV, shape_.kv_heads), options);
    output(out, kOut, kOffOut, shape_.heads);
    output(lse, kLse, kOffLse, shape_.heads);
    place_lse(*lse);
    return graph_;
  }

 private:
  Attributes list(const char* name, int64_t id, int64_t count, fe::DataType_t type) {
    return graph_->tensor(Tensor_attributes()
                              .set_name(name)
                              .set_uid(id)
                              .set_dim({count, 1, 1, 1})
                              .set_stride({1, 1, 1, 1})
                              .set_data_type(type));
  }
  Attributes offsets(Offset which) {
    Attributes& made = offsets_[which];
    if (!made) {
      std::string name = fmt::format("offsets_{}", static_cast<int>(which));
      made = list(name.c_str(), int64_t{kOffsets} + static_cast<int64_t>(which), slots_ + 1,
                  fe::DataType_t::INT64);
    }
    return made;
  }
  void place(Tensor_attributes& x, int64_t id, Offset which, int64_t heads) {
    int64_t stride = strides_[which];
    x.set_uid(id)
        .set_dim({slots_, heads, tokens_, kHeadDim})
        .set_stride({tokens_ * stride, kHeadDim, stride, 1})
        .set_ragged_offset(offsets(which));
  }
  // One f32 a token and head.
  void place_lse(Tensor_attributes& x) {
    int64_t stride = strides_[kOffLse];
    x.set_data_type(fe::DataType_t::FLOAT)
        .set_dim({slots_, shape_.heads, tokens_, 1})
        .set_stride({tokens_ * stride, 1, stride, 1});
  }
  Attributes input(int64_t id, Offset which, int64_t heads) {
    Tensor_attributes x;
    x.set_name(fmt::format("tensor_{}", id));
    place(x, id, which, heads);
    return graph_->tensor(x);
  }
  void output(const Attributes& x, int64_t id, Offset which, int64_t heads) {
    x->set_output(true);
    place(*x, id, which, heads);
  }
  template <class Options>
  void mask(Options& options) {
    options.set_attn_scale(1.0f / std::sqrt(static_cast<float>(kHeadDim)));
    options.set_padding_mask(true).set_seq_len_q(lengths_).set_seq_len_kv(lengths_again_);
    options.set_diagonal_alignment(fe::DiagonalAlignment_t::TOP_LEFT);
    options.set_diagonal_band_right_bound(0);
  }

  AttentionShape shape_;
  int64_t slots_;
  int64_t tokens_;
  std::array<int64_t, kOffCount> strides_;
  std::shared_ptr<Graph> graph_ = std::make_shared<Graph>();
  Attributes lengths_, lengths_again_;
  std::array<Attributes, kOffCount> offsets_;
};

// Empty: done, else why not.
std::string build(Graph& graph, cudnnHandle_t handle, size_t& workspace) {
  try {
    auto status = graph.build(handle, {fe::HeurMode_t::A, fe::HeurMode_t::FALLBACK});
    int64_t bytes = 0;
    if (status.is_good()) status = graph.get_workspace_size(bytes);
    workspace = static_cast<size_t>(bytes);
    if (status.is_good()) return "";
    return status.get_message().empty() ? "no reason given" : status.get_message();
  } catch (const std::exception& e) {  // a library that it loads is not there
    return e.what();
  }
}

}  // namespace

CudnnAttention::CudnnAttention(CudaDevice& device) : device_(device) {}
CudnnAttention::~CudnnAttention() = default;

// Null where cuDNN does not take it.
CudnnAttention::Plan* CudnnAttention::plan(const AttentionArguments& a) {
  if (a.shape.head_dim != kHeadDim || size_of(a.q.dtype) != 2 || a.lse.ld != a.shape.heads) return nullptr;
  for (const Tensor* x : {&a.q, &a.k, &a.v, &a.out})
    if (!on_16_bytes(*x)) return nullptr;

  std::array<int64_t, kOffCount> strides = {a.q.ld, a.k.ld, a.v.ld, a.out.ld, a.lse.ld};
  int64_t slots = cuda_sizes::attention_slots(a.cu_seqlens.size - 1),
          tokens = cuda_sizes::attention_tokens(a.q.rows);
  Key key = {static_cast<int64_t>(a.q.dtype), a.shape.heads, a.shape.kv_heads, slots, tokens};
  key.insert(key.end(), strides.begin(), strides.end());
  auto found = plans_.find(key);
  if (found != plans_.end()) return found->second.get();

  auto& plan = plans_[key];
  if (cudnnGetVersion() < kOldest) {
    if (plans_.size() == 1)
      log::warn("cuDNN {} is older than {}: attention runs on slower kernels", cudnnGetVersion(), kOldest);
    return nullptr;
  }
  if (!library_) library_ = std::make_unique<Library>(device_.stream());
  GraphMaker maker(a.shape, a.q.dtype, slots, tokens, strides);
  auto made = std::make_unique<Plan>(Plan{slots, tokens, strides, maker.forward()});
  std::string why = build(*made->graph, library_->handle(), made->workspace);
  if (!why.empty()) {
    log::warn("cuDNN has no attention for this shape ({}): slower kernels do it", why);
    return nullptr;
  }
  plan = std::move(made);
  return plan.get();
}

// It grows with the documents too: a rehearsal takes what as many documents as tokens need.
void CudnnAttention::reserve_workspace(AttentionArguments a, const Plan& plan_of_a) {
  size_t bytes = plan_of_a.workspace;
  if (device_.phase() == DevicePhase::rehearsing) {
    a.cu_seqlens.size = a.q.rows + 1;
    if (const Plan* most = plan(a)) bytes = std::max(bytes, most->workspace);
  }
  reserve(workspace_, device_, bytes);
}

bool CudnnAttention::forward(const AttentionArguments& a) {
  Plan* found = plan(a);
  if (found == nullptr) return false;
  const Plan& plan = *found;
  reserve_workspace(a, plan);
  int64_t pitch = cuda_sizes::attention_table_pitch(plan.slots);
  size_t lengths_bytes = cuda_sizes::attention_lengths(plan.slots);
  reserve(tables_, device_,
          std::max(cuda_sizes::attention_tables(plan.slots, kOffCount),
                   cuda_sizes::attention_most_tables(a.q.rows, kOffCount)));
  auto* lengths = static_cast<int32_t*>(tables_.data());
  auto* offsets = reinterpret_cast<int64_t*>(static_cast<std::byte*>(tables_.data()) + lengths_bytes);
  cuda::DocumentTables tables{plan.slots, lengths, offsets, pitch, kOffCount, {}};
  std::copy(plan.strides.begin(), plan.strides.end(), tables.strides);
  cuda::document_tables(device_.stream(), a.cu_seqlens.data, a.cu_seqlens.size - 1, tables);
  cuda_check(cudaGetLastError());

  std::unordered_map<int64_t, void*> tensors = {
      {kQ, a.q.data},     {kK, a.k.data},      {kV, a.v.data},          {kOut, a.out.data},
      {kLse, a.lse.data}, {kLengths, lengths}, {kLengthsAgain, lengths}};
  for (int i = 0; i < kOffCount; ++i) tensors[kOffsets + i] = offsets + i * pitch;
  auto status = plan.graph->execute(library_->handle(), tensors, workspace_.data());
  check(status.is_good(), status.get_message().c_str());
  return true;
}

}  // namespace llmft
