#include "gemm.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "../cuda_sizes.hpp"

namespace llmft {
namespace {

constexpr size_t kWorkspaceBytes = cuda_sizes::kGemmWorkspace;
constexpr size_t kMostExact = 20000;  // shapes remembered one by one
constexpr int64_t kAlignment = 16;    // bytes; more gains nothing

void cublas_check(cublasStatus_t status, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  if (status == CUBLAS_STATUS_ALLOC_FAILED) cuda_check(cudaErrorMemoryAllocation, file, line);
  if (status == CUBLAS_STATUS_NOT_INITIALIZED || status == CUBLAS_STATUS_ARCH_MISMATCH)
    user_error(
        "--device cuda: cuBLASLt {} cannot start here ({}); install cuBLAS of CUDA {} or newer, or see with "
        "nvidia-smi whether the GPU's memory is used up",
        cublasLtGetVersion(), cublasLtGetStatusString(status), CUDART_VERSION / 1000);
  internal_error(fmt::format("cuBLASLt: {}", cublasLtGetStatusString(status)), file, line);
}

cudaDataType_t cuda_type(DType type) {
  return type == DType::f32 ? CUDA_R_32F : type == DType::bf16 ? CUDA_R_16BF : CUDA_R_16F;
}

// The largest power of two up to kAlignment that divides the address.
int64_t alignment_of(const void* data) {
  auto address = reinterpret_cast<uintptr_t>(data);
  int64_t alignment = kAlignment;
  while (address % static_cast<uintptr_t>(alignment) != 0) alignment /= 2;
  return alignment;
}

// Choices are shared by all sizes that round to the same.
int64_t rounded(int64_t tokens) {
  int64_t unit = tokens <= 64 ? 1 : tokens <= 1024 ? 128 : 1024;
  return (tokens + unit - 1) / unit * unit;
}

bool adds_in_place(const GemmArguments& g) {
  return g.beta != 0 && g.c.data == g.d.data;
}

int64_t inner_size(const GemmArguments& g) {
  return g.layout == Layout::tn ? g.a.rows : g.a.cols;
}

enum KeyField { kLayout, kIn, kOut, kMode, kAdds, kInPlace, kM, kN, kK, kLdA, kLdB, kLdC, kLdD, kAlign };

// The same problem with its number of tokens rounded up: rows of the result, or the inner size of a wgrad.
GemmKey rounded(const GemmKey& key, Layout layout) {
  GemmKey result = key;
  auto& tokens = result[layout == Layout::tn ? kK : kM];
  tokens = rounded(tokens);
  return result;
}

GemmAlgorithm words_of(const cublasLtMatmulAlgo_t& algorithm) {
  GemmAlgorithm words;
  std::copy(std::begin(algorithm.data), std::end(algorithm.data), words.begin());
  return words;
}
cublasLtMatmulAlgo_t algorithm_of(const GemmAlgorithm& words) {
  cublasLtMatmulAlgo_t algorithm;
  std::copy(words.begin(), words.end(), std::begin(algorithm.data));
  return algorithm;
}

}  // namespace

// cuBLASLt's view of a product. It counts by columns, so a row-major matrix is its transpose to it, and
// D = op(A) op(B) is asked for as D^T = op(B)^T op(A)^T: its A is our B.
struct Gemm::Problem {
  cublasLtMatmulDescOpaque_t operation;
  cublasLtMatrixLayoutOpaque_t a, b, c, d;
  cublasLtMatmulPreferenceOpaque_t preference;

  Problem(const GemmKey& key, const GemmArguments& g, MatmulMode mode) {
    int64_t m = key[kM], n = key[kN], k = key[kK];
    DType in = g.a.dtype, out = g.d.dtype;
    bool tf32 = in == DType::f32 && mode == MatmulMode::tf32;
    cublas_check(cublasLtMatmulDescInit(&operation, tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F,
                                        CUDA_R_32F));
    cublasOperation_t first = g.layout == Layout::nt ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasOperation_t second = g.layout == Layout::tn ? CUBLAS_OP_T : CUBLAS_OP_N;
    set(CUBLASLT_MATMUL_DESC_TRANSA, first);
    set(CUBLASLT_MATMUL_DESC_TRANSB, second);
    auto init = [](cublasLtMatrixLayoutOpaque_t& layout, DType type, int64_t rows, int64_t cols, int64_t ld) {
      cublas_check(cublasLtMatrixLayoutInit(&layout, cuda_type(type), static_cast<uint64_t>(rows),
                                            static_cast<uint64_t>(cols), ld));
    };
    init(a, in, first == CUBLAS_OP_T ? k : n, first == CUBLAS_OP_T ? n : k, g.b.ld);
    init(b, in, second == CUBLAS_OP_T ? m : k, second == CUBLAS_OP_T ? k : m, g.a.ld);
    init(c, out, n, m, g.c.ld);
    init(d, out, n, m, g.d.ld);

    cublas_check(cublasLtMatmulPreferenceInit(&preference));
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspaceBytes);
    prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
    auto aligned = [&](cublasLtMatmulPreferenceAttributes_t attribute, const Tensor& x) {
      prefer(attribute, static_cast<uint32_t>(alignment_of(x.data)));
    };
    aligned(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, g.b);
    aligned(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, g.a);
    aligned(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, g.c);
    aligned(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, g.d);
  }

