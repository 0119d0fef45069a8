// Matrix products by cuBLASLt. Algorithms differ by 5 to 30 % on the same shape, and its ranking's first is
// rarely the fastest: a choice is made once per shape (GemmTuning) and kept. The dimension that changes with
// every micro-batch, the number of tokens, is rounded up for that, so that few choices serve all.
// Algorithms that reduce with atomics or in the output's type are never taken: results repeat bit for bit
// for one algorithm, and every element is one f32 sum rounded once.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include <cublasLt.h>

#include "../gemm_choices.hpp"
#include "llmft/device/cuda_device.hpp"
#include "llmft/ops/backend.hpp"

namespace llmft {

struct GemmArguments {
  Layout layout;
  Tensor a, b, c, d;  // c: as d where beta is 0
  float alpha;
  float beta;
};

class Gemm {
 public:
  Gemm(CudaDevice& device, MatmulMode mode, const GemmTuning& tuning);
  ~Gemm();

  // Shapes and dtypes are checked, no dimension is 0.
  void run(const GemmArguments& arguments);

  // For products that are made of others: whether trials may run now, seconds of one run of what is launched
  // on the device's stream, and where choices are kept.
  bool may_time() const;
  double seconds_of(const std::function<void()>& launch);
  GemmChoices& choices() { return *choices_; }

 private:
  struct Problem;
  struct Candidate {
    cublasLtMatmulAlgo_t algorithm;
  };

  GemmKey key_of(const GemmArguments& arguments) const;
  cublasLtMatmulAlgo_t choose(const GemmArguments& arguments, Problem& problem, const GemmKey& exact);
  std::vector<Candidate> ranking(Problem& ranked, Problem& runnable) const;
  std::optional<GemmAlgorithm> choice_of_more_tokens(GemmKey key, Layout layout) const;
  bool can_run(Problem& problem, const cublasLtMatmulAlgo_t& algorithm) const;
  size_t fastest(const GemmArguments& arguments, Problem& problem, const std::vector<Candidate>& candidates);
  // Seconds of one product; infinity where it cannot run.
  double seconds(const GemmArguments& arguments, Problem& problem, const Candidate& candidate);
  cublasStatus_t launch(const GemmArguments& arguments, Problem& problem,
                        const cublasLtMatmulAlgo_t& algorithm);

  CudaDevice& device_;
  MatmulMode mode_;
  GemmTuning tuning_;
  cublasLtHandle_t handle_ = nullptr;
  Buffer workspace_;
  cudaEvent_t begin_ = nullptr;
  cudaEvent_t end_ = nullptr;
  std::map<GemmKey, cublasLtMatmulAlgo_t> exact_;  // checked for these very sizes
  std::unique_ptr<GemmChoices> choices_;           // by rounded sizes
};

}  // namespace llmft
