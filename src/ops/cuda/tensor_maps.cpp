#include "tensor_maps.hpp"

#include <cuda_runtime_api.h>

#include "llmft/device/cuda_device.hpp"

namespace llmft {
namespace {

constexpr size_t kMostMaps = 20000;

using Encode = decltype(&cuTensorMapEncodeTiled);

// By way of the runtime, so that nothing links to the driver.
Encode encode_function() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
  cuda_check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault,
                                              &found));
  if (found != cudaDriverEntryPointSuccess) internal_error("the driver has no cuTensorMapEncodeTiled");
  return reinterpret_cast<Encode>(function);
}

}  // namespace

bool can_map(const Tensor& x) {
  constexpr int64_t kMost = int64_t{1} << 31;
  return (x.dtype == DType::bf16 || x.dtype == DType::f16) && x.rows > 0 && x.cols > 0 && x.rows < kMost &&
         x.cols < kMost && x.ld % 8 == 0 && reinterpret_cast<uintptr_t>(x.data) % 16 == 0;
}

const CUtensorMap& TensorMaps::of(const Tensor& x, cuda::BoxShape box) {
  Key key = {static_cast<int64_t>(reinterpret_cast<uintptr_t>(x.data)),
             static_cast<int64_t>(x.dtype),
             x.rows,
             x.cols,
             x.ld,
             box.rows,
             box.cols};
  if (auto known = maps_.find(key); known != maps_.end()) return known->second;
  check(can_map(x) && box.cols == 64, "a matrix that the copy engine cannot read");
  static const Encode encode = encode_function();
  CUtensorMap map;
  cuuint64_t sizes[] = {static_cast<cuuint64_t>(x.cols), static_cast<cuuint64_t>(x.rows)};
  cuuint64_t pitches[] = {static_cast<cuuint64_t>(x.ld) * size_of(x.dtype)};
  cuuint32_t box_sizes[] = {static_cast<cuuint32_t>(box.cols), static_cast<cuuint32_t>(box.rows)};
  cuuint32_t every[] = {1, 1};
  CUresult status = encode(
      &map, x.dtype == DType::bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 2,
      x.data, sizes, pitches, box_sizes, every, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
      CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS)
    internal_error(fmt::format("cuTensorMapEncodeTiled: error {} for a matrix of {} x {}, rows {} apart",
                               static_cast<int>(status), x.rows, x.cols, x.ld));
  if (maps_.size() >= kMostMaps) maps_.clear();
  return maps_.emplace(key, map).first->second;
}

}  // namespace llmft