  template <class T>
  void set(cublasLtMatmulDescAttributes_t attribute, T value) {
    cublas_check(cublasLtMatmulDescSetAttribute(&operation, attribute, &value, sizeof value));
  }
  template <class T>
  void prefer(cublasLtMatmulPreferenceAttributes_t attribute, T value) {
    cublas_check(cublasLtMatmulPreferenceSetAttribute(&preference, attribute, &value, sizeof value));
  }
};

Gemm::Gemm(CudaDevice& device, MatmulMode mode, const GemmTuning& tuning)
    : device_(device),
      mode_(mode),
      tuning_(tuning),
      workspace_(device, kWorkspaceBytes, MemoryPart::workspace) {
  cublas_check(cublasLtCreate(&handle_));
  cuda_check(cudaEventCreate(&begin_));
  cuda_check(cudaEventCreate(&end_));
  bool timed = tuning.choice == GemmTuning::Choice::timed;
  std::string made = fmt::format("{}, {} multiprocessors, cuBLASLt {}", device.name(),
                                 device.multiprocessors(), cublasLtGetVersion());
  choices_ = std::make_unique<GemmChoices>(timed ? tuning.file : std::filesystem::path(), made);
}

Gemm::~Gemm() {
  cudaEventDestroy(begin_);
  cudaEventDestroy(end_);
  cublasLtDestroy(handle_);
}

GemmKey Gemm::key_of(const GemmArguments& g) const {
  GemmKey key{};
  key[kLayout] = static_cast<int64_t>(g.layout);
  key[kIn] = static_cast<int64_t>(g.a.dtype);
  key[kOut] = static_cast<int64_t>(g.d.dtype);
  key[kMode] = static_cast<int64_t>(mode_);
  key[kAdds] = g.beta != 0;
  key[kInPlace] = g.c.data == g.d.data;
  key[kM] = g.d.rows;
  key[kN] = g.d.cols;
  key[kK] = inner_size(g);
  key[kLdA] = g.a.ld;
  key[kLdB] = g.b.ld;
  key[kLdC] = g.c.ld;
  key[kLdD] = g.d.ld;
  for (const Tensor* x : {&g.a, &g.b, &g.c, &g.d}) key[kAlign] = key[kAlign] * 32 + alignment_of(x->data);
  return key;
}

void Gemm::run(const GemmArguments& arguments) {
  GemmKey key = key_of(arguments);
  Problem problem(key, arguments, mode_);
  auto known = exact_.find(key);
  if (known == exact_.end()) {
    if (exact_.size() >= kMostExact) exact_.clear();
    known = exact_.emplace(key, choose(arguments, problem, key)).first;
  }
  cublas_check(launch(arguments, problem, known->second));
}

cublasLtMatmulAlgo_t Gemm::choose(const GemmArguments& arguments, Problem& problem, const GemmKey& exact) {
  GemmKey key = rounded(exact, arguments.layout);
  if (auto found = choices_->find(key))
    if (auto algorithm = algorithm_of(*found); can_run(problem, algorithm)) return algorithm;

  // ranked for the rounded sizes, so that the choice does not depend on which of them came first
  Problem representative(key, arguments, mode_);
  auto candidates = ranking(representative, problem);
  if (candidates.empty()) candidates = ranking(problem, problem);
  if (candidates.empty())
    internal_error(fmt::format("cuBLASLt has no algorithm for a product of {} x {} x {} in {}, layout {}",
                               exact[kM], exact[kN], exact[kK], name_of(arguments.a.dtype), exact[kLayout]));
  bool time = may_time();
  if (time && adds_in_place(arguments) && device_.phase() == DevicePhase::sealed) {
    if (auto found = choice_of_more_tokens(key, arguments.layout))
      if (auto algorithm = algorithm_of(*found); can_run(problem, algorithm)) return algorithm;
    time = false;
  }
  cublasLtMatmulAlgo_t algorithm = candidates[time ? fastest(arguments, problem, candidates) : 0].algorithm;
  choices_->add(key, words_of(algorithm), time);
  return algorithm;
}

// Where there is no memory for a trial: what was chosen for the next larger number of tokens.
std::optional<GemmAlgorithm> Gemm::choice_of_more_tokens(GemmKey key, Layout layout) const {
  constexpr int kSizesTried = 64;
  auto& tokens = key[layout == Layout::tn ? kK : kM];
  for (int i = 0; i < kSizesTried; ++i) {
    tokens = rounded(tokens + 1);
    if (auto found = choices_->find(key)) return found;
  }
  return std::nullopt;
}

