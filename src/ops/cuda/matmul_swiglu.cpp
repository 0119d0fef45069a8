// Products with SwiGLU: one kernel where Hopper's own can be used and was the faster one when measured, else
// the product and the op one after the other. Both give one f32 sum rounded to S, then the same arithmetic.
#include <algorithm>
#include <functional>
#include <vector>

#include "cuda_ops.hpp"
#include "gemm.hpp"
#include "matrix.hpp"
#include "tensor_maps.hpp"

namespace llmft {
namespace {

// Choices of these products share the table of those of plain ones: a layout of their own, one word.
enum FusedLayout { kForward = 16, kBackward };
enum Chosen : uint64_t { kFused = 1, kPair = 2 };

// Never the fused kernel below this many rows: it works on 256 at a time.
constexpr int64_t kLeastRows = 256;

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// A GPU at its power limit changes its clock while we look: the two take turns, each goes first as often as
// the other, and one odd turn does not count. The pair begins: it may have to choose its product's algorithm.
bool is_worth_it(Gemm& gemm, const std::function<void()>& fused, const std::function<void()>& pair) {
  constexpr int kTurns = 5;
  constexpr double kWorthwhile = 0.97;  // of the pair's time: less is noise
  gemm.seconds_of(pair);
  std::vector<double> fused_times, pair_times;
  for (int turn = 0; turn < kTurns; ++turn) {
    if (turn % 2 == 1) fused_times.push_back(gemm.seconds_of(fused));
    pair_times.push_back(gemm.seconds_of(pair));
    if (turn % 2 == 0) fused_times.push_back(gemm.seconds_of(fused));
  }
  return median(fused_times) < kWorthwhile * median(pair_times);
}

}  // namespace

bool CudaOps::can_fuse(const Tensor& a, const Tensor& w, const Tensor& gate_up, const Tensor& h) const {
  int64_t width = gate_up.cols / 2;
  return hopper_ && gate_up.rows > 0 && width > 0 && width % 128 == 0 && gate_up.numel() != 0 && can_map(a) &&
         can_map(w) && can_map(gate_up) && (!h || can_map(h));
}

cuda::GemmSwiglu CudaOps::fused_arguments(const Tensor& a, const Tensor& w, cuda::BoxShape weight_box,
                                          const Tensor& gate_up, const Tensor& h) {
  cuda::GemmSwiglu g{};
  g.input = maps_->of(a, cuda::kSwigluInputBox);
  g.weight = maps_->of(w, weight_box);
  g.inner = a.cols;
  g.gate_up = matrix_of(gate_up);
  g.h = h ? matrix_of(h) : cuda::Matrix{};
  g.multiprocessors = device_.multiprocessors();
  return g;
}

void CudaOps::matmul_swiglu(const Tensor& x, const Tensor& w, const Tensor& gate_up, const Tensor& h) {
  check(gate_up.rows == x.rows && gate_up.cols == w.rows && w.cols == x.cols && h.rows == x.rows &&
            gate_up.cols == 2 * h.cols,
        "matmul_swiglu: shapes differ");
  check(x.dtype == w.dtype && gate_up.dtype == x.dtype && h.dtype == x.dtype, "matmul_swiglu: dtypes differ");
  auto fused = [&] {
    cuda_check(
        cuda::gemm_swiglu(device_.stream(), fused_arguments(x, w, cuda::kSwigluWeightBox, gate_up, h)));
  };
  auto pair = [&] {
    matmul(Layout::nt, x, w, gate_up, 1, 0, {});
    swiglu(gate_up, h);
  };
  bool use = can_fuse(x, w, gate_up, h) && prefers_fused(kForward, x, w, gate_up, h, fused, pair);
  use ? fused() : pair();
}

void CudaOps::matmul_swiglu_backward(const Tensor& dy, const Tensor& w, const Tensor& gate_up,
                                     const Tensor& dh, const Tensor& h) {
  check(gate_up.rows == dy.rows && gate_up.cols == 2 * w.cols && w.rows == dy.cols && dh.rows == dy.rows &&
            dh.cols == w.cols && (!h || (h.rows == dy.rows && h.cols == w.cols)),
        "matmul_swiglu_backward: shapes differ");
  check(
      dy.dtype == w.dtype && gate_up.dtype == dy.dtype && dh.dtype == dy.dtype && (!h || h.dtype == dy.dtype),
      "matmul_swiglu_backward: dtypes differ");
  auto fused_on = [&](const Tensor& target) {
    cuda_check(cuda::gemm_swiglu_backward(device_.stream(),
                                          fused_arguments(dy, w, cuda::kSwigluBackwardWeightBox, target, h)));
  };
  auto pair_on = [&](const Tensor& target) {
    matmul(Layout::nn, dy, w, dh, 1, 0, {});
    swiglu_backward(dh, target, h);
  };
  // Trials overwrite gate and up: they get others for the moment.
  Tensor trial = gate_up;
  bool use = can_fuse(dy, w, gate_up, h) &&
             prefers_fused(
                 kBackward, dy, w, gate_up, h, [&] { fused_on(trial); }, [&] { pair_on(trial); }, &trial);
  use ? fused_on(gate_up) : pair_on(gate_up);
}

bool CudaOps::prefers_fused(int layout, const Tensor& a, const Tensor& w, const Tensor& gate_up,
                            const Tensor& h, const std::function<void()>& fused,
                            const std::function<void()>& pair, Tensor* trial) {
  if (tuning_.swiglu != GemmTuning::Swiglu::measured) return tuning_.swiglu == GemmTuning::Swiglu::fused;
  if (gate_up.rows < kLeastRows) return false;
  constexpr int64_t kRowUnit = 1024;
  GemmKey key{};
  key = {layout,
         static_cast<int64_t>(a.dtype),
         (gate_up.rows + kRowUnit - 1) / kRowUnit * kRowUnit,
         gate_up.cols,
         a.cols,
         a.ld,
         w.ld,
         gate_up.ld,
         h ? h.ld : 0};
  if (auto known = gemm_->choices().find(key)) return known->front() == kFused;
  bool in_place = trial != nullptr;
  if (in_place && device_.phase() == DevicePhase::sealed) {  // no memory for a trial
    constexpr int kSizesTried = 64;
    for (GemmKey larger = key; larger[2] < key[2] + kSizesTried * kRowUnit; larger[2] += kRowUnit)
      if (auto known = gemm_->choices().find(larger)) return known->front() == kFused;
    return false;
  }
  bool result = false, measured = false;
  if (gemm_->may_time()) {
    size_t bytes = static_cast<size_t>(gate_up.rows * gate_up.ld) * size_of(gate_up.dtype);
    constexpr size_t kReserve = size_t{512} << 20;
    Buffer spare;
    if (!in_place || device_.phase() == DevicePhase::rehearsing ||
        device_.free_memory() >= bytes + kReserve) {
      if (in_place && device_.phase() == DevicePhase::making) {
        spare = Buffer(device_, bytes, MemoryPart::workspace);
        device_.zero(spare.data(), bytes);
        trial->data = spare.data();
      }
      result = is_worth_it(*gemm_, fused, pair);
      measured = true;
    }
  }
  gemm_->choices().add(key, {result ? kFused : kPair}, measured);
  return result;
}

}  // namespace llmft