std::vector<Gemm::Candidate> Gemm::ranking(Problem& ranked, Problem& runnable) const {
  constexpr int most = 32;
  cublasLtMatmulHeuristicResult_t results[most];
  int count = 0;
  cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
      handle_, &ranked.operation, &ranked.a, &ranked.b, &ranked.c, &ranked.d, &ranked.preference,
      std::clamp(tuning_.candidates, 1, most), results, &count);
  std::vector<Candidate> candidates;
  if (status != CUBLAS_STATUS_SUCCESS) return candidates;
  for (int i = 0; i < count; ++i)
    if (results[i].state == CUBLAS_STATUS_SUCCESS && can_run(runnable, results[i].algo))
      candidates.push_back({results[i].algo});
  return candidates;
}

bool Gemm::can_run(Problem& p, const cublasLtMatmulAlgo_t& algorithm) const {
  cublasLtMatmulHeuristicResult_t result;
  return cublasLtMatmulAlgoCheck(handle_, &p.operation, &p.a, &p.b, &p.c, &p.d, &algorithm, &result) ==
             CUBLAS_STATUS_SUCCESS &&
         result.workspaceSize <= kWorkspaceBytes;
}

// A graph being captured would record the trials.
bool Gemm::may_time() const {
  if (tuning_.choice != GemmTuning::Choice::timed) return false;
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  cuda_check(cudaStreamIsCapturing(device_.stream(), &capture));
  return capture == cudaStreamCaptureStatusNone;
}

size_t Gemm::fastest(const GemmArguments& arguments, Problem& problem,
                     const std::vector<Candidate>& candidates) {
  if (candidates.size() == 1) return 0;
  constexpr double kWorthwhile = 0.99;  // of the time of the best so far: less is noise
  GemmArguments trial = arguments;
  // Trials of D += A B would add to D again and again: where D counts they get one of their own for the
  // moment.
  Buffer spare;
  if (adds_in_place(arguments) && device_.phase() == DevicePhase::making) {
    const Tensor& d = arguments.d;
    size_t bytes = static_cast<size_t>((d.rows - 1) * d.ld + d.cols) * size_of(d.dtype);
    constexpr size_t kReserve = size_t{512} << 20;
    if (device_.free_memory() < bytes + kReserve) return 0;
    spare = Buffer(device_, bytes, MemoryPart::workspace);
    device_.zero(spare.data(), bytes);
    trial.c.data = trial.d.data = spare.data();
  }
  size_t best = 0;
  double best_time = std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < candidates.size(); ++i) {
    double time = seconds(trial, problem, candidates[i]);
    if (time < kWorthwhile * best_time) {
      best = i;
      best_time = time;
    }
  }
  return best;
}

double Gemm::seconds(const GemmArguments& arguments, Problem& problem, const Candidate& candidate) {
  auto timed = [&](int repeats) {
    cuda_check(cudaEventRecord(begin_, device_.stream()));
    for (int i = 0; i < repeats; ++i)
      if (launch(arguments, problem, candidate.algorithm) != CUBLAS_STATUS_SUCCESS)
        return std::numeric_limits<double>::infinity();
    cuda_check(cudaEventRecord(end_, device_.stream()));
    cuda_check(cudaEventSynchronize(end_));
    float milliseconds = 0;
    cuda_check(cudaEventElapsedTime(&milliseconds, begin_, end_));
    return static_cast<double>(milliseconds) * 1e-3 / repeats;
  };
  timed(1);  // loads the kernel
  double once = timed(1);
  if (!std::isfinite(once)) return once;
  constexpr double kEnough = 2e-3;  // seconds of trials
  return timed(static_cast<int>(std::clamp(kEnough / std::max(once, 1e-6), 2.0, 50.0)));
}

double Gemm::seconds_of(const std::function<void()>& launch) {
  auto timed = [&](int repeats) {
    cuda_check(cudaEventRecord(begin_, device_.stream()));
    for (int i = 0; i < repeats; ++i) launch();
    cuda_check(cudaEventRecord(end_, device_.stream()));
    cuda_check(cudaEventSynchronize(end_));
    float milliseconds = 0;
    cuda_check(cudaEventElapsedTime(&milliseconds, begin_, end_));
    return static_cast<double>(milliseconds) * 1e-3 / repeats;
  };
  timed(2);                         // loads kernels, makes choices
  constexpr double kEnough = 5e-3;  // seconds of trials
  return timed(static_cast<int>(std::clamp(kEnough / std::max(timed(1), 1e-6), 3.0, 50.0)));
}

cublasStatus_t Gemm::launch(const GemmArguments& g, Problem& problem, const cublasLtMatmulAlgo_t& algorithm) {
  return cublasLtMatmul(handle_, &problem.operation, &g.alpha, g.b.data, &problem.a, g.a.data, &problem.b,
                        &g.beta, g.c.data, &problem.c, g.d.data, &problem.d, &algorithm, workspace_.data(),
                        kWorkspaceBytes, device_.stream());
}

}  // namespace llmft
